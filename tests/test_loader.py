"""The loader: an order that can be told beforehand, the same arrays as in serving, and copies that are whole or not there."""
import copy
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from house import ROOT
from PIL import Image

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, Damaged, NotFound, Unavailable, compose_cfg, write_json
from fullstack_ml.dataset import open_dataset
from fullstack_ml.loader import Loader, _code_of, _Decoded, _Reused, forget, plan_epoch
from fullstack_ml.records import Choice, Item, draft, label_to_dict, write_items
from fullstack_ml.task import Task, load_task

CLASSES = [str(k) for k in range(10)]
BYTES = 24 * 24 * 3  # of an encoded picture


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def pictures(n, side=24, seed=0):
    rng = np.random.default_rng(seed)
    return [cv2.imencode((".jpg", ".png")[k % 2], rng.integers(0, 256, (side, side + k % 3, 3), np.uint8))[1].tobytes() for k in range(n)]


def version(tmp_path, bodies, store=None, splits=None, **columns):
    """A dataset version of these bodies, as its stage would have left it."""
    cfg = compose_cfg("dataset", out=str(tmp_path / "artifacts"))
    store = store or BlobStore(cfg.storage.blobs)
    sizes = columns.get("sizes") or [(24, 24)] * len(bodies)
    items = [Item(url=str(k), source="s", sha256=store.put(b), page_url=f"http://page/{k}", width=w, height=h) for k, (b, (w, h)) in enumerate(zip(bodies, sizes))]
    with draft("dataset", cfg, {}) as d:
        labels = [json.dumps(label_to_dict(Choice((str(k % 10),)))) for k in range(len(items))]
        write_items(d.dir / "items.parquet", items, label=labels, split=splits or ["train"] * len(items))
        write_json(d.dir / "classes.json", CLASSES)
    return open_dataset(d.manifest), store


@pytest.fixture
def task():
    return load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24})


@pytest.fixture
def loaded(tmp_path):
    return version(tmp_path, pictures(60), splits=["val" if k % 5 == 0 else "train" for k in range(60)])


class Bytes:
    """A task without a common shape: the first byte of the item."""

    def encode(self, item):
        if not item.data:
            raise BadInput("Empty", None, "Send more.")
        return {"x": np.array([item.data[0]])}

    def collate(self, encoded, labels=None):
        return {"x": np.concatenate([e["x"] for e in encoded])}


class Lines(Bytes):
    """Lines of text: one height, any width."""

    def encode(self, item):
        return {"line": np.full((8, item.data[0] + 256 * item.data[1]), 7, np.uint8)}

    def collate(self, encoded, labels=None):
        widest = max(e["line"].shape[1] for e in encoded)
        return {"line": np.stack([np.pad(e["line"], ((0, 0), (0, widest - e["line"].shape[1]))) for e in encoded])}


def images(loader):
    return np.concatenate([b["image"] for b in loader])


# ---------------------------------------------------------------- the order


def test_every_item_is_in_exactly_one_batch_of_one_rank():
    widths = np.random.default_rng(0).uniform(1, 40, 103)
    for world in (1, 2, 3, 5):
        for kwargs in ({}, {"shuffle": True}, {"shuffle": True, "widths": widths}):
            plans = [plan_epoch(103, 4, 7, seed=2, rank=r, world_size=world, **kwargs) for r in range(world)]
            assert sorted(np.concatenate([b for p in plans for b in p]).tolist()) == list(range(103))
            assert all(0 < len(b) <= 7 for p in plans for b in p)
            counts = [len(p) for p in plans]
            assert max(counts) - min(counts) <= 1
    for world in (2, 3):  # in step
        plans = [plan_epoch(103, 4, 7, True, rank=r, world_size=world, drop_last=True) for r in range(world)]
        assert {len(b) for p in plans for b in p} == {7} and len({len(p) for p in plans}) == 1
        seen = np.concatenate([b for p in plans for b in p])
        assert len(set(seen.tolist())) == len(seen) > 103 - 7 * world


def test_no_items_and_one_item():
    assert plan_epoch(0, 0, 4) == [] == plan_epoch(0, 0, 4, True, widths=np.empty(0)) and [b.tolist() for b in plan_epoch(1, 0, 4, True)] == [[0]]
    assert [b.tolist() for b in plan_epoch(5, 0, 2)] == [[0, 1], [2, 3], [4]]


