"""Groups that stay together, splits that stay put, and three rules that divide."""
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from fullstack_ml.core import BadConfig, compose_cfg, make, sha256
from fullstack_ml.dataset import SPLITS
from fullstack_ml.pictures import near_duplicates
from fullstack_ml.records import Item
from fullstack_ml.splits import Groups, assign_splits, by_content, by_time, split_of, stratified

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def hashes(n, seed, n_bytes=18):
    """Random hashes among which many are a few bits from an earlier one."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, 256, (n, n_bytes), np.uint8)
    for k in range(1, n, 3):
        made[k] = made[rng.integers(0, k)]
        for bit in rng.integers(0, 8 * n_bytes, rng.integers(0, 9)):
            made[k, bit // 8] ^= 1 << (bit % 8)
    return [h.tobytes().hex() for h in made]


def items_of(n, seed=0):
    return [Item(url=f"{seed}/{k}", sha256=sha256(f"{seed}/{k}".encode()), phash=h, page_url=f"p{k // 4}", fetched_at=f"{k:05d}") for k, h in enumerate(hashes(n, seed))]


def table(items, names=None):
    names = names or ["x"] * len(items)
    keep = ("id", "sha256", "phash", "page_url", "fetched_at")
    rows = [{**{k: getattr(i, k) for k in keep}, "label": json.dumps({"kind": "choice", "names": [n]})} for i, n in zip(items, names)]
    return pa.Table.from_pylist(rows).sort_by("id")


def divide(items, before=None, names=None, **more):
    """The rows that stay, with group and split."""
    t = table(items, names)
    groups, splits = assign_splits(t, **SHARES, before=before, **more)
    t = t.append_column("group", pa.array(groups)).append_column("split", pa.array(splits))
    return t.filter(pa.compute.not_equal(t["split"], ""))


def by_id(t, column="split"):
    return dict(zip(t["id"].to_pylist(), t[column].to_pylist()))


def check_no_leak(t, bits=10):
    groups = near_duplicates(t["phash"].to_pylist(), bits)
    assert len({*zip(groups.tolist(), t["split"].to_pylist())}) == len(set(groups.tolist())), "near-duplicates lie across splits"


def test_no_group_is_torn_and_order_does_not_matter():
    items = items_of(400)
    found = divide(items)
    check_no_leak(found)
    order = np.random.default_rng(1).permutation(400)
    assert by_id(divide([items[i] for i in order])) == by_id(found)
    assert abs(found["split"].to_pylist().count("train") / 400 - 0.6) < 0.12 and {*found["split"].to_pylist()} == {*SPLITS}
    assert by_id(divide(items, seed=1)) != by_id(found), "another seed, another division"


def test_shares():
    drawn = [split_of(sha256(str(k).encode()), SHARES) for k in range(3000)]
    assert all(abs(drawn.count(s) / 3000 - SHARES[s]) < 0.03 for s in SPLITS)
    with pytest.raises(BadConfig, match="sum to 1"):
        assign_splits(table(items_of(3)), 0.9, 0.2, 0.2)


def test_no_item_to_divide():
    t = table(items_of(1)).slice(0, 0)
    groups, splits = assign_splits(t, **SHARES)
    assert len(groups) == 0 and splits == []


@pytest.mark.parametrize("rule", [by_content, by_time, stratified])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_item_keeps_its_split_for_ever(rule, seed):
    """Over five versions in which items come, go and come back, with near-duplicates among them."""
    rng, pool = np.random.default_rng(seed), items_of(600, seed)
    names = {i.id: str(k % 5) for k, i in enumerate(pool)}
    before, known = None, {}
    for n in (200, 300, 420, 500, 600):
        some = [i for i in pool[:n] if rng.random() < 0.9]
        found = divide(some, before, [names[i.id] for i in some], rule=rule)
        check_no_leak(found)
        now = by_id(found)
        old = by_id(before) if before else {}
        assert all(now[k] == old[k] for k in now.keys() & old.keys()), "an item of the version before has moved"
        assert set(old) & {i.id for i in some} <= set(now), "an item of the version before was left out"
        before, known = found, {**known, **now}


def test_who_bridges_two_splits_stays_out_and_nobody_moves():
    bits = lambda *ones: (sum(1 << b for b in ones)).to_bytes(18, "big").hex()
    a, b = (Item(url=u, id=u, sha256=sha256(u.encode()), phash=p) for u, p in (("a", bits()), ("b", bits(*range(16)))))
    before = pa.table({"id": ["a", "b"], "sha256": [a.sha256, b.sha256], "split": ["test", "train"], "group": [0, 1]})
    bridge = Item(url="c", id="c", sha256=sha256(b"c"), phash=bits(*range(8)))
    kin = Item(url="d", id="d", sha256=sha256(b"d"), phash=bits(40))
    assert by_id(divide([a, b, bridge, kin], before)) == {"a": "test", "b": "train", "d": "test"}
    # two new ones that bridge together: the first is seated, the second stays out
    c, d = replace(bridge, phash=bits(*range(6))), replace(kin, phash=bits(*range(12)))
    far = replace(b, phash=bits(*range(20)))
    assert by_id(divide([a, far, c, d], before.set_column(1, "sha256", pa.array([a.sha256, far.sha256])))) == {"a": "test", "b": "train", "c": "test"}


def test_a_stricter_limit_keeps_the_test_set_and_drops_its_copies_from_training():
    bits = lambda n: ((1 << n) - 1).to_bytes(18, "big").hex()
    items = [Item(url=u, id=u, sha256=sha256(u.encode()), phash=bits(n)) for u, n in (("a", 0), ("b", 8), ("c", 100))]
    old = pa.table({"id": ["a", "b", "c"], "sha256": [i.sha256 for i in items], "split": ["train", "test", "val"], "group": [-1, -1, -1]})
    assert by_id(divide(items, old)) == {"b": "test", "c": "val"}


def test_the_same_bytes_under_another_address_keep_their_split():
    items = items_of(60)
    before = divide(items, rule=by_time)
    moved = [replace(i, id=f"new{k}", fetched_at="99999") for k, i in enumerate(items)]
    after = divide(moved, before, rule=by_time)
    assert by_id(before.select(["sha256", "split"]).rename_columns(["id", "split"])) == by_id(after.select(["sha256", "split"]).rename_columns(["id", "split"]))


def test_what_shares_a_page_stays_together():
    items = [replace(i, phash="") for i in items_of(200)]
    found = divide(items, together="page_url")
    assert len({*zip(found["page_url"].to_pylist(), found["split"].to_pylist())}) == 50 == len(set(found["group"].to_pylist()))
    later = divide([replace(i, phash="") for i in items_of(203)], found, together="page_url")
    assert by_id(found).items() <= by_id(later).items() and len(later) == 203
    with pytest.raises(BadConfig, match="SQL"):
        divide(items, together="nosuch")


def test_the_newest_test_and_later_versions_keep_the_dates():
    items = [replace(i, phash="") for i in items_of(100)]
    first = divide(items, rule=by_time)
    assert [by_id(first)[i.id] for i in items] == ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    more = [Item(url=f"n{t}", sha256=sha256(t.encode()), fetched_at=t) for t in ("00000", "00059x", "00079", "00099", "2")]
    later = by_id(divide([*items, *more], first, rule=by_time))
    assert [later[i.id] for i in more] == ["train", "val", "val", "test", "test"] and by_id(first).items() <= later.items()


def test_shares_hold_within_each_class_and_are_made_up_for_later():
    names = ["rare" if k % 20 == 0 else "common" for k in range(400)]
    items = [replace(i, phash="") for i in items_of(400)]
    found = divide(items, names=names, rule=stratified)
    rare = [s for s, label in zip(found["split"].to_pylist(), found["label"].to_pylist()) if "rare" in label]
    assert [rare.count(s) for s in SPLITS] == [12, 4, 4]
    before = found.filter(pa.compute.not_equal(found["split"], "val"))  # the val split was taken away
    again = divide(items, before, names, rule=stratified)
    assert [again["split"].to_pylist().count(s) for s in SPLITS] == [240, 80, 80]


def test_a_picture_of_boxes_counts_for_its_rarest_class():
    box = lambda *names: json.dumps({"kind": "boxes", "boxes": [{"x": 0, "y": 0, "w": 1, "h": 1, "name": n} for n in names]})
    t = table(items_of(4)).drop_columns(["label"]).append_column("label", pa.array([box("cell", "cell"), box("cell", "plate"), box(), box("cell")]))
    assert Groups(t, np.arange(4), [""] * 4).stratum == ["cell", "plate", "", "cell"]


@pytest.mark.parametrize("choice", ["by_content", "by_group", "by_time", "stratified"])
def test_every_choice_of_the_configuration_divides(choice):
    rule = make(compose_cfg("dataset", [f"split={choice}"]).split)
    groups, splits = rule(table([replace(i, phash="") if choice == "by_group" else i for i in items_of(300)]), max_bits=10)
    assert {*splits} == {*SPLITS} and len({*zip(groups.tolist(), splits)}) == len(set(groups.tolist()))
