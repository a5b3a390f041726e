"""Evaluation: figures equal scikit-learn's, wrong labels are found, and the report is one harmless page whatever the data holds."""
import html.parser
import json
import re
import sys
import types
from dataclasses import replace

import cv2
import jiwer
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from sklearn.datasets import load_digits

from fullstack_ml.blobs import BlobStore
from fullstack_ml.cases import FORMAT, open_cases
from fullstack_ml.core import BadConfig, compose_cfg, write_json
from fullstack_ml.evaluate import confusion, evaluate, likely_wrong
from fullstack_ml.intervals import bootstrap_interval, calibration
from fullstack_ml.records import Choice, Item, Prediction, Text, draft, find_fresh, find_parents, label_to_dict, write_items
from fullstack_ml.report_page import thumbnail
from fullstack_ml.task import Task, save_model

HOSTILE = """<script>alert(1)</script><img src="http://evil.example/x.png" onerror='a()'> "'&"""


class Eight(Task):
    """Digits as 64 bytes; the model is one linear layer."""

    label_kind, accepts, inputs, main_metric = "choice", ("application/octet-stream",), ("pixels",), "accuracy"

    def __init__(self, labels=tuple("0123456789")):
        self.labels = list(labels)

    def sample(self, n=8, seed=0):
        return []

    def parse(self, body, content_type):
        return Item(data=body)

    def encode(self, item):
        return {"pixels": np.frombuffer(item.data, np.uint8).astype(np.float32) / 16}

    def target(self, labels):
        return np.array([self.labels.index(label.names[0]) for label in labels])

    def build_model(self, model):
        from torch import nn

        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def step(self, model, batch):
        from torch.nn.functional import cross_entropy

        output = model(batch["pixels"])
        return {"loss": cross_entropy(output, batch["target"]), "output": output}

    def decode(self, output):
        p = np.exp(output["output"] - output["output"].max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return [Prediction(Choice((self.labels[r.argmax()],)), float(r.max()), dict(zip(self.labels, r.tolist()))) for r in p]

    def score(self, predictions, labels):
        return {"accuracy": float(np.mean([p.label == label for p, label in zip(predictions, labels)]))}


class Words(Eight):
    """The same, read as text: an open answer."""

    label_kind, main_metric = "text", "exact"

    def target(self, labels):
        return np.array([self.labels.index(label.text) for label in labels])

    def decode(self, output):
        return [replace(p, label=Text(p.label.names[0]), scores={}) for p in super().decode(output)]

    def score(self, predictions, labels):
        return {"exact": float(np.mean([p.label == label for p, label in zip(predictions, labels)]))}


class Pictures(Eight):
    """The same, as PNG files."""

    accepts = ("image/png",)

    def encode(self, item):
        image = cv2.imdecode(np.frombuffer(item.data, np.uint8), cv2.IMREAD_GRAYSCALE)
        return {"pixels": cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA).ravel().astype(np.float32) / 255}


PACK = {"Pictures": lambda pixels: cv2.imencode(".png", (pixels.reshape(8, 8) * 15.9).astype(np.uint8))[1].tobytes()}


@pytest.fixture(scope="module", autouse=True)
def toys():
    """Both tasks where `load_task` looks for tasks."""
    module = types.ModuleType("fullstack_ml.tasks.toys")
    module.Eight, module.Words, module.Pictures = Eight, Words, Pictures
    sys.modules["fullstack_ml.tasks.toys"] = module
    yield
    del sys.modules["fullstack_ml.tasks.toys"]


def digits(n=1797, share=0.02, seed=0):
    """Pixels, true classes, given classes with a share of them wrong, and which are wrong."""
    rng, data = np.random.default_rng(seed), load_digits()
    y = data.target[:n]
    wrong = np.zeros(n, bool)
    wrong[rng.choice(n, round(n * share), replace=False)] = True
    return data.data[:n].astype(np.uint8), y, np.where(wrong, (y + rng.integers(1, 10, n)) % 10, y), wrong


