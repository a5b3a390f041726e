"""What is done with versions: imports and checkouts that lose nothing, pages, proofs that name the item, and sweeping that spares what is needed."""
import io
import json
import os
import tarfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fullstack_ml import cli
from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, Damaged, NotFound, Refused, Unavailable, compose_cfg, sha256
from fullstack_ml.dataset import Dataset, find_version, open_dataset, read_tags, set_tag, write_version
from fullstack_ml.formats import FORMATS, Sample, write_format
from fullstack_ml.records import Annotation, Box, Boxes, Choice, Item, draft, list_artifacts, open_database, write_items
from fullstack_ml.versions import checkout, delete_version, diff_page, gc, import_version, log, verify_version

BCCD = next((p for p in (Path(__file__).resolve().parents[2] / "shared/data/bccd/bccd.tar",) if p.is_file()), None)


@pytest.fixture(autouse=True)
def here(home, monkeypatch):
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def config(tmp_path, *overrides):
    return compose_cfg("dataset", ["name=bars", "licences=[MIT]", *overrides], out=str(tmp_path / "artifacts"))


@pytest.fixture
def cfg(tmp_path):
    return config(tmp_path)


def picture(k):
    rng = np.random.default_rng(k)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize((48, 40)).save(out, "PNG")
    return out.getvalue()


def samples(tmp_path, n=30, boxes=False, split=True):
    made = []
    for k in range(n):
        path = tmp_path / "raw" / f"{k:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture(k))
        label = Boxes((Box(1, 2, 10 + k % 5, 12, "cell"), *([Box(20, 5, 8, 9, "plate")] if k % 2 else []))) if boxes else Choice((("even", "odd")[k % 2],))
        made.append(Sample(Item(url=path.name, width=48, height=40, mime="image/png"), label, ("train", "val", "test")[k % 3] if split else None, path))
    return made, ["cell", "plate"] if boxes else ["even", "odd"]


def rows(manifest, columns=("sha256", "label", "split")):
    return sorted(zip(*(open_dataset(manifest).arrow[c].to_pylist() for c in columns)))


# ---------------------------------------------------------------- in and out


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_what_goes_out_comes_back_the_same(tmp_path, format):
    kinds = FORMATS[format].holds
    if "choice" not in kinds and "boxes" not in kinds:
        pytest.skip(f"{format} holds neither classes nor boxes")
    made, classes = samples(tmp_path, boxes="boxes" in kinds)
    cfg = config(tmp_path)
    v1 = import_version(cfg, write_format("csv", tmp_path / "first", made, classes), "csv", licence="MIT")
    assert v1.metrics["items"] == 30 and [v1.metrics[s] for s in ("train", "val", "test")] == [10, 10, 10]
    out = checkout(cfg, v1, tmp_path / "out", format)
    back = import_version(config(tmp_path, "name=back"), out, format, licence="MIT")
    if format in ("imagefolder", "yolo", "voc", "coco", "webdataset", "huggingface", "csv"):
        assert rows(back) == rows(v1) and open_dataset(back).classes == open_dataset(v1).classes
    else:  # a tool for annotation knows no splits, so they are drawn
        assert rows(back, ("sha256", "label")) == rows(v1, ("sha256", "label"))


def test_an_import_leaves_items_answers_and_a_version(tmp_path, cfg):
    made, classes = samples(tmp_path)
    folder = write_format("imagefolder", tmp_path / "in", made, classes)
    v1 = import_version(cfg, folder, "imagefolder", licence="MIT")
    db = open_database(cfg.storage.url)
    data = open_dataset(v1)
    assert {i.id for i in db.get(Item)} == {i.id for i in data.items()} and all(i.licence == "MIT" and i.state == "kept" and i.phash for i in data.items())
    assert Counter(a.annotator for a in db.get(Annotation)) == {"import:imagefolder": 30}
    assert v1.parents == {} and v1.metrics["imported"] == {"format": "imagefolder", "folder": "in"} and verify_version(cfg, v1) == []
    assert "imported from imagefolder; MIT by import" in data.arrow["why"][0].as_py()
    again = import_version(cfg, folder, "imagefolder", licence="MIT")
    assert again == v1 and len(db.get(Item)) == len(db.get(Annotation)) == 30 and list(read_tags(cfg)["bars"]) == ["0.0.1"]


