"""Answers come together: captions by rule, corrections count, checkers stay out, and a second run adds nothing."""
import csv
import json
import random
import secrets
import time
from dataclasses import replace

import pandas as pd
import pytest

from fullstack_ml.annotate import Project, annotate, consensus, fill, find_project, read_caption, read_sheet, save_project
from fullstack_ml.core import BadInput, NotFound, compose_cfg, sha256
from fullstack_ml.leases import Given, Queue
from fullstack_ml.loop import run_stage
from fullstack_ml.records import Annotation, Box, Boxes, Choice, Item, Text, draft, label_to_dict, open_database, write_items
from fullstack_ml.review import decide

WORDS = {"1": ["one"], "7": ["seven"]}
ITEMS = [Item(url=f"http://gallery.example/{k}.png", source="gallery", sha256=sha256(bytes([k])), caption=c) for k, c in enumerate(["a seven", "a one", "nothing"])]


def write_sheet(path, *rows):
    with open(path, "w", newline="") as f:
        csv.writer(f).writerows([("sha256", "label"), *rows])
    return path


@pytest.fixture
def cfg(tmp_path):
    sheet = write_sheet(tmp_path / "ada.csv", (ITEMS[2].sha256, "1"))
    cfg = compose_cfg("annotate", ["source.sheets=null", f"+sheets.ada={{_target_: fullstack_ml.annotate.read_sheet, path: {sheet}}}"], out=str(tmp_path))
    with draft("crawl", cfg, {}) as d:
        write_items(d.dir / "items.parquet", ITEMS)
    return cfg


def labels(manifest):
    table = pd.read_parquet(manifest.path("consensus.parquet")).set_index("item_id")["label"]
    return {i: table.get(i) for i in (item.id for item in ITEMS)}


@pytest.mark.parametrize("caption, name", [
    ("A seven", "7"), ("SEVEN!", "7"), ("specimen 0017: one", "1"), ("7", "7"), ("seven or one", None), ("seventeen", None), ("", None), ("17", None),
])  # fmt: skip
def test_a_caption_names_exactly_one_class_or_gives_no_answer(caption, name):
    assert read_caption(caption, WORDS) == (Choice((name,)) if name else None)


def test_twice_is_once_and_a_corrected_sheet_counts(cfg, tmp_path):
    first = annotate(cfg)
    assert annotate(cfg).metrics["answers"] == first.metrics["answers"] == 3
    for label in ("7", "1", "7"):  # there, back again, and there once more
        write_sheet(tmp_path / "ada.csv", (ITEMS[2].sha256, label))
        assert f'"{label}"' in labels(annotate(cfg))[ITEMS[2].id]


def test_what_people_answered_reaches_the_loop(cfg, tmp_path):
    overrides = ["source.sheets=null", f"+sheets.ada={{_target_: fullstack_ml.annotate.read_sheet, path: {tmp_path / 'ada.csv'}}}"]
    first, made = run_stage("annotate", overrides, str(tmp_path))
    again, made_again = run_stage("annotate", overrides, str(tmp_path))
    assert made and not made_again and again.id == first.id
    open_database(cfg.storage.url).add([Annotation(ITEMS[1].id, "ben", Choice(("7",))), Annotation(ITEMS[1].id, "eve", Choice(("7",)))])
    later, made_later = run_stage("annotate", overrides, str(tmp_path))
    assert made_later and '"7"' in labels(later)[ITEMS[1].id]


def test_checkers_never_enter_the_consensus():
    said = [Annotation("a", "caption", Choice(("1",))), Annotation("a", "truth", Choice(("7",)))]
    assert consensus(said, besides=["truth"])["a"]["label"] == Choice(("1",))
    assert consensus(said)["a"]["label"] is None, "a tie is no consensus"


def test_a_caption_counts_only_where_nobody_has_looked():
    said = [Annotation("a", "caption", Choice(("1",))), Annotation("a", "ada", Choice(("7",))), Annotation("b", "caption", Choice(("2",)))]
    found = consensus(said, weak=["caption"])
    assert found["a"]["label"] == Choice(("7",)) and found["a"]["annotators"] == ["ada"] and found["a"]["n_answers"] == 1
    assert found["b"]["label"] == Choice(("2",))


def test_what_a_model_predicted_elsewhere_does_not_vote_beside_people():
    said = [Annotation("a", "import:yolo", Choice(("1",)), meta={"predicted": True}), Annotation("a", "ada", Choice(("7",))), Annotation("b", "import:yolo", Choice(("2",)), meta={"predicted": True})]
    found = consensus(said)
    assert (found["a"]["label"], found["a"]["annotators"], found["b"]["label"]) == (Choice(("7",)), ["ada"], Choice(("2",)))