def test_the_number_of_batches_is_known_beforehand(loaded, task):
    data, store = loaded
    for kwargs in ({}, {"rank": 1, "world_size": 3}, {"rank": 2, "world_size": 3}, {"drop_last": True}, {"rank": 1, "world_size": 2, "drop_last": True}, {"n_items": 9}):
        loader = Loader(data, "train", store, task, 7, shuffle=True, **kwargs)
        assert len(loader) == len(loader.plan(0)) == len(list(loader))


def test_order_follows_from_seed_and_epoch(loaded):
    data, store = loaded

    def epochs(n, **kwargs):
        loader = Loader(data, "train", store, Bytes(), 8, shuffle=True, **kwargs)
        return [np.concatenate([[i for i in b] for b in loader.plan(e)]).tolist() for e in range(n)], [np.concatenate([b["x"] for b in loader]).tolist() for _ in range(n)]

    first = epochs(3)
    assert first == epochs(3) == epochs(3, threads=5, cache="none") and len({tuple(e) for e in first[0]}) == 3 and len({tuple(sorted(e)) for e in first[1]}) == 1
    assert epochs(1, seed=1)[0] != first[0][:1]
    resumed = Loader(data, "train", store, Bytes(), 8, shuffle=True)
    resumed.epoch = 2
    assert np.concatenate([b["x"] for b in resumed]).tolist() == first[1][2] and resumed.epoch == 3
    plain = Loader(data, "val", store, Bytes(), 8)
    assert np.concatenate([b["x"] for b in plain]).tolist() == [store.get(i.sha256)[0] for i in data.items("val")] and len([*plain]) == len(plain)
    assert len(np.concatenate([b["x"] for b in Loader(data, None, store, Bytes(), 7, n_items=9, labelled=False)])) == 9


@pytest.mark.parametrize("kwargs", [{}, {"rank": 1, "world_size": 2}, {"bucket": True}, {"cache": "none", "threads": 1}])
def test_a_pass_that_was_broken_off_goes_on_with_the_next_batch(loaded, task, kwargs):
    data, store = loaded

    def made():
        return Loader(data, "train", store, task, 5, shuffle=True, seed=3, **kwargs)

    unbroken = made()
    expected = [[b["target"].tolist() for b in unbroken] for _ in range(3)]
    for stop in range(len(unbroken) + 1):
        loader = made()
        list(loader)
        for n, _ in zip(range(stop), iter(loader)):  # the iterator is asked once more only when `stop` is the whole epoch
            pass
        if stop == 0:
            assert loader.state_dict()["epoch"] == 1
        state = json.loads(json.dumps(loader.state_dict()))
        other = made()
        other.load_state_dict(state)
        if stop:
            taken = state["batch"] if state["epoch"] == 1 else len(unbroken)
            assert taken >= stop
            assert [b["target"].tolist() for b in other] == (expected[1][taken:] if state["epoch"] == 1 else expected[2])
        if stop and state["epoch"] == 1:
            assert [b["target"].tolist() for b in other] == expected[2]


def test_the_state_counts_the_batches_that_were_taken(loaded, task):
    data, store = loaded
    loader = Loader(data, "train", store, task, 8, shuffle=True)
    seen = []
    for batch in loader:
        seen.append((loader.state_dict()["epoch"], loader.state_dict()["batch"]))
    assert seen == [(0, k + 1) for k in range(len(loader))] and loader.state_dict()["epoch"] == 1
    next(iter(loader))
    assert loader.epoch == 2, "a pass that is broken off and not resumed is over"


def test_a_state_of_another_loader_is_refused(loaded, task):
    data, store = loaded
    state = Loader(data, "train", store, task, 8, shuffle=True).state_dict()
    for split, size, kwargs, word in [("train", 4, {}, "batch_size"), ("train", 8, {"seed": 1}, "seed"), ("val", 8, {}, "items"), ("train", 8, {"world_size": 2}, "world_size")]:
        with pytest.raises(BadInput, match=f"another {word}"):
            Loader(data, split, store, task, size, shuffle=True, **kwargs).load_state_dict(state)


def test_choices_that_do_not_exist_are_refused(loaded, task):
    data, store = loaded
    for kwargs in ({"cache": "disk"}, {"on_error": "ignore"}, {"rank": 2, "world_size": 2}, {"batch_size": 0}):
        with pytest.raises(BadConfig):
            Loader(data, "train", store, task, **kwargs)
    with pytest.raises(BadConfig, match="no common shape"):
        Loader(data, "train", store, Bytes(), cache="decoded")