@pytest.mark.parametrize("spoil, error", [
    (lambda f: (f / "train/odd/03.png").write_bytes(b"no picture"), BadInput),
    (lambda f: (f / "loose.png").write_bytes(picture(1)), BadInput),
    (lambda f: [p.unlink() for p in f.rglob("*.png")], BadInput),
], ids=["a broken picture", "a picture without a class", "an empty folder"])  # fmt: skip
def test_an_import_is_all_or_nothing(tmp_path, cfg, spoil, error):
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))
    spoil(folder)
    with pytest.raises(error):
        import_version(cfg, folder, "imagefolder", licence="MIT")
    assert not list_artifacts(cfg, "dataset") and not open_database(cfg.storage.url).get(Item) and not read_tags(cfg)


def test_a_database_that_fails_leaves_no_version(tmp_path, cfg):
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))
    broken = compose_cfg("dataset", ["name=bars", "licences=[MIT]", f"storage.url=sqlite:///{tmp_path}/none/x.db"], out=str(tmp_path / "artifacts"))
    (tmp_path / "none").write_text("a file where a folder should be")
    with pytest.raises(Exception):
        import_version(broken, folder, "imagefolder", licence="MIT")
    assert not list_artifacts(cfg, "dataset") and not read_tags(cfg)


def test_a_licence_that_is_not_allowed_keeps_everything_out(tmp_path, cfg):
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))
    for licence in ("", "CC-BY-NC-4.0"):
        with pytest.raises(Refused, match="30 of 30 items have a licence"):
            import_version(cfg, folder, "imagefolder", licence=licence)
    assert not list(BlobStore(cfg.storage.blobs)) and not list_artifacts(cfg, "dataset")


def test_what_has_no_split_is_drawn_beside_what_has(tmp_path, cfg):
    made, classes = samples(tmp_path, 60)
    made = [replace(s, split="test" if k < 10 else None) for k, s in enumerate(made)]
    v1 = import_version(cfg, write_format("csv", tmp_path / "in", made, classes), "csv", licence="MIT")
    split = {Path(u).stem: s for u, s in rows(v1, ("url", "split"))}
    assert all(split[f"{k:02d}"] == "test" for k in range(10)) and set(split.values()) == {"train", "val", "test"}


def test_near_duplicates_across_the_splits_of_a_folder_are_told(tmp_path, cfg, capsys):
    made, classes = samples(tmp_path)
    made[1].path.write_bytes(made[0].path.read_bytes())
    v1 = import_version(cfg, write_format("csv", tmp_path / "in", made, classes), "csv", licence="MIT")
    assert v1.metrics["torn_groups"] == 1 and "1 groups of near-duplicates lie across" in capsys.readouterr().out


def test_a_checkout_of_a_part(tmp_path, cfg):
    v1 = import_version(cfg, write_format("imagefolder", tmp_path / "in", *samples(tmp_path)), "imagefolder", licence="MIT")
    out = checkout(cfg, v1, tmp_path / "out", "imagefolder", where="split = 'val'")
    assert len(list(out.rglob("*.png"))) == 10 and {p.name for p in out.iterdir()} == {"val"}
    with pytest.raises(Refused):
        checkout(cfg, v1, tmp_path / "out", "imagefolder")
    BlobStore(cfg.storage.blobs).delete(open_dataset(v1)[0].item.sha256)
    with pytest.raises(NotFound):
        checkout(cfg, v1, tmp_path / "more", "imagefolder")
    assert not (tmp_path / "more").exists()


