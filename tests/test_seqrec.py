"""Recommending what comes next: the contract, the figures, who sees whom, and whatever a stranger may post."""
import gzip
import json
import math

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, FsmlError, TooLarge, UnsupportedType, compose_cfg
from fullstack_ml.dataset import open_dataset
from fullstack_ml.formats import read_format
from fullstack_ml.loader import Loader
from fullstack_ml.models.sasrec import SASRec
from fullstack_ml.records import ItemSequence, Prediction
from fullstack_ml.release import open_release, sample_release
from fullstack_ml.serve import Engine, Front, Settings
from fullstack_ml.task import check_task, export_onnx, fit_task, load_task, onnx_sessions, predict, torch_sessions
from fullstack_ml.tasks.seqrec import item_knn, knn_scores, leave_one_out, next_item_loss, popularity, ranking_metrics, read_interactions, request, sampled_ranks
from fullstack_ml.tasks.seqrec import top_items, without, write_questions
from fullstack_ml.versions import import_version

LABELS = [f"thing {n}" for n in range(30)]
TASK = {"_target_": "fullstack_ml.tasks.seqrec.SequentialRecommendation", "labels": LABELS, "length": 8, "k": 5}
MODEL = {"_target_": "fullstack_ml.models.sasrec.SASRec", "name": "sasrec", "width": 32, "depth": 2, "dropout": 0.0}
JSON = {"content-type": "application/json"}


def made(**changed):
    return load_task({**TASK, **changed})


def question(task, **asked):
    return task.parse(json.dumps(asked).encode(), "application/json")


@pytest.mark.parametrize("changed", [{}, {"negatives": 10}, {"loss": "bce"}, {"loss": "bce", "negatives": 8, "calibration": 0.75}], ids=str)
def test_the_contract_holds_with_every_loss(changed, tmp_path):
    found = check_task(made(**changed), MODEL, tmp_path, steps=100)
    assert found["hr_at_5"] > 0.8 and found["largest_difference"] < 1e-4


# ---------------------------------------------------------------------------------------------- figures


def test_metrics_by_hand():
    found = ranking_metrics([["a", "b", "c"], ["b", "a", "c"], ["b", "c", "d"], ["a", "b", "c"]], [["a"], ["a"], ["a"], ["b", "c"]], 3, n_items=8)
    both = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert found == pytest.approx({"hr_at_3": 3 / 4, "ndcg_at_3": (1 + 1 / math.log2(3) + 0 + both) / 4, "mrr_at_3": (1 + 1 / 2 + 0 + 1 / 2) / 4, "coverage": 4 / 8})


def test_metrics_are_scikit_learns():
    from sklearn.metrics import ndcg_score, top_k_accuracy_score

    rng = np.random.default_rng(0)
    scores, true = rng.normal(size=(200, 40)), rng.integers(0, 40, 200)
    lists = [[str(i) for i in row] for row in top_items(scores, 10)]
    found = ranking_metrics(lists, [[str(t)] for t in true])
    assert found["ndcg_at_10"] == pytest.approx(ndcg_score(np.eye(40)[true], scores, k=10))
    assert found["hr_at_10"] == pytest.approx(top_k_accuracy_score(true, scores, k=10, labels=range(40)))
    several = rng.random((200, 40)) < 0.1
    several[:, 0] = True
    wanted = [[str(i) for i in np.flatnonzero(row)] for row in several]
    assert ranking_metrics(lists, wanted)["ndcg_at_10"] == pytest.approx(ndcg_score(several, scores, k=10))


def test_metrics_of_nothing_are_not_numbers():
    assert all(math.isnan(v) for v in ranking_metrics([], []).values())


def test_the_best_are_what_a_full_sort_gives_and_equals_keep_their_order():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (50, 100)).astype(float)  # nearly all are equal to another
    assert (top_items(scores, 10) == np.argsort(-scores, axis=1, kind="stable")[:, :10]).all()
    assert top_items(scores, 100).shape == (50, 100)


def test_what_is_known_never_appears():
    scores = without(np.arange(12.0).reshape(2, 6), np.array([[6, 1], [0, 5]]))
    assert top_items(scores, 2).tolist() == [[4, 3], [5, 3]] and np.isfinite(scores).sum() == 9


def test_sampled_ranks_are_the_ranks_among_all_when_all_are_drawn_often():
    rng = np.random.default_rng(0)
    scores, true, known = rng.normal(size=(6, 12)), np.array([1, 5, 12, 3, 7, 0]), np.array([[2, 4]] * 6)
    drawn = sampled_ranks(scores, true, known, rng, 4000)
    kept = without(scores, known)
    share = [(row > kept[k, t - 1]).sum() / 9 if t else 1.0 for k, (row, t) in enumerate(zip(kept, true))]
    assert drawn / 4000 == pytest.approx(share, abs=0.03)