def test_batches_by_width_need_less_padding(tmp_path):
    widths = np.random.default_rng(0).integers(20, 1000, 600).tolist()
    data, store = version(tmp_path, [bytes([w % 256, w // 256, k % 256, k // 256]) for k, w in enumerate(widths)], sizes=[(w, 8) for w in widths])

    def epoch(**kwargs):
        batches = [b["line"] for b in Loader(data, "train", store, Lines(), 8, shuffle=True, **kwargs)]
        return batches, sorted(int(row.any(0).sum()) for b in batches for row in b)

    (plain, all_plain), (sorted_, all_sorted) = epoch(), epoch(bucket=True)
    assert all_plain == all_sorted == sorted(widths)
    assert sum(b.size for b in sorted_) < 0.75 * sum(b.size for b in plain)
    order = [b.shape[2] for b in sorted_]
    assert order != sorted(order) and order != sorted(order, reverse=True), "the batches are shuffled again"
    assert [b.shape for b in epoch(bucket=True)[0]] == [b.shape for b in sorted_]
    ordered = Loader(data, "train", store, Lines(), 8, bucket=True)
    assert [i for b in ordered.plan(0) for i in b] == list(range(600)), "what is not shuffled keeps its order"


# ---------------------------------------------------------------- the same array in training and in serving


def jpeg(image, **kwargs):
    out = io.BytesIO()
    image.save(out, kwargs.pop("format", "JPEG"), **kwargs)
    return out.getvalue()


def photographs():
    rng = np.random.default_rng(1)
    smooth = cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), (70, 50), interpolation=cv2.INTER_CUBIC)
    colour, exact = Image.fromarray(smooth), Image.fromarray(cv2.resize(smooth, (24, 24)))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.Exif()
    upright[0x0112] = 1
    large = Image.fromarray(cv2.resize(smooth, (704, 496), interpolation=cv2.INTER_CUBIC))
    odd = [Image.fromarray(cv2.resize(smooth, size)) for size in ((1, 1), (1, 90), (33, 2), (25, 24), (23, 24), (191, 193))]
    whole = jpeg(exact)
    return {
        "jpeg of the size": whole, "jpeg": jpeg(colour), "large jpeg": jpeg(large), "grey jpeg": jpeg(colour.convert("L")), "grey jpeg of the size": jpeg(exact.convert("L")),
        "cmyk jpeg": jpeg(colour.convert("CMYK")), "cmyk jpeg of the size": jpeg(exact.convert("CMYK")), "turned jpeg": jpeg(colour, exif=exif),
        "turned jpeg of the size": jpeg(exact, exif=exif), "jpeg with exif": jpeg(exact, exif=upright), "large turned jpeg": jpeg(large, exif=exif),
        "progressive": jpeg(exact, progressive=True), "4:4:4": jpeg(exact, subsampling=0), "png": jpeg(colour, format="PNG"), "grey png": jpeg(colour.convert("L"), format="PNG"),
        "palette png": jpeg(colour.convert("P"), format="PNG"), "png with alpha": jpeg(exact.convert("RGBA"), format="PNG"), "webp": jpeg(colour, format="WEBP"),
        "webp of the size": jpeg(exact, format="WEBP"), "bmp": jpeg(colour, format="BMP"), "text behind the end": whole + b"and more" * 40,
        **{f"odd {i.size}": jpeg(i) for i in odd},
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", photographs())
def test_training_and_serving_see_the_same_array(kind, channels):
    task = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24, "channels": channels})
    body = photographs()[kind]
    served = task.encode(task.parse(body, ""))["image"]
    out = np.full((3, 24, 24, channels), 99, np.uint8)
    task.encode_into(Item(data=body), {"image": out[1]})
    assert np.array_equal(out[1], served) and (out[[0, 2]] == 99).all(), "neighbours in the batch stay as they are"
    assert {k: (v.shape, v.dtype.name) for k, v in task.encode(Item(data=body)).items()} == task.layout()


@pytest.mark.parametrize("cache", ["none", "memory", "packed", "decoded"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_way_through_the_loader_gives_that_array(tmp_path, channels, cache):
    task = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24, "channels": channels})
    served = np.stack([task.encode(task.parse(body, ""))["image"] for body in photographs().values()])
    data, store = version(tmp_path, photographs().values())
    loader = Loader(data, "train", store, task, 5, cache=cache)
    for _ in range(3):
        assert np.array_equal(images(loader), served)


def test_the_decoder_gives_what_opencv_and_pillow_give():
    from fullstack_ml.tasks.image_cls import decode_image

    for kind, body in photographs().items():
        if "cmyk" not in kind:
            assert np.array_equal(decode_image(body), cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR_RGB)), kind
            assert np.array_equal(decode_image(body, 1)[:, :, 0], cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)), kind
    turned = photographs()["turned jpeg"]
    assert decode_image(turned).shape == (70, 50, 3)
    small = decode_image(photographs()["large jpeg"], 3, 48)
    assert small.shape == (62, 88, 3), "an eighth"
    assert np.abs(small.astype(int) - cv2.resize(decode_image(photographs()["large jpeg"]), (88, 62), interpolation=cv2.INTER_AREA)).mean() < 1


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:200], lambda b: b[:2], lambda b: b[:-30], lambda b: b""])
@pytest.mark.parametrize("kind", ["jpeg", "jpeg of the size", "progressive", "grey jpeg", "png", "webp"])
def test_what_is_cut_short_is_refused(task, kind, damage):
    with pytest.raises(BadInput, match="cut short or broken"):
        task.encode(Item(data=damage(photographs()[kind])))


