"""`fsml`: quick, true help; mistakes in one line with their exit code."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from house import CONF, ROOT, stages

from fullstack_ml import __version__, cli, core

FSML = [sys.executable, "-m", "fullstack_ml.cli"]
SLOW = {"numpy", "hydra", "omegaconf", "yaml", "torch", "torchvision", "timm", "pandas", "pyarrow", "papermill", "bentoml", "wandb", "matplotlib", "sqlalchemy"}


def fsml(*words, cwd=None, **env) -> subprocess.CompletedProcess:
    return subprocess.run([*FSML, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=300)


def imports(*words) -> set[str]:
    """Top-level names that a call imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *FSML[1:], *words], capture_output=True, text=True)
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["loop", "--help"]])
def test_help_imports_nothing_slow(words):
    assert not imports(*words) & SLOW


def test_help_of_a_stage_does_not_import_its_libraries():
    assert not imports("train", "--help") & {"torch", "torchvision", "timm", "pandas", "papermill", "bentoml", "wandb", "matplotlib"}


def test_help_answers_at_once():
    def seconds():
        start = time.perf_counter()
        fsml("--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_help_lists_every_command_with_a_line():
    said = fsml("--help").stdout
    for name in [*stages(), "rerun", "loop", "lineage", "ls"]:
        line = next((line for line in said.splitlines() if line.startswith(f"  {name} ")), "")
        assert len(line.split(maxsplit=1)[-1]) > 10, f"{name} has no line"


@pytest.mark.parametrize("stage", stages())
def test_help_of_every_stage_shows_its_real_options(stage):
    done = fsml(stage, "--help")
    assert done.returncode == 0, done.stderr
    cfg = core.compose_cfg(stage)
    assert (CONF / f"{stage}.yaml").read_text().splitlines()[0].lstrip("# ") in done.stdout
    for key in set(cfg) - {"storage"}:
        assert f"\n  {key}:" in done.stdout, f"{key} is not shown"
    for group in ("experiment", "profile"):
        assert f"\n  {group} " in done.stdout
    assert "smoke" in done.stdout and "full*" in done.stdout


def test_help_shows_the_settings_that_were_asked_for():
    said = fsml("train", "model=mobilenet", "optim.lr=0.25", "--help").stdout
    assert "mobilenet*" in said and "lr: 0.25" in said


def test_help_keeps_secrets():
    said = fsml("train", "--help", FSML_DATABASE_URL="postgresql+psycopg://me:hunter2@127.0.0.1/db").stdout
    assert "hunter2" not in said


def test_the_configuration_is_found_as_everywhere():
    assert cli._conf_dir().resolve() == core.conf_dir()


@pytest.mark.parametrize("words, code, told", [
    (["train", "nosuch=1"], 2, "nosuch"),
    (["train", "optim.lrr=1"], 2, "Did you mean optim.lr"),
    (["train", "model=resnet81"], 2, "resnet18"),
    (["train", "profile=smok"], 2, "Did you mean smoke"),
    (["train", "lr"], 2, "key=value"),
    (["trian"], 2, "Did you mean train?"),
    (["crawl", "source=web"], 2, "source.name"),
    (["rerun"], 2, "fsml rerun train"),
    (["rerun", "nosuch"], 3, "nosuch"),
    (["dataset"], 3, "fsml crawl"),
    (["lineage", "release"], 3, "fsml release"),
    (["loop", "nosuch=1"], 2, "nosuch"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_its_code(words, code, told, home):
    done = fsml(*words)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
    assert told in done.stderr and "Traceback" not in done.stderr


def test_a_traceback_for_those_who_ask(home):
    done = fsml("train", "nosuch=1", FSML_DEBUG="1")
    assert done.returncode and "Traceback" in done.stderr and "BadConfig" in done.stderr


@pytest.mark.parametrize("cls", [c for c in vars(core).values() if isinstance(c, type) and issubclass(c, core.FsmlError)])
def test_every_error_ends_in_its_own_exit_code(cls, monkeypatch, capsys):
    def fail(words):
        raise cls("This went wrong", "value", "Do that.")

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["problem"]) == cls.exit_code
    assert capsys.readouterr().err.strip() == "fsml problem: This went wrong: value. Do that."


def test_a_stage_runs_from_any_folder_and_ends_with_the_path_of_its_artefact(home):
    (home / "elsewhere").mkdir()
    done = fsml("problem", "problem.gates.size_mb=3", cwd=home / "elsewhere")
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].split()[-1]
    assert (home / "elsewhere" / last / "manifest.json").is_file() and not Path(last).is_absolute()
    listed = fsml("ls", "problem").stdout
    assert Path(last).name in listed and '"classes": 10' in listed


def test_version():
    assert fsml("--version").stdout.split() == ["fullstack_ml", __version__]


def test_ctrl_c_says_that_the_same_command_carries_on(home):
    site = home / "slow.py"
    site.write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    program = f"import runpy, sys; from fullstack_ml import cli; cli.run = lambda words: runpy.run_path({str(site)!r}); sys.exit(cli.main(['train']))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "carries on" in err and "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_is_said_and_ends_in_order(number):
    program = "import sys, time; from fullstack_ml import cli\ndef run(words):\n  try: print('begun', flush=True); time.sleep(60)\n  finally: print('tidied', flush=True)\n"
    program += "cli.run = run; sys.exit(cli.main(['train']))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number and out == "tidied\n" and f"ended by {number.name}" in err and "Traceback" not in err


def test_work_whose_output_nobody_reads_says_so():
    program = "import sys; from fullstack_ml import cli; cli.run = lambda words: [print('x' * 9999, flush=True) for _ in range(99)]; sys.exit(cli.main(['train']))"
    done = subprocess.run(f'{sys.executable} -c "{program}" | head -c 1; exit ${{PIPESTATUS[0]}}', shell=True, executable="/bin/bash", capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 141 and "nobody reads" in done.stderr and "Traceback" not in done.stderr


def test_only_a_training_is_shared_among_processes(home):
    done = fsml("problem", WORLD_SIZE="2", RANK="1")
    assert done.returncode == 2 and "Only a training is shared" in done.stderr


def test_a_reader_who_has_seen_enough_is_no_error():
    done = subprocess.run(f"{sys.executable} -m fullstack_ml.cli train --help | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("usage") and "Traceback" not in done.stderr


def test_answers_go_out_and_come_back(home, capsys):
    """What one person said goes to a file, and from there into another project, once."""
    from fullstack_ml.annotate import Project, fill, save_project
    from fullstack_ml.core import compose_cfg
    from fullstack_ml.records import Annotation, Choice, Item, open_database

    db = open_database(compose_cfg("annotate").storage.url)
    items = [Item(url=f"http://a.example/{n}.png", source="s", sha256=f"{n:064x}", mime="image/png", width=8, height=8) for n in range(3)]
    first, second = (save_project(db, Project(name, "choice", ("1", "7"), {"source": "s"})) for name in ("first", "second"))
    db.add([*items, *(Annotation(i.id, "ada", Choice(("7",)), project=first.id) for i in items)])
    fill(db, second)
    assert cli.main(["answers", "export", "first", "out", "--format", "csv", "--no-pictures"]) == 0
    for expected in ("3 answers", "0 answers, 3 known"):
        assert cli.main(["answers", "import", "second", "out", "--format", "csv"]) == 0
        assert expected in capsys.readouterr().out
    assert {(a.annotator, str(a.label)) for a in db.get(Annotation, project=second.id)} == {("import:ada", "7")}
    assert cli.main(["answers", "export", "nobody", "out2", "--format", "csv"]) == 3
    assert cli.main(["answers", "export", "first", "out"]) == 2 and "--format" in capsys.readouterr().err