def test_a_list_is_right_that_holds_what_came_next():
    task, answer = made(), Prediction(ItemSequence(("a", "b")), 0.5)
    assert task.is_right(answer, ItemSequence(("b",))) and not task.is_right(answer, ItemSequence(("c",)))


# ---------------------------------------------------------------------------------------------- baselines


def test_popularity_and_item_knn_by_hand():
    people = [[1, 2], [1, 2, 3], [1, 4], [2, 3, 0]]
    assert popularity(people, 5).tolist() == [3, 3, 2, 1, 0]
    alike, root = item_knn(people, 5).toarray(), math.sqrt
    assert alike == pytest.approx(alike.T) and not alike.diagonal().any()
    assert alike[0] == pytest.approx([0, 2 / 3, 1 / root(6), 1 / root(3), 0]) and alike[1, 2] == pytest.approx(2 / root(6))
    assert knn_scores(item_knn(people, 5), np.array([[0, 1, 3]]))[0] == pytest.approx(alike[0] + alike[2])
    assert knn_scores(item_knn(people, 5), np.array([[0, 1, 3]]), decay=0.5)[0] == pytest.approx(alike[0] / 2 + alike[2])
    assert item_knn(people, 5, shrink=3)[[0], [1]] == pytest.approx(2 / 6)


# ---------------------------------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SASRec(30, length=8, width=32, depth=2, n_heads=2, dropout=0.3).eval()


def test_no_place_knows_what_comes_after_it(net):
    one, other = torch.tensor([[0, 0, 3, 4, 5, 6, 7, 8]]), torch.tensor([[0, 0, 3, 4, 5, 9, 1, 2]])
    with torch.no_grad():
        apart = (net.states(one) - net.states(other)).abs().amax(-1)[0]
    assert apart[:5].max() < 1e-6 and apart[5:].min() > 1e-4


def test_padding_and_company_change_nothing(net):
    alone, longer = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 0, 0, 0, 0, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(net(alone), net(longer)[:1], atol=1e-5)
        assert torch.isfinite(net.states(longer)).all()


def test_padding_learns_nothing():
    task = made()
    model = task.build_model(MODEL).train()
    batch = task.collate([task.encode(i) for i, _ in task.sample(4)], [l for _, l in task.sample(4)])
    task.step(model, {k: torch.from_numpy(v) for k, v in batch.items()})["loss"].backward()
    assert not model.items.weight.grad[0].any() and model.items.weight.grad[1:].any()


def test_the_drawn_softmax_estimates_the_full_one():
    torch.manual_seed(0)
    often = 1 / torch.arange(2001).clamp(min=1)
    states, table, off = torch.randn(400, 16), torch.randn(2001, 16) / 4, []
    for _ in range(20):
        true = torch.multinomial(often[1:], 400, replacement=True) + 1
        full = next_item_loss(states, table, true, often)
        assert next_item_loss(states, table, true, often, negatives=5000) == full
        off.append([(next_item_loss(states, table, true, counted, negatives=500) - full).item() for counted in (often, often**2)])
    right, wrong = np.abs(np.mean(off, axis=0))
    assert right < 0.03 < wrong


def test_answers_are_counted_as_they_pass():
    task = made()
    model = task.build_model(MODEL).train()
    items = [question(task, items=["thing 0", "thing 1", "thing 2"]), question(task, items=["thing 1"])]
    batch = task.collate([task.encode(i) for i in items], [ItemSequence(("thing 3",)), ItemSequence(("sofa",))])
    task.step(model, {k: torch.from_numpy(v) for k, v in batch.items()})
    assert model.often.nonzero()[:, 0].tolist() == list(range(31)) and (model.often - 1).nonzero()[:, 0].tolist() == [2, 3, 4]


def test_evaluation_gives_scores_in_the_order_of_the_batch(net):
    task = made()
    pairs = task.sample(11, seed=3)
    batch = task.collate([task.encode(i) for i, _ in pairs], [l for _, l in pairs])
    with torch.no_grad():
        out = task.step(net.eval(), {k: torch.from_numpy(v) for k, v in batch.items()})
        assert torch.allclose(out["output"]["output"], net(torch.from_numpy(batch["items"])), atol=1e-5)