# ---------------------------------------------------------------- batches that somebody keeps


def test_a_batch_that_somebody_keeps_is_never_written_again(loaded, task):
    torch = pytest.importorskip("torch")
    data, store = loaded
    loader = Loader(data, "train", store, task, 4, cache="none")
    expected = np.stack([task.encode(Item(data=store.get(i.sha256)))["image"] for i in data.items("train")])
    kept = [(b["image"], b["image"][1:, 3], torch.from_numpy(b["image"])[2:], memoryview(b["image"])) for _ in range(2) for b in loader]
    for k, (whole, part, tensor, view) in enumerate(kept):
        these = expected[4 * (k % len(loader)) :][: len(whole)]
        assert np.array_equal(whole, these) and np.array_equal(part, these[1:, 3]) and np.array_equal(tensor.numpy(), these[2:]) and view.tobytes() == these.tobytes()
    only_slices = [b["image"][1:2] for b in loader]
    assert np.array_equal(np.concatenate(only_slices), expected[1::4])


def test_memory_is_used_again_once_nobody_looks(loaded, task):
    data, store = loaded
    loader = Loader(data, "train", store, task, 4, cache="none")
    for _ in range(3):
        for batch in loader:
            del batch
    assert len(loader.memory["image"].blocks) <= 7
    memory = _Reused((4,), "int64", keep=2)
    held = [memory.lend() for _ in range(5)]
    for k, array in enumerate(held):
        array[:] = k
    assert [int(a[0]) for a in held] == list(range(5)) and len(memory.blocks) == 2


# ---------------------------------------------------------------- items that cannot be read


def blob(store, item):
    return next(Path(store.root).rglob(item.sha256))


@pytest.mark.parametrize("task_of", ["picture", "bytes"])
def test_a_damaged_blob_names_the_item_and_its_page(loaded, task, task_of):
    data, store = loaded
    n_threads = threading.active_count()
    item = data.items("train")[3]
    used = task if task_of == "picture" else Bytes()
    for damage in (b"", b"xyz"):
        blob(store, item).write_bytes(damage)
        with pytest.raises(Damaged, match=f"Item {item.id} of s: .*{item.page_url}"):
            list(Loader(data, "train", store, used, 8))
    blob(store, item).unlink()
    with pytest.raises(NotFound, match=item.id):
        list(Loader(data, "train", store, used, 8))
    assert threading.active_count() <= n_threads, "the threads are gone"