def test_thirty_thousand_boxes_agree_in_seconds():
    rng, said = random.Random(0), []
    for i in range(2000):
        base = [(rng.random() * 500, rng.random() * 500, 20 + rng.random() * 60, 20 + rng.random() * 60, rng.choice("abc")) for _ in range(5)]
        said += [Annotation(f"i{i}", who, Boxes(tuple(Box(x + rng.random() * 6, y, w, h, name) for x, y, w, h, name in base)), created="2026-01-01") for who in ("ada", "ben", "cy")]
    began = time.process_time()
    assert all(c["agreement"] == 1 for c in consensus(said).values()) and time.process_time() - began < 3, "with room to spare"


def test_sheets_that_cannot_be_read(tmp_path):
    with pytest.raises(NotFound, match="nosuch.csv"):
        read_sheet(tmp_path / "nosuch.csv")
    with pytest.raises(BadInput, match="Line 3"):
        read_sheet(write_sheet(tmp_path / "a.csv", ("0" * 64, "7"), ("short", "7")))
    (tmp_path / "b.csv").write_text("hash,label\n")
    with pytest.raises(BadInput, match="lacks a column"):
        read_sheet(tmp_path / "b.csv")


def test_a_class_that_the_problem_does_not_know(cfg, tmp_path):
    write_sheet(tmp_path / "ada.csv", (ITEMS[2].sha256, "eleven"))
    with pytest.raises(BadInput, match="eleven"):
        annotate(cfg)


def work(db, project, answer):
    """Ada and Ben answer everything that is open."""
    queue = Queue(db, project)
    for who in ("ada", "ben"):
        while held := queue.next([(who, 8)])[0]:
            queue.submit([Given(secrets.token_hex(16), t.id, who, answer(who, t.item_id), meta={"guide": 2}) for t in held])


def test_a_project_of_the_configuration_is_made_filled_and_read(cfg, tmp_path):
    overrides = ["source.sheets=null", "project=choice", "project.rules.gold_share=0", "project.query=null"]
    cfg = compose_cfg("annotate", overrides, out=str(tmp_path))
    db = open_database(cfg.storage.url)
    db.add([replace(i, width=8, height=8) for i in ITEMS])
    assert annotate(cfg).metrics["projects"] == ["digits"]
    project = find_project(db, "digits")
    assert (project.rules.wanted, project.rules.blind, len(project.classes)) == (2, True, 10)
    work(db, project, lambda who, item: Choice(("7" if who == "ben" and item == ITEMS[0].id else "1",)))
    db.add([Annotation(ITEMS[2].id, "cy", Choice(("1",)), project="another")])
    made = annotate(cfg)
    answers = pd.read_parquet(made.path("answers.parquet"))
    assert set(answers["annotator"]) == {"caption", "ada", "ben"} and set(answers[answers["annotator"] == "ada"]["guide"]) == {"2"}
    assert set(answers[answers["annotator"] == "ada"]["project"]) == {project.id} and set(answers[answers["annotator"] == "caption"]["project"]) == {""}
    said = pd.read_parquet(made.path("consensus.parquet")).set_index("item_id")
    assert pd.isna(said["label"][ITEMS[0].id]) and said["agreement"][ITEMS[0].id] == 0.5, "one against one, and a caption does not count beside people"
    shares = {json.loads(s["label"])["names"][0]: s["share"] for s in said["shares"][ITEMS[0].id]}
    assert shares == {"7": 0.5, "1": 0.5} and not said["decided"].any()
    assert len(made.read_json("quality.json")["pairs"]) == 3
    decide(db, project, ITEMS[0].id, Choice(("1",)), "rae")
    said = pd.read_parquet(annotate(cfg).path("consensus.parquet")).set_index("item_id")
    assert '"1"' in said["label"][ITEMS[0].id] and said["agreement"][ITEMS[0].id] == 1 and said["decided"][ITEMS[0].id]


def test_without_a_project_those_count_that_ask_for_these_classes(cfg):
    db = open_database(cfg.storage.url)
    db.add(ITEMS)
    for name, kind, classes in (("same", "choice", ("1", "7")), ("other", "choice", ("cat", "dog")), ("words", "text", ())):
        fill(db, save_project(db, Project(name, kind, classes)))
        work(db, find_project(db, name), lambda who, item: {"same": Choice(("7",)), "other": Choice(("cat",)), "words": Text("one")}[name])
    made = annotate(cfg)
    assert made.metrics["projects"] == ["same"] and set(pd.read_parquet(made.path("answers.parquet"))["project"]) == {"", find_project(db, "same").id}


def test_projects_that_ask_for_text_and_boxes(cfg, tmp_path):
    db = open_database(cfg.storage.url)
    db.add([replace(i, width=8, height=8) for i in ITEMS])
    for name, label in (("text", Text("é")), ("boxes", Boxes((Box(1, 1, 4, 4, "7"),)))):
        cfg = compose_cfg("annotate", ["source.sheets=null", f"project={name}", "project.query=null"], out=str(tmp_path))
        annotate(cfg)
        work(db, find_project(db, cfg.project.name), lambda who, item: label)
        said = pd.read_parquet(annotate(cfg).path("consensus.parquet"))
        assert len(said) == 3 and set(said["label"]) == {json.dumps(label_to_dict(label), ensure_ascii=False)}
