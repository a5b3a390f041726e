"""The whole product on the whole sample: quality as promised, nothing done twice, and no harm by Ctrl-C."""
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from fullstack_ml.loop import ORDER, loop, run_stage, share_overrides
from fullstack_ml.records import read_items
from fullstack_ml.sample_site import answer_sheet, wrong_captions

OVERRIDES = ["crawl:source.host.port=0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("loop")
    return {**loop(OVERRIDES, str(out)), "out": str(out)}


def figure(made, **where):
    rows = made["evaluate"].read_json("metrics.json")["figures"]
    return next(r for r in rows if all(r[k] == v for k, v in where.items()))


def test_accuracy_against_the_datas_own_truth(made):
    headline = figure(made, split="test", labels="truth")
    assert headline["n"] >= 300 and headline["accuracy"] >= 0.985
    rows = pd.read_parquet(made["evaluate"].path("predictions.parquet")).set_index("item_id")
    items = {i.id: i for i in read_items(made["dataset"].path("items.parquet"))}
    test, truth = rows[rows["split"] == "test"], answer_sheet()
    assert (test["predicted"] == [truth[items[i].sha256] for i in test.index]).mean() == pytest.approx(headline["accuracy"])


def test_int8_loses_at_most_half_a_point(made):
    variants = {v["name"]: v for v in made["compress"].read_json("variants.json")}
    assert variants["int8"]["split"] == "test" and variants["int8"]["labels"] == "truth"
    assert variants["int8"]["accuracy"] >= variants["int8"]["parent"]["accuracy"] - 0.005
    assert variants["int8"]["size_mb"] < 0.5 * variants["int8"]["parent"]["size_mb"]


def test_wrong_captions_are_among_the_most_suspicious(made):
    rows = pd.read_parquet(made["evaluate"].path("predictions.parquet")).sort_values("suspicion", ascending=False)
    items = {i.id: i for i in read_items(made["dataset"].path("items.parquet"))}
    wrong = {i.id for i in items.values() if i.sha256 in wrong_captions()}
    top = set(rows["item_id"].head(round(0.05 * len(rows))))
    assert len(wrong) >= 30 and len(wrong & top) >= 0.8 * len(wrong)


def test_no_near_duplicate_across_splits(made):
    table = pd.read_parquet(made["dataset"].path("items.parquet"))
    assert (table.groupby("group")["split"].nunique() == 1).all()
    number = table["url"].str.extract(r"(\d{4})\.\w+$")[0]  # copies carry the number of their original
    assert (table.groupby(number)["split"].nunique() == 1).all()


def test_checkers_never_train(made):
    table = pd.read_parquet(made["dataset"].path("items.parquet"))
    assert (table["annotators"] == '["caption"]').all()
    assert table.loc[table["split"] != "test", "truth"].isna().all() and table.loc[table["split"] == "test", "truth"].notna().all()


def test_the_answer_and_its_descent(made):
    line = dict(made["descent"])
    assert {"release", "train", "dataset", "annotator", "page", "author", "licence", "split"} <= line.keys()
    assert line["split"] == "test" and line["licence"].startswith("CC-BY-4.0") and "Alpaydin" in line["author"]
    assert made["answer"]["release"] == made["release"].metrics["release"]
    assert made["answer"]["label"]["names"][0] in line["annotator"] or made["answer"]["confidence"] < 0.99


def test_only_what_changed_is_done_again(made):
    shared = share_overrides(OVERRIDES)
    assert not any(run_stage(stage, shared[stage], made["out"])[1] for stage in ORDER)
    _, moved = run_stage("problem", ["problem.gates.accuracy=0.9"], made["out"])
    assert moved and not run_stage("crawl", shared["crawl"], made["out"])[1], "moving a gate must not crawl again"
    assert not run_stage("train", shared["train"], made["out"])[1]
    assert run_stage("release", shared["release"], made["out"])[1], "the gates are the release's business"


def test_somebody_elses_newer_artefact_does_not_slip_in(made):
    newer, _ = run_stage("problem", ["problem.gates.accuracy=0.1"], made["out"])
    shared = share_overrides(OVERRIDES)
    found, again = run_stage("release", shared["release"], made["out"], {k: made[k] for k in ORDER})
    assert not again and found.id == made["release"].id and newer.id > made["problem"].id


def test_a_trial_stays_out_of_the_real_storage(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path))
    manifest, _ = run_stage("problem", ["profile=smoke"])
    assert manifest.dir.is_relative_to(tmp_path / "smoke")


@pytest.mark.parametrize("seconds", [2.5, 6])
def test_interrupted_and_run_again(tmp_path, seconds):
    env = {**os.environ, "FSML_ARTIFACTS": str(tmp_path)}
    command = [sys.executable, "-m", "fullstack_ml.cli", "loop", "profile=smoke", "crawl:source.host.port=0"]
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    child.communicate(timeout=60)
    assert child.returncode == 130 or child.returncode == 0
    kinds = [tmp_path / "smoke" / stage for stage in ORDER]
    made = [p for kind in kinds if kind.is_dir() for p in kind.iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert all((p / "manifest.json").is_file() for p in made)
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "answer" in again.stdout and ("unchanged" in again.stdout or not made)