@pytest.mark.parametrize("cache", ["auto", "none", "packed", "decoded"])
def test_items_that_cannot_be_read_are_left_out_and_counted(tmp_path, task, cache):
    bodies = pictures(40)
    bodies[7], bodies[8] = b"no picture", bodies[8][:100]
    data, store = version(tmp_path, bodies)
    blob(store, data.items("train")[9]).write_bytes(b"damaged")
    blob(store, data.items("train")[20]).unlink()
    bad = {7, 8, 9, 20}
    loader = Loader(data, "train", store, task, 6, cache=cache, on_error="skip")
    expected = [k % 10 for k in range(40) if k not in bad]
    for _ in range(3):
        batches = list(loader)
        assert np.concatenate([b["target"] for b in batches]).tolist() == expected == [int(l.names[0]) for l in loader.kept(data.labels("train"))]
        assert all(len(b["image"]) == len(b["target"]) for b in batches)
        for i, image in zip([i for k, i in enumerate(data.items("train")) if k not in bad], np.concatenate([b["image"] for b in batches])):
            assert np.array_equal(image, task.encode(Item(data=store.get(i.sha256)))["image"])
    assert sorted(loader.skipped.items()) == [
        ("BadInput: This picture is cut short or broken", 2), ("Damaged: A blob does not match its name", 1), ("NotFound: The blob store has no such bytes", 1),
    ]  # fmt: skip


def test_a_batch_of_nothing_but_bad_items_is_left_out(tmp_path, task):
    data, store = version(tmp_path, [b"a", b"b", *pictures(3)])
    for used in (task, type("Plain", (), {"encode": lambda self, i: task.encode(i), "collate": lambda self, e, l=None: task.collate(e, l)})()):
        assert [len(b["image"]) for b in Loader(data, "train", store, used, 2, on_error="skip")] == [2, 1]


def test_a_store_that_does_not_answer_is_no_fault_of_the_item(loaded, task, monkeypatch):
    data, store = loaded

    def get(name, check=False):
        raise Unavailable("The blob store failed", name)

    monkeypatch.setattr(store, "get", get)
    with pytest.raises(Unavailable, match="Item"):
        list(Loader(data, "train", store, task, on_error="skip"))


# ---------------------------------------------------------------- copies


def copies(data):
    folder = data.manifest.dir.parent.parent / "cache"
    return sorted(p.name for p in folder.glob("[0-9a-f]*")) if folder.exists() else []


def expected_images(data, store, task):
    return np.stack([task.encode(Item(data=store.get(i.sha256)))["image"] for i in data.items("train")])


@pytest.mark.parametrize("cache", ["packed", "decoded"])
def test_a_copy_is_made_in_the_first_pass_and_read_afterwards(loaded, task, cache):
    data, store = loaded
    expected = expected_images(data, store, task)
    loader = Loader(data, "train", store, task, 7, cache=cache)
    assert np.array_equal(images(loader), expected)
    (name,) = copies(data)
    assert name.endswith(cache) and loader.reader.copy.state == "ready"
    if cache == "packed":
        get, store.get = store.get, None  # nothing is asked for any more
        again = Loader(data, "train", store, task, 7, cache=cache)
        assert np.array_equal(images(again), expected) and np.array_equal(images(loader), expected)
        store.get = get
    else:
        again = Loader(data, "train", store, Untouchable(task), 7, cache=cache)
        assert np.array_equal(images(again), expected)
    assert copies(data) == [name]


def Untouchable(task):
    """The task, but for reading: whoever encodes has not used the copy."""

    def encode_into(self, item, out):
        raise AssertionError("this was in the copy")

    made = copy.copy(task)
    made.__class__ = type(type(task).__name__, (type(task),), {"__module__": type(task).__module__, "encode_into": encode_into})
    return made


def test_shuffled_and_sharded_passes_read_the_same_copy(loaded, task):
    data, store = loaded
    list(Loader(data, "train", store, task, 7, cache="decoded"))
    expected = expected_images(data, store, task)
    for rank in range(2):
        loader = Loader(data, "train", store, Untouchable(task), 5, shuffle=True, rank=rank, world_size=2, cache="decoded")
        order = np.concatenate(loader.plan(0))
        assert np.array_equal(images(loader), expected[order])


def test_a_rank_adds_what_it_has_not_seen(loaded, task):
    data, store = loaded
    for cache in ("packed", "decoded"):
        loader = Loader(data, "train", store, task, 5, shuffle=True, rank=1, world_size=2, cache=cache)
        list(loader)
        assert loader.reader.copy.state == "ready" and loader.reader.copy.has(loader.reader.rows).all()
    few = Loader(data, "val", store, task, 2, shuffle=True, rank=1, world_size=4, cache="decoded")
    list(few)
    assert few.reader.copy.state == "building", "three quarters are missing: another pass first"
    for _ in range(12):
        list(few)
    assert few.reader.copy.state == "ready"


