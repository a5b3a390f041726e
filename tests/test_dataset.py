"""Dataset versions: groups that stay together, splits that stay put, and a loader whose order can be told beforehand."""
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, Damaged, compose_cfg, sha256
from fullstack_ml.dataset import SPLITS, Loader, assign_splits, choose, dataset, diff_versions, near_duplicates, open_dataset, split_of
from fullstack_ml.records import Choice, Item, draft, label_to_dict

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL"):
        monkeypatch.delenv(name, raising=False)


def hashes(n, seed, n_bytes=18):
    """Random hashes among which many are a few bits from an earlier one."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (n, n_bytes), np.uint8)
    for k in range(1, n, 3):
        made[k] = made[rng.integers(0, k)]
        for bit in rng.integers(0, 8 * n_bytes, rng.integers(0, 16)):
            made[k, bit // 8] ^= 1 << (bit % 8)
    return [h.tobytes().hex() for h in made]


def brute_force(found, max_bits):
    group = list(range(len(found)))
    bits = [int(h, 16) if h else None for h in found]
    for i in range(len(found)):
        for j in range(i):
            if bits[i] is not None and bits[j] is not None and (bits[i] ^ bits[j]).bit_count() <= max_bits and group[i] != group[j]:
                old, new = group[i], group[j]
                group = [new if g == old else g for g in group]
    return group


@pytest.mark.parametrize("seed, max_bits", [(0, 0), (1, 1), (2, 4), (3, 8), (4, 12), (5, 17)])
def test_near_duplicates_equal_brute_force(seed, max_bits):
    found = [h if k % 17 else "" for k, h in enumerate(hashes(180, seed))]
    ours, theirs = near_duplicates(found, max_bits), brute_force(found, max_bits)
    assert len({*zip(ours.tolist(), theirs)}) == len(set(ours.tolist())) == len(set(theirs))
    assert near_duplicates([], max_bits).tolist() == [] and len(set(near_duplicates(["", ""], max_bits).tolist())) == 2


def items_of(n, seed=0):
    return [Item(url=f"{seed}/{k}", source="s", sha256=sha256(f"{seed}/{k}".encode()), licence="MIT", phash=h) for k, h in enumerate(hashes(n, seed))]


def test_no_group_is_torn_and_order_does_not_matter():
    items = items_of(400)
    groups, splits = assign_splits(items, SHARES, 0, 10)
    assert len({*zip(groups.tolist(), splits)}) == len(set(groups.tolist())) < 400
    order = np.random.default_rng(1).permutation(400)
    _, again = assign_splits([items[i] for i in order], SHARES, 0, 10)
    assert again == [splits[i] for i in order]
    assert abs(splits.count("train") / 400 - 0.6) < 0.12 and {*splits} == {*SPLITS}
    assert assign_splits(items, SHARES, 1, 10)[1] != splits, "another seed, another division"


def test_splits_stay_when_items_are_added_or_taken_away():
    items = [replace(i, phash="") for i in items_of(300)]
    small = dict(zip([i.id for i in items[:200]], assign_splits(items[:200], SHARES, 0, 10)[1]))
    large = dict(zip([i.id for i in items], assign_splits(items, SHARES, 0, 10)[1]))
    assert all(large[k] == v for k, v in small.items())
    # with near-duplicates: only what a new picture is near to may move
    items = items_of(300)
    groups, after = assign_splits(items, SHARES, 0, 10)
    _, before = assign_splits(items[:200], SHARES, 0, 10)
    touched = set(groups[200:].tolist())
    assert all(a == b for a, b, g in zip(before, after, groups[:200].tolist()) if g not in touched)


def test_shares():
    drawn = [split_of(sha256(str(k).encode()), SHARES) for k in range(3000)]
    assert all(abs(drawn.count(s) / 3000 - SHARES[s]) < 0.03 for s in SPLITS)
    for bad in ({"train": 1.0}, {"train": 0.9, "val": 0.2, "test": 0.2}):
        with pytest.raises(BadConfig, match="sum to 1"):
            assign_splits([], bad, 0, 1)


def test_who_may_enter():
    a, b, c, d, e = (replace(i, id=str(k)) for k, i in enumerate(items_of(5)))
    b, c, d = replace(b, licence="NC"), replace(c, sha256=a.sha256), replace(d, state="refused", reason="blank: 1")
    answer = {"label": Choice(("x",)), "agreement": 1.0}
    chosen, left = choose([e, d, c, b, a], {"0": answer, "1": answer, "2": answer, "3": answer, "4": {**answer, "agreement": 0.4}}, ["MIT"], 0.5)
    assert chosen == [a] and left == {"licence NC": 1, "exact duplicate": 1, "blank": 1, "no agreement": 1}


# ---------------------------------------------------------------- a version


def world(tmp_path, items, n_checked=40, *overrides):
    """A crawl and its annotations as those stages would have left them."""
    cfg = compose_cfg("dataset", list(overrides), out=str(tmp_path))
    said = [{"item_id": i.id, "label": json.dumps(label_to_dict(Choice((str(k % 10),)))), "annotators": ["caption"], "agreement": 1.0} for k, i in enumerate(items)]
    with draft("crawl", cfg, {}) as d:
        from fullstack_ml.records import write_items

        write_items(d.dir / "items.parquet", items)
    with draft("annotate", cfg, {}) as d:
        for name, rows in [("consensus", said), ("checks", said[:n_checked])]:
            pq.write_table(pa.Table.from_pylist(rows), d.dir / f"{name}.parquet")
    return cfg


def cc(items):
    return [replace(i, licence="CC-BY-4.0") for i in items]


def test_truth_only_in_test_and_diff(tmp_path):
    items = cc(items_of(120))
    v1 = dataset(world(tmp_path, items, 120))
    data = open_dataset(v1)
    assert len(data.table) == 120 and data.table.groupby("group")["split"].nunique().max() == 1
    assert all(t is None for s in ("train", "val") for t in data.labels(s, "truth")) and None not in data.labels("test", "truth")
    assert sum(len(data.items(s)) for s in SPLITS) == len(data.items()) and v1.metrics["checked"] == len(data.items("test"))
    with pytest.raises(BadConfig, match="splits are"):
        data.items("tset")
    changed = [*items[:-1], *cc(items_of(1, 7))]
    changed[0] = replace(changed[0], sha256=sha256(b"other bytes"), phash="")
    diff = diff_versions(v1, dataset(world(tmp_path, changed)))
    kinds = dict(zip(diff["id"], diff["change"]))
    assert kinds[items[-1].id] == "removed" and kinds[changed[-1].id] == "added" and kinds[items[0].id] == "replaced"
    assert set(kinds.values()) <= {"removed", "added", "replaced", "moved"}
    v1.verify()


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(BadConfig, match="would be empty"):
        dataset(world(tmp_path, cc(items_of(2))))


# ---------------------------------------------------------------- the loader


class Bytes:
    """A task as the loader sees one: first byte of the item."""

    def encode(self, item):
        if not item.data:
            raise BadInput("Empty", None, "Send more.")
        return {"x": np.array([item.data[0]])}

    def collate(self, encoded, labels=None):
        return {"x": np.concatenate([e["x"] for e in encoded])}


@pytest.fixture
def loaded(tmp_path):
    cfg = compose_cfg("dataset", out=str(tmp_path))
    store = BlobStore(cfg.storage.blobs)
    items = cc([Item(url=str(k), source="s", sha256=store.put(bytes([k, 1, 2])), page_url=f"http://page/{k}") for k in range(100)])
    return open_dataset(dataset(world(tmp_path, items))), store


def test_order_follows_from_seed_and_epoch(loaded):
    data, store = loaded

    def epochs(n, **kwargs):
        loader = Loader(data, "train", store, Bytes(), 8, shuffle=True, **kwargs)
        return [np.concatenate([b["x"] for b in loader]).tolist() for _ in range(n)]

    first = epochs(3)
    assert first == epochs(3) == epochs(3, threads=5, cache_mb=0) and len({tuple(e) for e in first}) == 3 and len({tuple(sorted(e)) for e in first}) == 1
    assert epochs(1, seed=1)[0] != first[0]
    resumed = Loader(data, "train", store, Bytes(), 8, shuffle=True)
    resumed.epoch = 2
    assert np.concatenate([b["x"] for b in resumed]).tolist() == first[2]
    plain = Loader(data, "val", store, Bytes(), 8)
    assert np.concatenate([b["x"] for b in plain]).tolist() == [store.get(i.sha256)[0] for i in data.items("val")] and len([*plain]) == len(plain)
    assert len(np.concatenate([b["x"] for b in Loader(data, None, store, Bytes(), 7, n_items=9, labelled=False)])) == 9


def test_a_damaged_blob_names_the_item(loaded):
    data, store = loaded
    item = data.items("train")[3]
    path = next(p for p in __import__("pathlib").Path(store.root).rglob(item.sha256))
    for damage in (b"", b"xyz"):
        path.write_bytes(damage)
        with pytest.raises(Damaged, match=f"Item {item.id} .*{item.page_url}"):
            list(Loader(data, "train", store, Bytes(), 8))
    path.unlink()
    with pytest.raises(Exception, match=item.id):
        list(Loader(data, "train", store, Bytes(), 8))


def test_a_blob_cut_short_is_written_again(loaded):
    """What a power cut may leave behind is healed by the next crawl."""
    _, store = loaded
    name = store.put(b"whole bytes")
    next(__import__("pathlib").Path(store.root).rglob(name)).write_bytes(b"")
    assert store.put(b"whole bytes") == name and store.get(name, check=True) == b"whole bytes"
