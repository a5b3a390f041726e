"""What is stale runs as notebooks, in order; why it is stale is said without running anything."""
import subprocess
import sys

import pytest

from fullstack_ml.chain import differences, explain, needed, run_to
from fullstack_ml.core import BadConfig, compose_cfg
from fullstack_ml.loop import ORDER
from fullstack_ml.problem import problem
from fullstack_ml.records import find_parents, list_artifacts

FSML = [sys.executable, "-m", "fullstack_ml.cli"]
SMOKE = ["profile=smoke", "crawl:source.host.port=0"]


def test_a_target_needs_what_its_parents_need():
    assert needed("release") == list(ORDER) and needed("problem") == ["problem"] and needed("train") == ["crawl", "annotate", "dataset", "train"]
    with pytest.raises(BadConfig, match="serve.*release"):
        needed("serve")


def test_why_names_the_setting_and_the_module(home):
    made = problem(compose_cfg("problem"))
    assert explain("problem")[0].found.id == made.id
    (step,) = explain("problem", ["problem.gates.size_mb=7"])
    assert step.reasons == ["problem.gates.size_mb: 20 -> 7"]
    made.code["sources"]["problem"] = "another"
    assert differences(made, compose_cfg("problem"), {}) == ["code: problem"]
    del made.code["sources"]
    assert differences(made, compose_cfg("problem"), {}) == ["code: this artefact is older than the list of its modules"]


def test_to_a_target_as_notebooks_and_then_nothing_is_left_to_do(home):
    why = subprocess.run([*FSML, "rerun", "--to", "dataset", "--why", *SMOKE], capture_output=True, text=True, cwd=home)
    assert why.returncode == 0 and why.stdout.count("it has never been made") == 3, why.stderr
    assert not (home / "artifacts" / "smoke").exists(), "nothing is run"
    made = run_to("dataset", SMOKE)
    assert list(made) == ["crawl", "annotate", "dataset"]
    for m in made.values():
        assert m.dir.with_suffix(".ipynb").is_file() and m.dir.with_suffix(".html").is_file()
    assert all(step.found.id == made[step.stage].id for step in explain("dataset", SMOKE))

    again = run_to("dataset", SMOKE)
    cfg = compose_cfg("dataset", ["profile=smoke"])
    assert {k: m.id for k, m in again.items()} == {k: m.id for k, m in made.items()}
    for kind in made:
        assert [m.id for m in list_artifacts(cfg, kind)] == [made[kind].id], "what equals the old one is dropped"
        assert len(list((home / "artifacts" / "smoke" / kind).glob("*.html"))) == 1

    crawl, annotate, dataset = explain("dataset", [*SMOKE, "crawl:retries=3"])
    assert crawl.reasons == ["retries: 2 -> 3"] and annotate.reasons == ["crawl: a new one comes first"]
    assert dataset.reasons == ["crawl: a new one comes first", "annotate: a new one comes first"]
    made["dataset"].parents["crawl"] = "20200101-000000-abcdef"
    cfg = compose_cfg("dataset", ["profile=smoke"])
    assert differences(made["dataset"], cfg, find_parents(cfg)) == [f"crawl: 20200101-000000-abcdef -> {made['crawl'].id}"]