def test_what_is_encoded_otherwise_is_another_copy(loaded, task):
    data, store = loaded
    list(Loader(data, "train", store, task, 7, cache="decoded"))
    other = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24, "channels": 1})
    list(Loader(data, "train", store, other, 7, cache="decoded"))
    list(Loader(data, "val", store, task, 7, cache="decoded"))
    assert len(copies(data)) == 3
    smoothed = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24, "label_smoothing": 0.1})
    list(Loader(data, "train", store, smoothed, 7, cache="decoded"))
    assert len(copies(data)) == 3, "nothing that the encoding depends on has changed"


def test_code_that_a_class_inherits_or_calls_is_part_of_what_was_done(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = set()
    for k, (base, user) in enumerate((("1", "2"), ("3", "2"), ("1", "4"))):
        (tmp_path / f"base{k}.py").write_text(f"class Base:\n    def helper(self): return {base}\n")
        (tmp_path / f"user{k}.py").write_text(f"from base{k} import Base\n\ndef outside(): return {user}\n\nclass Mine(Base):\n    def encode(self, item): return outside()\n")
        keys.add(_code_of(__import__(f"user{k}").Mine))
    assert len(keys) == 3


def test_auto_keeps_in_memory_what_fits_and_maps_what_is_worth_it(loaded, task):
    data, store = loaded
    small = Loader(data, "train", store, task, 7)
    list(small)
    assert not copies(data) and np.array_equal(images(small), expected_images(data, store, task)) and small.reader.copy.has(small.reader.rows).all()
    large = Loader(data, "train", store, task, 7, memory_mb=0.01)
    list(large)
    assert not copies(data), "one pass alone is not worth it"
    list(large)
    assert [c.partition("-")[2] for c in copies(data)] == ["decoded"] and large.reader.copy.state == "ready"
    slow = Loader(data, "val", store, task, 1, memory_mb=0.001, threads=2)
    for _ in range(2):
        for _ in slow:
            time.sleep(0.02)
    assert len(copies(data)) == 1, "who never waits for the loader needs no copy"
    assert Loader(data, "train", store, task, 7, memory_mb=0.01).reader.copy is None
    again = Loader(data, "train", store, Untouchable(task), 7, memory_mb=0.01)
    assert np.array_equal(images(again), expected_images(data, store, task)), "a copy that is there is used in the first pass"


def test_a_bucket_is_packed_or_decoded_in_the_first_pass(tmp_path, task):
    store = BlobStore(f"memory://loader-{tmp_path.name}")
    data, _ = version(tmp_path, pictures(40), store)
    expected = expected_images(data, store, task)
    plain = type("Plain", (), {"encode": lambda self, i: task.encode(i), "collate": lambda self, e, l=None: task.collate(e, l)})()
    first = Loader(data, "train", store, plain, 7, memory_mb=0)
    assert np.array_equal(images(first), expected) and [c.partition("-")[2] for c in copies(data)] == ["packed"]
    calls, get = [], store.get
    store.get = lambda name, check=False: calls.append(name) or get(name, check)
    assert np.array_equal(images(Loader(data, "train", store, plain, 7, memory_mb=0)), expected) and not calls
    forget(data.manifest.dir.parent.parent / "cache", [data.items("train")[0].sha256])
    assert not copies(data)
    assert np.array_equal(images(Loader(data, "train", store, task, 7, memory_mb=0.001)), expected) and [c.partition("-")[2] for c in copies(data)] == ["decoded"]
    store.fs.rm(store.root, recursive=True)


def test_no_room_means_no_copy_and_no_error(loaded, task, capsys):
    data, store = loaded
    expected = expected_images(data, store, task)
    assert np.array_equal(images(Loader(data, "train", store, task, 7, cache="decoded", cache_gb=1e-6)), expected) and not copies(data)
    list(Loader(data, "val", store, task, 7, cache="decoded"))
    enough = 48 * BYTES * 1.2 / 2**30  # for the training split, not for both
    assert np.array_equal(images(Loader(data, "train", store, task, 7, cache="decoded", cache_gb=enough)), expected)
    assert len(copies(data)) == 1, "the one used longest ago has gone"
    list(Loader(data, "train", store, Bytes(), 7, cache="packed", cache_gb=1e-4))
    assert len(copies(data)) == 1
    forget(data.manifest.dir.parent.parent / "cache", [i.sha256 for i in data.items()])
    packed = Loader(data, "train", store, Bytes(), 7, cache="packed", cache_gb=2e-5)
    assert len(list(packed)) == len(list(packed)) == 7 and not copies(data) and capsys.readouterr().out.count("larger than `cache_gb`") == 1
    locked = Path(data.manifest.dir) / "file"
    locked.write_text("a file where a folder would be")
    assert np.array_equal(images(Loader(data, "train", store, task, 7, cache="decoded", folder=locked / "cache")), expected)


def test_a_disk_that_fills_up_while_writing_costs_the_copy_only(loaded, task, monkeypatch, capsys):
    data, store = loaded

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for cache in ("packed", "decoded"):
        assert np.array_equal(images(Loader(data, "train", store, task, 7, cache=cache)), expected_images(data, store, task))
        assert not copies(data) and "No space left" in capsys.readouterr().out


@pytest.mark.parametrize("cache, name", [("decoded", "image.bin"), ("packed", "data.bin")])
def test_a_damaged_row_is_found_out_and_the_copy_goes(loaded, task, capsys, cache, name):
    data, store = loaded
    expected = expected_images(data, store, task)
    list(Loader(data, "train", store, task, 7, cache=cache))
    path = data.manifest.dir.parent.parent / "cache" / copies(data)[0] / name
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 4
    path.write_bytes(body)
    loader = Loader(data, "train", store, task, 7, cache=cache)
    assert np.array_equal(images(loader), expected) and "deletes a copy" in capsys.readouterr().out and not copies(data)
    assert np.array_equal(images(loader), expected) and len(copies(data)) == 1, "and is made anew"
    assert np.array_equal(images(loader), expected) and not capsys.readouterr().out


def test_a_damaged_row_is_never_held_for_sound(tmp_path):
    made = _Decoded(tmp_path, "", ["aa", "bb"], {"x": ((4,), "uint8")})
    assert made.begin()
    for row in range(2):
        made.put(row, {"x": np.full(4, row + 1, np.uint8)})
    assert made.finish()
    (path,) = tmp_path.glob("*/x.bin")
    path.write_bytes(bytes([1, 1, 1, 1, 2, 9, 2, 2]))
    again = _Decoded(tmp_path, "", ["aa", "bb"], {"x": ((4,), "uint8")})
    assert again.open()
    for _ in range(2):
        assert again.take(np.array([0, 1]), {"x": np.empty((2, 4), np.uint8)}).tolist() == [1]


@pytest.mark.parametrize("cache", ["decoded", "packed"])
def test_a_copy_cut_short_or_with_a_damaged_index_is_made_anew(loaded, task, cache):
    data, store = loaded
    expected = expected_images(data, store, task)
    list(Loader(data, "train", store, task, 7, cache=cache))
    folder = data.manifest.dir.parent.parent / "cache" / copies(data)[0]
    for path in sorted(p for p in folder.iterdir() if p.name != "hashes.npy"):
        whole = path.read_bytes()
        for broken in (whole[:-1], b"", None):
            path.unlink()
            if broken is not None:
                path.write_bytes(broken)
            loader = Loader(data, "train", store, task, 7, cache=cache)
            assert np.array_equal(images(loader), expected), path.name
            assert loader.reader.copy.state == "ready" and np.array_equal(images(loader), expected)


def build_and_die(folder, root, after):
    """In a child: build a copy and be killed in the middle of it."""
    from fullstack_ml.records import find_artifact

    cfg = compose_cfg("dataset", out=folder)
    task = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 24})
    loader = Loader(open_dataset(find_artifact(cfg, "dataset")), "train", BlobStore(root), task, 4, cache="decoded")
    for n, _ in enumerate(loader):
        if n == after:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_build_leaves_no_copy_and_the_next_one_makes_it(loaded, task):
    data, store = loaded
    folder = data.manifest.dir.parent.parent
    child = multiprocessing.get_context("spawn").Process(target=build_and_die, args=(str(folder), store.root, 3))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = [p for p in (folder / "cache").iterdir() if p.is_dir()]
    assert not copies(data) and len(left) == 1, "only the unfinished one, under a name with a dot"
    loader = Loader(data, "train", store, task, 7, cache="decoded")
    assert np.array_equal(images(loader), expected_images(data, store, task)) and len(copies(data)) == 1
    assert [p.name for p in (folder / "cache").iterdir() if p.is_dir()] == copies(data), "what the killed one left has been swept away"


