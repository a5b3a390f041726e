"""Dataset versions: who may enter, names and numbers, what opening promises, and what is left when a build is broken off."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, Damaged, NotFound, Unavailable, compose_cfg, sha256
from fullstack_ml.dataset import SPLITS, Dataset, choose, dataset, diff_versions, find_version, fingerprint, open_dataset, read_columns, read_tags
from fullstack_ml.dataset import set_tag, soft_labels
from fullstack_ml.records import Choice, Item, draft, find_fresh, find_parents, label_to_dict, list_artifacts, open_database, write_items


@pytest.fixture(autouse=True)
def here(home, monkeypatch):
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def text(*names):
    return json.dumps(label_to_dict(Choice(names)))


def items_of(cfg, n, seed=0):
    """Items with their bytes in the store; one in three a near-duplicate of an earlier one."""
    store, rng = BlobStore(cfg.storage.blobs), np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (n, 18), np.uint8)
    for k in range(1, n, 3):
        hashes[k] = hashes[rng.integers(0, k)]
        hashes[k, 3] ^= 5
    return [
        Item(url=f"{seed}/{k}", source="s", sha256=store.put(f"{seed}/{k}".encode()), licence="MIT", licence_from="dd", phash=h.tobytes().hex(), page_url=f"http://page/{k}")
        for k, h in enumerate(hashes)
    ]


def leave(cfg, items, n_checked=40, answers=None, names=None, agreement=1.0, by=("caption",)):
    """A crawl and its annotations as those stages would have left them."""
    names = names or [str(k % 10) for k in range(len(items))]
    said = [{"item_id": i.id, "label": text(n), "annotators": list(by), "agreement": agreement} for i, n in zip(items, names)]
    with draft("crawl", cfg, {}) as d:
        write_items(d.dir / "items.parquet", items)
    with draft("annotate", cfg, {}) as d:
        for name, rows in (("consensus", said), ("checks", said[:n_checked]), *([("answers", answers)] if answers else [])):
            pq.write_table(pa.Table.from_pylist(rows), d.dir / f"{name}.parquet")


@pytest.fixture
def cfg(tmp_path):
    return compose_cfg("dataset", ["name=things", "report=null"], out=str(tmp_path))


def columns(tmp_path, items):
    write_items(tmp_path / "some.parquet", items)
    return read_columns(tmp_path / "some.parquet")


# ---------------------------------------------------------------- who may enter


def test_who_may_enter_and_why_not(tmp_path):
    made = [Item(url=str(k), sha256=sha256(bytes([k])), licence="MIT", licence_from="dd", width=k, id=f"{k}") for k in range(9)]
    a, b, c, d, e, f, g, h, i = made
    b, c, d = replace(b, licence="NC"), replace(c, sha256=a.sha256), replace(d, state="refused", reason="blank: 1")
    f, g = replace(f, opt_out="noai"), replace(g, state="review", reason="licence")
    rows = [("0", 1.0), ("1", 1.0), ("2", 1.0), ("3", 1.0), ("4", 0.4), ("5", 1.0), ("6", 1.0), ("7", 1.0)]
    agreed = pa.table({"item_id": [r[0] for r in rows], "label": [text("x")] * 8, "annotators": [["ada", "ben"]] * 8, "agreement": [r[1] for r in rows]})
    table = columns(tmp_path, [a, b, c, d, e, f, g, h, i])
    stored = [x.sha256 for x in made if x != h]
    chosen, left = choose(table, agreed, ["MIT"], 0.5, stored=stored)
    assert chosen["id"].to_pylist() == ["0"] and chosen["why"].to_pylist() == ["2 of 2 agree; MIT by dd"]
    assert left == {"licence NC": 1, "exact duplicate": 1, "blank": 1, "no agreement": 1, "opted out": 1, "licence": 1, "bytes missing": 1, "no label": 1}
    assert json.loads(chosen["annotators"][0].as_py()) == ["ada", "ben"]
    more, left = choose(table, agreed, [], 0.3, opt_out="allow", where="width <> 7")
    assert set(more["id"].to_pylist()) == {"0", "1", "4", "5"} and left["the condition"] == 1
    assert choose(table, agreed, ["MIT"], stored=stored, known=["2"])[0]["id"].to_pylist() == ["2"], "of exact copies the known one stays"


@pytest.mark.parametrize("where", ["nosuch > 3", "1) or (1=", "id in (select content from read_text('/etc/passwd'))", "id in (select 1 from 'x.parquet')", "true; attach 'x.db'", "true) ; select (true"])
def test_a_condition_can_neither_err_silently_nor_reach_out(tmp_path, where):
    agreed = pa.table({"item_id": ["x"], "label": [text("x")], "annotators": [["a"]], "agreement": [1.0]})
    with pytest.raises(BadConfig, match="condition"):
        choose(columns(tmp_path, [Item(url="1", sha256=sha256(b"1"), licence="MIT")]), agreed, ["MIT"], where=where)
    with pytest.raises(BadConfig, match="refuse or allow"):
        choose(columns(tmp_path, []), agreed, opt_out="perhaps")


def test_a_selection_is_one_statement_and_may_end_with_a_comment(cfg):
    leave(cfg, items_of(cfg, 60))
    data = open_dataset(dataset(cfg))
    assert len(data.where("true -- all of them")) == 60
    with pytest.raises(BadConfig, match="more than one"):
        data.where("true); select * from items where (true")


def test_soft_labels_count_the_newest_answer_of_each_annotator():
    said = [("x", "ada", text("1")), ("x", "ben", text("7")), ("y", "ada", text("a", "b")), ("x", "truth", text("1")), ("x", "ada", text("7")), ("x", "eva", text("1")),
            ("z", "ada", json.dumps({"kind": "text", "text": "A"})), ("y", "ben", text('q"ü'))]  # fmt: skip
    answers = pa.table({"item_id": [i for i, *_ in said], "annotator": [a for _, a, _ in said], "label": [t for *_, t in said]})
    found = {r["item_id"]: json.loads(r["soft"]) for r in soft_labels(answers, ["truth"]).to_pylist()}
    assert found == {"x": {"1": 0.3333, "7": 0.6667}, "y": {"a": 0.5, "b": 0.5, 'q"ü': 0.5}}
    guide = soft_labels(answers.append_column("guide", pa.array(["2"] * len(answers))))
    assert set(guide["guide"].to_pylist()) == {"2"}


# ---------------------------------------------------------------- a version


def test_a_fingerprint_is_of_what_is_said_and_not_of_how(cfg, tmp_path):
    table = pa.table({"id": ["a", "b"], "sha256": ["0", "1"], "label": ["x", None], "split": ["train", "test"], "agreement": [1.0, 0.5]})
    first = fingerprint(table, ["x"])
    pq.write_table(table.take([1, 0]), tmp_path / "t.parquet", compression="gzip", use_dictionary=False, row_group_size=1)
    assert fingerprint(pq.read_table(tmp_path / "t.parquet"), ["x"]) == first
    assert fingerprint(table, ["y"]) != first
    for column, value in (("id", "c"), ("sha256", "2"), ("label", ""), ("split", "val")):
        other = table.set_column(table.column_names.index(column), column, pa.array([table[column][0].as_py(), value]))
        assert fingerprint(other, ["x"]) != first, column
    moved = pa.table({"id": ["a1"], "sha256": ["1"]}), pa.table({"id": ["a"], "sha256": ["11"]})
    assert len({fingerprint(t, []) for t in moved}) == 2, "no two tables share a text"


def test_truth_only_in_test_and_what_changed(cfg):
    items = items_of(cfg, 120)
    leave(cfg, items, 120)
    v1 = dataset(cfg)
    data = open_dataset(v1)
    assert len(data.table) == 120 == len(data) and data.table.groupby("group")["split"].nunique().max() == 1
    assert all(t is None for s in ("train", "val") for t in data.labels(s, "truth")) and None not in data.labels("test", "truth")
    assert sum(len(data.items(s)) for s in SPLITS) == len(data.items()) and v1.metrics["checked"] == len(data.items("test"))
    with pytest.raises(BadConfig, match="splits are"):
        data.items("tset")
    changed = [*items[:-1], *items_of(cfg, 1, 7)]
    changed[0] = replace(changed[0], sha256=BlobStore(cfg.storage.blobs).put(b"other bytes"), phash="")
    leave(cfg, changed)
    v2 = dataset(cfg)
    kinds = diff_versions(v1, v2).set_index("id")["change"].to_dict()
    assert kinds == {items[-1].id: "removed", changed[-1].id: "added", items[0].id: "replaced"}, "and nothing moved"
    assert v2.metrics["changed"] == {"added": 1, "removed": 1, "replaced": 1} and v2.metrics["before"] == v1.id
    v1.verify(), v2.verify()
    old = set(open_dataset(v1).arrow["split"].to_pylist())
    assert old == set(SPLITS)


def test_soft_labels_stand_in_the_table(cfg):
    items = items_of(cfg, 40)
    answers = [{"item_id": i.id, "annotator": a, "label": text(n)} for i in items for a, n in (("ada", "1"), ("ben", "2"))]
    leave(cfg, items, answers=[*answers, *({**a, "annotator": "caption", "label": text("9")} for a in answers)], agreement=0.5, by=("ada", "ben"))  # whose word stands
    table = open_dataset(dataset(cfg)).arrow
    assert set(table["soft"].to_pylist()) == {'{"1": 0.5, "2": 0.5}'} and table["guide"].null_count == 40
    leave(cfg, items, answers=[{**a, "label": text("a", "7")} for a in answers], names=["7"] * 40, by=("ada", "ben"))
    assert set(open_dataset(dataset(cfg)).arrow["soft"].to_pylist()) == {'{"7": 1.0}'}, "where all agree it follows from the label"


def test_what_a_model_guessed_teaches_and_never_judges(cfg):
    items, names = items_of(cfg, 90), [str(k % 10) for k in range(90)]
    leave(cfg, items)
    before = open_dataset(dataset(cfg)).arrow
    cfg = compose_cfg("dataset", ["name=others", "report=null"], out=cfg.storage.root)
    said = [{"item_id": i.id, "label": text(n), "annotators": ["pseudo"] if k % 2 else ["pseudo", "ada"], "agreement": 1.0} for k, (i, n) in enumerate(zip(items, names))]
    with draft("annotate", cfg, {}) as d:
        for name, rows in (("consensus", said), ("checks", said[:20])):
            pq.write_table(pa.Table.from_pylist(rows), d.dir / f"{name}.parquet")
    version = dataset(cfg)
    after = open_dataset(version).arrow
    split, held = dict(zip(after["id"].to_pylist(), after["split"].to_pylist())), {"val", "test"}
    assert {split.get(i.id) for i in items[1::2]} <= {"train", None} and held <= {split.get(i.id) for i in items[::2]}
    groups = {g for g, s in zip(after["group"].to_pylist(), after["split"].to_pylist()) if s in held}
    assert not groups & {g for g, s in zip(after["group"].to_pylist(), after["split"].to_pylist()) if s == "train"}, "no guess beside what is held out"
    assert version.metrics["left_out"]["guessed, beside what is held out"] and len(after) < len(before)


def test_entries_come_with_bytes_and_selections_are_versions_too(cfg):
    items = items_of(cfg, 60)
    leave(cfg, items)
    made = dataset(cfg)
    data = Dataset("things", "0.0.1", cfg)
    assert [e.item.id for e in data] == sorted(i.id for i in items) and data[0].data == data.store.get(data[0].item.sha256)
    assert data[-1].item == data.all_items[-1] and data[3].label == data.labels()[3] and data[3].split == data.table["split"][3]
    with pytest.raises(IndexError):
        data[60]
    part = data.where("split = 'test' and page_url like '%9'")
    assert 0 < len(part) < 60 and {e.split for e in part} == {"test"} and part.fingerprint != data.fingerprint == made.metrics["fingerprint"]
    with pytest.raises(BadConfig, match="condition"):
        data.where("nosuch = 1")


def test_what_the_same_work_has_made_is_found_and_gets_no_second_name(cfg, tmp_path, capsys):
    leave(cfg, items_of(cfg, 60))
    made = dataset(cfg)
    assert find_fresh("dataset", cfg, find_parents(cfg)) == made, "the loop asks the same question"
    assert dataset(cfg) == made and list(read_tags(cfg)["things"]) == ["0.0.1"] and "nothing to do" in capsys.readouterr().out
    (tmp_path / "dataset" / "tags.json").unlink()  # as if killed between the folder and its name
    assert dataset(cfg) == made and list(read_tags(cfg)["things"]) == ["0.0.1"]
    named = compose_cfg("dataset", ["name=things", "report=null", "version=1.0.0", "why=a round number"], out=str(tmp_path))
    assert dataset(named) == made and read_tags(cfg)["things"]["1.0.0"]["id"] == made.id
    leave(cfg, items_of(cfg, 61))
    assert dataset(cfg).metrics["version"] == "1.0.1", "the next number comes after the highest"


def test_a_report_lies_beside_the_table(cfg, tmp_path):
    import io

    from PIL import Image

    cfg, rng, bodies = compose_cfg("dataset", ["name=things"], out=str(tmp_path)), np.random.default_rng(0), []
    for _ in range(40):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(out, "PNG")
        bodies.append(out.getvalue())
    store = BlobStore(cfg.storage.blobs)
    items = [replace(i, sha256=store.put(b), mime="image/png", width=20, height=20) for i, b in zip(items_of(cfg, 40), bodies)]
    leave(cfg, items)
    v1 = dataset(cfg)
    assert v1.read_json("survey.json")["n_items"] == 40 and "<html" in v1.path("report.html").read_text()
    leave(cfg, items[:-1])
    assert dataset(cfg).read_json("survey.json")["n_items"] == 39


def test_an_empty_split_is_refused(cfg):
    leave(cfg, items_of(cfg, 2))
    with pytest.raises(BadConfig, match="would be empty"):
        dataset(cfg)
    assert not list_artifacts(cfg, "dataset") and not read_tags(cfg)


def test_who_leaves_and_comes_back_finds_the_old_split(tmp_path):
    cfg = compose_cfg("dataset", ["name=things", "report=null", "split=stratified"], out=str(tmp_path))
    items, more = items_of(cfg, 90), items_of(cfg, 60, 3)
    of = lambda m: dict(zip(*(open_dataset(m).arrow[c].to_pylist() for c in ("id", "split"))))
    leave(cfg, items)
    first = of(dataset(cfg))
    for some in (items[40:], more[:30] + items[45:], more + items[50:]):  # three versions without them
        leave(cfg, some)
        dataset(cfg)
    leave(cfg, more + items)
    last = dataset(cfg)
    assert first.items() <= of(last).items() and last.metrics["items"] == 150 and last.verify()


def test_a_picture_that_was_taken_down_is_not_in_the_next_version(cfg):
    items = items_of(cfg, 60)
    leave(cfg, items)
    dataset(cfg)
    BlobStore(cfg.storage.blobs).delete(items[5].sha256)
    leave(cfg, items)
    made = dataset(cfg)
    assert made.metrics["left_out"] == {"bytes missing": 1} and made.metrics["changed"] == {"removed": 1}


def test_what_was_withdrawn_enters_no_new_version(cfg):
    items = items_of(cfg, 60)
    leave(cfg, items)
    made, db = dataset(cfg), open_database(cfg.storage.url)
    db.add(items)
    db.update(Item, items[5].id, state="withdrawn")
    again = dataset(cfg)
    assert again.id != made.id and again.metrics["left_out"] == {"withdrawn": 1} and again.metrics["changed"] == {"removed": 1}
    assert dataset(cfg) == again
    leave(cfg, [*items[:5], replace(items[5], id="other", url="elsewhere"), *items[6:]])
    assert dataset(cfg).metrics["left_out"] == {"withdrawn": 1}, "the same bytes elsewhere are withdrawn too"


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["a b", "a/b", "-x", ""])
def test_a_bad_name_is_found_before_anything_is_made(cfg, name):
    leave(cfg, items_of(cfg, 60))
    for change in ({"name": name}, {"version": name or "latest"}):
        with pytest.raises(BadConfig, match="no name"):
            dataset(OmegaConf.merge(cfg, change))
    assert not list_artifacts(cfg, "dataset")


def test_a_tag_never_moves_unless_forced(cfg):
    leave(cfg, items_of(cfg, 60))
    v1 = dataset(cfg)
    leave(cfg, items_of(cfg, 61))
    v2 = dataset(cfg)
    set_tag(cfg, v1, "things", "paper")
    with pytest.raises(BadConfig, match="is another version"):
        set_tag(cfg, v2, "things", "paper")
    assert find_version(cfg, "paper", "things") == v1 and find_version(cfg, "latest", "things") == v2
    set_tag(cfg, v2, "things", "paper", force=True)
    assert find_version(cfg, "paper", "things") == v2 and find_version(cfg, v1.id) == v1
    for wrong in ("latest", "", "../x", "a/b", "-x"):
        with pytest.raises(BadConfig, match="no name"):
            set_tag(cfg, v1, "things", wrong)
    with pytest.raises(NotFound, match="0.0.1, 0.0.2, paper"):
        find_version(cfg, "0.9.9", "things")
    with pytest.raises(NotFound, match="There are: things"):
        Dataset("thongs", cfg=cfg)


def test_names_that_were_lost_are_read_back_from_the_manifests(cfg, tmp_path):
    leave(cfg, items_of(cfg, 60))
    made = dataset(cfg)
    path = tmp_path / "dataset" / "tags.json"
    path.write_text("{")
    with pytest.raises(Damaged, match="Delete the file"):
        find_version(cfg, "0.0.1", "things")
    path.unlink()
    assert find_version(cfg, "0.0.1", "things") == made


# ---------------------------------------------------------------- edited by hand


def edit(path, column, row, value):
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    pq.write_table(table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type)), path)


def test_a_table_edited_by_hand_is_neither_opened_nor_built_upon(cfg):
    items = items_of(cfg, 60)
    leave(cfg, items)
    made = dataset(cfg)
    edit(made.path("items.parquet"), "split", 3, "val")
    for use in (lambda: open_dataset(made).items(), lambda: Dataset("things", cfg=cfg).table, lambda: diff_versions(made, made)):
        with pytest.raises(Damaged, match="items.parquet"):
            use()
    leave(cfg, items_of(cfg, 61))
    with pytest.raises(Damaged, match="items.parquet"):
        dataset(cfg)


def test_the_same_work_is_done_again_when_its_version_was_damaged(cfg, capsys):
    leave(cfg, items_of(cfg, 60))
    made = dataset(cfg)
    made.path("classes.json").write_text("[]")
    again = dataset(cfg)
    assert again.id != made.id and again.metrics["fingerprint"] == made.metrics["fingerprint"] and again.verify() and "building it again" in capsys.readouterr().out


def test_a_manifest_edited_by_hand_no_longer_fits_its_name(cfg):
    leave(cfg, items_of(cfg, 60))
    made = dataset(cfg)
    path = made.dir / "manifest.json"
    path.write_text(path.read_text().replace(made.metrics["fingerprint"], "0" * 64))
    with pytest.raises(Damaged, match="not the version that was tagged"):
        Dataset("things", "0.0.1", cfg)


# ---------------------------------------------------------------- broken off

CHILD = """
import resource, sys
from fullstack_ml.core import FsmlError, compose_cfg
from fullstack_ml.dataset import dataset
import duckdb, fullstack_ml.splits, pyarrow.parquet, scipy.sparse.csgraph
cfg = compose_cfg("dataset", ["name=things", "report=null"], out=sys.argv[1])
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
print("ready", flush=True)
sys.stdin.readline()
try:
    dataset(cfg)