@pytest.mark.skipif(not BCCD, reason="the shared data are not beside the checkout")
def test_bccd_goes_to_coco_and_yolo_and_back_and_is_equal(tmp_path):
    """364 pictures with boxes of blood cells, from VOC with the official splits."""
    with tarfile.open(BCCD) as tar:
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    cfg = config(tmp_path, "name=bccd")
    v1 = import_version(cfg, tmp_path / "BCCD", "voc", licence="MIT")
    lists = {s: (tmp_path / f"BCCD/ImageSets/Main/{s}.txt").read_text().split() for s in ("train", "val", "test")}
    data = open_dataset(v1)
    assert v1.metrics["items"] == sum(map(len, lists.values())) == 364 and set(data.classes) == {"RBC", "WBC", "Platelets"}
    assert all({Path(i.url).stem for i in data.items(s)} == set(names) for s, names in lists.items()), "the official splits"
    n_boxes = sum(len(label.boxes) for label in data.labels())
    assert n_boxes > 4000
    assert verify_version(cfg, v1) == []

    def boxes(manifest):
        found = open_dataset(manifest)
        return {
            i.sha256: (split, sorted((b.name, *(round(float(v), 6) for v in (b.x, b.y, b.w, b.h))) for b in label.boxes))
            for i, label, split in zip(found.items(), found.labels(), found.arrow["split"].to_pylist())
        }

    for format in ("coco", "yolo"):
        out = checkout(cfg, v1, tmp_path / format, format)
        back = import_version(config(tmp_path, f"name=from_{format}"), out, format, licence="MIT")
        assert boxes(back) == boxes(v1), format
        assert set(open_dataset(back).classes) == set(data.classes)


# ---------------------------------------------------------------- log, page


def two(tmp_path, cfg):
    made, classes = samples(tmp_path)
    v1 = import_version(cfg, write_format("csv", tmp_path / "one", made, classes), "csv", licence="MIT")
    made[0], made[1] = replace(made[0], label=Choice(("odd",))), replace(made[1], split="test")
    v2 = import_version(config(tmp_path, "why='two corrections'"), write_format("csv", tmp_path / "two", made[:-1], classes), "csv", licence="MIT")
    return v1, v2


# ---------------------------------------------------------------- imported again


def folder_of(tmp_path, name, made, classes=("even", "odd")):
    return write_format("csv", tmp_path / name, made, list(classes))


def test_a_licence_of_coco_is_the_items_own(tmp_path):
    made, classes = samples(tmp_path, boxes=True)
    made = [replace(s, item=replace(s.item, licence="CC-BY-NC-4.0" if k == 3 else "MIT")) for k, s in enumerate(made)]
    with pytest.raises(Refused, match="1 of 30 items have a licence"):
        import_version(config(tmp_path), write_format("coco", tmp_path / "a", made, classes), "coco", licence="MIT")
    made[3] = replace(made[3], item=replace(made[3].item, licence="MIT"))
    v1 = import_version(config(tmp_path), write_format("coco", tmp_path / "b", made, classes), "coco", licence="CC0-1.0")
    back = import_version(config(tmp_path, "name=back"), checkout(config(tmp_path), v1, tmp_path / "out", "coco"), "coco")
    assert {(i.licence, i.licence_from) for i in open_dataset(back).items()} == {("MIT", "COCO licenses")}


def test_a_grown_folder_keeps_splits_and_the_folders_own_split_wins(tmp_path, cfg):
    made, _ = samples(tmp_path, 60, split=False)
    v1 = import_version(cfg, folder_of(tmp_path, "one", made[:40]), "csv", licence="MIT")
    old = dict(rows(v1, ("sha256", "split")))
    moved = next(s for s in made if old.get(sha256(s.path)) == "train")
    grown = [replace(s, split="test") if s is moved else s for s in made]
    v2 = import_version(config(tmp_path, *[f"split.{k}={v}" for k, v in (("train", 0.2), ("val", 0.2), ("test", 0.6))]), folder_of(tmp_path, "two", grown), "csv", licence="MIT")
    new = dict(rows(v2, ("sha256", "split")))
    assert len(new) == 60 and {h for h in old if new[h] != old[h]} == {sha256(moved.path)} and new[sha256(moved.path)] == "test"


