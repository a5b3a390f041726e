"""Every run notebook in the order of the stages, into one folder, at the size of `profile=smoke`; and the tour."""
import json
import re
import socket
from pathlib import Path

import nbformat
import pytest

from fullstack_ml.core import compose_cfg
from fullstack_ml.loop import ORDER
from fullstack_ml.records import Manifest, find_parents, list_artifacts
from fullstack_ml.rerun import execute, rerun

ROOT = Path(__file__).resolve().parent.parent
RUNS = [(p.stem[3:], p) for p in sorted((ROOT / "nbs/runs").glob("[0-9]*_*.ipynb"))]
STAGES = [stage for stage, _ in RUNS]
# Any free port: the default one may be somebody's on this machine. Answer sheets go by content, so annotate need not know it.
OVERRIDES = {"crawl": ["source.host.port=0"], "compress": ["timed_calls=20"]}  # serve: the notebook itself takes a free port and stops


def overrides(stage: str) -> list[str]:
    return ["profile=smoke", *OVERRIDES.get(stage, [])]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made() -> dict[str, Manifest]:
    """What the notebooks before this one made."""
    return {}


@pytest.mark.parametrize("stage", STAGES)
def test_run_notebook(stage, out, made):
    cfg = compose_cfg(stage, overrides(stage), str(out))
    if missing := [p for p in cfg.parents if p not in made]:
        pytest.skip(f"the notebook of {missing[0]} failed")
    source = (ROOT / "nbs/runs").joinpath(dict(RUNS)[stage].name)
    before = source.read_bytes()

    m = made[stage] = rerun(stage, overrides(stage), str(out))

    assert source.read_bytes() == before and m.dir.parent == out / stage
    check_artefact(m, made)
    check_notebook(m.dir.with_suffix(".ipynb"))
    check_page(m.dir.with_suffix(".html"), m)
    assert [x.id for x in list_artifacts(cfg, stage)] == [m.id], "one notebook, one artefact"
    assert not list((out / stage).glob("failed-*")) and not list((out / stage).glob("running-*"))


def check_artefact(m: Manifest, made: dict[str, Manifest]) -> None:
    told = json.loads((m.dir / "manifest.json").read_text())
    assert told["kind"] == m.kind and told["id"] == m.id and told["code"] and told["metrics"] is not None
    assert set(told["files"]) == {p.relative_to(m.dir).as_posix() for p in m.dir.rglob("*") if p.is_file() and not p.is_symlink() and p.name != "manifest.json"}
    assert "storage" not in told["config"] and all(v is not None for v in told["config"]["limits"].values())
    for kind, parent in told["parents"].items():
        assert made[kind].id == parent, "parents are the artefacts of this folder"


def check_notebook(path: Path) -> None:
    """Executed to its end, with tables and plots that a person can read."""
    nb = nbformat.read(path, as_version=4)
    code = [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    assert all(c.execution_count for c in code)
    assert not [o for c in code for o in c.outputs if o.output_type == "error"]
    for c in code:
        text = "".join(o.get("text", "") for o in c.outputs if o.output_type == "stream")
        assert not re.search(r"\bWarning\b|Traceback", text), text[-2000:]
        bars = text.count("| 0/")  # each redraws itself every five seconds
        assert text.count("\r") < 20 * max(1, bars), "progress bars fill the page"
    assert any(o.output_type in ("display_data", "execute_result") for c in code for o in c.outputs)


def check_page(path: Path, m: Manifest) -> None:
    page = path.read_text(encoding="utf8")
    bare = re.sub(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+", "data:", page)
    assert m.id in page and len(bare) < 300_000
    assert not re.search(r"""<script\b|<link\b|<iframe\b|\bsrc\s*=\s*(?!["']?data:)|@import""", bare, re.I), "the page asks for something from elsewhere"


def test_there_is_one_for_every_stage():
    assert {*STAGES} == {p.stem for p in (ROOT / "conf").glob("*.yaml")}


def test_parents_are_found_again(out, made):
    """The same configuration a second time finds the same parents, and knows that the work is done."""
    from fullstack_ml.records import find_fresh

    if len(made) < len(STAGES):
        pytest.skip("a notebook failed")
    for stage in ("annotate", "dataset", "train", "compress"):
        pinned = [f"parents.train={made['train'].id}"] if stage == "compress" else []  # a sweep has made newer runs
        cfg = compose_cfg(stage, [*overrides(stage), *pinned], str(out))
        assert find_fresh(stage, cfg, find_parents(cfg)).id == made[stage].id


def test_the_run_tells_its_curves(made):
    """wandb's offline file is read back, and says what our own log says."""
    from fullstack_ml.train import read_curves, read_wandb

    if "train" not in made:
        pytest.skip("the notebook of train failed")
    curves, tracked = read_curves(made["train"]), read_wandb(made["train"])
    assert len(curves) == 2 and {"train_loss", "val_loss", "val_accuracy"} <= set(curves.columns)
    assert len(tracked) and "step_loss" in tracked.columns


def test_the_tour(tmp_path):
    """All stages in one notebook. The gallery stands on its usual port here, so that port must be free."""
    port = compose_cfg("crawl").source.host.port
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError as e:
            pytest.skip(f"port {port} is taken ({e.strerror})")
    source = ROOT / "nbs/tutorials/tour.ipynb"
    before = source.read_bytes()
    nb = execute(source, tmp_path / "tour.ipynb", ["profile=smoke"], str(tmp_path / "out"))
    assert source.read_bytes() == before
    check_notebook(tmp_path / "tour.ipynb")
    kinds = {p.parent.parent.name for p in (tmp_path / "out").glob("*/[0-9]*/manifest.json")}
    assert kinds == {*ORDER}
    answer = next(json.loads(o.text) for c in nb.cells for o in c.get("outputs", []) if o.output_type == "stream" and o.text.lstrip().startswith("{"))
    assert answer["release"] and 0 < answer["confidence"] <= 1
    shown = "".join(str(o.get("data", {}).get("text/html", "")) for c in nb.cells for o in c.get("outputs", []))
    assert "CC-BY-4.0" in shown and "report.html" in shown
