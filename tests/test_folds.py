"""Cross-validation: no group in two folds, every item once, and a killed one carries on."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, NotFound, compose_cfg, write_json
from fullstack_ml.dataset import open_dataset
from fullstack_ml.evaluate import evaluate
from fullstack_ml.folds import Viewed, average, fold_config, folds, predict_run, read_oof, read_runs
from fullstack_ml.records import Choice, Item, Prediction, Text, draft, find_artifact, find_parents, label_to_dict, list_artifacts, stage_key, write_items
from fullstack_ml.splits import draw_folds, one_fold
from fullstack_ml.task import load_task
from fullstack_ml.train import train

OVERRIDES = ["problem.classes=[one,two,three]", "~problem.aliases", "batch_size=8", "epochs=2", "device=cpu", "augment=none", "tracking=disabled", "speed.precision=fp32", "speed.layout=channels_last", "fold.n=3", "task.size=16"]
CHILD = """
import os, sys, time
import torch
from fullstack_ml.core import compose_cfg
from fullstack_ml import folds, train
class Slow:
    def after_batch(self, learner): time.sleep(float(os.environ.get("SLOW", 0)))
train.Bar = Slow
torch.set_num_threads(1)
print(folds.folds(compose_cfg("folds", sys.argv[2:], out=sys.argv[1])).id)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def dataset(out, n=60, guessed=()):
    """A version of bars: two near-duplicates a group, every fifth group tests, and what a model labelled."""
    cfg = compose_cfg("folds", [*OVERRIDES, f"storage.blobs={out}/blobs"], out=str(out))
    store, pairs = BlobStore(cfg.storage.blobs), load_task(cfg.task).sample(n)
    for item, _ in pairs:
        store.put(item.data)
    rows = sorted(((i, l, k) for k, (i, l) in enumerate(pairs)), key=lambda r: r[0].id)
    with draft("dataset", cfg, {}) as d:
        write_items(
            d.dir / "items.parquet", [i for i, *_ in rows], label=[json.dumps(label_to_dict(l)) for _, l, _ in rows],
            split=["test" if k // 2 % 5 == 4 else "val" if k % 4 == 0 else "train" for *_, k in rows], group=[k // 2 for *_, k in rows],
            annotators=[json.dumps(["pseudo" if k in guessed else "ada"]) for *_, k in rows],
        )  # fmt: skip
        write_json(d.dir / "classes.json", ["one", "two", "three"])
    return d.manifest, [f"storage.blobs={out}/blobs"]


def table(n, labels, groups, **columns):
    texts = [json.dumps({"kind": "choice", "names": [l]}) for l in labels]
    return pa.table({"id": [f"{k:04d}" for k in range(n)], "sha256": [f"{k:04d}" for k in range(n)], "label": texts, "group": groups, "split": ["train"] * n, **columns})


@pytest.mark.parametrize("seed", range(3))
def test_no_group_in_two_folds_and_classes_in_their_shares(seed):
    rng = np.random.default_rng(seed)
    groups, labels = rng.integers(0, 150, 600), rng.choice(["a", "b", "rare"], 600, p=[0.6, 0.3, 0.1])
    fold = draw_folds(table(600, labels, groups), 5, seed)
    assert set(fold) == set(range(5))
    assert all(len({*fold[groups == g]}) == 1 for g in {*groups})
    for name in ("a", "b", "rare"):
        shares = [(labels[fold == k] == name).mean() for k in range(5)]
        assert max(abs(s - (labels == name).mean()) for s in shares) < 0.05
    assert (fold == draw_folds(table(600, labels, groups), 5, seed)).all() and (fold != draw_folds(table(600, labels, groups), 5, seed + 1)).any()


def test_the_order_of_the_rows_does_not_matter_to_the_further_grouping():
    """The grouping column is read in another order than the rows may have."""
    rng = np.random.default_rng(0)
    pages = [f"p{k % 20}" for k in range(200)]
    rows = table(200, rng.choice(["a", "b"], 200), np.arange(200), page_url=pages)
    rows = rows.take(rng.permutation(200))
    fold = draw_folds(rows, 4, together="page_url")
    assert all(len({f for f, p in zip(fold, rows["page_url"].to_pylist()) if p == page}) == 1 for page in {*pages})


def test_groups_and_pages_join():
    """Pairs and pages that overlap make one chain, which no fold may tear."""
    rows = table(40, ["a", "b"] * 20, [k // 2 for k in range(40)], page_url=[f"p{(k + 1) // 4}" for k in range(40)])
    assert len({*draw_folds(rows, 2)}) == 2
    with pytest.raises(BadConfig, match="cannot be divided into folds|would be empty"):
        draw_folds(rows, 2, together="page_url")


def test_the_test_split_stays_and_guesses_are_not_scored(tmp_path):
    made, _ = dataset(tmp_path, guessed=range(0, 30))
    data = open_dataset(made)
    test = {i.id for i in data.items("test")}
    counted = []
    for k in range(3):
        held = one_fold(data, k, 3, unscored=["pseudo"])
        assert {i.id for i in held.items("test")} == test
        val, trained = held.where("split = 'val'"), held.where("split = 'train'")
        assert set(val.arrow["annotators"].to_pylist()) == {'["ada"]'} and '["pseudo"]' in trained.arrow["annotators"].to_pylist()
        assert not {*val.arrow["group"].to_pylist()} & {*trained.arrow["group"].to_pylist()}
        counted += val.arrow["id"].to_pylist()
    by_people = data.where("split <> 'test' and annotators = '[\"ada\"]'")
    assert sorted(counted) == by_people.arrow["id"].to_pylist()


@pytest.mark.parametrize("k", [None, -1, 3, "0"])
def test_a_fold_that_is_none(tmp_path, k):
    made, _ = dataset(tmp_path)
    with pytest.raises(BadConfig, match="no such fold"):
        one_fold(open_dataset(made), k, 3)


def test_too_few_items_for_so_many_folds():
    with pytest.raises(BadConfig, match="cannot be divided into folds|would be empty"):
        draw_folds(table(6, ["a", "b"] * 3, [0, 0, 1, 1, 2, 2]), 5)


def test_a_fold_is_the_training_that_one_would_start_by_hand(tmp_path):
    """Same configuration, same key: `fsml train fold=stratified fold.k=1` and the fold of a cross-validation find each other."""
    made, more = dataset(tmp_path)
    cfg = compose_cfg("folds", [*OVERRIDES, *more, "tta=affine"], out=str(tmp_path))
    by_hand = compose_cfg("train", ["fold=stratified", *OVERRIDES, *more, "fold.k=1", f"parents.dataset={made.id}"], out=str(tmp_path))
    told = fold_config(cfg, 1, made)
    assert told == by_hand
    assert stage_key("train", told, {"dataset": made}) == stage_key("train", by_hand, {"dataset": made})


def test_every_item_once_by_a_model_that_has_not_seen_it(tmp_path, capsys):
    made, more = dataset(tmp_path)
    cfg = compose_cfg("folds", [*OVERRIDES, *more], out=str(tmp_path))
    whole = train(compose_cfg("train", [o for o in [*OVERRIDES, *more] if not o.startswith("fold.")], out=str(tmp_path)))
    found = folds(cfg)
    oof, data = read_oof(found), open_dataset(made)
    assert oof["item_id"].tolist() == data.where("split <> 'test'").arrow["id"].to_pylist()
    assert (oof.groupby("group")["fold"].nunique() == 1).all()
    for k, run in enumerate(read_runs(cfg, found)):
        held = one_fold(data, k, 3)
        mine = oof[oof["fold"] == k]
        assert sorted(mine["item_id"]) == [i.id for i in held.items("val")]
        said = predict_run(cfg, run, held.items("val")).predictions
        assert mine["predicted"].tolist() == [str(p.label) for p in said]
        assert json.loads(mine["scores"].iloc[0]) == pytest.approx(said[0].scores)
    assert found.metrics["accuracy"] == pytest.approx((oof["label"] == oof["predicted"]).mean())
    assert sum(f["n"] for f in found.metrics["per_fold"]) == found.metrics["n"] == len(oof)
    assert set(found.parents) == {"dataset"} and len(list_artifacts(cfg, "train")) == 4
    assert find_artifact(cfg, "train").id == whole.id, "the run of a fold is never the latest"
    with pytest.raises(BadConfig, match="one fold of several.*fsml folds"):  # it has seen most of val
        evaluate(compose_cfg("evaluate", [*more, f"parents.train={read_runs(cfg, found)[0].id}"], out=str(tmp_path)))

    capsys.readouterr()
    viewed = folds(compose_cfg("folds", [*OVERRIDES, *more, "tta=flip"], out=str(tmp_path)))
    assert capsys.readouterr().out.count("unchanged") == 3 and len(list_artifacts(cfg, "train")) == 4, "views train nothing"
    assert viewed.key != found.key


def test_a_label_that_the_model_does_not_have_is_a_wrong_answer_and_no_error():
    task = load_task(compose_cfg("folds", OVERRIDES).task)
    said = [Prediction(Choice(("one",)), 0.5, {"one": 0.5, "two": 0.25, "three": 0.25})] * 2
    found = task.score(said, [Choice(("one",)), Choice(("nine",))])
    assert found["accuracy"] == 0.5 and found["log_loss"] == pytest.approx(-np.log(0.5))
    assert np.isnan(task.score(said, [Choice(("nine",))] * 2)["log_loss"])
    with pytest.raises(BadInput, match="several classes.*one, two"):
        task.target([Choice(("one", "two"))])


def test_only_folds_are_no_latest(tmp_path):
    _, more = dataset(tmp_path)
    cfg = compose_cfg("train", ["fold=stratified", *OVERRIDES, *more, "fold.k=0"], out=str(tmp_path))
    train(cfg)
    with pytest.raises(NotFound, match="There is no train"):
        find_artifact(cfg, "train")


def test_killed_and_run_again(tmp_path, capsys):
    """Killed in a later fold: the folds before it are found, the one at hand carries on, and the end is that of an unbroken one."""
    import torch

    env, ends = {**os.environ, "FSML_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "SLOW": "0.3"}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("broken", "unbroken"):
        out = tmp_path / name
        _, more = dataset(out)
        cfg, before = compose_cfg("folds", [*OVERRIDES, *more], out=str(out)), set()
        if name == "broken":
            child = subprocess.Popen([sys.executable, "-c", CHILD, str(out), *OVERRIDES, *more], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 240
            while not (list_artifacts(cfg, "train") and list((out / "train").glob(".draft-*/checkpoint.safetensors"))) and time.monotonic() < deadline and child.poll() is None:
                time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            before = {m.id for m in list_artifacts(cfg, "train")}
            assert 1 <= len(before) < 3 and not list_artifacts(cfg, "folds")
        capsys.readouterr()
        ends[name] = read_oof(folds(cfg))
        told = capsys.readouterr().out
        assert told.count("unchanged") == len(before) and told.count("carries on") == (name == "broken")
        assert before <= {m.id for m in list_artifacts(cfg, "train")} and len(list_artifacts(cfg, "train")) == 3
    torch.set_num_threads(threads)
    assert ends["broken"].equals(ends["unbroken"])


def test_means_of_answers():
    p = lambda a: Prediction(Choice(("x",)), a, {"x": a, "y": 1 - a})
    (mean,) = average([[p(0.9)], [p(0.2)], [p(0.1)]])
    assert mean.scores == pytest.approx({"x": 0.4, "y": 0.6}) and mean.label == Choice(("y",)) and mean.confidence == pytest.approx(0.6)
    assert average([[p(0.9)], [p(0.2)]], [3, 1])[0].scores["x"] == pytest.approx(0.725)
    assert average([[p(0.9), None], [None, p(0.3)]]) == [None, None]
    with pytest.raises(BadInput, match="no probabilities"):
        average([[Prediction(Text("a"), 1.0)]])
    with pytest.raises(BadInput, match="same classes"):
        average([[p(0.9)], [Prediction(Choice(("z",)), 1.0, {"z": 1.0})]])


def test_one_plain_view_is_no_view(tmp_path):
    _, more = dataset(tmp_path)
    cfg = compose_cfg("train", [o for o in [*OVERRIDES, *more] if not o.startswith("fold.")], out=str(tmp_path))
    run = train(cfg)
    items = open_dataset(find_parents(cfg)["dataset"]).items("test")
    plain, viewed = predict_run(cfg, run, items), predict_run(cfg, run, items, [None, None])
    assert [p.label for p in plain.predictions] == [p.label for p in viewed.predictions]
    assert [p.confidence for p in plain.predictions] == pytest.approx([p.confidence for p in viewed.predictions])
    lost = predict_run(cfg, run, [*items[:2], Item(sha256="0" * 64, url="gone")], [None])
    assert lost.predictions[2] is None and lost.errors[2]
    with pytest.raises(BadConfig, match="nothing to look at"):
        Viewed(load_task(cfg.task), [])
