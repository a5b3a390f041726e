"""Labels as other tools write them: what is read, what comes back, and what is refused."""
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from house import ROOT
from labels import near
from PIL import Image

from fullstack_ml import formats
from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, Damaged, FsmlError, NotFound, Refused, TooLarge, Unavailable, sha256
from fullstack_ml.formats import FORMATS, FolderReader, Sample, label_kind, read_format, write_format
from fullstack_ml.records import Box, Boxes, Choice, Item, ItemSequence, Text

DATA, SHARED = ROOT / "tests" / "data" / "formats", ROOT.parent / "shared"
REAL, BCCD = SHARED / "formats", SHARED / "data" / "bccd" / "bccd.tar"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the export files of other tools are not here")
CLASSES = ["zebra", "train", "a, b", "Straße <1> & \"2\"", "never seen"]
EXACT = ("csv", "webdataset", "huggingface", "coco")
WORDS = ["", "No. 7", "Straße \"q\"", "two\nlines", "한국어, 中文", "<b>&amp;</b>"]
SIZE = (64, 48)


def picture(path, size=SIZE, colour="white"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def place(folder, **files):
    """Files of tests/data under the names that a format wants, and pictures where they say so."""
    for name, source in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(DATA / source, path) if source else picture(path)
    return folder


def label(kind, rng):
    if kind == "boxes":
        boxes = []
        for _ in range(rng.choice([0, 1, 2, 5])):
            x, y = round(rng.uniform(0, 60), 3), round(rng.uniform(0, 44), 3)
            w, h = round(rng.uniform(0.01, SIZE[0] - x), 3), round(rng.uniform(0.01, SIZE[1] - y), 3)
            boxes.append(Box(x, y, w, h, rng.choice(CLASSES[:4]), rng.choice(WORDS)))
        return Boxes(tuple(boxes))
    return {
        "choice": lambda: Choice((rng.choice(CLASSES[:4]),)),
        "several classes": lambda: Choice(tuple(rng.sample(CLASSES[:4], rng.choice([2, 3])))),
        "text": lambda: Text(rng.choice(WORDS)),
        "sequence": lambda: ItemSequence(tuple(rng.choices("abc", k=3))),
        "unlabelled": lambda: None,
    }[kind]()


def samples_of(kind, folder, seed, splits=("train", "val", "test")):
    rng, found = random.Random(seed), []
    for i in range(8):
        path = picture(folder / f"{'ab'[i % 2]}" / f"p{i // 2}.{rng.choice(['png', 'jpg'])}", colour=(i * 30, 0, 0))
        mime = "image/png" if path.suffix == ".png" else "image/jpeg"
        item = Item(url=path.relative_to(folder).as_posix(), mime=mime, width=64, height=48, sha256=sha256(path), licence="CC-BY-4.0", author="Ada", source="x")
        found.append(Sample(item, label(kind, rng), rng.choice(splits), path))
    return found


def without_text(value):
    return Boxes(tuple(replace(b, text="") for b in value.boxes)) if isinstance(value, Boxes) else value


@pytest.mark.parametrize("name, kind", [(n, k) for n, f in FORMATS.items() for k in f.holds])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_format_holds_comes_back(name, kind, seed, tmp_path):
    if name == "imagefolder" and kind == "choice":
        splits = ("train", "val", "test") if seed else (None,)
    else:
        splits = ((None,), ("train", "val", "test"), ("train", "val", None))[seed]
    given = samples_of(kind, tmp_path / "in", seed, splits)
    found, classes = read_format(name, write_format(name, tmp_path / "out", given, CLASSES))
    back = {sha256(s.read()): s for s in found}
    assert len(found) == len(given) == len(back), "every picture, to the byte"
    for s in given:
        came, loses = back[s.item.sha256], FORMATS[name].loses
        expected = without_text(s.label) if "texts in boxes" in loses else s.label
        within = 0 if name in EXACT else 1e-3 if "0.001" in loses else 2e-6
        assert near(came.label, expected, within), (s.label, came.label)
        assert came.split == s.split
        assert (came.item.width, came.item.height, came.item.mime) == (64, 48, s.item.mime)
        if name in ("csv", "webdataset", "huggingface"):
            assert (came.item.licence, came.item.author, came.item.sha256) == ("CC-BY-4.0", "Ada", s.item.sha256)
        if name == "coco":
            assert (came.item.licence, came.item.licence_from) == ("CC-BY-4.0", "COCO licenses")
    if name != "imagefolder" and not (name == "labelstudio" and kind in ("text", "unlabelled")):
        assert classes == CLASSES, "in their order, unseen ones too"


@pytest.mark.parametrize("name", FORMATS)
def test_reading_twice_gives_the_same_in_the_same_order(name, tmp_path):
    given = samples_of("boxes" if "boxes" in FORMATS[name].holds else "choice", tmp_path / "in", 5, ("train", "val"))
    folder = write_format(name, tmp_path / "out", given, CLASSES)
    assert read_format(name, folder) == read_format(name, folder)


@pytest.mark.parametrize("name", FORMATS)
def test_writing_twice_gives_the_same_bytes(name, tmp_path):
    given = samples_of("boxes" if "boxes" in FORMATS[name].holds else "choice", tmp_path / "in", 5, ("train", "val"))
    one, two = (write_format(name, tmp_path / x, given, CLASSES) for x in ("one", "two"))
    files = {p.relative_to(one): p.read_bytes() for p in one.rglob("*") if p.is_file()}
    assert files == {p.relative_to(two): p.read_bytes() for p in two.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name, kind", [(n, k) for n, f in FORMATS.items() for k in ("choice", "several classes", "text", "boxes", "sequence", "unlabelled") if k not in f.holds])
def test_a_label_that_a_format_cannot_hold_is_refused_before_anything_is_written(name, kind, tmp_path):
    given = samples_of(kind, tmp_path / "in", 1)
    with pytest.raises(BadInput) as e:
        write_format(name, tmp_path / "out", given, CLASSES)
    able = [n for n, f in FORMATS.items() if kind in f.holds]
    assert name in str(e.value) and f"({kind})" in str(e.value) and all(n in str(e.value) for n in able) and able
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_every_kind_of_label_has_a_format():
    held = {k for f in FORMATS.values() for k in f.holds}
    assert held == {label_kind(label(k, random.Random(0))) for k in ("choice", "several classes", "text", "boxes", "sequence", "unlabelled")}
    assert all(f.loses for f in FORMATS.values())


# ── single formats, on files written by hand ────────────────────────────────────────────────────────────────────────


def test_coco_keeps_ids_segmentation_and_what_else_it_says(tmp_path):
    found, classes = read_format("coco", place(tmp_path / "in", annotations__instances_train2017_dot_json="coco.json", train2017__a_dot_png=None))
    a, b = found
    assert classes == ["sun", "house", "tree"] and {s.split for s in found} == {"train"}
    assert a.label == Boxes((Box(1.5, 2.25, 10, 20.125, "tree"), Box(0, 0, 64, 48, "sun"))) and b.label == Boxes(())
    assert a.path and a.item.url == "train2017/a.png" and b.path is None and a.item.licence.startswith("CC-BY") and not b.item.opt_out
    out = write_format("coco", tmp_path / "out", found, classes, pictures=False)
    before, after = json.loads((DATA / "coco.json").read_text()), json.loads((out / "annotations/instances_train.json").read_text())
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"]
    assert [(i["id"], i["file_name"]) for i in after["images"]] == [(40, "a.png"), (7, "b.png")]


def test_a_coco_file_without_one_annotation_says_nothing_about_its_pictures(tmp_path):
    data = json.loads((DATA / "coco.json").read_text())
    (tmp_path / "image_info_test.json").write_text(json.dumps({k: v for k, v in data.items() if k != "annotations"}))
    found, classes = read_format("coco", tmp_path)
    assert [s.label for s in found] == [None, None] and found[0].split == "test" and len(classes) == 3
    empty = [replace(s, label=Boxes(())) for s in found]
    again, _ = read_format("coco", write_format("coco", tmp_path / "out", empty, classes, pictures=False))
    assert [s.label for s in again] == [Boxes(()), Boxes(())], "ours says that somebody has looked"


def test_voc_counts_from_one_and_includes_the_last(tmp_path):
    found, classes = read_format("voc", place(tmp_path / "in", Annotations__a_dot_xml="voc.xml", JPEGImages__a_dot_png=None, JPEGImages__b_dot_png=None))
    a, b = found
    assert a.label == Boxes((Box(0, 0, 64, 48, "sun"), Box(19, 29, 1, 1, "house"))) and b.label is None and classes == ["house", "sun"]
    assert a.meta["boxes"] == [{"pose": "Left", "truncated": "1", "difficult": "0"}, {"pose": "Unspecified", "truncated": "0", "difficult": "1"}]
    out = write_format("voc", tmp_path / "out", found, classes)
    seen = [[e.text for e in o.iter() if len(e) == 0] for p in (out / "Annotations/a.xml", DATA / "voc.xml") for o in ElementTree.parse(p).iter("object")]
    assert seen[:2] == seen[2:], "to the digit"


def test_a_voc_folder_that_counts_from_zero_gives_itself_away(tmp_path):
    text = (DATA / "voc.xml").read_text()
    for name, start in (("a", 0), ("b", 1)):
        path = tmp_path / "Annotations" / f"{name}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("<xmin>1<", f"<xmin>{start}<").replace("<xmin>20<", "<xmin>10<").replace("<ymax>30<", "<ymax>31<"))
    a, b = (s.label.boxes for s in read_format("voc", tmp_path)[0])
    assert (a[0].x, a[0].w, b[0].x, b[0].w, a[1]) == (0, 64, 1, 63, Box(10, 30, 10, 1, "house"))


def test_a_box_in_the_first_pixel_does_not_count_from_zero(tmp_path):
    given = samples_of("boxes", tmp_path / "in", 0)[:1]
    given = [replace(given[0], label=Boxes((Box(0, 0.1, 0.5, 0.4, "zebra"), Box(3, 3, 9, 9, "train"))))]
    found, _ = read_format("voc", write_format("voc", tmp_path / "out", given, CLASSES))
    assert near(found[0].label, given[0].label, 1e-6)


def test_voc_lists_give_the_split_and_may_not_contradict_each_other(tmp_path):
    place(tmp_path, Annotations__a_dot_xml="voc.xml", JPEGImages__a_dot_png=None)
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    (lists / "trainval.txt").write_text("a\n")
    assert read_format("voc", tmp_path)[0][0].split == "val"
    (lists / "test.txt").write_text("a  1\n")
    with pytest.raises(BadInput, match="val.txt: this picture stands in test as well: a"):
        read_format("voc", tmp_path)
    (lists / "test.txt").write_text("gone\n")
    with pytest.raises(BadInput, match="neither a picture nor an annotation of this name: gone"):
        read_format("voc", tmp_path)


def test_yolo_as_roboflow_writes_it(tmp_path):
    place(tmp_path, data_dot_yaml="yolo.yaml", train__labels__a_dot_txt="yolo.txt", train__images__a_dot_png=None, valid__images__b_dot_png=None)
    (a, b), classes = read_format("yolo", tmp_path)
    assert classes == ["sun", "house", "tree"] and (a.split, b.split) == ("train", "val")
    assert a.label.boxes[:2] == (Box(24, 12, 16, 24, "house"), Box(0, 0, 8, 6, "sun"))
    assert near(Boxes(a.label.boxes[2:]), Boxes((Box(6.4, 4.8, 25.6, 24, "tree"),)), 1e-6), "a polygon is the box around it"
    assert b.label is None, "nobody has said that there is nothing"


def test_yolo_with_lists_of_pictures_and_with_plain_files(tmp_path):
    place(tmp_path / "lists", labels__x__a_dot_txt="yolo.txt", images__x__a_dot_png=None, images__x__b_dot_png=None)
    (tmp_path / "lists/data.yaml").write_text("train: train.txt\nval: [val.txt]\nnames: {0: sun, 1: house, 2: tree}\n")
    (tmp_path / "lists/train.txt").write_text("./images/x/a.png\n")
    (tmp_path / "lists/val.txt").write_text("images/x/b.png\n")
    assert [s.split for s in read_format("yolo", tmp_path / "lists")[0]] == ["train", "val"]
    place(tmp_path / "plain", a_dot_txt="yolo.txt", a_dot_png=None)
    (tmp_path / "plain/classes.txt").write_text("sun\nhouse\ntree\n")
    (a,), classes = read_format("yolo", tmp_path / "plain")
    assert len(a.label.boxes) == 3 and a.split is None and classes == ["sun", "house", "tree"]


def test_labelstudio_gives_a_sample_for_each_annotator(tmp_path):
    found, classes = read_format("labelstudio", DATA / "labelstudio.json")
    first, second, skipped, new = found
    assert first.label == Boxes((Box(8, 8, 32, 8, "house", "No. 7"),)) and classes == ["house"], "32 high, as the export declares"
    assert (first.annotator, second.annotator, second.label) == ("2", "ada@example.org", Boxes(())), "an answer without a box: none"
    assert skipped.label is None and skipped.meta["was_cancelled"] and new.label is None and new.annotator == ""
    assert first.item.id == second.item.id and new.item.url == "images/b.png"


def test_labelstudio_percent_are_of_the_file_where_it_is_at_hand(tmp_path):
    place(tmp_path, tasks_dot_json="labelstudio.json", images__b_dot_png=None)
    picture(tmp_path / "images" / "0a1b2c3d-a.png")
    found, _ = read_format("labelstudio", tmp_path)
    assert found[0].label.boxes[0] == Box(8, 12, 32, 12, "house", "No. 7") and found[0].item.height == 48


def test_labelstudio_keeps_annotators_answers_that_are_none_and_other_results(tmp_path):
    found, classes = read_format("labelstudio", DATA / "labelstudio.json")
    other = {"id": "p", "type": "polygonlabels", "from_name": "p", "to_name": "image", "value": {"points": [[1, 2]], "polygonlabels": ["house"]}}
    found = [replace(s, meta={**s.meta, "other": [other]}) if i == 0 else s for i, s in enumerate(found)]
    found = [replace(s, item=replace(s.item, width=64, height=32)) for s in found]
    again, _ = read_format("labelstudio", write_format("labelstudio", tmp_path / "out", found, classes, pictures=False))
    assert [(s.label, s.annotator, s.meta.get("was_cancelled")) for s in again] == [(s.label, s.annotator, s.meta.get("was_cancelled")) for s in found]
    assert again[0].meta["other"] == [other] and again[0].meta["lead_time"] == 3.5


def test_cvat_boxes_win_over_tags_and_keep_what_stands_beside_them(tmp_path):
    found, classes = read_format("cvat", place(tmp_path / "in", annotations_dot_xml="cvat.xml", images__a_dot_png=None))
    a, b, c = found
    assert classes == ["house", "sun"] and [s.split for s in found] == ["train", "train", "val"] and a.path
    assert a.label == Boxes((Box(1.5, 2.25, 10, 20.13, "house"),)) and a.meta["tags"] == ["sun"]
    assert b.label == Choice(("house", "sun")) and c.label == Boxes(())
    again, names = read_format("cvat", write_format("cvat", tmp_path / "out", found, classes, pictures=False))
    assert ([(s.label, s.split, s.meta) for s in again], names) == ([(s.label, s.split, s.meta) for s in found], classes)
    assert a.meta["boxes"] == [{"occluded": "1", "z_order": "2", "source": "manual", "attributes": {"colour": "red"}}]


@pytest.mark.parametrize("old, new, what", [
    ("<box ", '<box rotation="30.0" ', "no upright box"), ("<tag label=\"sun\" source=\"manual\"/>", '<polygon label="sun" points="1,2;3,4;5,6"/>', "polygon sun"),
])  # fmt: skip
def test_cvat_names_what_it_does_not_read(old, new, what, tmp_path):
    (tmp_path / "annotations.xml").write_text((DATA / "cvat.xml").read_text().replace(old, new, 1))
    with pytest.raises(BadInput, match=what):
        read_format("cvat", tmp_path)


def test_huggingface_as_its_documentation_writes_it(tmp_path):
    found, classes = read_format("huggingface", place(tmp_path, train__metadata_dot_jsonl="metadata.jsonl", train__a_dot_png=None))
    assert found[0].label == Boxes((Box(302, 109, 73, 52, "0"),)) and classes == ["0", "1"] and found[1].split == "train"


def test_a_table_of_ones_own(tmp_path):
    found, classes = read_format("csv", place(tmp_path, labels_dot_csv="labels.csv", a_dot_png=None))
    assert [(s.label, s.split, s.item.width) for s in found] == [(Choice(("sun",)), "train", 64), (None, "test", None)] and classes == ["sun"]
    (tmp_path / "labels.csv").write_text("name,label\na.png,sun\n")
    with pytest.raises(BadInput, match="line 2: this table has no column `file`: name, label"):
        read_format("csv", tmp_path)


def test_a_csv_keeps_several_annotators_line_ends_and_what_else_is_known(tmp_path):
    (s,) = samples_of("text", tmp_path / "in", 0)[:1]
    given = [replace(s, label=Text("one\r\ntwo\n"), annotator="Ada"), replace(s, label=Text(""), annotator="Bo", meta={"guide": 3, "list": [1, "x"]})]
    folder = write_format("csv", tmp_path / "out", given, CLASSES)
    found, _ = read_format("csv", folder)
    assert [(f.label, f.annotator, f.meta, f.item.id) for f in found] == [(g.label, g.annotator, g.meta, found[0].item.id) for g in given]
    assert len(list((folder / "images").iterdir())) == 1, "one picture, once"
    with open(folder / "labels.csv", newline="") as f:
        assert [r["label"] for r in csv.DictReader(f)] == ["one\r\ntwo\n", ""]


def test_a_csv_has_columns_for_what_is_known_of_an_answer(tmp_path):
    (s,) = samples_of("text", tmp_path / "in", 0)[:1]
    known = {"item": "abc", "created_at": "2026-01-01T00:00:00Z", "lead_time": 2.5, "skip": "=dark", "suggestion": {"kind": "text", "text": "x"}, "guide": 3}
    folder = write_format("csv", tmp_path / "out", [replace(s, meta=known | {"more": [1]})], CLASSES)
    with open(folder / "labels.csv", newline="") as f:
        (row,) = csv.DictReader(f)
    assert {k: row[k] for k in ("item", "created", "seconds", "skip", "guide", "meta")} == {
        "item": "abc", "created": "2026-01-01T00:00:00Z", "seconds": "2.5", "skip": "'=dark", "guide": "3", "meta": '{"more": [1]}'}  # fmt: skip
    assert read_format("csv", folder)[0][0].meta == known | {"more": [1]}
    (folder / "labels.csv").write_text("file,label,seconds\na.png,sun,two\n")
    with pytest.raises(BadInput, match="labels.csv, line 2, seconds: this is no JSON"):
        read_format("csv", folder)


@pytest.mark.parametrize("cell", ["=1+1", "'=1", "''=1", "-5", "+5", "@a", "\tb", "\r=c", "＝1", "'plain", "=", "'"])
def test_no_cell_is_a_formula_and_every_cell_comes_back(cell, tmp_path):
    (s,) = samples_of("choice", tmp_path / "in", 0)[:1]
    given = replace(s, annotator=cell, item=replace(s.item, caption=cell, author=cell), meta={"skip": cell, "item": cell})
    folder = write_format("csv", tmp_path / "out", [given], CLASSES)
    with open(folder / "labels.csv", newline="") as f:
        assert not [c for row in csv.reader(f) for c in row if c[:1] in tuple("=+-@\t\r\n＝")]
    (found,), _ = read_format("csv", folder)
    assert (found.annotator, found.item.caption, found.item.author, found.meta) == (cell, cell, cell, {"skip": cell, "item": cell})


def test_a_size_that_somebody_else_knows(tmp_path):
    place(tmp_path, data_dot_yaml="yolo.yaml", train__labels__a_dot_txt="yolo.txt")
    (tmp_path / "train/labels/b.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    known = {"a": (64, 48)}
    with pytest.raises(BadInput, match="train/labels/b.txt: its picture is not here"):
        read_format("yolo", tmp_path, sizes=lambda name: known.get(name, (None, None)))
    known["b"] = (100, 10)
    a, b = read_format("yolo", tmp_path, sizes=known.get)[0]
    assert a.label.boxes[0] == Box(24, 12, 16, 24, "house") and b.label.boxes == (Box(25, 2.5, 50, 5, "sun"),) and (b.path, b.item.width) == (None, 100)


def test_labelstudio_reads_predictions_and_the_one_that_was_shown(tmp_path):
    choice = lambda name: [{"id": "c", "type": "choices", "value": {"choices": [name]}}]
    task = {"id": 1, "data": {"image": "a.png", "item": "abc"}, "predictions": [5, {"model_version": "m1", "result": choice("dog")}, {"result": []}],
            "annotations": [{"completed_by": 1, "result": choice("cat"), "prediction": {"result": choice("dog")}, "lead_time": 0.0, "skip": "", "guide": 2}]}  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps([task]))
    (s,), classes = read_format("labelstudio", tmp_path)
    assert s.label == Choice(("cat",)) and s.meta["suggestion"] == {"kind": "choice", "names": ("dog",)} and s.meta["item"] == "abc"
    assert s.meta["predictions"] == [{"by": "m1", "label": {"kind": "choice", "names": ("dog",)}}] and (s.meta["lead_time"], s.meta["guide"]) == (0.0, 2)
    (again,), _ = read_format("labelstudio", write_format("labelstudio", tmp_path / "out", [s], ["cat", "dog"], pictures=False))
    assert {k: again.meta[k] for k in ("suggestion", "predictions", "item", "guide")} == {k: s.meta[k] for k in ("suggestion", "predictions", "item", "guide")}


def test_labelstudio_knows_people_by_number_or_address(tmp_path):
    (s,) = samples_of("choice", tmp_path / "in", 0)[:1]
    names = ["1", "ada@example.org", "Ada", "import:2", ""]
    folder = write_format("labelstudio", tmp_path / "out", [replace(s, annotator=n) for n in names], CLASSES)
    ((task,), (found, _)) = json.loads((folder / "tasks.json").read_text()), read_format("labelstudio", folder)
    assert [a.get("completed_by") for a in task["annotations"]] == [1, {"email": "ada@example.org"}, None, None, None]
    assert [f.annotator for f in found] == names and not any(a["ground_truth"] for a in task["annotations"]), "without a word Label Studio takes it for the truth"


@pytest.mark.parametrize("text", ["[abc", "{x", "[1, 2]", "[]", '["', "{}", '{"a": 1', "[[1]]"])
def test_a_transcription_that_begins_like_json_is_a_transcription(text, tmp_path):
    with open(tmp_path / "t.csv", "w", newline="") as f:
        csv.writer(f).writerows([("id", "image", "transcription", "annotator"), ("1", "/data/upload/1/a.png", text, "1")])
    (tmp_path / "t.json").write_text(json.dumps([{"id": 1, "image": "/data/upload/1/a.png", "transcription": text, "annotator": 1}]))
    for name in ("t.csv", "t.json"):
        assert read_format("labelstudio", tmp_path / name)[0][0].label == Text(text)


def test_class_folders_with_and_without_splits(tmp_path):
    for name in ("one/train/sun/a.png", "one/valid/sea/b.png", "two/train/a.png", "two/test/b.png", "three/sun/deep/a.png"):
        picture(tmp_path / name)
    assert [(s.label.names[0], s.split) for s in read_format("imagefolder", tmp_path / "one")[0]] == [("sun", "train"), ("sea", "val")]
    assert read_format("imagefolder", tmp_path / "two")[1] == ["test", "train"], "classes, since nothing lies below them"
    assert read_format("imagefolder", tmp_path / "three")[1] == ["sun"]


def test_shards_are_bounded_and_read_where_they_lie(tmp_path):
    given = samples_of("choice", tmp_path / "in", 0, ("train",))
    folder = write_format("webdataset", tmp_path / "out", given, CLASSES, shard_mb=0.01)
    shards = sorted(folder.glob("train-*.tar"))
    assert len(shards) > 1 and all(p.stat().st_size <= 20480 for p in shards)
    found, _ = read_format("webdataset", folder)
    assert all(s.path is None and s.inside[0].suffix == ".tar" for s in found)
    with tarfile.open(shards[0]) as tar:
        assert {n.rpartition(".")[2] for n in tar.getnames()} >= {"cls", "json"}


def test_shards_of_others_have_numbers_and_texts(tmp_path):
    with tarfile.open(tmp_path / "valid-0.tar", "w") as tar:
        for name, data in (("d/1.cls", b"1"), ("d/1.jpg", b"j"), ("d/2.txt", "Straße\n".encode()), ("d/2.png", b"p"), ("d/2.seg.png", b"s"), ("3.jpg", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found, classes = read_format("webdataset", tmp_path)
    assert [(s.label, s.split, s.read()) for s in found] == [(Choice(("1",)), "val", b"j"), (Text("Straße"), "val", b"p"), (None, "val", b"x")]
    (tmp_path / "classes.txt").write_text("sun\nsea\n")
    assert read_format("webdataset", tmp_path)[0][0].label == Choice(("sea",))


# ── real files ──────────────────────────────────────────────────────────────────────────────────────────────────────


@real
def test_datumaros_coco_file_comes_back_equal(tmp_path):
    (s,), classes = read_format("coco", REAL / "coco_instances_val.json")
    assert classes == ["a", "b", "c"] and s.split == "val" and (s.item.width, s.item.height) == (5, 10)
    assert s.label == Boxes((Box(0, 0, 1, 2, "a"), Box(0, 0, 1, 9, "b"))) and s.meta["boxes"][1]["iscrowd"] == 1
    out = write_format("coco", tmp_path / "out", [s], classes, pictures=False)
    before, after = json.loads((REAL / "coco_instances_val.json").read_text()), json.loads((out / "annotations/instances_val.json").read_text())
    assert after["annotations"] == before["annotations"] and after["categories"] == before["categories"] and after["images"][0]["id"] == 40


@real
def test_label_studios_two_annotators():
    found, classes = read_format("labelstudio", REAL / "labelstudio_rectangles_2annotators.json")
    assert classes == ["parasites", "white"] and [(s.item.url, s.annotator) for s in found] == [("image1", "2"), ("image1", "1"), ("image2", "1")]
    assert near(found[0].label, Boxes((Box(1040.437158, 1978.870674, 117.304189, 132.604736, "parasites"), Box(1618.1480, 1760.49, 106.64, 129.8227, "white"))), 0.01)


@real
@pytest.mark.parametrize("kind, first", [
    ("boxes", Boxes((Box(8, 12, 32, 12, "car"), Box(0, 0, 6.4, 4.8, "person")))), ("choices", Choice(("dog",))), ("ocr_line", Text('Straße №0 "q", a')),
])  # fmt: skip
def test_every_export_of_label_studio_says_the_same(kind, first, tmp_path):
    for ending in ("JSON.json", "JSON_MIN.json", "CSV.csv", "TSV.tsv"):
        found, classes = read_format("labelstudio", REAL / "ls_1.23.2" / f"{kind}.{ending}")
        assert near(found[0].label, first, 1e-6) and found[0].annotator == "1", ending
        assert len(found) == (3 if ending == "JSON.json" else 2) and all(s.label for s in found[:2]), "the unlabelled task is in the full JSON alone"
        assert classes == {"boxes": ["car", "person"], "choices": ["cat", "dog"], "ocr_line": []}[kind]
    found, classes = read_format("labelstudio", REAL / "ls_1.23.2" / f"{kind}.JSON.json")
    sized = [replace(s, item=replace(s.item, width=64, height=48)) for s in found]
    again, _ = read_format("labelstudio", write_format("labelstudio", tmp_path / "out", sized, classes, pictures=False))
    assert [(s.annotator, near(s.label, f.label, 1e-6)) for s, f in zip(again, found)] == [("1", True), ("1", True), ("", True)]


@real
@pytest.mark.parametrize("kind", ["boxes", "choices", "ocr_line"])
def test_label_studios_coco_and_yolo_exports(kind, tmp_path):
    for form in ("COCO", "YOLO"):
        with zipfile.ZipFile(REAL / "ls_1.23.2" / f"{kind}.{form}.zip") as z:
            z.extractall(tmp_path / form)
    with pytest.raises(BadInput, match=r"labels/.*its picture is not here.*Put the pictures into images/"):
        read_format("yolo", tmp_path / "YOLO")
    for lines in (tmp_path / "YOLO/labels").iterdir():
        picture(tmp_path / "YOLO/images" / f"{lines.stem}.png", (64, 64))
        picture(tmp_path / "COCO/images" / f"{lines.stem}.png", (64, 64))
    (coco, classes), (yolo, names) = read_format("coco", tmp_path / "COCO"), read_format("yolo", tmp_path / "YOLO")
    assert classes == names == {"boxes": ["car", "person"], "choices": ["cat", "dog"], "ocr_line": []}[kind]
    assert all(s.path for s in coco), "an address of its server is looked up by its base name"
    if kind != "boxes":
        assert [s.label for s in (*coco, *yolo)] == [None] * 4, "what the export dropped is not taken for an empty picture"
    else:
        assert coco[0].label == Boxes((Box(8, 12, 32, 12, "car"), Box(0, 0, 6.4, 4.8, "person")))
        assert yolo[0].label == Boxes((Box(8, 16, 32, 16, "car"), Box(0, 0, 6.4, 6.4, "person"))), "fractions of the true picture"


@real
def test_a_yolo_line_of_label_studios_tests(tmp_path):
    shutil.copy(REAL / "yolo_img_1.txt", tmp_path / "img_1.txt")
    shutil.copy(REAL / "yolo_classes.txt", tmp_path / "classes.txt")
    picture(tmp_path / "img_1.jpg", (640, 329))
    (s,), classes = read_format("yolo", tmp_path)
    assert classes == ["closed_door", "opened_door", "bus", "number"] and str(s.label) == "bus, number, closed_door, closed_door"
    assert near(Boxes(s.label.boxes[:1]), Boxes((Box(10, 9, 617, 286, "bus"),)), 0.01)
    again, _ = read_format("yolo", write_format("yolo", tmp_path / "out", [s], classes))
    assert near(again[0].label, s.label, 1e-6)


@pytest.fixture(scope="module")
def bccd(tmp_path_factory):
    if not BCCD.is_file():
        pytest.skip("the blood cells of BCCD are not here")
    folder = tmp_path_factory.mktemp("bccd")
    with tarfile.open(BCCD) as tar:
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def test_bccd_from_voc_to_coco_to_yolo_and_back_is_equal(bccd, tmp_path):
    started = time.process_time()
    cells, classes = read_format("voc", bccd)
    took = time.process_time() - started
    assert (len(cells), classes, sum(len(s.label.boxes) for s in cells)) == (364, ["Platelets", "RBC", "WBC"], 4888)
    assert [sum(s.split == x for s in cells) for x in ("train", "val", "test")] == [205, 87, 72]
    assert sorted(s.item.url[-9:-4] for s in cells if any(b.w == b.h == 1 for b in s.label.boxes)) == ["00338", "00343"]
    assert took < 3, f"{took:.1f} s"
    found = cells
    for name in ("coco", "yolo", "voc"):
        found, names = read_format(name, write_format(name, tmp_path / name, found, classes))
        said = {Path(s.item.url).name: (s.label, s.split, s.item.width, s.item.height) for s in found}
        assert said == {Path(s.item.url).name: (s.label, s.split, 640, 480) for s in cells} and names == classes
    corners = lambda p: [[o.findtext("name"), *(o.findtext(f"bndbox/{k}") for k in ("xmin", "ymin", "xmax", "ymax"))] for o in ElementTree.parse(p).iter("object")]
    home = next(bccd.glob("**/Annotations")).parent
    assert all(corners(p) == corners(tmp_path / "voc/Annotations" / p.name) for p in (home / "Annotations").iterdir())
    assert all(p.read_bytes() == (tmp_path / "voc/JPEGImages" / p.name).read_bytes() for p in (home / "JPEGImages").iterdir())
    assert all(p.read_text() == (tmp_path / "voc/ImageSets/Main" / p.name).read_text() for p in (home / "ImageSets/Main").iterdir())


def test_what_is_known_of_a_box_travels_through_coco_and_cvat(tmp_path):
    given, classes = read_format("voc", place(tmp_path / "in", Annotations__a_dot_xml="voc.xml", JPEGImages__a_dot_png=None))
    found = [replace(s, split=None) for s in given]
    for name in ("coco", "cvat", "coco", "voc"):
        found, names = read_format(name, write_format(name, tmp_path / f"{name}{len(list(tmp_path.iterdir()))}", found, classes))
    assert (found[0].label, names) == (given[0].label, classes)
    said = [{k: o[k] for k in ("pose", "truncated", "difficult")} for o in found[0].meta["boxes"]]
    assert said == given[0].meta["boxes"]


def test_ids_of_coco_survive_a_part_of_its_pictures(tmp_path):
    given, classes = read_format("coco", DATA / "coco.json")
    part = [replace(s, meta={k: v for k, v in s.meta.items() if k != "categories"}) for s in given]
    out = write_format("coco", tmp_path / "out", part, classes, pictures=False)
    data = json.loads((out / "annotations/instances_default.json").read_text())
    assert {c["name"]: c["id"] for c in data["categories"]} == {"sun": 1, "house": 2, "tree": 4}
    assert [a["id"] for a in data["annotations"]] == [11, 12]


def test_fifty_thousand_annotations_are_read_in_seconds(tmp_path):
    rng = random.Random(0)
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(10_000)]
    notes = [{"id": k, "image_id": rng.randrange(10_000), "category_id": 1, "bbox": [1.5, 2.5, 30, 40], "area": 1.0, "iscrowd": 0} for k in range(50_000)]
    (tmp_path / "instances_train.json").write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": notes}))
    started = time.process_time()
    found, _ = read_format("coco", tmp_path)
    assert sum(len(s.label.boxes) for s in found) == 50_000 and time.process_time() - started < 6


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────

CLIMBING = ["../../x.png", "/etc/passwd", "a/../../x.png", "..", "C:\\x.png", "..\\x.png", "\\\\server\\x.png", "a\0b.png", "", None, 7, ["x"]]


@pytest.mark.parametrize("name", CLIMBING, ids=repr)
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    picture(tmp_path / "x.png")
    inside = tmp_path / "in"
    inside.mkdir()
    data = {"images": [{"id": 1, "file_name": name, "width": 9, "height": 9}], "categories": [], "annotations": []}
    (inside / "coco.json").write_text(json.dumps(data))
    (inside / "metadata.jsonl").write_text(json.dumps({"file_name": name}))
    for form in ("coco", "huggingface"):
        with pytest.raises(BadInput, match="no name of a picture below the folder"):
            read_format(form, inside, [])
    if isinstance(name, str) and name and "\0" not in name:
        (inside / "t.csv").write_text(f"file,label\n{name},sun\n")
        (inside / "a.xml").write_text(f"<annotation><filename>{name}</filename></annotation>")
        (inside / "c.xml").write_text(f'<annotations><image id="0" name="{name}" width="9" height="9"/></annotations>')
        (inside / "ls.json").write_text(json.dumps([{"id": 1, "data": {"image": f"/data/local-files/?d={name}"}, "annotations": []}]))
        for form, file in (("csv", "t.csv"), ("voc", "a.xml"), ("cvat", "c.xml"), ("labelstudio", "ls.json")):
            with pytest.raises(BadInput) as e:
                read_format(form, inside / file, [])
            assert name in str(e.value) and file in str(e.value)


@pytest.mark.parametrize("name", FORMATS)
def test_no_link_leads_out_of_the_folder(name, tmp_path):
    secret = picture(tmp_path / "secret" / "a.png")
    folder = write_format(name, tmp_path / "out", samples_of(FORMATS[name].holds[0] if name == "imagefolder" else "boxes", tmp_path / "in", 1), CLASSES)
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "link.png").symlink_to(secret)
    with pytest.raises(BadInput, match="A link leads out of the folder: images/link.png"):
        read_format(name, folder)
    (folder / "images" / "link.png").unlink()
    (folder / "down").symlink_to(secret.parent)
    with pytest.raises(BadInput, match="A link leads out of the folder: down"):
        read_format(name, folder)


@pytest.mark.parametrize("kind", ["climbs", "absolute", "symlink", "hardlink", "device", "short", "no tar"])
def test_a_shard_with_anything_but_files_is_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        info = tarfile.TarInfo({"climbs": "../../x.png", "absolute": "/etc/x.png"}.get(kind, "x.png"))
        info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)
        info.linkname, info.size = "../../../etc/passwd" if "link" in kind else "", 5000 if kind == "short" else 0
        tar.addfile(info, io.BytesIO(b"x" * 5000) if kind == "short" else None)
    if kind == "short":
        os.truncate(tmp_path / "train-0.tar", 900)
    if kind == "no tar":
        (tmp_path / "train-0.tar").write_bytes(b"GIF89a" * 999)
    if kind == "absolute":  # the filter makes it relative; it is read where it lies in any case
        assert read_format("webdataset", tmp_path)[0][0].item.url.endswith("x.png")
        return
    with pytest.raises(FsmlError, match="train-0.tar"):
        [s.read() for s in read_format("webdataset", tmp_path)[0]]


@pytest.mark.parametrize("text", [
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>',
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>',
    '<!DOCTYPE annotation SYSTEM "http://example.org/x.dtd"><annotation/>', "<annotation>", "", "<a>" * 50_000, "<annotation>\0</annotation>",
], ids=["file", "bomb", "dtd", "open", "empty", "deep", "null"])  # fmt: skip
def test_xml_brings_neither_entities_nor_nonsense(text, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    for name in ("voc", "cvat", "labelstudio"):
        with pytest.raises(BadInput, match="a.xml"):
            read_format(name, tmp_path)


@pytest.mark.parametrize("text", ["", "[", "[" * 200_000, "{}", "[1]", "nul", '{"images": 5}', '{"images": [5]}', '{"images": [{"id": [1], "file_name": "a.png"}]}', "1" * 5000])
def test_json_that_is_not_what_it_should_be(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    (tmp_path / "metadata.jsonl").write_text(text)
    for name in ("coco", "labelstudio", "huggingface"):
        try:
            assert read_format(name, tmp_path)[0] == [] and name == "labelstudio" and text == ""
        except BadInput as e:
            assert len(str(e)) < 700


@pytest.mark.parametrize("text", [
    "names: [a", "names: 5", "5", "names: {1: a}", "!!python/object/apply:os.system ['true']", "a: &a [x, x]\nnames: [*a, *a]", "names: [a]\ntrain: /../../etc", "names: [a]\ntrain: images/../../..",
    "names: [2020-13-45]", "? [a]\n: b", "names: [[" + "[" * 2000,
])  # fmt: skip
def test_yaml_that_is_not_what_it_should_be(text, tmp_path):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(BadInput, match="data.yaml"):
        read_format("yolo", tmp_path)


@pytest.mark.parametrize("name, file", [("coco", "a.json"), ("voc", "a.xml"), ("csv", "a.csv"), ("huggingface", "metadata.jsonl"), ("yolo", "data.yaml")])
def test_files_of_labels_have_a_limit_and_are_text(name, file, tmp_path, monkeypatch):
    (tmp_path / file).write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(BadInput, match=f"no UTF-8 text: {file}"):
        read_format(name, tmp_path)
    monkeypatch.setattr(formats, "_LIMIT", {Path(file).suffix: 100})
    with pytest.raises(TooLarge, match=file):
        read_format(name, tmp_path)


BAD = [[-5, 0, 10, 10], [60, 0, 10, 10], [0, 0, 0, 10], [0, 0, 10, -1], [1, 2, 3], None, "1234", ["a", 1, 2, 3], [float("nan"), 0, 1, 1], [0, 0, float("inf"), 1], [10**400, 1, 1, 1], [0, 100, 5, 5]]


@pytest.mark.parametrize("bbox", BAD, ids=str)
def test_a_box_outside_its_picture_is_named_or_left_out(bbox, tmp_path):
    data = json.loads((DATA / "coco.json").read_text())
    data["annotations"][1]["bbox"] = bbox
    (tmp_path / "coco.json").write_text(json.dumps(data))
    with pytest.raises(BadInput, match="coco.json: annotation 12: this is no box"):
        read_format("coco", tmp_path)
    problems = []
    found, _ = read_format("coco", tmp_path, problems)
    assert len(problems) == 1 and [len(s.label.boxes) for s in found] == [1, 0] and len(found[0].meta["boxes"]) == 1


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "0 a b c d", "9 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1", "0 1.5 0.5 0.1 0.1", "0 nan 0.5 0.1 0.1", "1e999 0.5 0.5 0.1 0.1", "0 0.5 0.5 0 0"])
def test_a_line_of_yolo_is_named(line, tmp_path):
    place(tmp_path, data_dot_yaml="yolo.yaml", train__images__a_dot_png=None)
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    with pytest.raises(BadInput, match="train/labels/a.txt, line 3"):
        read_format("yolo", tmp_path)


def test_entries_that_point_nowhere_are_named(tmp_path):
    data = json.loads((DATA / "coco.json").read_text())
    data["annotations"].append({"id": 13, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]})
    data["annotations"].append({"id": 14, "image_id": 40, "category_id": 3, "bbox": [0, 0, 1, 1]})
    data["annotations"].append({"id": 15, "bbox": [0, 0, 1, 1]})
    data["images"].append({"id": 7, "file_name": "c.png"})
    (tmp_path / "coco.json").write_text(json.dumps(data))
    problems = []
    read_format("coco", tmp_path, problems)
    assert len(problems) == 4 and all(any(word in p for p in problems) for word in ("annotation 13", "annotation 14", "entry 5 of annotations", "image 7"))


