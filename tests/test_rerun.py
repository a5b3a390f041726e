"""papermill from any folder; what fails says why, exits non-zero and keeps what it had."""
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from house import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fullstack_ml.core import FsmlError, NotFound, Refused, compose_cfg
from fullstack_ml.records import list_artifacts
from fullstack_ml.rerun import rerun, run_notebook, to_html

FSML = [sys.executable, "-m", "fullstack_ml.cli"]
PARAMETERS = 'overrides: list = []\nout: str = ""'
STAGE = 'from fullstack_ml.core import compose_cfg\nfrom fullstack_ml.problem import problem\nmanifest = problem(compose_cfg("problem", overrides, out))'


def own_notebook(home: Path, *cells: str) -> Path:
    """A run notebook of one's own for the stage `problem`; it wins over that of the checkout."""
    nb = new_notebook(cells=[new_markdown_cell("# Mine"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)])
    path = home / "nbs" / "runs" / "02_problem.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path


def beside(home: Path, pattern: str) -> list[Path]:
    return sorted((home / "artifacts" / "problem").glob(pattern))


def start(home: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen([*FSML, "rerun", "problem", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home)


def line_of(process: subprocess.Popen, wanted: str) -> None:
    """Wait until the notebook has printed a line."""
    for line in process.stdout:
        if wanted in line:
            return
    raise AssertionError(process.stderr.read())


def kernels_of(process: subprocess.Popen) -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_plain_papermill_from_another_folder(home):
    out = home / "page.ipynb"
    words = ["-m", "papermill", ROOT / "nbs/runs/02_problem.ipynb", out, "-y", "overrides: [problem.gates.size_mb=7]", "-p", "out", home / "made"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    made = list_artifacts(compose_cfg("problem", out=str(home / "made")), "problem")
    assert [m.config["problem"]["gates"]["size_mb"] for m in made] == [7] and out.is_file()


def test_the_command_leaves_notebook_and_page_beside_the_artefact(home):
    before = {p: p.stat().st_mtime_ns for p in (ROOT / "nbs").rglob("*.ipynb")}
    done = subprocess.run([*FSML, "rerun", "problem", "problem.gates.size_mb=7"], capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    (made,) = list_artifacts(compose_cfg("problem"), "problem")
    assert made.config["problem"]["gates"]["size_mb"] == 7
    made.verify()
    assert beside(home, "*.ipynb") == [made.dir.with_suffix(".ipynb")] and beside(home, "*.html") == [made.dir.with_suffix(".html")]
    executed = nbformat.read(made.dir.with_suffix(".ipynb"), 4)
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    assert [home / line for line in done.stdout.splitlines()[-3:]] == [made.dir, made.dir.with_suffix(".ipynb"), made.dir.with_suffix(".html")]
    assert before == {p: p.stat().st_mtime_ns for p in (ROOT / "nbs").rglob("*.ipynb")}, "executed copies never rest under nbs/"


def test_out_may_be_relative_and_parents_are_pinned(home):
    own_notebook(home, STAGE)
    made = rerun("problem", out="somewhere")
    assert made.dir.parent == home / "somewhere" / "problem"


def test_the_page_stands_alone(home):
    own_notebook(home, STAGE, "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);", "import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    made = rerun("problem")
    page = made.dir.with_suffix(".html").read_text()
    assert "<h1" in page and "<table" in page and "data:image/png;base64" in page and made.id in page
    assert "plt.plot" not in page, "code is left out"
    assert not re.findall(r"""(?:src|href)=["']?(?!data:|\#)[^"'\s>]+|@import|<script|https?://(?!www\.w3\.org)""", page)
    assert len(page) < 100_000


def test_plots_are_drawn_and_bars_are_few_whatever_the_environment_says(home, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    bar = "import time\nfrom fullstack_ml.core import progress\nfor _ in progress(range(300), 'counting'): time.sleep(0.002)"
    own_notebook(home, STAGE, "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);", bar)
    made = rerun("problem")
    nb = nbformat.read(made.dir.with_suffix(".ipynb"), 4)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert [o for o in outputs if "image/png" in o.get("data", {})]
    assert sum(len(o.text) for o in outputs if o.get("name") == "stderr") < 500


def test_the_kernel_is_this_python_whatever_kernels_are_installed(home, monkeypatch):
    kernel = home / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "wrong", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "jupyter"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the environment is not activated
    own_notebook(home, "import sys\nprint(sys.executable)", STAGE)
    made = rerun("problem")
    nb = nbformat.read(made.dir.with_suffix(".ipynb"), 4)
    assert [o.text.strip() for o in nb.cells[3].outputs] == [sys.executable]


def test_a_cell_that_fails(home):
    own_notebook(home, "print('so far, so good')", "1 / 0", STAGE)
    done = subprocess.run([*FSML, "rerun", "problem"], capture_output=True, text=True, cwd=home)
    (kept,) = beside(home, "failed-*.ipynb")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr and os.path.relpath(kept, home) in done.stderr
    assert "so far, so good" in kept.read_text() and not beside(home, "running-*")
    assert not list_artifacts(compose_cfg("problem"), "problem")


def test_an_error_of_the_family_keeps_its_class_and_its_code(home):
    own_notebook(home, "from fullstack_ml.core import Refused\nraise Refused('The licence forbids this', 'CC-BY-NC-4.0', 'Leave it out.')")
    with pytest.raises(Refused, match="The licence forbids this: CC-BY-NC-4.0. Leave it out. .*failed-"):
        rerun("problem")


@pytest.mark.parametrize("cell, told", [
    ("import os\nos._exit(0)", "kernel died"), ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "kernel died"),
    ("raise SystemExit(0)", "ended before"), ("pass", "made no problem"),
])  # fmt: skip
def test_nothing_passes_for_a_success_that_is_none(home, cell, told):
    own_notebook(home, cell, *([STAGE] if cell != "pass" else []))
    with pytest.raises(FsmlError, match=told):
        rerun("problem")
    assert len(beside(home, "failed-*.ipynb")) == 1 and not beside(home, "*.html")


def test_a_plot_that_fails_after_the_stage_is_a_failure_and_the_artefact_stays(home):
    own_notebook(home, STAGE, "raise KeyError('no such column')")
    with pytest.raises(FsmlError, match="no such column"):
        rerun("problem")
    assert len(list_artifacts(compose_cfg("problem"), "problem")) == 1 and len(beside(home, "failed-*.ipynb")) == 1


def test_ctrl_c_keeps_what_was_done_and_leaves_no_kernel(home):
    own_notebook(home, "print('cell one is done', flush=True)", "import time\nprint('cell two has begun', flush=True)\ntime.sleep(60)", STAGE)
    process = start(home)
    line_of(process, "cell two has begun")
    kernels = kernels_of(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "carries on" in err and "Traceback" not in err, err
    (kept,) = beside(home, "failed-*.ipynb")
    assert "cell one is done" in kept.read_text()
    assert kernels and gone(kernels, 10)


def test_a_kill_keeps_what_was_done_and_the_kernel_follows(home):
    own_notebook(home, "print('cell one is done', flush=True)", "import time\nprint('cell two has begun', flush=True)\ntime.sleep(60)", STAGE)
    process = start(home)
    line_of(process, "cell two has begun")
    kernels = kernels_of(process)
    process.kill()
    process.wait()
    (kept,) = beside(home, "running-*.ipynb")
    assert "cell one is done" in kept.read_text()
    assert kernels and gone(kernels, 15)
    own_notebook(home, STAGE)
    assert rerun("problem").id, "the same command carries on"


def test_what_is_printed_is_shown_as_it_is_printed(home):
    own_notebook(home, "import time\nprint('early', flush=True)\ntime.sleep(3)", STAGE)
    process = start(home)
    line_of(process, "early")
    seen = time.monotonic()
    assert process.wait(30) == 0 and time.monotonic() - seen > 2


def test_a_stage_without_a_run_notebook(home):
    with pytest.raises(NotFound, match="nosuch.*problem"):
        run_notebook("nosuch")


def test_two_reruns_of_the_same_work_at_once_do_not_mix(home):
    own_notebook(home, "import time", STAGE)
    both = [start(home, f"problem.gates.size_mb={n}") for n in (3, 4)]
    assert [p.wait(60) for p in both] == [0, 0], [p.stderr.read() for p in both]
    made = list_artifacts(compose_cfg("problem"), "problem")
    assert {m.config["problem"]["gates"]["size_mb"] for m in made} == {3, 4}
    for m in made:
        text = m.dir.with_suffix(".ipynb").read_text()
        assert f"problem.gates.size_mb={m.config['problem']['gates']['size_mb']}" in text


def test_a_rerun_costs_little_more_than_its_stage(home):
    own_notebook(home, STAGE)
    took = []
    for _ in range(2):
        begun = time.perf_counter()
        made = rerun("problem")
        took.append(time.perf_counter() - begun - made.seconds)
    assert min(took) < 5, "1.5 s on two idle cores"


def test_a_page_of_a_notebook_that_was_never_run():
    nb = new_notebook(cells=[new_markdown_cell("# T\n\ntext"), new_code_cell("1")])
    assert "<title>T</title>" in to_html(nb) and "<h1" in to_html(nb)
