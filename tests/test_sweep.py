"""Many trials of one stage: a kill costs none that had ended, a failure costs only itself, and what is proposed can be repeated."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fullstack_ml.core import BadConfig, FsmlError, Unavailable, compose_cfg
from fullstack_ml.records import list_artifacts
from fullstack_ml.sweep import Grid, Here, Optuna, Random, Submitit, Sweep, check_sweep, read_axes, read_trials, run_sweep, sweep

FSML = [sys.executable, "-m", "fullstack_ml.cli"]
PARAMETERS = 'overrides: list = []\nout: str = ""'
STAGE = 'from fullstack_ml.core import compose_cfg\nfrom fullstack_ml.problem import problem\nmanifest = problem(compose_cfg("problem", overrides, out))'
VALUE = "value = next(o.rpartition('=')[2] for o in overrides if 'size_mb' in o)"
EIGHT = "problem.gates.size_mb=range(1,9)"
WAIT = """import pathlib, time
pathlib.Path(f"began-{value}").touch()
until = time.monotonic() + 240
while not (%s):
    assert time.monotonic() < until
    time.sleep(0.02)"""


def own_notebook(home: Path, *cells: str) -> None:
    """A run notebook of one's own for the stage `problem`; it wins over that of the checkout."""
    nb = new_notebook(cells=[new_markdown_cell("# Mine"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)])
    path = home / "nbs" / "runs" / "02_problem.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


def fsml(home: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*FSML, *words], capture_output=True, text=True, cwd=home, timeout=900)


def command(*words: str, jobs: int = 2) -> list[str]:
    return ["rerun", "problem", *words, "-m", "--metric", "classes", "--jobs", str(jobs)]


def cfg_of(*overrides: str, jobs: int = 2, **more: str):
    settings = [f"{k.replace('__', '.')}={v}" for k, v in more.items()]
    return compose_cfg("sweep", ["stage=problem", f"overrides={json.dumps(list(overrides))}", "metric=classes", f"launcher.n_jobs={jobs}", *settings])


def the_sweep(home: Path) -> Path:
    (folder,) = (home / "artifacts" / "sweep").glob("problem-*")
    return folder


def marks(home: Path, name: str = "done") -> list[str]:
    return sorted(p.parent.name for p in (home / "artifacts" / "sweep").glob(f"problem-*/*/{name}.json"))


