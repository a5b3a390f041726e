"""Reading lines: the contract, the search against brute force and against torch, scripts, figures against jiwer, hostile pictures."""
import io
import itertools
import json
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

import cv2
import jiwer
import numpy as np
import pytest
import torch
from house import ROOT

from fullstack_ml.beam import PrefixScores, beam_search
from fullstack_ml.core import BadConfig, BadInput, NotFound, TooLarge, compose_cfg
from fullstack_ml.records import Item, Prediction, Text
from fullstack_ml.render import TextSampler, can_draw, draw_line, find_fonts, render_line, wear
from fullstack_ml.task import check_task, export_onnx, fit_task, load_model, load_task, memorise, onnx_sessions, predict, torch_sessions
from fullstack_ml.tasks import ocr

TARGET = "fullstack_ml.tasks.ocr.LineReading"
LATIN = list("abcdefghijklmnopqrstuvwxyz")
NET = {
    "_target_": "fullstack_ml.models.line_reader.LineReader", "width": 48, "encoder_depth": 1, "depth": 1, "dropout": 0.0,
    "backbone": {"_target_": "fullstack_ml.models.backbone.backbone", "name": "test_resnet", "n_outputs": 0, "channels": 1},
}  # fmt: skip


def png(array) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def make(labels=LATIN, **more):
    return load_task({"_target_": TARGET, "labels": labels, **more})


@pytest.fixture(scope="module")
def trained():
    """A task and a tiny model that has learned 24 words, half by heart."""
    task = make()
    pairs = task.sample(24, seed=3)
    batch = task.collate([task.encode(i) for i, _ in pairs], [l for _, l in pairs])
    model, losses = memorise(task, NET, batch, 60)
    assert losses[-1] < losses[0] / 2
    return task, model.eval(), [i for i, _ in pairs + task.sample(8, seed=4)], [l for _, l in pairs + task.sample(8, seed=4)]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    task, model, *_ = trained
    return onnx_sessions(export_onnx(task, model, tmp_path_factory.mktemp("graphs")))


def test_it_keeps_the_contract(tmp_path):
    found = check_task(make(LATIN[:12]), NET, tmp_path, steps=80)
    assert found["exact_match"] > 0.5 and found["largest_difference"] < 1e-3


@pytest.mark.parametrize("beam, weight", [(1, 0.0), (1, 0.3), (4, 0.0), (4, 0.3)])
def test_onnx_says_what_torch_says(trained, exported, beam, weight):
    task, model, items, _ = trained
    task = make(beam=beam, weight=weight)
    ours, theirs = predict(task, torch_sessions(model, task), items), predict(task, exported, items)
    assert [p.label for p in ours] == [p.label for p in theirs] and any(p.label.text for p in ours)
    for p, q in zip(ours, theirs):
        assert abs(p.confidence - q.confidence) < 1e-3 and list(p.scores) == [str(i) for i in range(len(p.label.text))]


def test_greedy_takes_the_best_character_each_time(trained):
    """Against a loop that knows no caches and no search."""
    task, model, items, _ = trained
    task = make(weight=0.0)
    batch = {k: torch.from_numpy(v) for k, v in task.collate([task.encode(i) for i in items]).items()}
    said = torch.full((len(items), 1), 1)
    with torch.inference_mode():
        for _ in range(12):
            logits = model(batch["image"], batch["length"], said)[0][:, -1]
            logits[:, [0, 1, 3]] = -torch.inf
            said = torch.cat([said, logits.argmax(-1, keepdim=True)], 1)
    texts = ["".join(task.alphabet[t - 4] for t in itertools.takewhile(lambda t: t != 2, row)) for row in said[:, 1:].tolist()]
    assert [p.label.text for p in predict(task, torch_sessions(model, task), items)] == texts


def test_a_beam_finds_texts_that_are_no_less_likely(trained, exported):
    task, model, items, labels = trained
    found = {}
    for beam in (1, 8):
        task = make(beam=beam)
        found[beam] = predict(task, exported, items)
    right = {beam: sum(p.label == l for p, l in zip(ps, labels)) for beam, ps in found.items()}
    assert right[8] >= right[1] - 1


