"""The ground floor: errors, places, hashes, configuration."""
import os
import signal
import subprocess
import sys
import time

import pytest
from house import PACKAGE, ROOT

from fullstack_ml import core
from fullstack_ml.core import BadConfig, FsmlError, NotFound, capped, code_hash, compose_cfg, digest, public, resolve_path, sha256, write_atomic, write_json, write_table

FAMILY = [c for c in vars(core).values() if isinstance(c, type) and issubclass(c, FsmlError)]


@pytest.mark.parametrize("cls", FAMILY)
def test_an_error_says_what_happened_with_which_value_and_what_to_do(cls):
    e = cls("This cannot be read", "x" * 500, "Send another.")
    assert str(e).startswith("This cannot be read: xxx") and str(e).endswith("xxx.... Send another.")
    assert len(str(e)) < 300 and e.to_dict()["error"] == cls.__name__
    assert 400 <= cls.status < 600 and 1 <= cls.exit_code < 126


def test_exit_codes_tell_whose_mistake_it_is():
    codes = {c.exit_code: c for c in FAMILY if FsmlError in c.__bases__ and c.exit_code != 1}
    assert len(codes) == len([c for c in FAMILY if FsmlError in c.__bases__]) - 1, "all but BadInput have a code of their own"


def test_importing_core_does_nothing(tmp_path):
    program = "import sys, os; before = set(os.listdir()); import fullstack_ml.core; assert set(os.listdir()) == before; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert not {"hydra", "torch", "sqlalchemy", "omegaconf"} & set(done.stdout.split())


def test_places(home):
    assert resolve_path("a/b") == home / "a/b"
    os.environ.pop("FSML_HOME")
    assert core.project_dir() == ROOT


def test_a_configuration_folder_that_is_none(home, monkeypatch):
    monkeypatch.setenv("FSML_CONF", str(home))
    with pytest.raises(NotFound, match="FSML_CONF"):
        core.conf_dir()


def test_an_own_configuration_folder(home, monkeypatch):
    import shutil

    shutil.copytree(ROOT / "conf", home / "conf")
    (home / "conf" / "optim" / "mine.yaml").write_text("# mine\nopt: sgd\nlr: 0.5\nsched: null\nwarmup_epochs: 0\nweight_decay: 0\nmin_lr: 0\n")
    monkeypatch.setenv("FSML_CONF", str(home / "conf"))
    assert compose_cfg("train", ["optim=mine"]).optim.lr == 0.5


def test_hashes():
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest({"b": [1, "é"], "a": None}) == digest({"a": None, "b": [1, "é"]}) != digest({"a": None, "b": [1, "e"]})


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = write_json(tmp_path / "value.json", {"n": 0})
    program = f"from pathlib import Path; from fullstack_ml.core import write_atomic\nwhile True: write_atomic(Path({str(target)!r}), bytes([65 + __import__('random').randrange(26)]) * 4_000_000); print('.', flush=True)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(target.read_bytes()) == 4_000_000 and len(set(target.read_bytes())) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    target = write_atomic(tmp_path / "a", "old")
    with pytest.raises(TypeError):
        write_atomic(target, 3.5)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_the_code_hash_follows_imports_and_nothing_else(tmp_path, monkeypatch):
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "fullstack_ml")
    monkeypatch.setattr(core, "_PACKAGE", tmp_path / "fullstack_ml")

    def after(module):
        path = tmp_path / "fullstack_ml" / f"{module}.py"
        path.write_text(path.read_text() + "\n# changed\n")
        return code_hash(["fullstack_ml.dataset"])

    before = code_hash(["fullstack_ml.dataset"])
    assert after("cli") == before, "dataset does not import cli"
    assert after("records") != before, "dataset imports records"


def test_the_same_overrides_mean_the_same_again_and_again():
    assert compose_cfg("train", ["seed=3"]) == compose_cfg("train", ["seed=3"]) != compose_cfg("train")


@pytest.mark.parametrize("stage, overrides, told", [
    ("train", ["optim.lrr=1"], "optim.lr"), ("train", ["lr=1"], "optim.lr"), ("train", ["modell=resnet"], "model"), ("train", ["model=resnet81"], "resnet18"),
    ("train", ["profile=smok"], "smoke"), ("trian", [], "train"), ("train", ["a b c"], "key=value"), ("train", "seed=1", "list of strings"),
    ("train", ["seed=["], "grammar"), ("crawl", ["source=web"], "source.name"), ("train", ["~optim.nosuch"], "nosuch"),
])  # fmt: skip
def test_a_mistyped_setting_names_the_right_one(stage, overrides, told):
    with pytest.raises(BadConfig, match=told):
        compose_cfg(stage, overrides)


def test_out_wins_over_the_profile_and_may_hold_any_character(tmp_path):
    odd = tmp_path / "ein Ordner, mit = und 'Zeichen'"
    assert compose_cfg("train", ["profile=smoke"], str(odd)).storage.root == str(odd)


def test_a_table_is_what_arrow_would_have_made_and_pandas_stays_away(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"a": "ä\U0001f600", "n": -(2**31), "b": None, "left": 1}, {"a": "", "n": None, "b": "x"}, {"a": None, "n": 2**31 - 1, "b": "\n"}]
    write_table(tmp_path / "t.parquet", rows, {"a": "string", "n": "int32", "b": "string"}, more=[[1], [], [2, 3]])
    schema = pa.schema([("a", pa.string()), ("n", pa.int32()), ("b", pa.string()), ("more", pa.list_(pa.int64()))])
    assert pq.read_table(tmp_path / "t.parquet").equals(pa.Table.from_pylist([{**r, "more": m} for r, m in zip(rows, [[1], [], [2, 3]])], schema))
    with pytest.raises(pa.ArrowInvalid):  # never a number that has been cut
        write_table(tmp_path / "t.parquet", [{"n": 2**31}], {"n": "int32"})
    alone = "from pathlib import Path; from fullstack_ml.core import write_table; import sys; write_table(Path(sys.argv[1]), [{'a': 'b'}], {'a': 'string'}); print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", alone, str(tmp_path / "u.parquet")], capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_may_be_shown():
    shown = public({"storage": {"url": "secret"}, "a": {"password": "pw", "api_key": "k", "token": "", "n": 1}, "l": ["amqp://me:pw@host/x", None]})
    assert shown == {"a": {"password": "***", "api_key": "***", "token": "", "n": 1}, "l": ["amqp://***@host/x", None]}


@pytest.mark.parametrize("wanted, limit, n", [(20, 1, 1), (20, None, 20), (None, 5, 5), (None, None, None), (0, 5, 0)])
def test_capped(wanted, limit, n):
    assert capped(wanted, limit) == n