except FsmlError as e:
    print(type(e).__name__, e)
    sys.exit(e.exit_code)
"""


def child(tmp_path, *more):
    words = [sys.executable, "-c", CHILD, str(tmp_path), *map(str, more)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "FSML_HOME": str(tmp_path)})
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def names_that_look_final(tmp_path):
    return [p.name for p in (tmp_path / "dataset").glob("[0-9]*")] if (tmp_path / "dataset").is_dir() else []


def test_two_processes_that_build_the_same_version_make_one(cfg, tmp_path):
    leave(cfg, items_of(cfg, 400))
    both = [child(tmp_path), child(tmp_path)]
    for process in both:
        go(process)
    said = [p.communicate(timeout=60)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert len(list_artifacts(cfg, "dataset")) == 1 and list(read_tags(cfg)["things"]) == ["0.0.1"]
    find_version(cfg, "0.0.1", "things").verify()
    assert sum("nothing to do" in s for s in said) == 1


def test_a_killed_build_leaves_whole_versions_or_none(cfg, tmp_path):
    leave(cfg, items_of(cfg, 3000))
    rng = random.Random(0)
    for _ in range(5):
        process = child(tmp_path)
        go(process)
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for m in list_artifacts(cfg, "dataset"):  # one that got as far is whole
            assert m.verify() and len(open_dataset(m).arrow) == 3000
        assert len(names_that_look_final(tmp_path)) <= 1
    made = dataset(cfg)
    assert made.verify() and read_tags(cfg)["things"]["0.0.1"]["id"] == made.id and len(list_artifacts(cfg, "dataset")) == 1
    assert fingerprint(open_dataset(made).arrow, list(cfg.classes)) == made.metrics["fingerprint"]
    assert not list((tmp_path / "dataset").glob(".draft-*/*")), "what the killed ones left was cleared"


def test_a_file_that_cannot_grow_leaves_no_version(cfg, tmp_path):
    leave(cfg, items_of(cfg, 400))
    open_database(cfg.storage.url)  # there from the crawl
    process = child(tmp_path, 33_000)
    said = process.communicate("\n", timeout=60)[0]
    assert process.returncode == Unavailable.exit_code and "Make room" in said, said
    assert not names_that_look_final(tmp_path) and not read_tags(cfg) and not list((tmp_path / "dataset").glob(".draft-*/*"))
    assert dataset(cfg).metrics["version"] == "0.0.1"


def test_a_full_disk_leaves_no_version(cfg, tmp_path):
    leave(cfg, items_of(cfg, 400))
    disk = tmp_path / "dataset"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=28k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        with pytest.raises(Unavailable, match="Make room"):
            dataset(cfg)
        assert not names_that_look_final(tmp_path) and not read_tags(cfg)
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True, capture_output=True)
        assert dataset(cfg).verify().metrics["version"] == "0.0.1"
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


def test_limits_of_a_trial_choose_by_content(tmp_path):
    cfg = compose_cfg("dataset", ["name=things", "report=null", "limits.n_items=40"], out=str(tmp_path))
    items = items_of(cfg, 120)
    leave(cfg, items)
    first = set(open_dataset(dataset(cfg)).arrow["id"].to_pylist())
    leave(cfg, items[::-1])
    assert len(first) == 40 and set(open_dataset(dataset(cfg)).arrow["id"].to_pylist()) == first


def test_one_process_has_no_more_files_open_than_it_should(cfg):
    """A version is opened again and again in a notebook."""
    leave(cfg, items_of(cfg, 60))
    dataset(cfg)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        assert len(Dataset("things", cfg=cfg).arrow) == 60
    assert (len(os.listdir("/proc/self/fd")) if before else 0) <= before + 3