def wait_for(what, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


def artefacts() -> list:
    return list_artifacts(compose_cfg("problem"), "problem")


def test_killed_after_three_of_eight_and_run_again(home):
    own_notebook(home, VALUE, STAGE, WAIT % "value != '4' or pathlib.Path('go').exists()")
    process = subprocess.Popen([*FSML, *command(EIGHT, jobs=1)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home)
    wait_for(lambda: (home / "began-4").exists())
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert marks(home) == ["0000", "0001", "0002"]
    assert not psutil.wait_procs(family, timeout=60)[1], "trial and kernel follow"
    frozen = (the_sweep(home) / "sweep.json").read_text()

    own_notebook(home, VALUE, STAGE)
    stand = {m.id for m in artefacts()}
    done = fsml(home, *command(EIGHT, jobs=2))
    assert done.returncode == 0, done.stderr
    assert "8 trials of problem: 3 stand, 5 to do" in done.stdout
    assert sum("/8  problem.gates.size_mb=" in line for line in done.stdout.splitlines()) == 5
    assert stand <= {m.id for m in artefacts()} and len(artefacts()) == 8, "what had been made is not made twice"
    assert len(marks(home)) == 8 and (the_sweep(home) / "sweep.json").read_text() == frozen
    (made,) = list_artifacts(compose_cfg("sweep"), "sweep")
    table = read_trials(made.verify())
    assert sorted(table["problem.gates.size_mb"]) == list(range(1, 9)) and set(table["state"]) == {"done"}
    assert made.metrics["trials"] == made.metrics["done"] == 8 and made.metrics["best"] in set(table["artefact"])
    assert {Path(line).suffix for line in done.stdout.splitlines()[-3:]} == {"", ".ipynb", ".html"}
    assert "problem.gates.size_mb" in made.dir.with_suffix(".html").read_text()

    plan = ["retry=false", "launcher.n_jobs=2"]  # as the sweep's own notebook was told
    assert sweep(compose_cfg("sweep", ["stage=problem", f'overrides=["{EIGHT}"]', "metric=classes", *plan])).id == made.id and len(artefacts()) == 8, "nothing is left to do"
    listed, descent = fsml(home, "ls", "sweep"), fsml(home, "lineage", "sweep")
    assert made.id in listed.stdout and '"trials": 8' in listed.stdout and made.id in descent.stdout, descent.stderr


def test_two_at_once_each_with_its_share_of_the_cores(home):
    own_notebook(home, VALUE, "import os\nprint('threads', os.environ['OMP_NUM_THREADS'])", WAIT % "len(list(pathlib.Path().glob('began-*'))) == 2", STAGE)
    made = sweep(cfg_of("problem.gates.size_mb=1,2"))
    check_sweep(made)
    cores, told = len(os.sched_getaffinity(0)), int(os.environ["OMP_NUM_THREADS"])
    for log in the_sweep(home).glob("*/log.txt"):
        assert "Fatal" not in log.read_text(), "a trial's process ends in order"
    for m in artefacts():
        assert f"threads {max(1, min(told, cores // 2))}" in m.dir.with_suffix(".ipynb").read_text()


def test_a_gpu_each(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert Here().n_jobs == 2 and [Here(4).share(slot, 4)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["3", "5", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Here().n_jobs == len(os.sched_getaffinity(0)) and "CUDA_VISIBLE_DEVICES" not in Here().share(0, 1)


def test_a_failed_trial_keeps_its_reason_and_the_others_go_on(home):
    own_notebook(home, VALUE, "print('up to here')", "assert value != '2', 'two is too small'", STAGE)
    done = fsml(home, *command("problem.gates.size_mb=1,2,3"))
    assert done.returncode == 1 and "1 of 3 trials failed: 2 (problem.gates.size_mb=2)" in done.stderr and "two is too small" in done.stderr
    assert "Traceback" not in done.stderr and marks(home) == ["0000", "0002"] and marks(home, "failed") == ["0001"]
    trial = the_sweep(home) / "0001"
    assert "up to here" in (trial / "failed.ipynb").read_text() and "up to here" in (trial / "log.txt").read_text()
    (made,) = list_artifacts(compose_cfg("sweep"), "sweep")
    assert read_trials(made).set_index("trial")["reason"].loc[1].startswith("Cell") and "two is too small" in made.dir.with_suffix(".html").read_text()

    skipped = sweep(cfg_of("problem.gates.size_mb=1,2,3", retry="false"))
    assert skipped.metrics["failed"] == 1 and len(artefacts()) == 2
    own_notebook(home, STAGE)
    again = sweep(cfg_of("problem.gates.size_mb=1,2,3"))
    assert again.metrics["done"] == 3 and len(artefacts()) == 3 and not marks(home, "failed") and not (trial / "failed.ipynb").exists()


@pytest.mark.parametrize("cell, told", [
    ("import os\nos._exit(0)", "kernel died"), ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(60)", "died without a word"),
])  # fmt: skip
def test_a_trial_that_dies_is_a_failed_trial(home, cell, told):
    own_notebook(home, cell, STAGE)
    made = sweep(cfg_of("problem.gates.size_mb=1"))
    with pytest.raises(FsmlError, match=told):
        check_sweep(made)


def test_work_that_stands_is_found_whoever_did_it(home):
    one = fsml(home, "problem", "problem.gates.size_mb=1")
    assert one.returncode == 0
    sweep(cfg_of("problem.gates.size_mb=1,2"))
    assert len(artefacts()) == 2
    sweep(cfg_of("problem.gates.size_mb=1,2,3"))
    assert len(artefacts()) == 3, "another sweep finds what this one made"


def test_changed_code_is_other_work(home):
    plan = Sweep(cfg_of("problem.gates.size_mb=1"))
    (trial,) = run_sweep(plan)
    assert trial.look().state == "done"
    told = json.loads((trial.dir / "trial.json").read_text())
    trial.code = {**told["code"], "fullstack_ml.problem": "another"}
    assert trial.look().state == "missing"


def test_jobs_of_a_cluster(home):
    pytest.importorskip("submitit")
    made = sweep(cfg_of("problem.gates.size_mb=1,2", launcher="submitit", launcher__cluster="local"))
    check_sweep(made)
    assert len(artefacts()) == 2 and list(the_sweep(home).glob("0000/jobs/*_log.out"))


def test_a_cluster_that_is_not_there_and_packages_that_are_missing(home, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    trial = SimpleNamespace(dir=home, stage="problem", number=0)
    with pytest.raises(Unavailable, match="slurm"):
        Submitit(cluster="slurm").start(trial, 0, 1)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(Unavailable, match="pip install submitit"):
        Submitit().start(trial, 0, 1)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Unavailable, match="pip install optuna"):
        Optuna().propose(read_axes(["seed=1,2"])[1], 0, [], SimpleNamespace(direction="maximize", metric="m"))


def test_the_grammar_is_hydras():
    fixed, axes = read_axes(["model=glob(res*,exclude=*18)", "seed=range(0,6,2)", "+x='a,b','c'", "optim.lr=tag(log,interval(1e-4,1e-1))", "epochs=int(interval(1,3))", "profile=smoke", "a=[1,2]"])
    assert fixed == ["profile=smoke", "a=[1,2]"]
    assert [a.values for a in axes] == [("resnet",), ("0", "2", "4"), ("'a,b'", "'c'"), (), ()]
    assert axes[3].log and axes[4].whole and {axes[4].at(k / 30) for k in range(30)} == {"1", "2", "3"}
    assert all(1e-4 <= float(axes[3].at(k / 30)) <= 1e-1 for k in range(30))
    found = [Grid().propose(axes[:2], n, [], None) for n in range(4)]
    assert found == [{"model": "resnet", "seed": "0"}, {"model": "resnet", "seed": "2"}, {"model": "resnet", "seed": "4"}, None]


@pytest.mark.parametrize("words, code, told", [
    (["optim.lr=interval(1e-3,1e-2)", "-m"], 2, "--search random"),
    (["model=nosuch,resnet", "-m"], 2, "resnet18"),
    (["optim.lrr=1,2", "-m"], 2, "optim.lr"),
    (["optim.lr=1e-3,", "-m"], 2, "cannot be read"),
    (["model=glob(zzz*)", "-m"], 2, "sweeps over nothing"),
    (["optim.lr=tag(log,interval(0,1))", "-m", "--search", "random"], 2, "above 0"),
    (["optim.lr=1e-3,1e-2", "-m", "--trials", "3"], 2, "--search"),
    (["seed=1", "-m", "--search", "random"], 2, "nothing to choose"),
    (["seed=1,2", "-m", "--direction", "up"], 2, "maximize"),
    (["seed=1,2", "-m", "--jobs", "some"], 2, "some"),
    (["seed=1,2"], 2, "-m"),
    (["seed=1", "--jobs", "2"], 2, "-m"),
    (["storage.url=mysql://me:hunter2@db/x", "seed=1,2", "-m"], 2, "FSML_DATABASE_URL"),
])  # fmt: skip
def test_a_mistake_is_one_line_before_anything_runs(home, words, code, told):
    assert fsml(home, "problem").returncode == 0
    (home / "artifacts" / "dataset" / "20260101-000000-abcdef").mkdir(parents=True)
    manifest = json.loads(next((home / "artifacts" / "problem").glob("*/manifest.json")).read_text())
    (home / "artifacts" / "dataset" / "20260101-000000-abcdef" / "manifest.json").write_text(json.dumps({**manifest, "kind": "dataset", "id": "20260101-000000-abcdef"}))
    done = fsml(home, "rerun", "train", *words)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
    assert told in done.stderr and "hunter2" not in done.stderr and not (home / "artifacts" / "train").exists()


def test_a_metric_that_is_none_stops_the_sweep(home):
    with pytest.raises(BadConfig, match="no such metric: acuracy.*classes"):
        sweep(cfg_of("problem.gates.size_mb=1,2", metric="acuracy", jobs=1))
    assert len(artefacts()) == 1, "after the first trial, which stands"


def told(values: dict) -> SimpleNamespace:
    score = -abs(float(values["lr"]) - 0.3) - (values["model"] == "b")
    return SimpleNamespace(values=values, state="done", figure=lambda metric: score)


@pytest.mark.parametrize("make", [Random, Optuna])
def test_a_search_can_be_repeated_and_carried_on(make):
    _, axes = read_axes(["lr=interval(0,1)", "model=a,b", "n=int(interval(1,4))"])
    cfg = SimpleNamespace(direction="maximize", metric="score")
    runs = []
    for breaks in ([], [5, 9]):
        search, trials = make(trials=15, seed=3), []
        while (values := search.propose(axes, len(trials), trials, cfg)) is not None:
            trials.append(told(values))
            search = make(trials=15, seed=3) if len(trials) in breaks else search
        runs.append([t.values for t in trials])
    assert runs[0] == runs[1] and len(runs[0]) == 15
    assert make(seed=4).propose(axes, 0, [], cfg) != runs[0][0]
    assert all(0 <= float(v["lr"]) <= 1 and v["model"] in "ab" and v["n"] in "1234" for v in runs[0])


def test_optuna_learns_from_what_it_is_told():
    _, axes = read_axes(["lr=interval(0,1)", "model=a,b"])
    best = {}
    for make in (Random, Optuna):
        for seed in range(3):
            search, trials = make(trials=30, seed=seed), []
            while (values := search.propose(axes, len(trials), trials, SimpleNamespace(direction="maximize", metric="score"))) is not None:
                trials.append(told(values))
            best.setdefault(make, []).append(sum(t.figure("score") for t in trials[15:]))
    assert min(best[Optuna]) > max(best[Random]), "its later draws are better than chance"


def test_a_search_goes_on_where_it_stopped(home):
    few = cfg_of("problem.gates.size_mb=interval(1,9)", search="random", search__trials="2")
    more = cfg_of("problem.gates.size_mb=interval(1,9)", search="random", search__trials="3")
    first, second = sweep(few), sweep(more)
    assert len(artefacts()) == 3 and set(read_trials(first)["artefact"]) < set(read_trials(second)["artefact"])
    assert Sweep(few).dir == Sweep(more).dir


def test_a_relative_folder_of_artefacts(home, monkeypatch):
    monkeypatch.delenv("FSML_ARTIFACTS")
    assert sweep(cfg_of("problem.gates.size_mb=1", jobs=1)).dir.parent == home / "artifacts" / "sweep" and len(artefacts()) == 1


def test_trials_do_not_rest_elsewhere_than_their_sweep(home):
    with pytest.raises(BadConfig, match="rest elsewhere"):
        Sweep(cfg_of("problem.gates.size_mb=1,2", "storage.blobs=elsewhere"))