def project(folder, monkeypatch, task="Eight", n=500, splits=(0.6, 0.15, 0.25), change=lambda items: items, steps=300, groups=1):
    """A dataset version and a run of a toy task in a folder; returns which labels are wrong."""
    import torch

    monkeypatch.setenv("FSML_HOME", str(folder))
    monkeypatch.setenv("FSML_ARTIFACTS", str(folder / "artifacts"))
    x, y, given, wrong = digits(n)
    label = (lambda v: Text(str(v))) if task == "Words" else (lambda v: Choice((str(v),)))
    dump = lambda values: [json.dumps(label_to_dict(label(v))) for v in values]
    cfg = compose_cfg("train")
    store = BlobStore(cfg.storage.blobs)
    split = np.random.default_rng(0).choice(["train", "val", "test"], n, p=splits)
    items = [Item(url=f"http://127.0.0.1/{i}", sha256=store.put(PACK.get(task, bytes)(x[i])), source="digits", author=f"writer {i % 3}", licence="CC-BY-4.0") for i in range(n)]
    with draft("dataset", cfg, {}) as d:
        truth = [t if s == "test" else None for t, s in zip(dump(y), split)]
        columns = {"label": dump(given), "annotators": ['["caption"]'] * n, "agreement": [1.0] * n, "truth": pd.array(truth, "string"), "group": [i // groups for i in range(n)]}
        write_items(d.dir / "items.parquet", change(items), **columns, split=split.tolist())
        write_json(d.dir / "classes.json", list("0123456789"))
    toy = {"Eight": Eight, "Words": Words, "Pictures": Pictures}[task]()
    torch.manual_seed(0)
    model = toy.build_model({})
    optim, rows = torch.optim.Adam(model.parameters(), 3e-3), np.flatnonzero(split == "train")
    batch = {"pixels": torch.from_numpy(x[rows] / 16).float(), "target": torch.from_numpy(given[rows])}
    for _ in range(steps):
        optim.zero_grad()
        toy.step(model, batch)["loss"].backward()
        optim.step()
    from omegaconf import OmegaConf, open_dict

    cfg = OmegaConf.create(OmegaConf.to_container(cfg))
    with open_dict(cfg):
        cfg.task, cfg.model = {"_target_": f"fullstack_ml.tasks.toys.{task}"}, {"name": "linear"}
    with draft("train", cfg, find_parents(cfg)) as d:
        save_model(model, d.dir / "model.safetensors", {"task": dict(cfg.task)})
        (d.dir / "metrics.jsonl").write_text("".join(json.dumps({"epoch": e, "train_loss": 1 / (e + 1), "val_loss": 1.1 / (e + 1)}) + "\n" for e in range(3)))
    return wrong


class Loads(html.parser.HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            harmless = tag == "a" and name == "href" and str(value).startswith(("http://", "https://"))
            if (name in ("src", "href", "srcset", "data", "action", "poster") and not str(value).startswith("data:image/png;base64,") and not harmless) or name.startswith("on"):
                self.found.append((tag, name, value))
        if tag in ("script", "link", "iframe", "object", "embed", "form", "base"):
            self.found.append((tag, "", ""))


def expected_calibration_error(right, confidence, n_bins=10):
    """Guo et al. 2017, written out."""
    right, confidence, error = np.asarray(right, float), np.asarray(confidence, float), 0.0
    for low in np.arange(n_bins) / n_bins:
        inside = (confidence > low) & (confidence <= low + 1 / n_bins)
        error += abs(right[inside].sum() - confidence[inside].sum()) / len(right)
    return error


def test_figures_equal_scikit_learns(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    made = evaluate(compose_cfg("evaluate"))
    assert sorted(made.parents) == ["dataset", "train"]
    rows, told = pd.read_parquet(made.path("predictions.parquet")), made.read_json("metrics.json")
    assert len(rows) == 500 and rows.suspicion.between(0, 1).all()
    for figure in told["figures"]:
        some = rows[rows.split == figure["split"]]
        assert figure["n"] == len(some) and figure["accuracy"] == pytest.approx(sk.accuracy_score(some[figure["labels"]], some.predicted))
        assert 0 <= figure["low"] <= figure["accuracy"] <= figure["high"] <= 1
    assert [(f["split"], f["labels"]) for f in told["figures"]] == [("val", "label"), ("test", "label"), ("test", "truth")]
    test = rows[rows.split == "test"]
    assert told["confusion"]["matrix"] == sk.confusion_matrix(test.truth, test.predicted, labels=list("0123456789")).tolist()
    report = sk.classification_report(test.truth, test.predicted, output_dict=True)
    for ours, theirs in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall"), ("n", "support")):
        assert {c["name"]: c[ours] for c in told["confusion"]["per_class"]} == pytest.approx({c: report[c][theirs] for c in "0123456789"})
    assert told["figures"][-1]["ece"] == pytest.approx(expected_calibration_error(test.right, test.confidence))
    assert made.metrics["accuracy"] == told["figures"][-1]["accuracy"] and made.metrics["accuracy_against"] == "checked labels"
    assert sum(s["n"] for s in told["slices"]["author"]) == len(test)
    cfg = compose_cfg("evaluate")
    assert find_fresh("evaluate", cfg, find_parents(cfg)).id == made.id


def test_intervals():
    right = np.arange(400) % 20 > 0
    low, high = bootstrap_interval(right)
    assert low < 0.95 < high and abs((high - low) - 2 * 1.96 * np.sqrt(0.95 * 0.05 / 400)) < 0.006
    twice = np.diff(bootstrap_interval(np.repeat(right, 2), np.arange(800) // 2))[0]
    assert abs(twice - (high - low)) < 0.004
    assert bootstrap_interval(np.ones(100))[0] == pytest.approx(0.9638, abs=1e-3)  # 0.025 ** (1 / 100)
    assert np.isnan(bootstrap_interval(np.array([]))).all()


def test_calibration_counts_every_item():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(500), np.linspace(0, 1, 11)])
    right = rng.random(511) < confidence
    error, bins = calibration(right, confidence)
    assert sum(b["n"] for b in bins) == 511 and error < 0.1
    always = calibration(np.zeros(10, bool), np.ones(10))
    assert always[0] == 1 and always[1][0]["n"] == 10


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_the_formula_and_scikit_learns_curve(seed):
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(seed)
    confidence = rng.beta(5, 1.5, 700)
    right = rng.random(700) < confidence**1.4
    error, bins = calibration(right, confidence)
    assert error == pytest.approx(expected_calibration_error(right, confidence)) and error > 0.02
    accuracy, mean = calibration_curve(right, confidence, n_bins=10)
    assert [b["accuracy"] for b in bins] == pytest.approx(accuracy) and [b["confidence"] for b in bins] == pytest.approx(mean)


def test_labels_outside_the_classes_are_left_out():
    table = confusion(["a", "b", "x"], ["a", "a", "a"], ["a", "b"])
    assert table["matrix"] == [[1, 0], [1, 0]] and confusion(["x"], ["a"], ["a", "b"])["matrix"] == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrong_labels_stand_among_the_most_suspicious(seed):
    x, _, given, wrong = digits(seed=seed)
    first = np.argsort(-likely_wrong(given.astype(str), [x]).suspicion)[: len(x) // 20]
    assert wrong[first].sum() >= 0.9 * wrong.sum()


def test_wrong_labels_are_found_through_the_stage(tmp_path, monkeypatch):
    wrong = project(tmp_path, monkeypatch, n=1797)
    made = evaluate(compose_cfg("evaluate"))
    rows = pd.read_parquet(made.path("predictions.parquet"))
    first = np.argsort(-rows.suspicion.to_numpy())[: len(rows) // 20]
    assert wrong[first].sum() >= 0.8 * wrong.sum()
    assert rows.suggested.iloc[first[:10]].ne(rows.label.iloc[first[:10]]).all()
    assert made.path("report.html").stat().st_size < 1_000_000


def test_report_loads_nothing_and_escapes_everything(tmp_path, monkeypatch):
    def hostile(items):
        return [replace(i, caption=HOSTILE, author=HOSTILE, licence=HOSTILE, source=HOSTILE, page_url="javascript:alert(1)") for i in items]

    project(tmp_path, monkeypatch, change=hostile, steps=20)
    made = evaluate(compose_cfg("evaluate", [f"requirement='{re.sub(chr(39), '', HOSTILE)}'"]))
    page = made.path("report.html").read_text()
    assert Loads(page).found == []
    assert "&lt;script&gt;" in page and "javascript:" not in page and "<script" not in page
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page


def test_empty_test_split_and_lost_pictures_are_told(tmp_path, monkeypatch, capsys):
    lose = lambda items: [replace(i, sha256="0" * 64) if n % 10 == 0 else i for n, i in enumerate(items)]
    project(tmp_path, monkeypatch, splits=(0.8, 0.2, 0.0), change=lose, n=300)
    made = evaluate(compose_cfg("evaluate"))
    assert made.metrics["accuracy"] is None and made.metrics["n_test"] == 0 and made.metrics["n_unreadable"] == 30
    assert "no test items" in capsys.readouterr().out
    page = made.path("report.html").read_text()
    assert "30 items could not be read" in page and "There is no test split" in page and "no test items" in page
    rows = pd.read_parquet(made.path("predictions.parquet"))
    assert rows.predicted.isna().sum() == 30 and (rows.error != "").sum() == 30 and rows.suspicion[rows.predicted.isna()].eq(0).all()


def test_nothing_can_be_read(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, n=60, change=lambda items: [replace(i, sha256="0" * 64) for i in items], steps=1)
    made = evaluate(compose_cfg("evaluate"))
    assert made.metrics["n_unreadable"] == 60 and "No figure can be given" in made.path("report.html").read_text()


def test_open_answers_have_no_matrix(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, task="Words")
    made = evaluate(compose_cfg("evaluate"))
    told = made.read_json("metrics.json")
    assert told["label_kind"] == "text" and told["confusion"]["matrix"] == [] and "own answers" in told["suspicion"]["how"]
    assert made.metrics["accuracy"] == told["figures"][-1]["score"]["exact"]
    assert "What is taken for what" not in made.path("report.html").read_text()
    rows = pd.read_parquet(made.path("predictions.parquet"))
    expected = rows.truth.fillna(rows.label)
    assert rows.cer.tolist() == pytest.approx([jiwer.cer(t, p) for t, p in zip(expected, rows.predicted)]) and rows.length.tolist() == expected.str.len().tolist()
    assert rows.confused.map(list).tolist() == [[] if t == p else [f"{t}→{p}"] for t, p in zip(expected, rows.predicted)]


def test_slices_that_somebody_asks_for(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, steps=20)
    asked = ["+slices_by_query.sure_mistakes='wrong and confidence > 0.2'", "+slices_by_query.first_writer=\"author = 'writer 1' -- of three\""]
    made = evaluate(compose_cfg("evaluate", asked))
    rows, told = pd.read_parquet(made.path("predictions.parquet")), made.read_json("metrics.json")
    assert (rows.sure_mistakes == ((rows.right == False) & (rows.confidence > 0.2))).all()  # noqa: E712
    test = rows[rows.split == "test"]
    (mistakes, writer) = told["asked"]
    assert mistakes["n"] == test.sure_mistakes.sum() > 0 and mistakes["accuracy"] == 0 and writer["accuracy"] == pytest.approx(test[test.first_writer].right.mean())
    assert writer["rest"] == pytest.approx(test[~test.first_writer].right.mean()) and "author = &#39;writer 1&#39;" in made.path("report.html").read_text()
    cases = open_cases(compose_cfg("evaluate"), made.id)
    assert cases.find([["sure_mistakes", "=", True]])["total"] == rows.sure_mistakes.sum() and cases.about["warnings"] == []
    for name, query in (("widht", "widht < 3"), ("author", "1 = 1"), ("Big", "1 = 1"), ("two", "true; drop table items"), ("file", "id in (select * from read_text('/etc/hostname'))")):
        with pytest.raises(BadConfig):
            evaluate(compose_cfg("evaluate", [f'+slices_by_query.{name}="{query}"']))
    assert len(list((tmp_path / "artifacts" / "evaluate").glob("2*"))) == 1


def test_near_duplicates_across_splits_are_told(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, groups=2, steps=20)
    made = evaluate(compose_cfg("evaluate"))
    rows, told = pd.read_parquet(made.path("predictions.parquet")), made.read_json("metrics.json")["duplicates"]
    pairs = rows.split.to_numpy().reshape(-1, 2)
    torn = np.repeat(pairs[:, 0] != pairs[:, 1], 2)
    assert (rows.across_splits == torn).all() and told["n_groups"] == torn.sum() // 2 and told["n_items"] == (torn & (rows.split != "train")).sum() == made.metrics["n_across_splits"]
    clean = rows[(rows.split == "test") & ~torn]
    assert told["without"] == pytest.approx(clean.right.mean()) and told["n_without"] == len(clean)
    assert f"{told['n_items']} items of test or val have a near-duplicate in another split" in made.path("report.html").read_text()


def test_pictures_made_worse_and_expectations(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, task="Pictures", n=700)
    made = evaluate(compose_cfg("evaluate", ["robustness.n=40", "robustness.corruptions=[noise, rotation]"]))
    told, page = made.read_json("metrics.json"), made.path("report.html").read_text()
    assert told["format"] == FORMAT and told["robustness"]["n"] == 40 and len(told["robustness"]["corruptions"]) == 10
    by = {(c["name"], c["strength"]): c["accuracy"] for c in told["robustness"]["corruptions"]}
    assert told["robustness"]["clean"]["accuracy"] > 0.85 > by["rotation", 5] and made.metrics["corrupted"] == told["robustness"]["mean"]
    assert [t["name"] for t in told["behaviour"]] == [t["name"] for t in compose_cfg("evaluate").behaviour] and all(t["n"] == 40 for t in told["behaviour"])
    assert "What survives" in page and "moved by a twentieth" in page and Loads(page).found == []
    about = open_cases(compose_cfg("evaluate")).about
    assert about["robustness"] == told["robustness"] and about["behaviour"] == told["behaviour"] and about["gates"] and about["warnings"] == []
    again = evaluate(compose_cfg("evaluate", ["limits.n_checked=0"])).read_json("metrics.json")
    assert again["robustness"] is None and again["behaviour"] == []


def test_the_rows_are_a_table_in_wandb(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, task="Pictures", n=120, steps=5)
    made = evaluate(compose_cfg("evaluate", ["tracking=offline", "robustness.n=0"]))
    (table,) = [name for name in made.files if "media/table/predictions" in name]
    logged, rows = json.loads(made.path(table).read_text()), pd.read_parquet(made.path("predictions.parquet"))
    assert logged["columns"][:3] == ["item_id", "split", "label"] and sorted(r[0] for r in logged["data"]) == sorted(rows.item_id)
    n_wrong = ((rows.right != True) & (rows.split != "train")).sum()  # noqa: E712
    right, split = logged["columns"].index("right"), 1
    assert all(r[right] is not True and r[split] != "train" for r in logged["data"][:n_wrong])
    assert len([name for name in made.files if "media/images/worst" in name and name.endswith(".png")]) == 24
    assert made.verify() and find_fresh("evaluate", compose_cfg("evaluate", ["robustness.n=0"]), find_parents(compose_cfg("evaluate"))).id == made.id  # tracking is no part of the work


def test_no_picture_is_no_error():
    assert thumbnail(b"") == ("", False) and thumbnail(b"\x89PNG\r\n\x1a\n broken") == ("", False)
    assert thumbnail(b"%!PS-Adobe-3.0 EPSF-3.0\n") == ("", False)
