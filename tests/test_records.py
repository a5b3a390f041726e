"""The nouns at rest: the same answers on every database, and artefacts that appear whole or not at all."""
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from house import ROOT
from omegaconf import OmegaConf

from fullstack_ml import records
from fullstack_ml.core import BadConfig, BadInput, Damaged, NotFound, Unavailable, compose_cfg, write_json
from fullstack_ml.records import (
    Annotation, Box, Boxes, Choice, Database, Item, ItemSequence, Source, Text, draft, find_artifact, find_fresh, label_from_dict, label_to_dict,
    list_artifacts, migrate, open_database, read_items, schema_version, write_items,
)  # fmt: skip

LABELS = [Choice(("7",)), Choice(("a", "b")), Text("한국어 é \\ 🙂"), Boxes(()), Boxes((Box(1.5, 2, 3, 4, "cat", "x"),)), ItemSequence(("i1", "i2"))]


def items(n: int) -> list[Item]:
    return [Item(url=f"http://gallery.example/{i}.png", source="gallery", licence="CC0-1.0", caption=f"número {i} 🙂", width=8, meta={"i": i}) for i in range(n)]


@pytest.fixture
def db(database_url):
    made = open_database(database_url)
    yield made
    made.engine.dispose()


def test_the_migrations_make_exactly_the_tables_of_today(db):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with db.engine.connect() as c:
        differences = compare_metadata(MigrationContext.configure(c, opts={"compare_type": True, "compare_server_default": True}), db.metadata)
    assert differences == []
    assert schema_version(db)


def test_a_database_can_be_emptied_and_filled_again(db):
    from alembic import command

    config, head = records._alembic(db), schema_version(db)
    with db.engine.begin() as c:
        config.attributes["connection"] = c
        command.downgrade(config, "base")
    assert schema_version(db) is None
    migrate(db)
    assert schema_version(db) == head and db.add(items(1)) == 1


FIRST = {  # rows as the first schema had them
    "source": {"id": "s1", "name": "갤러리", "url": "http://gallery.example", "about": "Größe 🙂"},
    "item": {
        "id": "i1", "source": "갤러리", "url": "http://gallery.example/ñ.png", "sha256": "a" * 64, "mime": "image/png", "page_url": "",
        "caption": "número 🙂", "author": "Ё", "licence": "CC0-1.0", "licence_from": "", "fetched_at": "2026-01-01T00:00:00+00:00", "width": 8, "height": None, "phash": "",
        "state": "kept", "reason": "", "meta": {"é": [1, None]},
    },
    "annotation": {
        "id": "n1", "item_id": "i1", "annotator": "Ada", "label": {"kind": "text", "text": "한국어 🙂"}, "created": "2026-01-01", "seconds": 1.5, "meta": {},
    },
    "fetch": {
        "id": "f1", "source": "갤러리", "url": "http://gallery.example/é", "kind": "page", "depth": 2, "found_on": "", "state": "done", "status": 200,
        "reason": "", "n_bytes": 5, "fetched_at": "2026-01-01", "meta": {"a": "🙂"},
    },
}  # fmt: skip
SINCE = {"fetch": {"crawl": "", "host": "", "sha256": "", "etag": "", "modified": "", "worker": "", "lease": 0.0, "tries": 0, "turn": 0}, "item": {"opt_out": ""}, "annotation": {"project": ""}}


def rows_now(db) -> dict[str, list[dict]]:
    with db.engine.connect() as c:
        return {name: [dict(r) for r in c.execute(t.select()).mappings()] for name, t in db.tables.items()}


@pytest.fixture
def first(database_url):
    """A database of the first schema with a row in each table."""
    import sqlalchemy as sa

    old = Database(database_url)
    migrate(old, "0001")
    with old.engine.begin() as c:
        for name, row in FIRST.items():
            table = old.tables[name]
            c.execute(sa.insert(sa.table(name, *(sa.column(k, table.c[k].type) for k in row))), row)
    yield old
    old.engine.dispose()


def test_rows_of_the_first_schema_come_through(first):
    from alembic import command

    migrate(first)
    expected = {name: [] for name in first.tables} | {name: [{**row, **SINCE.get(name, {})}] for name, row in FIRST.items()}
    assert rows_now(first) == expected
    assert first.get(Item)[0].caption == "número 🙂" and first.get(Annotation, annotator="Ada")[0].label == Text("한국어 🙂")
    config = records._alembic(first)
    with first.engine.begin() as c:
        config.attributes["connection"] = c
        command.downgrade(config, "0001")
    assert schema_version(first) == "0001"
    migrate(first)
    assert rows_now(first) == expected, "there and back again"