def test_a_checkout_imported_again_keeps_ids_and_addresses(tmp_path, cfg):
    made, _ = samples(tmp_path)
    v1 = import_version(cfg, folder_of(tmp_path, "one", made), "csv", licence="MIT")
    back = import_version(cfg, checkout(cfg, v1, tmp_path / "out", "imagefolder"), "imagefolder", licence="MIT")
    assert back.id != v1.id and rows(back, ("id", "url", "sha256", "source", "split")) == rows(v1, ("id", "url", "sha256", "source", "split"))
    assert back.metrics["changed"] == {}


def test_what_checkers_said_outlives_an_import(tmp_path, cfg):
    made, classes = samples(tmp_path)
    table = open_dataset(import_version(cfg, folder_of(tmp_path, "one", made), "csv", licence="MIT")).arrow.drop_columns(["seal"])
    truth = pa.array([label if s == "test" else None for label, s in zip(table["label"].to_pylist(), table["split"].to_pylist())], pa.string())
    v2 = write_version(cfg, {}, table.set_column(table.column_names.index("truth"), "truth", truth), classes)
    back = import_version(cfg, checkout(cfg, v2, tmp_path / "out", "imagefolder"), "imagefolder", licence="MIT")
    assert back.metrics["checked"] == 10 and rows(back, ("sha256", "truth")) == rows(v2, ("sha256", "truth"))


def test_another_licence_author_or_page_is_another_version(tmp_path, cfg):
    made, _ = samples(tmp_path)
    v1 = import_version(cfg, folder_of(tmp_path, "one", made), "csv", licence="MIT")
    for k, change in enumerate(({"author": "Ada"}, {"page_url": "https://example.org/x"})):
        made[4] = replace(made[4], item=replace(made[4].item, **change))
        v2 = import_version(cfg, folder_of(tmp_path, f"two{k}", made), "csv", licence="MIT")
        assert v2.id != v1.id and v2.metrics["fingerprint"] == v1.metrics["fingerprint"]


def test_an_untagged_or_damaged_version_is_not_what_holds_this_already(tmp_path, cfg):
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))
    v1 = import_version(cfg, folder, "imagefolder", licence="MIT")
    (v1.dir.parent / "tags.json").write_text("{}")
    assert import_version(cfg, folder, "imagefolder", licence="MIT") == v1 and read_tags(cfg)["bars"]["0.0.1"]["id"] == v1.id
    v1.path("classes.json").write_text("[]")
    again = import_version(cfg, folder, "imagefolder", licence="MIT")
    assert again.id != v1.id and again.verify()


def test_a_withdrawn_picture_is_not_imported_again(tmp_path, cfg):
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))
    item = open_dataset(import_version(cfg, folder, "imagefolder", licence="MIT")).items()[3]
    open_database(cfg.storage.url).update(Item, item.id, state="withdrawn")
    store = BlobStore(cfg.storage.blobs)
    store.delete(item.sha256)
    for name in ("bars", "other"):
        with pytest.raises(Refused, match="withdrawn"):
            import_version(config(tmp_path, f"name={name}"), folder, "imagefolder", licence="MIT")
    assert item.sha256 not in store and len(list_artifacts(cfg, "dataset")) == 1


@pytest.mark.parametrize("words", [["name=a b"], ["name=a/b"], ["version=-x"], ["version=0.0.1"]], ids=str)
def test_a_bad_name_or_a_taken_number_leaves_nothing(tmp_path, cfg, words):
    import_version(cfg, folder_of(tmp_path, "one", samples(tmp_path, 20)[0]), "csv", licence="MIT")
    blobs = set(BlobStore(cfg.storage.blobs))
    with pytest.raises(BadConfig):
        import_version(config(tmp_path, *(f"'{w}'" if " " in w or "/" in w else w for w in words)), folder_of(tmp_path, "two", samples(tmp_path, 30)[0]), "csv", licence="MIT")
    assert len(list_artifacts(cfg, "dataset")) == 1 and set(BlobStore(cfg.storage.blobs)) == blobs