def test_one_builds_and_the_other_goes_on_without(loaded, task):
    data, store = loaded
    expected = expected_images(data, store, task)
    one, other = (Loader(data, "train", store, task, 7, cache="decoded") for _ in range(2))
    first = iter(one)
    next(first)
    assert np.array_equal(images(other), expected) and other.reader.copy is None and not copies(data)
    list(first)
    assert len(copies(data)) == 1
    assert np.array_equal(images(other), expected) and other.reader.copy.state == "ready", "and uses it in its next pass"
    forget(data.manifest.dir.parent.parent / "cache", [data.items("train")[0].sha256])
    assert np.array_equal(images(other), expected), "whoever has it open still reads it"


def test_a_pass_broken_off_goes_on_building_in_the_next(loaded, task):
    data, store = loaded
    loader = Loader(data, "train", store, task, 7, cache="decoded")
    next(iter(loader))
    assert loader.reader.copy.state == "building" and not copies(data)
    assert np.array_equal(images(loader), expected_images(data, store, task)) and len(copies(data)) == 1


def test_a_picture_taken_down_is_in_no_copy(loaded, task, capsys):
    data, store = loaded
    gone = data.items("train")[4]
    for cache in ("packed", "decoded"):
        list(Loader(data, "train", store, task, 7, cache=cache))
    list(Loader(data, "val", store, task, 7, cache="packed"))
    folder = data.manifest.dir.parent.parent / "cache"
    assert forget(folder, [gone.sha256]) == 2 and len(copies(data)) == 1 and forget(folder, [gone.sha256]) == 0
    for cache in ("packed", "decoded"):  # and where nobody called `forget`
        list(Loader(data, "train", store, task, 7, cache=cache))
    store.delete(gone.sha256)
    for cache in ("packed", "decoded"):
        with pytest.raises(NotFound, match=gone.id):
            list(Loader(data, "train", store, task, 7, cache=cache))
    assert capsys.readouterr().out.count("no longer in the blob store") == 2 and len(copies(data)) == 1
    for cache in ("packed", "decoded"):  # of what is left, a copy is made once
        for _ in range(2):
            assert sum(len(b["image"]) for b in Loader(data, "train", store, task, 7, cache=cache, on_error="skip")) == 47
    assert not capsys.readouterr().out and len(copies(data)) == 3