def test_a_migration_that_was_killed_between_two_statements_goes_on(first):
    with first.engine.begin() as c:  # MariaDB and MySQL keep what was done so far
        fetch = c.dialect.identifier_preparer.quote("fetch")
        c.exec_driver_sql(f"ALTER TABLE {fetch} ADD COLUMN crawl VARCHAR(40) NOT NULL DEFAULT ''")
    migrate(first)
    assert rows_now(first)["fetch"] == [{**FIRST["fetch"], **SINCE["fetch"]}]


def test_a_later_one_that_was_killed_goes_on_too(first):
    migrate(first, "0002")
    with first.engine.begin() as c:
        c.exec_driver_sql("ALTER TABLE annotation ADD COLUMN project VARCHAR(16) NOT NULL DEFAULT ''")
    migrate(first)
    assert rows_now(first)["annotation"] == [{**FIRST["annotation"], "project": ""}]
    test_the_migrations_make_exactly_the_tables_of_today(first)


def test_the_fourth_that_was_killed_behind_its_first_table_goes_on(first):
    migrate(first, "0003")
    with first.engine.begin() as c:
        first.tables["verdict"].create(c)
        for index in ("ix_verdict_item_id", "ix_verdict_report_item_id"):
            c.exec_driver_sql(f"DROP INDEX {index}" + (" ON verdict" if c.dialect.name in ("mysql", "mariadb") else ""))
    migrate(first)
    test_the_migrations_make_exactly_the_tables_of_today(first)
    assert rows_now(first)["annotation"] == [{**FIRST["annotation"], "project": ""}]


def test_two_processes_migrate_rows_at_once(first):
    url = first.url.render_as_string(hide_password=False)
    program = f"from fullstack_ml.records import Item, open_database; print(open_database({url!r}).get(Item)[0].id)"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=60) for p in running] == [("i1\n", "")] * 2
    assert rows_now(first)["fetch"] == [{**FIRST["fetch"], **SINCE["fetch"]}]


def test_a_database_of_a_newer_package_is_left_alone(db):
    with db.engine.begin() as c:
        c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Damaged, match="newer"):
        migrate(db)


def test_twice_is_once_and_the_counts_are_right(db):
    assert db.add([Source("gallery", "http://gallery.example"), *items(3)]) == 4
    assert db.add([Source("gallery", "http://gallery.example"), *items(5)]) == 2
    assert db.add([]) == 0 and db.add(items(5)) == 0


def test_many_at_once(db):
    assert db.add(items(2500)) == 2500 and db.add(items(2600)) == 100
    assert len(db.get(Item)) == 2600


def test_what_goes_in_comes_out(db):
    answers = [Annotation(f"item{i}", "ada", label, created=f"2026-01-0{i + 1}", seconds=1.5, meta={"é": [1, None]}) for i, label in enumerate(LABELS)]
    db.add([*items(2), *answers])
    assert db.get(Annotation) == answers
    assert db.get(Item, id=[i.id for i in items(2)]) == sorted(items(2), key=lambda i: i.id)
    assert db.get(Item, source="nowhere") == [] and len(db.get(Item, licence=["CC0-1.0", "MIT"])) == 2


def test_an_update_changes_one(db):
    first, second = items(2)
    db.add([first, second])
    db.update(Item, first.id, state="withdrawn", reason="the author asked")
    assert [i.id for i in db.get(Item, state="withdrawn")] == [first.id]
    with pytest.raises(NotFound):
        db.update(Item, "nosuch", state="withdrawn")


def test_fifty_thousand_ids_at_once(db):
    made = items(300)
    db.add([*made, *(Annotation(i.id, f"a{n % 2}", Choice(("x",)), created=f"2026-01-01T{n:04}") for n, i in enumerate(made))])
    ids = [f"nobody{n}" for n in range(50_000)]
    ids[::170] = [i.id for i in reversed(made)][: len(ids[::170])]
    assert [i.id for i in db.get(Item, id=[*ids, *ids])] == sorted(i.id for i in made[-len(ids[::170]) :]), "each once, by id"
    answers = db.get(Annotation, item_id=ids, annotator=[*ids, "a0"])
    assert len(answers) == len(ids[::170]) // 2 and [a.created for a in answers] == sorted(a.created for a in answers), "two long lists, by time"
    assert db.get(Item, id=[]) == [] == db.get(Item, id=ids, licence=[])