def test_an_item_is_read_the_same_in_any_company(trained, exported):
    task, model, items, _ = trained
    together = predict(task, exported, items)
    alone = [predict(task, exported, [i])[0] for i in items[:8]]
    assert [p.label for p in alone] == [p.label for p in together[:8]]


def test_ctc_prefixes_against_all_paths():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), (2, 6))
    columns = np.array([6, 4])
    prefixes = PrefixScores(np.log(p), columns)
    for item, n in enumerate(columns):
        spelled = {}
        for path in itertools.product(range(3), repeat=int(n)):
            text = tuple(k for k, _ in itertools.groupby(path) if k)
            spelled[text] = spelled.get(text, 0) + np.prod(p[item, np.arange(n), path])
        for said in [(1,), (2, 2), (1, 2, 1), (1, 1, 2)]:
            state, last = prefixes.empty()[[item]], np.array([-1])
            for c in said:
                begins, states = prefixes.extend(state, np.array([item]), last, np.array([[c]]))
                state, last = states[:, 0], np.array([c])
            truth = sum(v for k, v in spelled.items() if k[: len(said)] == said)
            assert np.exp(begins[0, 0]) == pytest.approx(truth, rel=1e-9) and np.exp(prefixes.whole(state)[0]) == pytest.approx(spelled[said], rel=1e-9)


def test_a_search_ends_where_no_end_comes():
    logits = np.log(np.array([[0.01, 0.99], [0.5, 0.5]]))
    found = beam_search(logits, lambda tokens, parents, items: logits[[0] * len(tokens)], end=0, most=5)
    assert found.tokens.tolist()[0] == [1] * 5 and np.isfinite(found.score).all()
    with pytest.raises(BadConfig):
        beam_search(logits, None, end=0, weight=2)


def test_a_network_that_gives_no_numbers_is_sure_of_nothing():
    logits = np.full((1, 3), np.nan)
    found = beam_search(logits, lambda tokens, parents, items: logits[[0] * len(tokens)], end=0, most=5)
    assert found.seen.tolist() == found.confidence.tolist() == [0.0]


# scripts
@pytest.mark.parametrize("text, nfd", [("한글", 6), ("déjà", 6), ("кот", 3), ("あガ", 3), ("", 0)])
def test_what_is_spelled_apart_is_composed_again(text, nfd):
    parts = ocr.spelled(text, "NFD")
    assert len(parts) == nfd
    again, p = ocr.composed(parts, [0.5] * nfd)
    assert again == unicodedata.normalize("NFC", text) and len(p) == len(again)


def test_a_syllable_is_as_sure_as_its_jamo_together():
    assert ocr.composed(ocr.spelled("각a", "NFD"), [0.5, 0.5, 0.5, 0.9]) == ("각a", [0.125, 0.9])
    text, p = ocr.composed(["\u0301", "\u0323", "a"], [0.4, 0.9, 0.8])  # marks before their letter
    assert len(p) == len(text) and min(p) == 0.4


def test_korean_needs_67_jamo_and_reads_syllables_it_has_not_seen():
    seen = ["간", "나", "각"]
    task = make(seen, form="NFD")
    assert len(task.alphabet) == 5  # two initials, a vowel, two finals
    assert len(make([chr(c) for c in range(0xAC00, 0xD7A4)], form="NFD").alphabet) == 67
    target = task.target([Text("난")])  # not among the labels
    said = task.decode({"tokens": target[:, :-1], "p": np.ones((1, 3)), "confidence": np.ones(1)})
    assert said[0].label.text == "난" and task.is_right(said[0], Text(unicodedata.normalize("NFD", "난")))


@pytest.mark.parametrize("labels, form", [(list("абвг"), "NFC"), (["가", "나", "각"], "NFD"), (list("日本語"), "NFC"), (["a"], "NFC"), (["é", "à"], "NFD")])
def test_any_alphabet_has_samples_without_a_font(labels, form):
    task = make(labels, form=form)
    pairs = task.sample(6, seed=1)
    assert pairs == task.sample(6, seed=1) and pairs != task.sample(6, seed=2)
    batch = task.collate([task.encode(i) for i, _ in pairs], [l for _, l in pairs])
    assert batch["target"].max() < 4 + len(task.alphabet) and len({i.data for i, _ in pairs}) > 1


