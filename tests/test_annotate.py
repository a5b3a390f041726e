"""Answers come together: captions by rule, corrections count, checkers stay out, and a second run adds nothing."""
import csv

import pandas as pd
import pytest

from fullstack_ml.annotate import annotate, consensus, read_caption, read_sheet
from fullstack_ml.core import BadInput, NotFound, compose_cfg, sha256
from fullstack_ml.loop import run_stage
from fullstack_ml.records import Annotation, Choice, Item, draft, open_database, write_items

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
