"""Guards of core, records and blobs that once failed: secrets, counts, half migrations, times within a second, cut strings, cut blobs."""
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, compose_cfg, public, write_atomic, write_json
from fullstack_ml.records import Item, draft, find_artifact, list_artifacts, now, open_database

CODE = "import sys, pathlib; from fullstack_ml.core import write_atomic\nk = 0\nwhile True: k = (k + 1) % 10; write_atomic(pathlib.Path(sys.argv[1]), str(k) * 3_000_000)"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_write_atomic_under_kill(tmp_path):
    """Whenever the writer is killed, the file holds one whole version."""
    path = tmp_path / "f.json"
    for wait in (0.02, 0.05, 0.11):
        child = subprocess.Popen([sys.executable, "-c", CODE, str(path)])
        while not path.exists() and child.poll() is None:
            time.sleep(0.01)
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        text = path.read_text()
        assert len(text) == 3_000_000 and len(set(text)) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    write_json(tmp_path / "f", {"a": 1})
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "f", 7)
    assert (tmp_path / "f").read_text() == '{\n "a": 1\n}\n' and [p.name for p in tmp_path.iterdir()] == ["f"]


def test_public_hides_secrets_and_nothing_else():
    shown = public({
        "storage": {"url": "mysql://root:pw1@h/db"}, "queue": {"url": "amqp://me:pw2@host/", "deep": [{"api_key": "pw3"}, "redis://:pw4@h:1/0"]},
        "password": "pw5", "WANDB_API_KEY": "pw6", "credentials": {"user": "u", "x": "pw7"}, "odd": "mysql://u:p@pw8@h/db", "slash": "mysql://u:pw9/pw9@h/db",
        "signed": "https://h/x?a=1&X-Amz-Signature=pw10&api_key=pw11", "auth_token": "pw12",
        "max_tokens": 5, "tokenizer": "bpe", "url": "http://host:8017/@me", "lr": 0.1, "n": None, "t": ("a",),
    })  # fmt: skip
    assert "pw" not in str(shown), shown
    assert (shown["max_tokens"], shown["tokenizer"], shown["lr"], shown["n"], shown["t"]) == (5, "bpe", 0.1, None, ["a"])
    assert shown["url"] == "http://host:8017/@me" and shown["signed"].startswith("https://h/x?a=1&")


def test_what_is_too_long_is_refused_and_never_cut(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(BadInput, match="item.licence"):
        db.add([Item(url="good"), Item(url="long", licence="x" * 65)])
    assert db.get(Item) == [], "one transaction"


def test_a_migration_that_dies_leaves_nothing(tmp_path, monkeypatch):
    """The tables and their version come together or not at all."""
    from alembic import command

    url, upgrade = f"sqlite:///{tmp_path}/half.db", command.upgrade

    def half(*args):
        upgrade(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "upgrade", half)
    with pytest.raises(KeyboardInterrupt):
        open_database(url)
    with sa.create_engine(url).connect() as c:
        assert sa.inspect(c).get_table_names() == []
    monkeypatch.undo()
    assert open_database(url).add([Item(url="x")]) == 1


@pytest.mark.parametrize("bad", ["nonsense", "nosuch://x/y", "mysql+nosuch://x/y", "nosuch://me:secret@x/y"])
def test_an_address_that_is_none(bad):
    with pytest.raises(BadConfig) as e:
        open_database(bad)
    assert "secret" not in str(e.value)


def test_the_later_of_two_within_a_second_is_the_latest(tmp_path):
    ids = []
    for accuracy in (0.91, 0.92, 0.93):
        cfg = compose_cfg("problem", [f"problem.gates.accuracy={accuracy}"], out=str(tmp_path))
        with draft("problem", cfg, {}) as d:
            pass
        ids.append(d.manifest.id)
    assert ids == sorted(ids) == [m.id for m in list_artifacts(cfg, "problem")] and find_artifact(cfg, "problem").id == ids[-1]
    times = [now() for _ in range(3)]
    assert times == sorted(times) and len(times[0]) <= 32 and "2026-01-01T00:00:00+00:00" < "2026-01-01T00:00:00.001+00:00"


def test_a_blob_cut_short_is_written_again(tmp_path):
    """What a power cut may leave behind is healed by the next crawl."""
    store = BlobStore(str(tmp_path / "blobs"))
    name = store.put(b"whole bytes")
    next(Path(store.root).rglob(name)).write_bytes(b"")
    assert store.put(b"whole bytes") == name and store.get(name, check=True) == b"whole bytes" and list(store) == [name]