def test_the_alphabet_comes_from_the_dataset():
    cfg = {"_target_": TARGET, "labels": None}
    told = fit_task(cfg, [], [Text("née"), Text(unicodedata.normalize("NFD", "é")), None])
    assert told["labels"] == ["e", "n", "é"]
    with pytest.raises(BadConfig, match="x"):
        fit_task({**cfg, "labels": ["a"]}, [], [Text("ax")])


def test_a_character_outside_the_alphabet_is_refused_or_counts_as_a_mistake():
    with pytest.raises(BadInput, match="9"):
        make().target([Text("a9")])
    assert make(unknown="mark").target([Text("a9")]).tolist() == [[4, 3, 2]]


@pytest.mark.parametrize("wrong", [{"labels": []}, {"labels": ["ab"]}, {"labels": ["a", "a"]}, {"form": "NFKC"}, {"beam": 0}, {"weight": 2}, {"unknown": "ignore"}, {"height": 2}])
def test_a_wrong_setting_is_named(wrong):
    with pytest.raises(BadConfig):
        make(**{"labels": LATIN, **wrong})


# pictures from strangers
def bomb() -> bytes:
    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


LINE = np.full((32, 200), 230, np.uint8)
LINE[10:20, 20:180:7] = 30
HOSTILE = {
    "nothing": b"", "text": b"hello", "junk": bytes(range(256)) * 9, "half a PNG": png(LINE)[:80], "a bomb": bomb(),
    "half a JPEG": cv2.imencode(".jpg", LINE)[1].tobytes()[:300], "too wide": png(np.tile(LINE, (1, 40))), "too narrow": png(np.tile(LINE[:, :40], (20, 1))[:, :8]),
    "no ink": png(np.full((32, 200), 255, np.uint8)), "one pixel": png(np.zeros((1, 1), np.uint8)), "all black": png(np.zeros((40, 300), np.uint8)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_line_is_refused_with_a_remedy(name):
    task = make()
    with pytest.raises(BadInput) as e:
        task.encode(task.parse(HOSTILE[name], "image/png"))
    assert e.value.remedy
    if name in ("too wide", "a bomb"):
        assert isinstance(e.value, TooLarge)


def test_a_type_that_is_no_picture_is_refused():
    with pytest.raises(BadInput, match="text/csv"):
        make().parse(png(LINE), "text/csv; charset=utf-8")


@pytest.mark.parametrize("change", ["colour", "alpha", "16 bit", "palette", "jpeg", "webp", "turned by EXIF"])
def test_pictures_of_every_kind_are_the_same_line(change):
    from PIL import Image

    task, image, body = make(), Image.fromarray(LINE), io.BytesIO()
    if change == "turned by EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(body, "JPEG", exif=exif, quality=95)
    elif change == "alpha":
        clear = Image.new("LA", image.size, (0, 0))
        clear.putalpha(Image.fromarray(255 - LINE))
        clear.save(body, "PNG")
    else:
        turned = {"colour": "RGB", "palette": "P", "16 bit": "I;16"}.get(change)
        made = Image.fromarray(LINE.astype(np.uint16) * 257) if change == "16 bit" else image.convert(turned) if turned else image
        made.save(body, {"jpeg": "JPEG", "webp": "WEBP"}.get(change, "PNG"))
    plain, other = (task.encode(task.parse(b, "image/png"))["image"][:, :, 0].astype(int) for b in (png(LINE), body.getvalue()))
    assert plain.shape == other.shape and abs(plain - other).mean() < 12


def test_a_batch_is_padded_with_paper_and_knows_lengths():
    task = make()
    one, two = ({"image": np.zeros((32, n, 1), np.uint8), "length": np.array(n)} for n in (40, 90))
    batch = task.collate([one, two])
    assert batch["image"].shape == (2, 32, 96, 1) and batch["length"].tolist() == [40, 90] and (batch["image"][0, :, 40:] == 255).all()
    assert task.collate([one], [Text("")])["target"].tolist() == [[2]]


# figures
def test_figures_are_jiwers():
    truth = ["le jardin des caresses", "Franz", "a b  c", "dix sept", "x"]
    said = ["le jardin de caresse", "Frans", "a b c", "dix  sept", ""]
    found = ocr.reading_scores(truth, said)
    assert found["wer"] == pytest.approx(jiwer.wer(truth, said)) and found["exact_match"] == 0
    keep = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
    assert found["cer"] == pytest.approx(jiwer.cer(truth, said, reference_transform=keep, hypothesis_transform=keep))
    assert found["character_accuracy"] == pytest.approx(1 - found["cer"])
    assert ocr.reading_scores(["a"], ["abcd"])["character_accuracy"] == 0


def test_figures_of_nothing_are_no_numbers():
    task = make()
    assert all(np.isnan(v) for v in task.score([], []).values())
    only_empty = task.score([Prediction(Text(""), 1.0)], [Text("")])
    assert only_empty["exact_match"] == 1 and np.isnan(only_empty["cer"])


def test_confusions_and_lengths():
    truth, said = ["abc", "abcdef", "aaaaaaaaaaaaaaaaaaaaaaa"], ["axc", "abcdefg", "aaaaaaaaaaaaaaaaaaaaaa"]
    assert ocr.confused_characters(truth, said) == {("b", "x"): 1, ("", "g"): 1, ("a", ""): 1}
    assert ocr.confused_characters([], []) == {} and ocr.confused_characters([""], [""]) == {}
    rows = ocr.accuracy_by_length(truth + ["é"], said + ["é"], edges=(3, 10))
    assert [(r["length"], r["n"]) for r in rows] == [("up to 3", 2), ("up to 10", 1), ("above 10", 1)] and rows[0]["exact_match"] == 0.5


# rendering
def test_a_font_without_a_character_is_not_used(tmp_path):
    assert can_draw(None, "abc") and not can_draw(None, "한")
    fonts = find_fonts()
    some = [f for f in fonts if can_draw(f, "é") and not can_draw(f, "한")]
    if some:
        with pytest.raises(BadInput, match="한"):
            render_line("한", some[:1])
    with pytest.raises(NotFound):
        find_fonts(tmp_path / "none")
    assert find_fonts(tmp_path) == []
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(BadInput, match="broken.ttf"):
        render_line("abc", find_fonts(tmp_path))


def test_a_picture_is_the_same_for_the_same_seed_and_worn_as_much_as_is_asked():
    clean, worn = (render_line("The quick brown fox", seed=5, much=m) for m in (0, 1))
    assert (render_line("The quick brown fox", seed=5) == worn).all()
    assert len(np.unique(clean)) > 2 and clean.max() == 255 and worn.shape[0] == 48
    for text in ("", "   "):
        with pytest.raises(BadInput):
            render_line(text)
    assert draw_line("i", size=16).any() and wear(draw_line("i", size=16), np.random.default_rng(0), 0.5).dtype == np.uint8


@pytest.mark.parametrize("seed", range(30))
def test_every_text_of_the_sampler_can_be_drawn_and_read_in(seed):
    draw, rng, task = TextSampler(["le train", "un - b", "a"], ["wagon"]), np.random.default_rng(seed), make()
    text = draw(rng, 30)
    assert 1 <= len(text) <= 30 and set(text) <= set("le train un - b a wagon LETRAINUNBAWAGON")
    image = render_line(text, seed=seed, neighbours=[draw(rng, 30), ""])
    assert image.shape[0] == 48 and image.shape[1] >= 8
    task.encode(Item(data=png(image)))


def test_a_sampler_needs_words():
    with pytest.raises(BadInput):
        TextSampler(["", " "])


def test_augmentation_keeps_the_shape_of_a_batch():
    task = make()
    pairs = task.sample(6)
    batch = {k: torch.from_numpy(v) for k, v in task.collate([task.encode(i) for i, _ in pairs], [l for _, l in pairs]).items()}
    torch.manual_seed(0)
    changed = ocr.Augment()(batch)
    assert changed["image"].dtype == torch.uint8 and changed["image"].shape[:2] == batch["image"].shape[:2] and changed["image"].shape[3] == 1
    assert (changed["length"] <= changed["image"].shape[2]).all() and (changed["target"] == batch["target"]).all()
    still = ocr.Augment(stretch=0, turn=0, lean=0, shift=0, scale=0, weight=0, fade=0, blur=0, noise=0)(batch)
    same = (still["image"].float() - batch["image"].float()).abs().mean()
    assert same < 12  # only the gamma of the ink is left


def test_a_reader_begins_with_the_weights_of_another(trained, tmp_path):
    from fullstack_ml.task import save_model

    task, model, items, _ = trained
    save_model(model, tmp_path / "model.safetensors", {})
    again = task.build_model({**NET, "weights": str(tmp_path / "model.safetensors")}).eval()
    assert [p.label for p in predict(task, torch_sessions(again, task), items)] == [p.label for p in predict(task, torch_sessions(model, task), items)]
    save_model(again, tmp_path / "later.safetensors", {})
    kept = load_model(task, {**NET, "weights": "/gone/model.safetensors"}, tmp_path / "later.safetensors")  # what a run began with may be gone
    assert (kept.out.weight == model.out.weight).all()
    other = make(LATIN[:5]).build_model({**NET, "weights": str(tmp_path / "model.safetensors")})  # another alphabet: the eyes stay, the letters are new
    assert (other.project.weight == model.project.weight).all() and other.out.weight.shape != model.out.weight.shape
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("junk.safetensors", "none.safetensors"):
        with pytest.raises(BadConfig, match="weights"):
            task.build_model({**NET, "weights": str(tmp_path / name)})


def test_the_experiment_composes():
    cfg = compose_cfg("train", ["experiment=ocr_lines"])
    assert cfg.task._target_ == TARGET and cfg.loader.bucket and cfg.problem.task == "ocr"


def test_production_needs_no_torch_to_read():
    """The serving half, from the request to the answer, in a process that never imports torch."""
    program = (
        "import sys, numpy as np\nfrom fullstack_ml.task import load_task, predict\n"
        f"task = load_task({{'_target_': {TARGET!r}, 'labels': list('ab')}})\n"
        "item, _ = task.sample(1)[0]\nitem = task.parse(item.data, 'image/png')\n"
        "n = lambda b: len(b['image'])\n"
        "start = lambda b: {'logits': np.tile([0, 0, 0, 0, 9., 0], (n(b), 1)), **{k: np.zeros((n(b), 1, 1, 1, 1)) for k in ('key', 'value', 'memory_key', 'memory_value')},"
        " 'columns': np.full(n(b), 3), 'ctc': np.full((n(b), 3, 6), -1.8)}\n"
        "more = lambda b: {'logits': np.tile([0, 0, 9., 0, 0, 0], (len(b['token']), 1)), 'new_key': b['key'], 'new_value': b['value']}\n"
        "print(predict(task, {'encoder': start, 'decoder': more}, [item])[0].label.text, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.split() == ["a", "False"], done.stderr


def test_a_version_of_real_lines_is_divided_by_document():
    folder = Path(ROOT).parent / "shared" / "data" / "ocr_lines"
    if not (folder / "lines.jsonl").is_file():
        pytest.skip("the real lines are not here; benchmarks/ocr.py --data says where to put them")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import ocr as bench

    pages = [json.loads(line)["page"] for line in (folder / "lines.jsonl").read_text(encoding="utf8").splitlines()]
    splits = {}
    for page in pages:
        splits.setdefault(page.split("/")[1], set()).add(bench.split_of(page))
    assert all(len(s) == 1 for s in splits.values()) and set().union(*splits.values()) == {"train", "val", "test"}
    assert bench.plain("de _Socrate ~~~ ⟦rien⟧") == "de Socrate rien" and bench.alike("l’œuvre — «a»") == "l'œuvre - \"a\""