def test_gbce_without_calibration_is_the_loss_of_the_paper():
    import torch.nn.functional as F

    torch.manual_seed(1)
    states, table, true = torch.randn(20, 8), torch.randn(101, 8), torch.randint(1, 101, (20,))
    torch.manual_seed(2)
    found = next_item_loss(states, table, true, torch.ones(101), "bce")
    torch.manual_seed(2)
    drawn = torch.randint(1, 101, (20, 1))[:, 0]
    yes, no = (states * table[true]).sum(1), (states * table[drawn]).sum(1)
    by_hand = F.binary_cross_entropy_with_logits(yes, torch.ones(20), reduction="sum") + (F.softplus(no) * (drawn != true)).sum()
    assert found.item() == pytest.approx(by_hand.item() / 40, rel=1e-5)


def test_the_exported_graph_takes_any_batch(tmp_path, net):
    task = made()
    sessions = onnx_sessions(export_onnx(task, net, tmp_path))
    for n in (1, 3, 17):
        items = [i for i, _ in task.sample(n, seed=n)]
        mine, theirs = predict(task, torch_sessions(net, task), items), predict(task, sessions, items)
        assert [p.label for p in mine] == [p.label for p in theirs]


# ---------------------------------------------------------------------------------------------- the task


def test_a_history_is_cut_from_its_old_end_and_the_unknown_is_left_out():
    task = made()
    told = task.encode(question(task, items=["sofa", *LABELS[:10], "lamp"]))
    assert told["items"].tolist() == [3, 4, 5, 6, 7, 8, 9, 10] and told["known"].tolist() == list(range(1, 11))
    assert task.encode(question(task, items=LABELS[:2], exclude_known=False))["known"].size == 0
    assert made(exclude_known=False).encode(question(task, items=LABELS[:2]))["known"].size == 0
    with pytest.raises(BadInput, match="2 of these things are unknown.*sofa.*lamp"):
        task.encode(question(task, items=["sofa", LABELS[0], "lamp"], strict=True))


def test_answers_leave_out_what_is_known_unless_asked_for(net):
    task = made(k=30)
    asked = LABELS[:6]
    new, all_of_them = predict(task, torch_sessions(net, task), [question(task, items=asked), question(task, items=asked, exclude_known=False)])
    assert set(new.label.items) == set(LABELS[6:]) and set(all_of_them.label.items) == set(LABELS)
    assert new.confidence == pytest.approx(1) and all_of_them.confidence == pytest.approx(1)
    assert list(new.scores.values()) == sorted(new.scores.values(), reverse=True)


def test_confidence_is_the_probability_of_a_hit(net):
    task = made(exclude_known=False)
    (answer,) = predict(task, torch_sessions(net, task), [question(task, items=LABELS[:3])])
    with torch.no_grad():
        p = net(torch.tensor([[1, 2, 3]])).softmax(1)[0]
    assert answer.confidence == pytest.approx(p.topk(5).values.sum().item(), rel=1e-4) and answer.scores[answer.label.items[0]] == pytest.approx(p.max().item(), rel=1e-4)


def test_an_answer_outside_the_catalogue_is_missed_and_teaches_nothing(net):
    task = made()
    assert task.target([ItemSequence(("sofa",)), ItemSequence((LABELS[4],))]).tolist() == [0, 5]
    batch = task.collate([task.encode(question(task, items=LABELS[:3]))] * 2, [ItemSequence(("sofa",)), ItemSequence(("lamp",))])
    out = task.step(net, {k: torch.from_numpy(v) for k, v in batch.items()})
    assert out["loss"] == 0 and len(task.decode({k: v.detach().numpy() for k, v in out["output"].items()})) == 2


@pytest.mark.parametrize("changed", [{"labels": None}, {"labels": ["a"]}, {"labels": ["a", "a"]}, {"loss": "hinge"}, {"negatives": 0}, {"calibration": 2}, {"k": 0}], ids=str)
def test_what_cannot_be_trained_is_told(changed):
    with pytest.raises(BadConfig):
        made(**changed)


def test_the_catalogue_is_what_the_dataset_teaches():
    cfg = {k: v for k, v in TASK.items() if k != "labels"} | {"labels": None}
    assert fit_task(cfg, ["b", "a"], [ItemSequence(("c",))])["labels"] == ["b", "a"]
    assert fit_task(cfg, [], [ItemSequence(("c",)), None, ItemSequence(("a", "c"))])["labels"] == ["a", "c"]


# ---------------------------------------------------------------------------------------------- from a text of pairs