# ---------------------------------------------------------------- what the house says about it


def test_the_configuration_reaches_every_choice(loaded, task):
    data, store = loaded
    cfg = compose_cfg("train", ["loader.cache=none", "loader.on_error=skip", "loader.threads=1", "loader.bucket=true", "loader.memory_mb=1", "loader.cache_gb=2"])
    loader = Loader(data, "train", store, task, 8, shuffle=True, **cfg.loader)
    assert loader.reader.choice == "none" and loader.reader.skip and loader.threads == 1 and loader.widths is not None and loader.reader.disk == 2 * 2**30


def test_a_task_that_offers_a_fast_path_keeps_to_the_plain_one(task):
    """Whoever collates otherwise than by stacking must not offer `encode_into`."""
    for path in (ROOT / "fullstack_ml" / "tasks").glob("*.py"):
        text = path.read_text(encoding="utf8")
        if "def encode_into" in text:
            assert "def layout" in text and "def encode_key" in text and "def collate" not in text, path.name
    assert type(task).collate is Task.collate
    pairs = task.sample(4)
    stacked = task.collate([task.encode(i) for i, _ in pairs])["image"]
    out = np.empty_like(stacked)
    for k, (item, _) in enumerate(pairs):
        task.encode_into(replace(item), {"image": out[k]})
    assert np.array_equal(out, stacked)


def test_training_leaves_out_what_cannot_be_read_if_told_so(tmp_path):
    """The whole stage: one picture of each split is broken."""
    from fullstack_ml.train import train

    cfg = compose_cfg("train", ["loader.on_error=skip", "epochs=1", "batch_size=8", "task.size=32", "tracking=disabled", "model.name=test_resnet", "augment=none"], out=str(tmp_path / "artifacts"))
    bodies = [b if k % 20 else b"broken" + bytes([k]) for k, b in enumerate(pictures(80, side=32))]
    data, _ = version(tmp_path, bodies, BlobStore(cfg.storage.blobs), splits=["val" if k % 40 < 10 else "train" for k in range(80)])
    manifest = train(cfg)
    assert sum(manifest.metrics["skipped"].values()) == 4 and manifest.metrics["split"] == "val"
