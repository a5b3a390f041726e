"""Answers of a project in other tools' formats: what goes out comes back, and what is wrong changes nothing."""
import csv
import io
import json
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from house import ROOT
from labels import near
from PIL import Image

from fullstack_ml import exchange
from fullstack_ml.annotate import Project, Rules, fill, newest_answers, save_project
from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, FsmlError, NotFound, Refused, TooLarge, sha256
from fullstack_ml.exchange import export_answers, export_zip, import_answers
from fullstack_ml.formats import FORMATS
from fullstack_ml.leases import Given, Queue
from fullstack_ml.records import Annotation, Box, Boxes, Choice, Item, Text, open_database

REAL = ROOT.parent / "shared" / "formats"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the export files of other tools are not here")
CLASSES = ("zebra", "train", "a, b", "Straße <1> & \"2\"", "한국어", "=1+1", "never seen")
WORDS = ["No. 7", "Straße \"q\"", "two\nlines", "한국어, 中文", "<b>&amp;</b>", "=cmd|' /C calc'!A0", "-5", "'=x", "@sum", "[abc", '{"x', "[1, 2]"]
SIZE = (64, 48)
EXACT = ("csv", "webdataset", "huggingface", "coco")


def png(k, size=SIZE):
    out = io.BytesIO()
    picture = Image.new("RGB", size, (k * 7 % 256, k // 256, 3))
    picture.save(out, "PNG")
    return out.getvalue()


def items_of(store, names, size=SIZE, source="x"):
    return [Item(url=n, sha256=store.put(png(k, size)), source=source, mime="image/png", width=size[0], height=size[1], licence="MIT") for k, n in enumerate(names)]


@cache
def empty() -> bytes:
    """A database with tables and nothing in them."""
    with tempfile.TemporaryDirectory() as tmp:
        open_database(f"sqlite:///{tmp}/empty.db").engine.dispose()
        return Path(tmp, "empty.db").read_bytes()


def opened(tmp_path, items, kind="choice", classes=CLASSES, name="p", url="", **rules):
    """A database that knows these items, and a project of all of them."""
    if not url:
        (tmp_path / f"{name}.db").write_bytes(empty())
    db = open_database(url or f"sqlite:///{tmp_path}/{name}.db")
    db.add(items)
    project = save_project(db, Project(name, kind, () if kind == "text" else classes, {"source": "x"}, Rules(**rules)))
    fill(db, project)
    return db, project


@pytest.fixture
def store(tmp_path):
    return BlobStore(tmp_path / "blobs")


def give(db, project, who, labels, seconds=1.5, **meta):
    """Answers through the queue, by url; a text that is no label is a reason to skip."""
    urls, queue = {i.id: i.url for i in db.get(Item)}, Queue(db, project)
    for k, task in enumerate(queue.next([(who, 100)])[0]):
        if (label := labels.get(urls[task.item_id])) is not None:
            skip = label if isinstance(label, str) else ""
            made = Given(sha256(f"{who} {task.id}".encode())[:32], task.id, who, None if skip else label, skip, seconds, meta)
            (result,) = queue.submit([made])
            assert result.status == "stored", result


def said(db, project, bare=True):
    """What counts now: (url, annotator) -> label."""
    urls = {i.id: i.url for i in db.get(Item)}
    strip = (lambda name: name.removeprefix("import:")) if bare else str
    return {(urls[i], strip(who)): a.label for i, answers in newest_answers(db.get(Annotation, project=project.id)).items() for who, a in answers.items()}


def label(kind, rng):
    if kind == "boxes":
        boxes = []
        for _ in range(rng.choice([0, 1, 3, 60])):
            x, y = rng.choice([0, round(rng.uniform(0, 60), 4)]), round(rng.uniform(0, 44), 2)
            w, h = round(rng.uniform(0.05, SIZE[0] - x - 0.01), 4), rng.choice([SIZE[1] - y, round(rng.uniform(0.05, SIZE[1] - y - 0.01), 2)])
            boxes.append(Box(x, y, w, h, rng.choice(CLASSES[:-1]), rng.choice(["", *WORDS])))
        return Boxes(tuple(boxes))
    if kind == "text":
        return Text(rng.choice(WORDS))
    names = rng.sample(CLASSES[:-1], rng.choice([2, 3]) if kind == "several classes" else 1)
    return Choice(tuple(sorted(names, key=CLASSES.index)))


def counts(db):
    return {t: len(db.get(noun)) for t, noun in (("items", Item), ("answers", Annotation))} | {"seats": len(rows(db, "assignment")), "tasks": len(rows(db, "task"))}


def rows(db, table):
    with db.engine.connect() as c:
        return [dict(r) for r in c.execute(db.tables[table].select()).mappings()]


# ── once round ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name, kind", [(n, k) for n, f in FORMATS.items() for k in ("choice", "several classes", "text", "boxes") if k in f.holds])
@pytest.mark.parametrize("seed", range(2))
def test_what_goes_out_comes_back(name, kind, seed, tmp_path, store):
    rng, several = random.Random(f"{name}{kind}{seed}"), FORMATS[name].several
    items = items_of(store, [f"https://x.example/{'ab'[k % 2]}/p{k // 2}.png?w={k}" for k in range(10)])
    db, project = opened(tmp_path, items, kind.replace("several classes", "choice"), wanted=2, several=kind == "several classes")
    given = {i.url: label(kind, rng) for i in items}
    give(db, project, "Ada", given)
    if several:
        give(db, project, "bo@example.org", {u: label(kind, rng) for u in given}, seconds=0.25)
    folder = export_answers(db, project, store, tmp_path / "out", name)
    other, copy = opened(tmp_path, items, project.label_kind, name="copy", wanted=2, several=kind == "several classes")
    report = import_answers(other, copy, folder, name)
    assert (report["answers"], report["records"], report["known"], report["resized"]) == (20 if several else 10, 20 if several else 10, 0, 0)
    came, gave = said(other, copy), said(db, project)
    gave = gave if several else {(u, name): v for (u, _), v in gave.items()}
    gave = {k: v for k, v in gave.items()}
    assert came.keys() == gave.keys()
    loses = FORMATS[name].loses
    for key, expected in gave.items():
        if isinstance(expected, Boxes) and "texts in boxes" in loses:
            expected = Boxes(tuple(replace(b, text="") for b in expected.boxes))
        assert near(came[key], expected, 0 if name in EXACT else 1e-3 if "0.001" in loses else 2e-6), (came[key], expected)
    if several:
        took = lambda d: Counter((a.created, a.seconds) for a in d.get(Annotation))
        assert took(other) == took(db), "when, and how long"
    before = counts(other)
    again = import_answers(other, copy, folder, name)
    assert (again["answers"], again["known"]) == (0, report["answers"]) and counts(other) == before, "twice is once"


def test_ones_own_export_adds_nothing_to_ones_own_project(tmp_path, store):
    items = items_of(store, ["a.png", "b.png", "c.png"])
    db, project = opened(tmp_path, items, wanted=2)
    give(db, project, "Ada", {"a.png": Choice(("zebra",)), "b.png": Choice(("train",)), "c.png": "too dark"})
    before = counts(db)
    for name in ("csv", "labelstudio"):
        report = import_answers(db, project, export_answers(db, project, store, tmp_path / name, name), name)
        assert (report["answers"], report["known"], report["skipped"]) == (0, 3, 0) and counts(db) == before


@pytest.mark.parametrize("name", ["csv", "labelstudio"])
def test_who_when_how_long_what_was_shown_and_why_not_travel(name, tmp_path, store):
    items = items_of(store, ["a.png", "b.png"])
    shown = {"kind": "choice", "names": ["train"]}
    db, project = opened(tmp_path, items, suggest="caption", wanted=2)
    db.add([Annotation(i.id, "caption", Choice(("train",))) for i in items])
    fill(db, project)
    give(db, project, "Ada", {"a.png": Choice(("zebra",)), "b.png": "too dark\nto see"}, seconds=2.25, suggestion=shown, guide=3, comment="=hm")
    folder = export_answers(db, project, store, tmp_path / "out", name)
    other, copy = opened(tmp_path, items, name="copy", suggest="import:caption", wanted=2)
    report = import_answers(other, copy, folder, name, by="the manager")
    assert report["by"] == {"import:Ada": 1} and report["skipped"] == 1
    (a,), (b,) = other.get(Annotation, project=copy.id), db.get(Annotation, project=project.id)
    assert (a.annotator, a.created, a.seconds, a.label) == ("import:Ada", b.created, 2.25, b.label)
    assert {k: a.meta[k] for k in ("suggestion", "guide", "comment", "by", "import")} == {"suggestion": shown, "guide": 3, "comment": "=hm", "by": "the manager", "import": name}
    (skip,) = (r for r in rows(other, "assignment") if r["state"] == "skipped")
    assert (skip["annotator"], skip["reason"], skip["seconds"]) == ("import:Ada", "too dark\nto see", 2.25)
    if name == "labelstudio":
        assert report["suggestions"] == 2 and {s["model_version"] for t in json.loads((folder / "tasks.json").read_text()) for s in t["predictions"]} == {"caption"}
        fill(other, copy)
        assert [r["suggestion"] for r in rows(other, "task")] == [shown, shown], "the rule `suggest` names them"


def test_the_table_holds_earlier_answers_and_label_studio_the_newest(tmp_path, store):
    items = items_of(store, ["a.png"])
    db, project = opened(tmp_path, items)
    give(db, project, "Ada", {"a.png": Choice(("zebra",))})
    (seat,) = rows(db, "assignment")
    Queue(db, project).submit([Given("f" * 32, seat["id"], "Ada", Choice(("train",)))])
    with open(export_answers(db, project, store, tmp_path / "csv", "csv") / "labels.csv", newline="") as f:
        assert [r["label"] for r in csv.DictReader(f)] == ["zebra", "train"]
    (task,) = json.loads((export_answers(db, project, store, tmp_path / "ls", "labelstudio") / "tasks.json").read_text())
    assert [a["result"][0]["value"] for a in task["annotations"]] == [{"choices": ["train"]}]
    other, copy = opened(tmp_path, items, name="copy")
    assert import_answers(other, copy, tmp_path / "csv", "csv")["answers"] == 2
    assert said(other, copy) == {("a.png", "Ada"): Choice(("train",))}, "the newer one counts"


def test_consensus_decisions_and_ties(tmp_path, store):
    items = items_of(store, ["a.png", "b.png", "c.png"])
    db, project = opened(tmp_path, items, wanted=3)
    z, t = Choice(("zebra",)), Choice(("train",))
    for who, labels in (("Ada", (z, z, z)), ("Bo", (z, t, z)), ("Cy", (t, None, z))):
        give(db, project, who, dict(zip(("a.png", "b.png", "c.png"), labels)))
    db.add([Annotation(items[2].id, "Eve", t, meta={"decision": True}, project=project.id)])
    read = lambda folder: {p.name: p.parent.name for p in folder.rglob("*.png")}
    assert read(export_answers(db, project, store, tmp_path / "one", "imagefolder")) == {"a.png": "zebra", "c.png": "train"}, "a tie is no answer"
    assert read(export_answers(db, project, store, tmp_path / "two", "imagefolder", "decisions")) == {"c.png": "train"}
    assert len(import_answers(db, project, export_answers(db, project, store, tmp_path / "three", "csv", "consensus"), "csv", annotator="Zoe")["by"]) == 1


def test_what_cannot_be_exported(tmp_path, store):
    items = items_of(store, ["a.png", "b.png"])
    db, project = opened(tmp_path, items)
    with pytest.raises(NotFound, match="There are no answers in this project yet: p"):
        export_answers(db, project, store, tmp_path / "out", "csv")
    give(db, project, "Ada", {"a.png": Choice(("zebra",)), "b.png": Choice(("train",))})
    with pytest.raises(BadInput, match="no choice of answers: all"):
        export_answers(db, project, store, tmp_path / "out", "csv", "all")
    with pytest.raises(BadConfig, match="no such format: tfrecord"):
        export_answers(db, project, store, tmp_path / "out", "tfrecord")
    with pytest.raises(BadInput, match=r"coco cannot hold this label \(choice\)"):
        export_zip(db, project, store, "coco")
    db.update(Item, items[0].id, state="withdrawn")
    folder = export_answers(db, project, store, tmp_path / "out", "csv")
    assert "b.png" in (folder / "labels.csv").read_text() and "a.png" not in (folder / "labels.csv").read_text(), "what was withdrawn stays here"


@pytest.mark.parametrize("pictures", [True, False])
def test_a_zip_goes_out_and_comes_in(pictures, tmp_path, store):
    items = items_of(store, [f"https://x.example/{k}/same.png" for k in range(4)])
    db, project = opened(tmp_path, items, "boxes", wanted=2)
    given = {i.url: Boxes((Box(k, 1, 10, 10, "zebra"),)) for k, i in enumerate(items)}
    give(db, project, "Ada", given)
    for name in ("labelstudio", "coco", "yolo", "voc", "cvat", "csv"):
        path = export_zip(db, project, store, name, pictures=pictures)
        other, copy = opened(tmp_path, items, "boxes", name=f"to-{name}", wanted=2)
        try:
            assert import_answers(other, copy, path, name)["answers"] == 4, "by bytes, or by names that differ within the project"
            assert {u: v for (u, _), v in said(other, copy).items()} == given
        finally:
            path.unlink()


def test_a_cell_that_a_spreadsheet_would_compute_is_guarded(tmp_path, store):
    items = [replace(i, author="=HYPERLINK(\"http://evil\")", caption="\t+1") for i in items_of(store, ["a.png"])]
    db, project = opened(tmp_path, items, "text")
    give(db, project, "Ada", {"a.png": Text("=cmd|' /C calc'!A0")})
    db.add([Annotation(items[0].id, "@Bo", Text("-5"), project=project.id), Annotation(items[0].id, "'=Cy", Text("'+6"), project=project.id)])
    folder = export_answers(db, project, store, tmp_path / "out", "csv")
    with open(folder / "labels.csv", newline="") as f:
        cells = [c for row in csv.reader(f) for c in row]
    assert not [c for c in cells if c[:1] in tuple("=+-@\t\r\n")] and "'=HYPERLINK(\"http://evil\")" in cells and "''=Cy" in cells
    other, copy = opened(tmp_path, items, "text", name="copy")
    import_answers(other, copy, folder, "csv")
    assert said(other, copy) == said(db, project)


# ── which picture is meant ──────────────────────────────────────────────────────────────────────────────────────────


def table(tmp_path, *lines, name="t.csv", head="file,label"):
    (tmp_path / name).write_text("\n".join([head, *lines]) + "\n")
    return tmp_path / name


@pytest.mark.parametrize("sign", ["b/x.png", "https://h.example/b/x.png?w=3", "id", "id.png", "sha256", "0a1b2c3d-y.png", "y", "folder/y.png"])
def test_a_record_finds_its_picture(sign, tmp_path, store):
    items = items_of(store, ["a/x.png", "https://h.example/b/x.png?w=3", "y.png", "b/x.png"])
    db, project = opened(tmp_path, items)
    meant = items[1] if "h.example" in sign else items[3] if sign == "b/x.png" else items[2]
    sign = sign.replace("id", meant.id).replace("sha256", meant.sha256)
    report = import_answers(db, project, table(tmp_path, f"{sign},zebra"), "csv")
    assert report["answers"] == 1 and db.get(Annotation)[0].item_id == meant.id


def test_a_record_that_means_none_or_several_is_named(tmp_path, store):
    items = items_of(store, ["a/x.png", "b/x.png", "y.png"])
    db, project = opened(tmp_path, items)
    with pytest.raises(BadInput, match="x.png: 2 pictures of the project may be meant: a/x.png, b/x.png.*Nothing was imported"):
        import_answers(db, project, table(tmp_path, "y.png,zebra", "x.png,zebra"), "csv")
    with pytest.raises(BadInput, match="2 pictures are not in the project: z.png, w.png.*Nothing was imported"):
        import_answers(db, project, table(tmp_path, "y.png,zebra", "z.png,zebra", "w.png,train"), "csv")
    assert counts(db)["answers"] == 0


def test_bytes_are_surer_than_names(tmp_path, store):
    items = items_of(store, ["x.png", "y.png"])
    db, project = opened(tmp_path, items)
    path = tmp_path / "in" / "zebra" / "x.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(png(1))
    import_answers(db, project, tmp_path / "in", "imagefolder")
    assert said(db, project, bare=False) == {("y.png", "import:imagefolder"): Choice(("zebra",))}
    path.write_bytes(png(7))
    with pytest.raises(BadInput, match="not in the project: zebra/x.png"):
        import_answers(db, project, tmp_path / "in", "imagefolder")


def test_new_pictures_come_in_when_asked_for(tmp_path, store):
    items = items_of(store, ["x.png"])
    db, project = opened(tmp_path, items)
    for k, name in ((0, "train/old.png"), (5, "zebra/new.png"), (6, "zebra/known.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(k))
    elsewhere = Item(url="elsewhere.png", sha256=store.put(png(6)), source="y", mime="image/png", width=64, height=48)
    db.add([elsewhere])
    before = counts(db)
    with pytest.raises(Refused, match="zebra/known.png: this picture has no licence.*Nothing was imported"):
        import_answers(db, project, tmp_path / "in", "imagefolder", store=store, add_items=True)
    with pytest.raises(BadInput, match="New pictures need a place"):
        import_answers(db, project, tmp_path / "in", "imagefolder", add_items=True, licence="MIT")
    assert counts(db) == before
    report = import_answers(db, project, tmp_path / "in", "imagefolder", store=store, add_items=True, licence="CC-BY-4.0")
    assert (report["answers"], report["items"]) == (3, 2)
    assert counts(db) == {"items": 3, "answers": 3, "seats": 3, "tasks": 3}, "what was known in another project is no second item"
    (new,) = (i for i in db.get(Item) if i.source == "import:p")
    assert (new.licence, new.licence_from, new.width, new.state) == ("CC-BY-4.0", "import", 64, "kept") and new.phash and store.get(new.sha256)
    assert {r["state"] for r in rows(db, "task")} == {"full"}
    db.update(Item, new.id, state="withdrawn")
    with pytest.raises(Refused, match="zebra/new.png: this picture was withdrawn"):
        import_answers(db, project, tmp_path / "in", "imagefolder", store=store, add_items=True, licence="CC-BY-4.0")


# ── the queue, and who says what when ───────────────────────────────────────────────────────────────────────────────


def test_what_was_answered_elsewhere_is_not_asked_again_and_truth_fills_no_place(tmp_path, store):
    items = items_of(store, ["a.png", "b.png", "c.png"])
    db, project = opened(tmp_path, items, gold="truth")
    import_answers(db, project, table(tmp_path, "a.png,zebra", "b.png,train"), "csv", annotator="truth")
    assert {r["state"] for r in rows(db, "task")} == {"open"} and not rows(db, "assignment")
    import_answers(db, project, table(tmp_path, "a.png,zebra,Ada,1.5", "b.png,train,Ada,", head="file,label,annotator,seconds"), "csv")
    assert Counter(r["state"] for r in rows(db, "task")) == {"full": 2, "open": 1}
    assert [t.item_id for t in Queue(db, project).next([("Bo", 9)])[0]] == [items[2].id]
    assert {a.annotator for a in db.get(Annotation)} == {"truth", "import:Ada"}


def test_without_a_time_the_last_word_counts(tmp_path, store):
    db, project = opened(tmp_path, items_of(store, ["a.png"]))
    for k, name in enumerate(("zebra", "zebra", "train", "zebra", "zebra")):
        report = import_answers(db, project, table(tmp_path, f"a.png,{name}"), "csv")
        assert (report["answers"], report["known"]) == ((0, 1) if k in (1, 4) else (1, 0))
        assert said(db, project) == {("a.png", "csv"): Choice((name,))}
    assert len(db.get(Annotation)) == 3, "nothing is written over"


def test_two_answers_of_one_person_need_a_time(tmp_path, store):
    db, project = opened(tmp_path, items_of(store, ["a.png"]))
    head = "file,label,annotator,created"
    with pytest.raises(BadInput, match="a.png: import:Ada says two things of one picture, and no time tells which is newer: zebra and train"):
        import_answers(db, project, table(tmp_path, "a.png,zebra,Ada,", "a.png,train,Ada,", head=head), "csv")
    report = import_answers(db, project, table(tmp_path, "a.png,train,Ada,2026-02-01T09:00+09:00", "a.png,zebra,Ada,2026-01-31T23:59:59Z", "a.png,zebra,Ada,2026-01-31T23:59:59Z", head=head), "csv")
    assert (report["answers"], report["known"]) == (2, 1) and said(db, project) == {("a.png", "Ada"): Choice(("train",))}
    assert sorted(a.created for a in db.get(Annotation)) == ["2026-01-31T23:59:59.000+00:00", "2026-02-01T00:00:00.000+00:00"]


@pytest.mark.parametrize("created, kept", [
    ("2026-02-01T00:00:00.431000+00:00", None), ("2026-02-01T00:00:00.431+00:00", None), ("2026-02-01T00:00:00.431007+00:00", None),
    ("2026-02-01T00:00:00.431007Z", "2026-02-01T00:00:00.431007+00:00"), ("2026-02-01", "2026-02-01T00:00:00.000+00:00"), ("2026-02-01T01:30:00+01:30", "2026-02-01T00:00:00.000+00:00"),
])  # fmt: skip
def test_a_time_is_the_same_moment_and_ours_is_kept_to_the_letter(created, kept, tmp_path, store):
    db, project = opened(tmp_path, items_of(store, ["a.png"]))
    path = table(tmp_path, f"a.png,train,Ada,{created}", head="file,label,annotator,created")
    assert import_answers(db, project, path, "csv")["answers"] == 1 and import_answers(db, project, path, "csv")["known"] == 1
    assert db.get(Annotation)[0].created == (kept or created)


def test_it_works_on_every_database(tmp_path, store, database_url):
    items = items_of(store, ["a.png", "b.png"])
    db, project = opened(tmp_path, items, "boxes", name="src", url=database_url)
    data = {"images": [{"id": k, "file_name": i.url, "width": 64, "height": 48} for k, i in enumerate(items)], "categories": [{"id": 4, "name": "한국어"}],
            "annotations": [{"id": 9, "image_id": 0, "category_id": 4, "bbox": [1.25, 2, 3, 4], "attributes": {"x": "é😀"}}]}  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(data))
    assert import_answers(db, project, tmp_path / "coco.json", "coco")["answers"] == 2
    assert import_answers(db, project, tmp_path / "coco.json", "coco")["known"] == 2
    with pytest.raises(BadInput):
        import_answers(db, project, table(tmp_path, "a.png,zebra"), "csv")
    out = json.loads((export_answers(db, project, store, tmp_path / "out", "coco") / "annotations/instances_default.json").read_text())
    assert [(a["id"], a["category_id"], a["bbox"], a["attributes"]) for a in out["annotations"]] == [(9, 4, [1.25, 2, 3, 4], {"x": "é😀"})]
    assert {r["state"] for r in rows(db, "task")} == {"full"} and counts(db)["seats"] == 2


# ── all or nothing ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_bad_last_record_leaves_nothing(tmp_path, store):
    db, project = opened(tmp_path, items_of(store, [f"{k}.png" for k in range(50)]))
    lines = [f"{k}.png,zebra" for k in range(49)]
    with pytest.raises(BadInput, match="49.png: the project has no such class: lion.*Nothing was imported"):
        import_answers(db, project, table(tmp_path, *lines, "49.png,lion"), "csv")
    assert counts(db) == {"items": 50, "answers": 0, "seats": 0, "tasks": 50}
    assert import_answers(db, project, table(tmp_path, *lines, "49.png,train"), "csv")["answers"] == 50


def test_a_database_that_refuses_the_last_row_leaves_nothing(tmp_path, store):
    """A real cause: a trigger of the database itself."""
    db, project = opened(tmp_path, items_of(store, [f"{k}.png" for k in range(5)]))
    with db.engine.begin() as c:
        c.exec_driver_sql("CREATE TRIGGER full BEFORE INSERT ON assignment WHEN NEW.reason = '' AND (SELECT count(*) FROM assignment) = 4 BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    with pytest.raises(FsmlError, match="disk full.*Nothing was imported"):
        import_answers(db, project, table(tmp_path, *(f"{k}.png,zebra" for k in range(5))), "csv")
    assert counts(db) == {"items": 5, "answers": 0, "seats": 0, "tasks": 5}


def test_a_killed_import_leaves_nothing_and_can_be_done_again(tmp_path, store):
    db, project = opened(tmp_path, items_of(store, [f"{k}.png" for k in range(30)]))
    path = table(tmp_path, *(f"{k}.png,zebra" for k in range(30)))
    program = (
        "import sys, time\nfrom fullstack_ml import exchange, records\nfrom fullstack_ml.annotate import find_project\n"
        "insert = records.Database.insert\ndef slow(self, tx, table, rows):\n    n = insert(self, tx, table, rows)\n"
        "    if table == 'annotation' and rows:\n        print('half-way', flush=True)\n        time.sleep(30)\n    return n\n"
        "records.Database.insert = slow\ndb = records.open_database(sys.argv[1])\n"
        "exchange.import_answers(db, find_project(db, 'p'), sys.argv[2], 'csv')"
    )
    child = subprocess.Popen([sys.executable, "-c", program, f"sqlite:///{tmp_path}/p.db", str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half-way\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert counts(db) == {"items": 30, "answers": 0, "seats": 0, "tasks": 30}
    assert import_answers(db, project, path, "csv")["answers"] == 30


def test_what_a_file_says_beside_its_answers_cannot_spoil_later_exports(tmp_path, store):
    items = items_of(store, [f"{k}.png" for k in range(9)])
    db, project = opened(tmp_path, items, "boxes")
    odd = [{"boxes": 5}, {"boxes": [5]}, {"boxes": [{"attributes": [1], "category_id": [1], "id": {}}]}, {"other": "x"}, {"categories": [5, {"id": [], "name": []}]},
           {"tags": {}}, {"image_id": []}, {"completed_by": {"x": [1]}}, {"ground_truth": {}, "predictions": []}]  # fmt: skip
    box = json.dumps({"kind": "boxes", "boxes": [{"x": 1, "y": 1, "w": 5, "h": 5, "name": "zebra"}]})
    with open(tmp_path / "t.csv", "w", newline="") as f:
        csv.writer(f).writerows([("file", "json", "meta"), *((f"{k}.png", box, json.dumps(m)) for k, m in enumerate(odd))])
    assert import_answers(db, project, tmp_path / "t.csv", "csv")["answers"] == 9
    for name in FORMATS:
        if "boxes" in FORMATS[name].holds:
            export_answers(db, project, store, tmp_path / name, name)


@pytest.mark.parametrize("meta", [{"sample": 5}, {"sample": {"boxes": 5, "other": "x"}}, {"suggestion": "x"}, {"suggestion": {"kind": [1]}}, {"was_cancelled": True, "skip": {"x": 1}},
                                  {"suggestion": {"kind": "boxes", "boxes": [{"x": "a", "y": 1, "w": 1, "h": 1, "name": "zebra"}]}}, {"guide": [1], "comment": {"a": 1}}], ids=str)  # fmt: skip
def test_what_an_annotators_browser_says_cannot_spoil_an_export(meta, tmp_path, store):
    db, project = opened(tmp_path, items_of(store, ["a.png"]), "boxes")
    given = {"a.png": Boxes((Box(1, 2, 3, 4, "zebra"),))}
    give(db, project, "Ada", given, **meta)
    for name in FORMATS:
        if "boxes" in FORMATS[name].holds:
            other, copy = opened(tmp_path, db.get(Item), "boxes", name=f"to-{name}")
            assert import_answers(other, copy, export_answers(db, project, store, tmp_path / name, name), name)["answers"] == 1
            assert [near(v, given["a.png"], 1e-3) for v in said(other, copy).values()] == [True]


# ── files that other tools wrote ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def shared(tmp_path, store):
    """A project with pictures of the names and sizes that the export files speak of."""

    def make(kind, names, classes, size=(64, 64), name="p"):
        return opened(tmp_path, items_of(store, names, size), kind, tuple(classes), name, wanted=2)

    return make


def names_of(kind):
    return [f"/data/upload/9/{kind}{k}.png" for k in range(3)]


@real
@pytest.mark.parametrize("ending", ["JSON.json", "JSON_MIN.json", "CSV.csv", "TSV.tsv", "COCO.zip", "YOLO.zip"])
@pytest.mark.parametrize("kind, label_kind, classes, first", [
    ("boxes", "boxes", ["car", "person"], Boxes((Box(8, 16, 32, 16, "car"), Box(0, 0, 6.4, 6.4, "person")))),
    ("choices", "choice", ["cat", "dog"], Choice(("dog",))), ("ocr_line", "text", [], Text('Straße №0 "q", a')),
])  # fmt: skip
def test_every_export_of_label_studio_says_the_same(kind, label_kind, classes, first, ending, shared):
    """The boxes declare a height of 48 and the files have 64: percent are of the picture that was seen, so its height is 16, and not 12.
    Label Studio's own COCO export computes with 48 and declares 64, and nothing in it tells."""
    db, project = shared(label_kind, names_of(kind), classes)
    form = {"COCO": "coco", "YOLO": "yolo"}.get(ending[:4], "labelstudio")
    report = import_answers(db, project, REAL / "ls_1.23.2" / f"{kind}.{ending}", form)
    if form != "labelstudio" and kind != "boxes":
        assert (report["answers"], report["unlabelled"], said(db, project)) == (0, 2, {}), "the export has dropped its labels, and the report says so"
        return
    assert report["answers"] == 2 and report["unlabelled"] == (1 if ending == "JSON.json" else 0)
    assert report["resized"] == (2 if kind == "boxes" and form == "labelstudio" else 0)
    first = Boxes((Box(8, 12, 32, 12, "car"), Box(0, 0, 6.4, 4.8, "person"))) if form == "coco" else first
    who = "1" if form == "labelstudio" else form
    assert near(said(db, project)[names_of(kind)[0], who], first, 1e-6)
    if form == "labelstudio":
        assert {(a.annotator, a.created[:22], a.seconds) for a in db.get(Annotation)} >= {("import:1", db.get(Annotation)[0].created[:22], 1.5)}
    assert import_answers(db, project, REAL / "ls_1.23.2" / f"{kind}.{ending}", form)["known"] == 2


@real
@pytest.mark.parametrize("kind, label_kind, classes", [("boxes", "boxes", ["car", "person"]), ("choices", "choice", ["cat", "dog"]), ("ocr_line", "text", [])])
def test_label_studios_json_goes_back_equal(kind, label_kind, classes, shared, store, tmp_path):
    source = REAL / "ls_1.23.2" / f"{kind}.JSON.json"
    db, project = shared(label_kind, names_of(kind), classes)
    import_answers(db, project, source, "labelstudio")
    out = export_answers(db, project, store, tmp_path / "out", "labelstudio")
    both = [{t["data"]["image"][-5:]: t["annotations"] for t in json.loads(p.read_text()) if t["annotations"]} for p in (source, out / "tasks.json")]
    assert both[0].keys() == both[1].keys()
    for before, after in ((both[0][k][0], both[1][k][0]) for k in both[0]):
        assert [after[k] for k in ("completed_by", "lead_time")] == [before[k] for k in ("completed_by", "lead_time")]
        assert after["created_at"].replace("+00:00", "Z") == before["created_at"]
        values = [[r["value"] for r in a["result"]] for a in (before, after)]
        assert values[1] == [{k: pytest.approx(v) if isinstance(v, float) else v for k, v in x.items()} for x in values[0]]
    other, copy = shared(label_kind, names_of(kind), classes, name="copy")
    import_answers(other, copy, out, "labelstudio")
    assert {k: near(v, said(db, project)[k], 1e-6) for k, v in said(other, copy).items()} == dict.fromkeys(said(db, project), True)


@real
def test_label_studios_two_annotators(shared, store, tmp_path):
    db, project = shared("boxes", ["https://h.example/image1.jpg", "https://h.example/image2.jpg"], ["parasites", "white"], (2800, 2800))
    report = import_answers(db, project, REAL / "labelstudio_rectangles_2annotators.json", "labelstudio")
    assert report["by"] == {"import:1": 2, "import:2": 1} and report["resized"] == 0
    before = json.loads((REAL / "labelstudio_rectangles_2annotators.json").read_text())
    after = json.loads((export_answers(db, project, store, tmp_path / "out", "labelstudio", pictures=False) / "tasks.json").read_text())
    told = lambda tasks: sorted((a["completed_by"], a["lead_time"], round(r["value"]["x"], 6), round(r["value"]["height"], 6), *r["value"]["rectanglelabels"])
                                for t in tasks for a in t["annotations"] for r in a["result"])  # fmt: skip
    assert told(before) == told(after)
    one = export_answers(db, project, store, tmp_path / "coco", "coco", pictures=False)
    assert len(json.loads((one / "annotations/instances_default.json").read_text())["images"]) >= 1, "the consensus, where one picture has one answer"


@real
def test_datumaros_coco_file_goes_back_equal(shared, store, tmp_path):
    db, project = shared("boxes", ["b.jpg"], ["a", "b", "c"], (5, 10))
    assert import_answers(db, project, REAL / "coco_instances_val.json", "coco")["answers"] == 1
    out = export_answers(db, project, store, tmp_path / "out", "coco", pictures=False)
    before, after = (json.loads(p.read_text()) for p in (REAL / "coco_instances_val.json", out / "annotations/instances_default.json"))
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"]
    assert [(i["id"], i["width"], i["height"]) for i in after["images"]] == [(40, 5, 10)]


@real
def test_a_yolo_line_of_label_studios_tests_without_its_picture(shared, store, tmp_path):
    db, project = shared("boxes", ["img_1.jpg"], ["closed_door", "opened_door", "bus", "number"], (640, 329))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/img_1.txt").write_bytes((REAL / "yolo_img_1.txt").read_bytes())
    (tmp_path / "in/classes.txt").write_bytes((REAL / "yolo_classes.txt").read_bytes())
    assert import_answers(db, project, tmp_path / "in", "yolo")["answers"] == 1
    out = export_answers(db, project, store, tmp_path / "out", "yolo", pictures=False)
    numbers = lambda p: [[float(v) for v in line.split()] for line in p.read_text().splitlines()]
    assert numbers(out / "labels/img_1.txt") == [pytest.approx(row, abs=1e-8) for row in numbers(REAL / "yolo_img_1.txt")]


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def boxed(tmp_path, store):
    items = items_of(store, ["a.png", "b.png"])
    db, project = opened(tmp_path, items, "boxes", ("sun", "house"))
    yield db, project
    assert counts(db) == {"items": 2, "answers": 0, "seats": 0, "tasks": 2}, "nothing was imported"


def refuse(boxed, path, format, match, kind=BadInput):
    with pytest.raises(kind, match=match) as e:
        import_answers(*boxed, path, format)
    assert "Nothing was imported." in str(e.value) and len(str(e.value)) < 900, str(e.value)


def zipped(tmp_path, **members):
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return path


GOOD = {"images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}, {"id": 2, "file_name": "b.png", "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "sun"}, {"id": 2, "name": "house"}],
        "annotations": [{"id": 11, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}, {"id": 12, "image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5]}]}  # fmt: skip


def coco(tmp_path, **changes):
    data = json.loads(json.dumps(GOOD))
    data["annotations"][1] |= changes
    (tmp_path / "coco.json").write_text(json.dumps(data))
    return tmp_path / "coco.json"


@pytest.mark.parametrize("changes, match", [
    ({"bbox": [60, 1, 10, 10]}, "annotation 12: this is no box"), ({"bbox": [1, 1, -5, 5]}, "annotation 12: this is no box"),
    ({"bbox": [float("nan"), 1, 5, 5]}, "annotation 12: this is no box"), ({"bbox": [1, 1, float("inf"), 5]}, "annotation 12"), ({"bbox": [1, 1, 0, 5]}, "annotation 12"),
    ({"bbox": [10**400, 1, 5, 5]}, "annotation 12"), ({"category_id": 7}, "annotation 12"), ({"image_id": 7}, "annotation 12: there is no such picture"),
    ({"segmentation": [float("nan")]}, "b.png: this holds a number"), ({"attributes": {"x": "\ud800"}}, "b.png: this holds a number or a character"),
    ({"attributes": {"x": "a\0"}}, "b.png: this holds a NUL"), ({"segmentation": "1" * 2_000_000}, "b.png: this holds a NUL, or more than a megabyte"),
    ({"attributes": {"text": "x" * 1001}}, "b.png: the text in a box is too long"),
], ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")  # fmt: skip
def test_a_coco_file_with_one_bad_record(changes, match, tmp_path, boxed):
    refuse(boxed, coco(tmp_path, **changes), "coco", match)


def test_ids_that_are_there_twice(tmp_path, boxed):
    for part, name, match in (("images", {"id": 1, "file_name": "b.png", "width": 64, "height": 48}, "image 1: another picture has this id"),
                              ("categories", {"id": 1, "name": "moon"}, "category 1: sun has this id already")):  # fmt: skip
        data = json.loads(json.dumps(GOOD))
        data[part].append(name)
        (tmp_path / "coco.json").write_text(json.dumps(data))
        refuse(boxed, tmp_path / "coco.json", "coco", match)


def test_a_class_that_the_project_lacks(tmp_path, boxed):
    data = json.loads(json.dumps(GOOD))
    data["categories"][1]["name"] = "moon"
    (tmp_path / "coco.json").write_text(json.dumps(data))
    refuse(boxed, tmp_path / "coco.json", "coco", "b.png: this is no box of the project: moon")


def test_a_label_of_another_kind(tmp_path, boxed):
    refuse(boxed, table(tmp_path, "a.png,sun"), "csv", "a.png: the project asks for another kind of label: choice")


@pytest.mark.parametrize("name", ["Ada\x07", "a\u202eb", "x" * 200, "\ud800", "a\0b", "two\nlines"])
def test_names_of_annotators_are_names(name, tmp_path, boxed):
    data = [{"id": 7, "data": {"image": "a.png"}, "annotations": [{"completed_by": {"email": name}, "result": [ls_box()]}]}]
    (tmp_path / "t.json").write_text(json.dumps(data))
    refuse(boxed, tmp_path / "t.json", "labelstudio", r"a.png \(task 7\): this is no name of an annotator")


def ls_box(**changes):
    value = {"x": 10, "y": 10, "width": 5, "height": 5, "rectanglelabels": ["sun"]} | changes
    return {"id": "r", "type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": value}


@pytest.mark.parametrize("change, match", [
    ({"result": [ls_box(x=99, width=50)]}, "task 7: this is no box"), ({"result": [ls_box(width=-5)]}, "task 7"), ({"result": [ls_box(x=float("nan"))]}, "task 7"),
    ({"result": [ls_box(x=10**400)]}, "task 7"), ({"result": [ls_box()], "lead_time": float("nan")}, "task 7.*no number of seconds"),
    ({"result": [ls_box()], "lead_time": -1}, "task 7.*no number of seconds"), ({"result": [ls_box()], "lead_time": [1]}, "task 7.*no number of seconds"),
    ({"result": [ls_box()], "created_at": "yesterday"}, "task 7.*no time: yesterday"), ({"result": [ls_box()], "created_at": "9999-12-31T23:59:59-12:00"}, "task 7.*no time"),
    ({"result": [ls_box()], "created_at": "2999-01-01"}, "task 7.*answered in the future"), ({"result": "x"}, "task 7"), ({"result": [ls_box()], "prediction": {"result": 5}}, "task 7"),
    ({"result": [ls_box()], "prediction": {"result": [ls_box(x=101)]}}, "task 7: this is no box"),
], ids=lambda v: json.dumps(v)[:60] if isinstance(v, dict) else "")  # fmt: skip
def test_a_label_studio_file_with_one_bad_record(change, match, tmp_path, boxed):
    tasks = [{"id": 6, "data": {"image": "a.png"}, "annotations": [{"completed_by": 1, "result": [ls_box()]}]},
             {"id": 7, "data": {"image": "b.png"}, "annotations": [{"completed_by": 1} | change]}]  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(tasks))
    refuse(boxed, tmp_path / "t.json", "labelstudio", match)


@pytest.mark.parametrize("meta", [{"suggestion": 5}, {"suggestion": {"kind": ["x"]}}, {"suggestion": {"kind": "boxes", "boxes": [{"x": "a", "y": 1, "w": 1, "h": 1, "name": "sun"}]}},
                                  {"predictions": 5}, {"predictions": [5]}, {"predictions": [{"by": [1], "label": {"kind": "boxes", "boxes": [{}]}}]}], ids=str)  # fmt: skip
def test_a_table_with_odd_things_beside_its_answers(meta, tmp_path, boxed):
    box = json.dumps({"kind": "boxes", "boxes": [{"x": 1, "y": 1, "w": 5, "h": 5, "name": "sun"}]})
    with open(tmp_path / "t.csv", "w", newline="") as f:
        csv.writer(f).writerows([("file", "json", "meta"), ("a.png", box, ""), ("b.png", box, json.dumps(meta))])
    refuse(boxed, tmp_path / "t.csv", "csv", "b.png: ")


XML = {
    "bomb": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotations><image name="&b;"/></annotations>',
    "external": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotations><image name="&x;"/></annotations>',
    "doctype": '<!DOCTYPE annotations SYSTEM "http://h.example/x.dtd"><annotations/>',
    "deep": "<a>" * 100_000 + "</a>" * 100_000,
    "utf-16": '<?xml version="1.0" encoding="utf-16"?><annotations/>'.encode("utf-16"),
    "latin-1": '<?xml version="1.0" encoding="latin-1"?><annotations>é</annotations>'.encode("latin-1"),
    "cut": '<annotations><image id="1" name="a.png"',
}


@pytest.mark.parametrize("case", XML)
@pytest.mark.parametrize("format", ["cvat", "voc"])
def test_xml_brings_neither_entities_nor_nonsense(case, format, tmp_path, boxed):
    (tmp_path / "a.xml").write_bytes(XML[case] if isinstance(XML[case], bytes) else XML[case].encode())
    refuse(boxed, tmp_path / "a.xml", format, ".")


JSON = {"deep": "[" * 300_000, "deep and closed": "[" * 90_000 + "]" * 90_000, "utf-16": json.dumps(GOOD).encode("utf-16"), "cut": json.dumps(GOOD)[:-9], "a number": "7",
        "deep inside": json.dumps(GOOD)[:-1] + ', "x": ' + "[" * 90_000 + "]" * 90_000 + "}", "html": "<!doctype html><p>Sign in</p>", "nothing": ""}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("format", ["coco", "labelstudio"])
def test_json_that_is_none(case, format, tmp_path, boxed):
    (tmp_path / "a.json").write_bytes(JSON[case] if isinstance(JSON[case], bytes) else JSON[case].encode())
    refuse(boxed, tmp_path / "a.json", format, ".")


def test_a_hundred_megabytes_in_one_line(tmp_path, boxed):
    with open(tmp_path / "a.json", "wb") as f:
        f.write(b'{"images": [')
        f.truncate(100 << 20)
    refuse(boxed, tmp_path / "a.json", "coco", "too large: a.json.*At most 64 MiB", TooLarge)


def test_a_table_of_too_many_lines(tmp_path, boxed):
    (tmp_path / "a.csv").write_bytes(b"file,label\n" + b"\n" * 5_000_001)
    refuse(boxed, tmp_path / "a.csv", "csv", "too many lines: a.csv.*five million", TooLarge)
    (tmp_path / "a.csv").write_bytes("file,label\nä.png,sun\n".encode("latin-1"))
    refuse(boxed, tmp_path / "a.csv", "csv", "no UTF-8 text: a.csv")
    (tmp_path / "a.csv").write_text('file,label\na.png,"sun\n')
    refuse(boxed, tmp_path / "a.csv", "csv", "a.csv, line 3?.*no table|a.png")


CLIMBING = ["../x.json", "/etc/x.json", "a/../../x.json", "..\\x.json", "C:\\x.json", "\\\\h\\x.json"]


@pytest.mark.parametrize("name", CLIMBING)
def test_no_member_of_a_zip_leads_out_of_its_folder(name, tmp_path, boxed):
    refuse(boxed, zipped(tmp_path, **{"coco.json": json.dumps(GOOD), name: "{}"}), "coco", "name leads out of the folder", Refused)
    assert not (tmp_path / "x.json").exists() and not (tmp_path.parent / "x.json").exists()


def test_no_link_in_a_zip(tmp_path, boxed):
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refuse(boxed, zipped(tmp_path, **{"coco.json": json.dumps(GOOD)}), "yolo", ".")
    with zipfile.ZipFile(tmp_path / "in.zip", "a") as z:
        z.writestr(info, "/etc/passwd")
    refuse(boxed, tmp_path / "in.zip", "coco", "a link, or its name leads out of the folder: a.png", Refused)


def test_zips_that_unpack_to_more_than_they_may(tmp_path, boxed, monkeypatch):
    refuse(boxed, zipped(tmp_path, **{"coco.json": b" " * (30 << 20)}), "coco", "packed too tightly: coco.json", TooLarge)
    noise = random.Random(0).randbytes(3 << 20)
    monkeypatch.setitem(exchange._MOST, "label", 2 << 20)
    refuse(boxed, zipped(tmp_path, **{"coco.json": noise}), "coco", "too large.*coco.json", TooLarge)
    monkeypatch.setitem(exchange._MOST, "all", 4 << 20)
    refuse(boxed, zipped(tmp_path, **{f"{k}.png": noise for k in range(2)}), "coco", "holds too much: 2 members", TooLarge)
    monkeypatch.setitem(exchange._MOST, "members", 3)
    refuse(boxed, zipped(tmp_path, **{f"{k}.png": "" for k in range(4)}), "coco", "holds too much: 4 members", TooLarge)


def test_a_zip_whose_head_lies_about_a_size(tmp_path, boxed):
    data = zipped(tmp_path, **{"coco.json": json.dumps(GOOD) * 50}).read_bytes()
    size = struct.pack("<I", len(json.dumps(GOOD)) * 50)
    assert data.count(size) == 2
    (tmp_path / "in.zip").write_bytes(data.replace(size, struct.pack("<I", 100)))
    refuse(boxed, tmp_path / "in.zip", "coco", "cut short|cannot be unpacked")


def test_zips_that_cannot_be_read(tmp_path, boxed):
    whole = zipped(tmp_path, **{"coco.json": json.dumps(GOOD)}).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 5):
        (tmp_path / "in.zip").write_bytes(whole[:cut])
        refuse(boxed, tmp_path / "in.zip", "coco", "zip is cut short")
    (tmp_path / "in.zip").write_bytes(whole.replace(b"sun", b"sum", 1) if b"sun" in whole else whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    refuse(boxed, tmp_path / "in.zip", "coco", "zip is cut short|cannot be unpacked")
    flags = bytearray(whole)
    flags[6] |= 1
    flags[whole.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "in.zip").write_bytes(bytes(flags))
    refuse(boxed, tmp_path / "in.zip", "coco", "has a password")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_LZMA) as z:
        z.writestr("coco.json", json.dumps(GOOD))
    refuse(boxed, tmp_path / "in.zip", "coco", "packed in a way that is not read")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_in_a_zip(tmp_path, boxed):
    path = zipped(tmp_path, **{"coco.json": json.dumps(GOOD)})
    with zipfile.ZipFile(path, "a") as z:
        z.writestr("coco.json", "{}")
    refuse(boxed, path, "coco", "holds a name twice.*coco.json")


def test_there_is_nothing_under_the_name(tmp_path, boxed):
    refuse(boxed, tmp_path / "gone.zip", "coco", "nothing under this name: gone.zip", NotFound)
    refuse(boxed, coco(tmp_path), "tfrecord", "no such format: tfrecord", BadConfig)


def test_an_uploaded_file_is_read_alone_and_by_what_it_holds(tmp_path, store):
    """Beside it lies what its sender must not reach; its name has lost its ending."""
    db, project = opened(tmp_path, items_of(store, ["a.png", "b.png"]), "boxes", ("sun", "house"))
    (tmp_path / "up").mkdir()
    (tmp_path / "up/secret.json").write_text(json.dumps(GOOD | {"annotations": []}))
    (tmp_path / "up/a.png").write_bytes(png(9))
    (tmp_path / "up/tmpx1").write_bytes(b"\xef\xbb\xbf \n" + json.dumps(GOOD).encode())
    report = import_answers(db, project, tmp_path / "up/tmpx1", "coco")
    assert (report["records"], report["answers"]) == (2, 2), "neither the other file nor the picture of the same name was read"
    zipped(tmp_path, **{"my export/annotations/instances.json": json.dumps(GOOD), "my export/images/a.png": png(0), "__MACOSX/._x": "x"})
    assert import_answers(db, project, tmp_path / "in.zip", "coco")["known"] == 2, "a folder that was zipped as a whole"


def test_many_answers_take_seconds(tmp_path, store):
    data = store.put(png(0))
    items = [Item(url=f"{k}.png", sha256=data, source="x", mime="image/png", width=64, height=48) for k in range(2000)]
    db, project = opened(tmp_path, items)
    lines = [f"{k}.png,zebra,{who},2026-01-0{d}T00:00:00Z" for k in range(2000) for d, who in ((1, "Ada"), (2, "Bo"))]
    started = time.process_time()
    assert import_answers(db, project, table(tmp_path, *lines, head="file,label,annotator,created"), "csv")["answers"] == 4000
    assert time.process_time() - started < 10


def test_nobody_answers_in_the_name_of_somebody_here(tmp_path, store):
    items = [Item(url=f"http://x.example/{k}.png", source="x", width=8, height=8) for k in range(3)]
    db, project = opened(tmp_path, items, wanted=2)
    give(db, project, "ann", {items[0].url: Choice((CLASSES[0],))})
    with db.engine.begin() as tx:
        tx.execute(db.tables["account"].insert(), {"id": "1", "name": "Bo", "role": "annotator", "password": "", "state": "active", "created": "2026-01-01"})
    (tmp_path / "forged.csv").write_text(f"file,item,label,annotator\n0.png,{items[0].id},{CLASSES[1]},ann\n")
    for name in ("ann", " Bo "):
        with pytest.raises(Refused, match=name.strip()):
            import_answers(db, project, tmp_path / "forged.csv", "csv", annotator=name)
    import_answers(db, project, tmp_path / "forged.csv", "csv")
    import_answers(db, project, tmp_path / "forged.csv", "csv", annotator="truth")
    assert said(db, project, bare=False) == {(items[0].url, "ann"): Choice((CLASSES[0],)), **{(items[0].url, who): Choice((CLASSES[1],)) for who in ("import:ann", "truth")}}
    import_answers(db, project, tmp_path / "forged.csv", "csv", annotator="truth")  # who was imported before may be imported again