@pytest.mark.parametrize("n, wanted", [
    (1, {}), (2, {"train": 1}), (3, {"val": 1, "test": 2}), (4, {"train": 1, "val": 2, "test": 3}), (9, {"train": 6, "val": 7, "test": 8}),
])  # fmt: skip
def test_leave_one_out(n, wanted):
    history = list("abcdefghi")[:n]
    found = leave_one_out(history)
    assert {split: len(items) for split, (items, _) in found.items()} == wanted
    assert all(list(items) == history[: len(items)] and following == history[len(items)] for items, following in found.values())


def test_pairs_are_read_and_a_bad_line_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("u1 x\nu2 y\nu1 z 1234\n")
    with gzip.open(tmp_path / "a.txt.gz", "wt") as f:
        f.write("u1 x\nu2 y\nu1 z\n")
    assert read_interactions(tmp_path / "a.txt") == read_interactions(tmp_path / "a.txt.gz") == {"u1": ["x", "z"], "u2": ["y"]}
    (tmp_path / "b.txt").write_text("u1 x\nu2\n")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"u1 x\n" * 1000)[:-9])
    (tmp_path / "d.txt").write_bytes(b"u1 \xff\n")
    for name, words in (("b.txt", "line 2"), ("c.gz", "cannot be read"), ("d.txt", "cannot be read"), ("none.txt", "cannot be read")):
        with pytest.raises(BadInput, match=words):
            read_interactions(tmp_path / name)


@pytest.fixture
def walks(tmp_path):
    """Twenty people who walk round thirty things, as a dataset version."""
    histories = {f"u{n}": [LABELS[(3 * n + i) % 30] for i in range(2 + n % 8)] for n in range(20)}
    assert sum(write_questions(histories, tmp_path / "questions").values()) > 40
    own = [f"storage.url=sqlite:///{tmp_path}/db", f"storage.blobs={tmp_path}/blobs"]
    cfg = lambda stage, *more: compose_cfg(stage, [*own, *more], out=str(tmp_path / "out"))
    return cfg, import_version(cfg("dataset", "problem=games", "name=walks"), tmp_path / "questions", "webdataset", "MIT"), histories


def test_questions_become_a_version_and_come_back(walks, tmp_path):
    cfg, version, histories = walks
    samples, catalogue = read_format("webdataset", tmp_path / "questions")
    assert set(catalogue) == {i for h in histories.values() for i in (h[:-2] if len(h) > 2 else h)}
    data, store = open_dataset(version), BlobStore(cfg("dataset").storage.blobs)
    asked = {(json.dumps(json.loads(store.get(i.sha256))), str(l)) for i, l in zip(data.items("test"), data.labels("test"))}
    assert asked == {(json.dumps({"items": h[:-1]}), h[-1]) for h in histories.values() if len(h) > 2}
    assert {i.mime for i in data.items()} == {"application/json"} and data.classes == catalogue
    assert all(i.width == len(json.loads(store.get(i.sha256))["items"]) and i.meta["sample"]["user"].startswith("u") for i in data.items())


def test_the_loader_batches_histories_of_similar_length(walks):
    cfg, version, _ = walks
    task, data = load_task({**TASK, "labels": open_dataset(version).classes}), open_dataset(version)
    loader = Loader(data, "train", BlobStore(cfg("dataset").storage.blobs), task, 4, shuffle=True, bucket=True)
    sizes = [(b["items"] != 0).sum(1) for b in loader]
    assert sum(map(len, sizes)) == len(data.items("train")) and max(np.ptp(s) for s in sizes) <= 3


def test_from_a_version_to_an_answer(walks):
    """train, evaluate, compress and release, all as they stand, and then a question to the sealed release."""
    from fullstack_ml.compress import compress
    from fullstack_ml.evaluate import evaluate
    from fullstack_ml.problem import problem
    from fullstack_ml.release import release
    from fullstack_ml.train import train

    cfg, _, _ = walks
    own = ["problem=games", "problem.gates.accuracy=0.01", "problem.gates.max_drop=0.5", "problem.gates.latency_p95_ms=1000"]
    problem(cfg("problem", *own))
    small = ["task.negatives=null", "task.length=8", "model.width=16", "model.dropout=0.0", "epochs=4", "batch_size=8", "optim.lr=0.01", "tracking=disabled", "~callbacks.bar", "device=cpu"]
    run = train(cfg("train", "experiment=seqrec_games", *small))
    assert run.metrics["ndcg_at_10"] > 0.1
    told = evaluate(cfg("evaluate", *own, "device=cpu")).read_json("metrics.json")
    assert told["main_metric"] == "ndcg_at_10" and told["figures"][-1]["accuracy"] == pytest.approx(told["figures"][-1]["score"]["hr_at_10"])
    assert "width" in told["slices"]
    compress(cfg("compress", *own, "variants=[]", "timed_calls=10"))
    opened = open_release(release(cfg("release", *own, "name=walks")).path("release.zip"))
    (answer,) = opened.predict([question(opened.task, items=[LABELS[0]])])
    assert len(answer.label.items) == 10 and opened.about["main_metric"] == "ndcg_at_10"