def test_a_deleted_number_is_given_to_nothing_else(tmp_path, cfg):
    v1, v2 = two(tmp_path, cfg)
    delete_version(cfg, v2)
    v3 = import_version(cfg, folder_of(tmp_path, "three", samples(tmp_path, 25)[0]), "csv", licence="MIT")
    assert v3.metrics["version"] == "0.0.3" and sorted(read_tags(cfg)["bars"]) == ["0.0.1", "0.0.3"]


def test_the_log_says_what_each_version_changed_and_why(tmp_path, cfg):
    v1, v2 = two(tmp_path, cfg)
    set_tag(cfg, v1, "bars", "paper")
    found = log(cfg, "bars")
    assert list(found["id"]) == [v1.id, v2.id] and list(found["items"]) == [30, 29] and list(found["tag"]) == ["0.0.1, paper", "0.0.2"]
    assert list(found["changed"]) == ["first", "1 moved, 1 relabelled, 1 removed"] and list(found["why"]) == ["", "two corrections"]
    assert found["fingerprint"][0] == v1.metrics["fingerprint"][:12] and len(log(cfg)) == 2
    with pytest.raises(NotFound, match="There are: bars"):
        log(cfg, "nosuch")


def test_a_page_of_what_changed_shows_pictures_and_runs_nothing(tmp_path, cfg):
    v1, v2 = two(tmp_path, cfg)
    store = BlobStore(cfg.storage.blobs)
    page = diff_page(v1, v2, store)
    assert page.count("data:image/webp;base64,") == 3 and "even → odd" in page and "val → test" in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    gone = next(i for i in open_dataset(v1).items() if i.id not in {x.id for x in open_dataset(v2).items()})
    store.delete(gone.sha256)
    assert "The blob store has no such bytes" in diff_page(v1, v2, store)
    assert "Nothing changed" in diff_page(v1, v1, store)


def test_names_of_strangers_become_no_markup(tmp_path, cfg):
    made, classes = samples(tmp_path)
    bad = "<script>alert(1)</script>"
    v1 = import_version(cfg, write_format("csv", tmp_path / "one", made, classes), "csv", licence="MIT")
    made[0] = replace(made[0], label=Choice((bad,)))
    v2 = import_version(cfg, write_format("csv", tmp_path / "two", made, [*classes, bad]), "csv", licence="MIT")
    page = diff_page(v1, v2, BlobStore(cfg.storage.blobs))
    assert bad not in page and "&lt;script&gt;" in page


# ---------------------------------------------------------------- proofs


@pytest.fixture
def version(tmp_path, cfg):
    return import_version(cfg, write_format("csv", tmp_path / "one", *samples(tmp_path)), "csv", licence="MIT")


def rewrite(manifest, change):
    path = manifest.path("items.parquet")
    table = change(pq.read_table(path))
    pq.write_table(table, path)
    return table


def set_value(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))


@pytest.mark.parametrize("column, value", [("label", json.dumps({"kind": "choice", "names": ["odd?"]})), ("split", "other"), ("licence", "CC0-1.0"), ("sha256", "0" * 64),
                                           ("agreement", 0.25), ("why", ""), ("author", "me"), ("truth", "x"), ("width", 49), ("meta", "{}")])  # fmt: skip
def test_a_row_edited_by_hand_is_named(cfg, version, column, value):
    table = rewrite(version, lambda t: set_value(t, column, 7, value))
    found = verify_version(cfg, version)
    assert table["id"][7].as_py() in {f.item for f in found} and {f.item for f in found} <= {"", table["id"][7].as_py()}
    assert any("items.parquet was changed" in f.what for f in found)
    assert any("fingerprint" in f.what for f in found) == (column in ("label", "split", "sha256", "truth"))


@pytest.mark.parametrize("change, told", [(lambda t: t.slice(1), "1 rows are missing"), (lambda t: pa.concat_tables([t, t.slice(0, 2)]), "2 rows were added")], ids=["missing", "added"])
def test_a_row_that_is_missing_or_new_is_told(cfg, version, change, told):
    rewrite(version, change)
    assert any(told in f.what for f in verify_version(cfg, version))