@pytest.mark.parametrize("change", [
    {"data": {}}, {"data": None}, {"annotations": [{}]}, {"annotations": 5}, {"annotations": [{"result": [{}]}]},
    {"annotations": [{"result": [{"type": "choices", "value": {}}]}]}, {"data": {"image": "http://[x/a.png"}},
    {"annotations": [{"result": [{"id": "r", "type": "rectanglelabels", "original_width": "x", "original_height": 5, "value": {"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": ["a"]}}]}]},
    {"annotations": [{"result": [{"id": "r", "type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 1, "height": 1, "rectanglelabels": ["a"]}}]}]},
    {"annotations": [{"result": [{"id": "r", "type": "rectanglelabels", "original_width": 9, "original_height": 9, "value": {"x": 99, "y": 1, "width": 90, "height": 1, "rectanglelabels": ["a"]}}]}]},
    {"annotations": [{"result": [{"id": "r", "type": "rectanglelabels", "original_width": 9, "original_height": 9, "value": {"x": 1, "y": 1, "width": 9, "height": 1, "rotation": 5, "rectanglelabels": ["a"]}}]}]},
])  # fmt: skip
def test_a_broken_task_of_label_studio_is_named(change, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps([{"id": 77, "data": {"image": "a.png"}, "annotations": []} | change]))
    with pytest.raises(BadInput, match="t.json: task 77"):
        read_format("labelstudio", tmp_path)


def test_a_label_inside_a_table_is_checked_as_any_other(tmp_path):
    for value in ({"kind": "boxes", "boxes": [{"x": 0, "y": 0, "w": 99, "h": 9, "name": "a"}]}, {"kind": "boxes", "boxes": [{"x": "0", "y": None, "w": 9, "h": 9, "name": "a"}]},
                  {"kind": "boxes", "boxes": [5]}, {"kind": "mask"}, {"kind": ["x"]}, [1], {"kind": "text", "text": 5}):  # fmt: skip
        with open(tmp_path / "t.csv", "w", newline="") as f:
            csv.writer(f).writerows([("file", "json", "width", "height", "meta"), ("a.png", json.dumps(value), "64", "48", "[]")])
        with pytest.raises(BadInput, match="t.csv, line 2"):
            read_format("csv", tmp_path)


def test_a_picture_that_cannot_be_opened_has_no_size(tmp_path):
    place(tmp_path, data_dot_yaml="yolo.yaml", train__labels__a_dot_txt="yolo.txt")
    (tmp_path / "train/images").mkdir()
    (tmp_path / "train/images/a.png").write_bytes(b"\x89PNG and then nothing")
    with pytest.raises(BadInput, match="train/labels/a.txt, line 1.*picture that can be opened"):
        read_format("yolo", tmp_path)
    (tmp_path / "train/labels/a.txt").unlink()
    assert read_format("yolo", tmp_path)[0][0].item.width is None, "whoever imports will look at it"


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_or_none_is_said_to_be_so(name, tmp_path):
    with pytest.raises(NotFound):
        read_format(name, tmp_path / "nothing")
    try:
        assert read_format(name, tmp_path) == ([], []), "no file, no sample"
    except BadInput as e:
        assert tmp_path.name in str(e)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    given = samples_of("boxes", tmp_path / "in", 1)
    given[-1].path.unlink()
    for name in ("coco", "csv", "webdataset", "huggingface", "yolo", "voc", "cvat", "labelstudio"):
        with pytest.raises(NotFound, match="not at hand"):
            write_format(name, tmp_path / "out", given, CLASSES)
    picture(given[-1].path, colour="red")
    with pytest.raises(Damaged, match="not the one that was labelled"):
        write_format("coco", tmp_path / "out", given, CLASSES)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats.FolderWriter, "text", full)
    with pytest.raises(Unavailable, match="No space left"):
        write_format("coco", tmp_path / "out", given[:-1], CLASSES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom fullstack_ml import formats\nfrom fullstack_ml.records import *\n"
        "put = formats.FolderWriter.put\ndef slow(self, sample, *below):\n    print('put', flush=True)\n    time.sleep(0.2)\n    return put(self, sample, *below)\n"
        "formats.FolderWriter.put = slow\np = Path(sys.argv[1])\n"
        "formats.write_format('csv', p / 'out', [formats.Sample(Item(url=f'{i}.png'), Choice(('a',)), None, p / 'a.png') for i in range(99)], ['a'])"
    )
    picture(tmp_path / "a.png")
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert [child.stdout.readline() for _ in range(3)] == ["put\n"] * 3
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert not (tmp_path / "out").exists()


def test_an_unwritable_place_is_said_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="could not be written"):
        write_format("csv", tmp_path / "file" / "below" / "out", samples_of("choice", tmp_path / "in", 1), CLASSES)


@pytest.mark.parametrize("name", FORMATS)
def test_an_opt_out_travels_or_is_refused(name, tmp_path):
    given = samples_of("boxes" if "boxes" in FORMATS[name].holds else "choice", tmp_path / "in", 1, ("train",))
    given[0] = replace(given[0], item=replace(given[0].item, opt_out="noai"))
    if "opt-out" in FORMATS[name].loses:
        with pytest.raises(Refused, match="opted out"):
            write_format(name, tmp_path / "out", given, CLASSES)
    else:
        back, _ = read_format(name, write_format(name, tmp_path / "out", given, CLASSES))
        assert sorted(s.item.opt_out for s in back) == [""] * (len(given) - 1) + ["noai"]


def test_what_is_there_is_not_written_over(tmp_path):
    given = samples_of("choice", tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    folder = write_format("csv", tmp_path / "empty", given, CLASSES)
    with pytest.raises(Refused, match="empty"):
        write_format("csv", folder, given, CLASSES)
    with pytest.raises(Refused):
        write_format("csv", given[0].path, given, CLASSES)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_bytes_come_from_the_blob_store_where_no_path_leads(tmp_path):
    store = BlobStore(tmp_path / "blobs")
    (s, *_) = samples_of("boxes", tmp_path / "in", 1)
    data = s.path.read_bytes()
    bare = replace(s, path=None, item=replace(s.item, sha256=store.put(data), width=None, height=None))
    found, _ = read_format("coco", write_format("coco", tmp_path / "out", [bare], CLASSES, store))
    assert found[0].read() == data and found[0].label == s.label
    labels = write_format("coco", tmp_path / "labels", [s], CLASSES, pictures=False)
    assert not list(labels.rglob("*.png")) + list(labels.rglob("*.jpg"))


@pytest.mark.parametrize("name", FORMATS)
def test_names_of_files_are_safe_and_their_own(name, tmp_path):
    urls = ["../../etc/passwd", "a/x.png", "b/X.PNG", "https://h.example/%2e%2e%2fy.jpg?w=3", ".hidden.png", "", "c" * 300 + ".png", "ünï côdé.png", "x.jpg", "con\\trol\x01.png", "a.b.c.png"]
    path = picture(tmp_path / "p.png")
    holds = Boxes(()) if name in ("coco", "yolo", "voc") else Choice(("zebra",))
    given = [Sample(Item(url=u, source=str(i), mime="image/png", width=64, height=48), holds, "train", path) for i, u in enumerate(urls)]
    folder = write_format(name, tmp_path / "out", given, CLASSES)
    found, _ = read_format(name, folder)
    assert len(found) == len(urls) and all(s.label == holds for s in found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "p.png"], "nothing beside the folder"
    names = [p.name for p in folder.rglob("*.png")] or [Path(s.item.url).name for s in found]
    assert len({n.casefold() for n in names}) == len(urls) and all(len(n.encode()) < 200 and n[0] != "." for n in names)
    assert any(n.startswith("ünï_côdé") for n in names) and "a_b_c.png" in names


def test_classes_are_checked(tmp_path):
    given = samples_of("choice", tmp_path / "in", 1)
    for classes, what in ((CLASSES[1:], "not in the list: zebra"), ([*CLASSES, "zebra"], "zebra"), ([*CLASSES, "two\nlines"], "A class is a word"), ([*CLASSES, " "], "A class is")):
        with pytest.raises(BadInput, match=what):
            write_format("csv", tmp_path / "out", given, classes)
    with pytest.raises(BadInput, match="name of a folder: a/b"):
        write_format("imagefolder", tmp_path / "out", given, [*CLASSES, "a/b"])
    with pytest.raises(BadInput, match="There is no such split: holdout"):
        write_format("csv", tmp_path / "out", [replace(given[0], split="holdout")], CLASSES)


def test_two_answers_for_one_picture_need_a_format_that_holds_them(tmp_path):
    (s, *_) = samples_of("boxes", tmp_path / "in", 1)
    for name, form in FORMATS.items():
        if "boxes" in form.holds and not form.several:
            with pytest.raises(BadInput, match="one label a picture.*csv, labelstudio"):
                write_format(name, tmp_path / "out", [s, replace(s, annotator="Bo")], CLASSES)


def test_xml_refuses_a_character_that_it_cannot_hold(tmp_path):
    (s, *_) = samples_of("boxes", tmp_path / "in", 1)
    with pytest.raises(BadInput, match="XML cannot hold"):
        write_format("cvat", tmp_path / "out", [replace(s, label=Boxes((Box(0, 0, 9, 9, "zebra", "bell \x07"),)))], CLASSES)


def test_a_name_that_is_no_format_names_those_that_are(tmp_path):
    for call in (lambda: read_format("tfrecord", tmp_path), lambda: write_format("tfrecord", tmp_path / "x", [], [])):
        with pytest.raises(BadConfig, match="imagefolder, csv"):
            call()


def test_reading_copies_and_changes_nothing(tmp_path):
    given = samples_of("boxes", tmp_path / "in", 1)
    folder = write_format("yolo", tmp_path / "out", given, CLASSES)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    read_format("yolo", folder)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert FolderReader(folder).find("images/../images/train/p0.png".replace("images/../", ""), "x") is None