def test_names_that_differ_in_case_accent_or_a_blank_are_several(db):
    names = ["Ada", "ada", "adá", "ADA", "ada "]
    with db.engine.begin() as tx:
        tx.execute(db.tables["account"].insert(), [{"id": str(k), "name": name, "role": "annotator", "state": "active", "created": ""} for k, name in enumerate(names)])
    answers = [Annotation("item", name, Choice(("7",)), created="2026-01-01", id=f"by-{name}") for name in names]
    assert db.add(answers) == 5, "an id that differs in case is another id"
    for a in answers:
        assert db.get(Annotation, annotator=a.annotator) == [a] == db.get(Annotation, id=[a.id])
    assert db.add([Source("Gallery", "x"), Source("gallery", "x")]) == 2


def test_what_an_insert_leaves_out_of_the_frontier_has_its_default(db):
    row = {**FIRST["fetch"], "lease": 1_800_000_000.125}
    with db.engine.begin() as tx:
        assert db.insert(tx, "fetch", [row]) == 1
    assert rows_now(db)["fetch"] == [{**SINCE["fetch"], **row}], "a time of today keeps its milliseconds"


def test_eight_writers_at_once(db):
    counts, errors = [], []

    def write(k):
        try:
            own = open_database(db.url.render_as_string(hide_password=False))
            for i in range(20):
                counts.append(own.add([Annotation(f"item{i}", f"writer{k % 4}", Choice(("a",)), created="2026-01-01")]))
            own.engine.dispose()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and sum(counts) == 80 == len(db.get(Annotation)), "each of four names wrote twenty answers, twice"


def test_eight_processes_may_open_an_empty_database_at_once(database_url):
    program = f"from fullstack_ml.records import open_database, schema_version; print(schema_version(open_database({database_url!r})))"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [p.communicate(timeout=60) for p in running]
    assert [out.strip() for out, _ in said] == ["0004"] * 4, said