def test_who_edits_the_hashes_as_well_is_found_by_the_tag(cfg, version):
    """Somebody who knows the manifest: the table, its hash and its fingerprint all fit each other."""
    from fullstack_ml.core import sha256
    from fullstack_ml.dataset import fingerprint, seals

    table = rewrite(version, lambda t: (c := set_value(t, "split", 0, "train")).set_column(c.column_names.index("seal"), "seal", pa.array(seals(c))))
    path = version.dir / "manifest.json"
    said = json.loads(path.read_text())
    said["files"]["items.parquet"] = sha256(version.path("items.parquet"))
    said["metrics"]["fingerprint"] = fingerprint(table, open_dataset(version).classes)
    path.write_text(json.dumps(said))
    forged = find_version(cfg, version.id)
    found = [f.what for f in verify_version(cfg, forged)]
    assert found == ["manifest.json was changed after it was tagged bars 0.0.1", "the manifest's fingerprint is not the one that was tagged bars 0.0.1"]
    with pytest.raises(Exception, match="not the version that was tagged"):
        Dataset("bars", "0.0.1", cfg)


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b""), lambda p: p.write_bytes(p.read_bytes()[:-3]), lambda p: p.unlink()], ids=["empty", "cut short", "missing"])
def test_a_damaged_blob_is_named_by_its_item(cfg, version, damage):
    item = open_dataset(version)[4].item
    damage(next(Path(BlobStore(cfg.storage.blobs).root).rglob(item.sha256)))
    (found,) = verify_version(cfg, version)
    assert found.item == item.id and item.url in str(found)
    assert verify_version(cfg, version, bytes=False) == []


def test_a_table_that_cannot_be_read_is_told(cfg, version):
    version.path("items.parquet").write_bytes(b"PAR1 and no more")
    assert any("cannot be read" in f.what for f in verify_version(cfg, version))
    version.path("classes.json").unlink()
    assert any("classes.json is missing" in f.what for f in verify_version(cfg, version))


# ---------------------------------------------------------------- sweeping


def test_gc_removes_what_nothing_refers_to_and_nothing_else(tmp_path, cfg, version):
    store = BlobStore(cfg.storage.blobs)
    crawled, kept, doubtful, gone, stray, young = (store.put(name.encode()) for name in ("crawled", "kept", "doubtful", "gone", "stray", "young"))
    with draft("crawl", cfg, {}) as d:
        write_items(d.dir / "items.parquet", [Item(url="c", sha256=crawled)])
    states = [("k", kept, "kept"), ("d", doubtful, "review"), ("g", gone, "refused")]
    open_database(cfg.storage.url).add([Item(url=u, sha256=h, state=s) for u, h, s in states])
    for path in Path(store.root).rglob("*"):
        if path.is_file() and path.name != young:
            os.utime(path, (time.time() - 7200,) * 2)
    assert gc(cfg) == sorted([gone, stray]) and stray in store
    assert gc(cfg, delete=True) == sorted([gone, stray]) and gone not in store and stray not in store
    assert all(n in store for n in (crawled, kept, doubtful, young)) and verify_version(cfg, version) == []
    assert gc(cfg) == []


def test_gc_deletes_nothing_while_something_cannot_be_read(tmp_path, cfg, version):
    store = BlobStore(cfg.storage.blobs)
    stray = store.put(b"stray")
    (version.dir / "manifest.json").write_text("{")
    with pytest.raises(Exception, match="manifest"):
        gc(cfg, delete=True, grace=0)
    assert stray in store


def test_gc_names_the_version_whose_table_cannot_be_read(cfg, version):
    for spoil in (lambda p: p.write_bytes(b"x"), lambda p: p.unlink()):
        spoil(version.dir / "items.parquet")
        with pytest.raises(Damaged, match=f"dataset/{version.id}"):
            gc(cfg, delete=True, grace=0)