# ---------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    path = sample_release(tmp_path_factory.mktemp("served"), TASK, MODEL, pack=["fullstack_ml.serve"])
    with TestClient(Front(Engine(open_release(path), Settings(max_item_mb=1)))) as http:
        yield http


def test_it_is_answered_over_http(client):
    answer = client.post("/predict", content=request(LABELS[3:6]), headers=JSON)
    told = answer.json()
    assert answer.status_code == 200 and told["label"]["kind"] == "sequence" and len(told["label"]["items"]) == 5
    assert list(told["scores"]) == told["label"]["items"] and not set(LABELS[3:6]) & set(told["label"]["items"])
    assert client.post("/predict", json={"items": LABELS[3:6]}).json() == told
    assert client.post("/predict", content=request(LABELS[3:6]), headers={"content-type": "application/json; charset=utf-8"}).json() == told
    many = client.post("/predict/batch", files=[("file", ("a.json", request(LABELS[3:6]), "application/json")), ("file", ("b.json", b"[", "application/json"))]).json()["results"]
    assert [r["status"] for r in many] == [200, 422] and many[0]["label"] == told["label"]
    info = client.get("/info").json()
    assert info["labels"] == LABELS and info["task"]["accepts"] == ["application/json"]


BAD = {
    "nothing": (b"", 422), "no JSON": (b"hello", 422), "half": (b'{"items": ["thing 1"', 422), "binary": (bytes(range(256)), 422), "a list": (b'["thing 1"]', 422),
    "a number": (b"7", 422), "null": (b"null", 422), "no items": (b"{}", 422), "items null": (b'{"items": null}', 422), "items a string": (b'{"items": "thing 1"}', 422),
    "items an object": (b'{"items": {"a": 1}}', 422), "numbers": (b'{"items": [1, 2]}', 422), "nested ids": (b'{"items": [["thing 1"]]}', 422), "true": (b'{"items": [true]}', 422),
    "empty id": (b'{"items": [""]}', 422), "long id": (b'{"items": ["' + b"x" * 201 + b'"]}', 422), "empty": (b'{"items": []}', 422), "all unknown": (b'{"items": ["sofa"]}', 422),
    "strict": (b'{"items": ["thing 1", "sofa"], "strict": true}', 422), "strict a string": (b'{"items": ["thing 1"], "strict": "yes"}', 422),
    "unknown field": (b'{"items": ["thing 1"], "k": 3}', 422), "exclude a number": (b'{"items": ["thing 1"], "exclude_known": 1}', 422),
    "deep": (b'{"items": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422), "deep objects": (b'{"items":' * 50_000 + b"1" + b"}" * 50_000, 422),
    "a number of a million digits": (b'{"items": [' + b"9" * 900_000 + b"]}", 422), "half a surrogate": (b'{"items": ["\\ud800"]}', 422), "half a surrogate as a key": (b'{"items": [], "\\ud800": 1}', 422),
    "not a number": (b'{"items": [NaN]}', 422), "too many": (json.dumps({"items": ["thing 1"] * 10_001}).encode(), 413), "too large": (b'{"items": ["' + b"x" * (2 << 20) + b'"]}', 413),
    "UTF-16": ('{"items": 7}'.encode("utf-16"), 422), "zeros": (bytes(1000), 422),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_hostile_json_gets_a_4xx_and_a_sentence(client, bad):
    body, status = BAD[bad]
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == status and set(answer.json()) == {"error", "message"} and len(answer.json()["message"]) < 600, answer.text
    assert client.post("/predict", content=request(LABELS[:2]), headers=JSON).status_code == 200


def test_another_type_is_told_so(client):
    answer = client.post("/predict", content=b"\x89PNG", headers={"content-type": "image/png"})
    assert answer.status_code == 415 and "application/json" in answer.json()["message"]


def test_random_bodies_raise_only_our_own_errors():
    task, rng = made(), np.random.default_rng(0)
    whole = request(LABELS[:5])
    for _ in range(2000):
        body = bytearray(whole)
        for at in rng.integers(0, len(body), rng.integers(1, 6)):
            body[at] = rng.integers(0, 256)
        try:
            task.encode(task.parse(bytes(body), "application/json"))
        except FsmlError as e:
            assert isinstance(e, (BadInput, TooLarge, UnsupportedType)) and str(e).encode()