def test_sqlite_lets_readers_read_while_somebody_writes(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/a.db")
    with db.engine.connect() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal" and c.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 5000


@pytest.mark.parametrize("url, error", [
    ("nonsense", BadConfig), ("nosuchsystem://x/y", BadConfig), ("mysql+pymysql://root@127.0.0.1:1/x", Unavailable),
])  # fmt: skip
def test_a_database_that_is_none(url, error):
    with pytest.raises(error):
        open_database(url)


def test_a_secret_in_an_address_is_not_shown():
    with pytest.raises(Unavailable) as e:
        open_database("mysql+pymysql://me:hunter2@127.0.0.1:1/x")
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize("label", LABELS)
def test_labels_survive_json(label):
    assert label_from_dict(json.loads(json.dumps(label_to_dict(label)))) == label


@pytest.mark.parametrize("value", [{}, {"kind": "colour"}, {"kind": "choice"}, {"kind": "text", "texts": "a"}, {"kind": "boxes", "boxes": [{"x": 1}]}, {"kind": "boxes", "boxes": 3}])
def test_nonsense_is_no_label(value):
    with pytest.raises(BadInput):
        label_from_dict(value)


def test_items_survive_parquet(tmp_path):
    write_items(tmp_path / "items.parquet", items(3))
    assert read_items(tmp_path / "items.parquet") == items(3)


def test_items_written_before_a_column_came_can_be_read(tmp_path):
    import pyarrow.parquet as pq

    marked = [Item(url="http://gallery.example/1.png", opt_out="noai tdm-reservation")]
    write_items(tmp_path / "items.parquet", marked, split=["test"])
    assert read_items(tmp_path / "items.parquet") == marked
    pq.write_table(pq.read_table(tmp_path / "items.parquet").drop_columns(["opt_out"]), tmp_path / "old.parquet")
    assert read_items(tmp_path / "old.parquet") == [Item(url="http://gallery.example/1.png")]


# --- artefacts -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cfg(home):
    return compose_cfg("problem")


def cfg_root(cfg) -> Path:
    return Path(cfg.storage.root)


def make(cfg, kind="problem", parents=None, text="{}"):
    with draft(kind, cfg, parents or {}) as d:
        (d.dir / "sub").mkdir()
        (d.dir / "sub" / "value.json").write_text(text)
        d.metrics["n"] = 1
    return d.manifest


def test_an_artefact_is_sealed(cfg):
    m = make(cfg)
    assert find_artifact(cfg, "problem").verify() == m and set(m.files) == {"sub/value.json"}
    m.path("sub/value.json").write_text("[]")
    with pytest.raises(Damaged, match="sub/value.json"):
        m.verify()
    m.path("sub/value.json").unlink()
    with pytest.raises(Damaged):
        m.verify()


def test_the_key_follows_configuration_parents_and_code_and_nothing_else(cfg, home):
    m = make(cfg)
    assert find_fresh("problem", cfg, {}) == m
    assert find_fresh("problem", compose_cfg("problem", ["problem.gates.size_mb=1"]), {}) is None
    train = compose_cfg("train")
    run = make(train, "train", {"dataset": m})
    assert find_fresh("train", train, {"dataset": m}) == run and find_fresh("train", train, {"dataset": run}) is None
    moved = compose_cfg("problem", out=str(home / "artifacts"))
    assert find_fresh("problem", moved, {}) == m, "where things lie does not change a result"


def test_artefacts_are_found_by_the_beginning_of_their_id(cfg):
    a, b = make(cfg), make(compose_cfg("problem", ["problem.gates.size_mb=1"]))
    assert find_artifact(cfg, "problem", "latest") == b and find_artifact(cfg, "problem", a.id) == a
    with pytest.raises(BadConfig, match="More than one"):
        find_artifact(cfg, "problem", "20")
    with pytest.raises(NotFound, match="fsml train"):
        find_artifact(cfg, "train")
    assert len({a.id, b.id}) == 2 and [m.id for m in list_artifacts(cfg, "problem")] == sorted([a.id, b.id])


def test_a_failure_leaves_nothing_under_a_final_name(cfg):
    with pytest.raises(RuntimeError):
        with draft("problem", cfg, {}) as d:
            write_json(d.dir / "half.json", {})
            raise RuntimeError
    assert list_artifacts(cfg, "problem") == [] and make(cfg).files.keys() == {"sub/value.json"}, "what was left is not mixed in"


HOLD = """
import sys, time
from fullstack_ml.core import compose_cfg
from fullstack_ml.records import draft
with draft("problem", compose_cfg("problem"), {}, resume=True) as d:
    (d.dir / "checkpoint").write_text("half")
    print("inside", flush=True)
    time.sleep(60)
"""


def hold(cfg) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "inside\n"
    return process


def test_killed_in_the_middle(cfg):
    process = hold(cfg)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list_artifacts(cfg, "problem") == []
    with draft("problem", cfg, {}, resume=True) as d:
        assert (d.dir / "checkpoint").read_text() == "half", "training goes on from here"
    assert d.manifest.files.keys() == {"checkpoint"}
    assert not [p for p in d.manifest.dir.parent.iterdir() if p.name.startswith(".draft") and p.is_dir()]


def test_two_processes_do_not_make_the_same_thing(cfg):
    process = hold(cfg)
    try:
        with pytest.raises(Unavailable, match="Another process"):
            make(cfg)
        other = compose_cfg("problem", ["problem.gates.size_mb=1"])
        assert make(other).kind == "problem", "other work is not held up"
    finally:
        process.kill()
        process.wait()
    assert make(cfg), "a lock does not outlive its process"
    assert not list((cfg_root(cfg) / "problem").glob(".*")), "and leaves no file"


TURNS = """
import os, sys
from pathlib import Path
from fullstack_ml.core import locked
home = Path(sys.argv[1])
for n in range(200):
    with locked(home / "x.lock", "thing", wait=True):
        os.close(os.open(home / "inside", os.O_CREAT | os.O_EXCL))
        os.unlink(home / "inside")
"""


def test_a_lock_that_removes_its_file_lets_one_in_at_a_time(tmp_path):
    running = [subprocess.Popen([sys.executable, "-c", TURNS, str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    assert [p.communicate(timeout=60)[1] for p in running] == [""] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_cannot_be_read(cfg):
    m = make(cfg)
    (m.dir / "manifest.json").write_text("{")
    with pytest.raises(Damaged, match="run its stage again"):
        find_artifact(cfg, "problem")


def test_no_secret_reaches_a_manifest(home, monkeypatch):
    monkeypatch.setenv("FSML_DATABASE_URL", "postgresql+psycopg://me:hunter2@127.0.0.1/db")
    monkeypatch.setenv("FSML_BLOBS_URL", "s3://key:hunter2@bucket")
    plain = OmegaConf.to_container(compose_cfg("train"))
    cfg = OmegaConf.create({**plain, "tracking": {"api_key": "hunter2"}, "queue": "amqp://me:hunter2@127.0.0.1/"})
    m = make(cfg, "train")
    assert "hunter2" not in (m.dir / "manifest.json").read_text()
    assert "storage" not in m.config


def test_every_file_of_an_artefact_can_be_asked_for_by_name_only(cfg):
    m = make(cfg)
    for name in ("nosuch", "../manifest.json", "manifest.json", os.fspath(m.dir / "sub/value.json")):
        with pytest.raises(NotFound):
            m.path(name)


def test_a_relative_sqlite_path_starts_at_the_project(home):
    Database("sqlite:///deep/er.db")
    assert (home / "deep").is_dir()