def test_gc_of_a_store_that_others_may_use_wants_to_be_told(tmp_path):
    cfg = compose_cfg("dataset", [f"storage.blobs={tmp_path}/shared"], out=str(tmp_path / "artifacts"))
    stray = BlobStore(cfg.storage.blobs).put(b"stray")
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(Refused, match="belong to others"):
        gc(cfg, delete=True, grace=0)
    assert gc(cfg, delete=True, grace=0, alone=True) == [stray]


def test_a_version_that_something_was_made_from_is_not_deleted(cfg, version):
    with draft("train", cfg, {"dataset": version}) as d:
        (d.dir / "x").write_text("")
    with pytest.raises(Refused, match="1 train were made from this version"):
        delete_version(cfg, version)
    import shutil

    shutil.rmtree(d.manifest.dir)
    delete_version(cfg, version)
    assert not list_artifacts(cfg, "dataset") and read_tags(cfg) == {}


# ---------------------------------------------------------------- at the command line


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path / "artifacts"))
    folder = write_format("imagefolder", tmp_path / "in", *samples(tmp_path))

    def do(*words):
        code = cli.main(["versions", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    assert do("log") == (0, "Nothing has been made yet. Begin with: fsml dataset\n", "")
    code, _, wrong = do("import", str(folder), "--format", "imagefolder", "--name", "bars")
    assert code == Refused.exit_code and "licence" in wrong and wrong.count("\n") == 1
    assert do("import", str(folder), "--format", "imagefolder", "--name", "bars", "--licence", "MIT")[0] == 0
    (folder / "train/odd/03.png").unlink()
    assert do("import", str(folder), "--format", "imagefolder", "--name", "bars", "--licence", "MIT")[0] == 0
    code, out, _ = do("log", "--name", "bars")
    assert code == 0 and "0.0.1" in out and "1 removed" in out
    code, out, _ = do("diff", "bars:0.0.1", "0.0.2", "--name", "bars", "--page", str(tmp_path / "page.html"))
    assert code == 0 and "removed     1" in out and "data:image" in (tmp_path / "page.html").read_text()
    assert do("tag", "0.0.1", "paper", "--name", "bars")[0] == 0 and do("tag", "0.0.2", "paper", "name=bars")[0] == 2
    assert do("tag", "latest", "paper", "--name", "bars", "--force")[0] == 0
    assert do("checkout", "0.0.1", str(tmp_path / "tests"), "--format", "csv", "--name", "bars", "--where", "split = 'test'")[0] == 0
    assert do("checkout", "0.0.1", str(tmp_path / "tiny"), "--format", "csv", "--where", "split='test'", "name=bars")[0] == 0
    assert len(list((tmp_path / "tests/images").iterdir())) == len(list((tmp_path / "tiny/images").iterdir())) == 10
    (tmp_path / "file").write_text("")
    assert do("diff", "bars:0.0.1", "0.0.2", "--name", "bars", "--page", str(tmp_path / "file/page.html"))[0] == Unavailable.exit_code
    assert do("checkout", "paper", str(tmp_path / "out"), "--format", "webdataset", "--name", "bars")[0] == 0 and list((tmp_path / "out").rglob("*.tar"))
    version = find_version(compose_cfg("dataset"), "0.0.2", "bars")
    assert "is whole: 29 items" in do("verify", version.id)[1]
    rewrite(version, lambda t: set_value(t, "split", 2, "nowhere"))
    code, out, wrong = do("verify", "0.0.2", "--name", "bars", "--no-bytes")
    assert code == 6 and "this row was changed" in out and wrong.count("\n") == 1
    assert "Every blob is needed" in do("gc")[1]
    assert do("delete", "0.0.1", "--name", "bars")[0] == 0 and "0.0.1" not in do("log")[1]
    for words in ([], ["nosuch"], ["diff", "0.0.1"], ["checkout", "latest", "x"], ["verify", "latest", "--nosuch"]):
        code, _, wrong = do(*words)
        assert code == 2 and wrong.count("\n") == 1 and "versions log" in wrong, words
    assert do("verify", "0.9", "--name", "bars")[0] == 3 and cli.main(["versions", "--help"]) == 0
