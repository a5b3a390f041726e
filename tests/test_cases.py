"""A report in memory answers as pandas does, opens whatever is missing, and refuses what it cannot answer."""
import json

import jiwer
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk

from fullstack_ml.cases import FORMAT, Cases, open_cases, text_columns
from fullstack_ml.columns import OPS, make_column
from fullstack_ml.core import BadInput, Damaged, NotFound, compose_cfg, write_json
from fullstack_ml.measures import character_error_rate, wilson, wilson_intervals
from fullstack_ml.records import Item, draft, write_items

HOSTILE = """<script>alert(1)</script> ' " ; -- \\ %s"""


def make(n=400, kind="choice", seed=0, form=FORMAT, change=lambda t: t, with_dataset=True):
    """A report and its dataset version, made up, and the two tables as pandas."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n).astype(str)
    if kind == "text":
        truth = np.array([" ".join(rng.choice(["total", "12,50", "Straße", "paris"], rng.integers(1, 6))) for _ in range(n)])
        said = np.array([t if rng.random() < 0.7 else t.replace("t", "l", 1).replace(",", "", 1) + "x" for t in truth])
    else:
        said = np.where(rng.random(n) < 0.8, truth, rng.integers(0, 5, n).astype(str))
    items = [
        Item(
            url=f"https://site{i % 3}.example/{i}.png", page_url=f"https://site{i % 3}.example/p{i}", source="s", author=f"writer {i % 60}" if i % 7 else "",
            caption=f"Number {i} {HOSTILE if i == 3 else ''}", width=int(w), height=32, mime="image/png", meta={"pen": ("blue", "black", "red")[i % 3], "scan": i % 4, "ok": bool(i % 2)},
        )
        for i, w in enumerate(rng.integers(10, 900, n))
    ]  # fmt: skip
    cfg = compose_cfg("evaluate", ["parents={}"])
    dataset = None
    columns = {"label": ["{}"] * n, "annotators": [json.dumps(["anna", "ben"][: 1 + i % 2]) for i in range(n)], "agreement": [1.0 if i % 3 else 0.5 for i in range(n)]}
    with draft("dataset", cfg, {}) as d:
        write_items(d.dir / "items.parquet", items, **columns, group=[i // 2 for i in range(n)], split=["test"] * n)
        write_json(d.dir / "classes.json", [])
    dataset = d.manifest
    split = np.array(["train", "val", "test"])[rng.integers(0, 3, n)]
    right = [None if i == 7 else bool(a == b) for i, (a, b) in enumerate(zip(truth, said))]
    table = {"item_id": [i.id for i in items], "split": split, "label": truth, "truth": pa.nulls(n, pa.string()), "predicted": [None if i == 7 else s for i, s in enumerate(said)]}
    table |= {"right": right, "confidence": [None if i == 7 else c for i, c in enumerate(rng.random(n))], "suspicion": rng.random(n), "suggested": said}
    table |= {"error": ["broken" if i == 7 else "" for i in range(n)], "scores": ['{"a": 1.0}'] * n, "small": [i.width < 64 for i in items]}
    with draft("evaluate", cfg, {"dataset": dataset}) as d:
        pq.write_table(change(pa.table(table)), d.dir / "predictions.parquet")
        told = {"label_kind": kind, "figures": [], "confusion": {"classes": list("01234") if kind == "choice" else []}}
        write_json(d.dir / "metrics.json", told | ({"format": form} if form else {}))
    frame = pd.DataFrame({**{k: v for k, v in table.items() if k != "truth"}, "width": [i.width for i in items], "author": [i.author for i in items], "caption": [i.caption for i in items]})
    return Cases(d.manifest, dataset if with_dataset else None), frame, items


def test_find_counts_sorts_and_pages_as_pandas_does(home):
    cases, frame, _ = make()
    wrong = frame[(frame.split == "test") & (frame.right == False)]  # noqa: E712
    asked = [["split", "=", "test"], ["right", "=", False]]
    found = cases.find(asked, sort="confidence", descending=True, n=10**6)
    assert (found["total"], found["right"], found["wrong"], found["unjudged"]) == (len(wrong), 0, len(wrong), 0)
    assert [r["item"] for r in found["rows"]] == wrong.sort_values("confidence", ascending=False)["item_id"].tolist()
    pages = [r["item"] for start in range(0, len(wrong), 7) for r in cases.find(asked, sort="width", start=start, n=7)["rows"]]
    assert pages == wrong.sort_values("width", kind="stable")["item_id"].tolist() and len(pages) == len(wrong)
    all_of = cases.find(sort="confidence", n=10**6)
    assert all_of["unjudged"] == 1 and all_of["rows"][-1]["confidence"] is None  # what is not known comes last
    assert cases.find(sort="confidence", descending=True, n=10**6)["rows"][-1]["confidence"] is None
    assert all_of["total"] == 400 and all_of["right"] + all_of["wrong"] + 1 == 400
    row = all_of["rows"][0]
    assert {"item", "split", "label", "truth", "predicted", "right", "confidence", "suspicion", "suggested", "error", "width", "height", "mime", "caption"} <= set(row)
    assert json.loads(json.dumps(all_of)) == all_of


@pytest.mark.parametrize(
    "condition, pick",
    [
        (["width", ">=", 500], lambda f: f.width >= 500), (["width", "<", 64], lambda f: f.width < 64), (["width", "!=", 64], lambda f: f.width != 64),
        (["width", "in", [100, 101, 102]], lambda f: f.width.isin([100, 101, 102])), (["author", "=", "writer 1"], lambda f: f.author == "writer 1"),
        (["author", "!=", "writer 1"], lambda f: f.author != "writer 1"), (["author", "in", ["writer 1", "writer 2"]], lambda f: f.author.isin(["writer 1", "writer 2"])),
        (["author", "has", "WRITER 1"], lambda f: f.author.str.contains("writer 1")), (["author", "empty", True], lambda f: f.author == ""),
        (["author", "empty", False], lambda f: f.author != ""), (["right", "=", None], lambda f: f.right.isna()), (["small", "=", True], lambda f: f.small),
        (["annotators", "=", "ben"], lambda f: f.index % 2 == 1), (["annotators", "=", "anna"], lambda f: f.index >= 0), (["annotators", "has", "BE"], lambda f: f.index % 2 == 1),
        (["meta.pen", "=", "red"], lambda f: f.index % 3 == 2), (["meta.scan", "<=", 1], lambda f: f.index % 4 <= 1), (["meta.ok", "=", True], lambda f: f.index % 2 == 1),
        (["site", "=", "site1.example"], lambda f: f.index % 3 == 1), (["group_size", "=", 2], lambda f: f.index >= 0), (["item", "<", "8"], lambda f: f.item_id < "8"),
    ],
    ids=lambda v: str(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_every_operator_picks_what_pandas_picks(home, condition, pick):
    cases, frame, _ = make()
    assert cases.mask([condition]).tolist() == np.asarray(pick(frame), bool).tolist()
    both = cases.mask([condition, ["split", "=", "val"]])
    assert both.tolist() == (np.asarray(pick(frame), bool) & (frame.split == "val")).tolist()


def test_the_search_looks_where_it_says(home):
    cases, frame, items = make()
    assert cases.find(text=items[5].id.upper())["total"] == 1
    assert cases.find(text="nUmBeR 12")["total"] == frame.caption.str.contains("Number 12").sum()
    assert cases.find(text="<SCRIPT>")["total"] == 1 and cases.find(text="  ")["total"] == 400


def test_bars_pick_exactly_their_items(home):
    cases, frame, _ = make()
    for column in [c["name"] for c in cases.columns]:
        for asked in ([], [["split", "=", "test"]]):
            for bar in cases.slice(column, asked):
                found = cases.find([*asked, *bar["filter"]])
                assert found["total"] == bar["n"] > 0, (column, bar)
                judged = found["right"] + found["wrong"]
                assert bar["judged"] == judged and (bar["accuracy"] == pytest.approx(found["right"] / judged) if judged else bar["accuracy"] is None)
                assert not judged or [bar["low"], bar["high"]] == pytest.approx(wilson(found["right"], judged))
    assert sum(b["n"] for b in cases.slice("width")) == 400 and 3 <= len(cases.slice("width")) <= 5
    assert len(cases.slice("author", most=5)) == 6 and cases.slice("author", most=5)[-1]["value"] == "unknown"


def test_wilson_of_many_is_scipys():
    rng = np.random.default_rng(0)
    n = rng.integers(1, 900, 200)
    k = rng.integers(0, n + 1)
    low, high = wilson_intervals(k, n)
    assert np.allclose(np.stack([low, high], 1), [wilson(a, b) for a, b in zip(k, n)], atol=1e-12) and np.isnan(wilson_intervals([0], [0])).all()


def test_the_matrix_is_scikit_learns(home):
    cases, frame, _ = make()
    some = frame[(frame.split == "test") & frame.predicted.notna()]
    found = cases.confusion([["split", "=", "test"]])
    assert found["names"] == list("01234") and found["matrix"] == sk.confusion_matrix(some.label, some.predicted, labels=list("01234")).tolist()
    assert sum(p["n"] for p in found["pairs"]) == (some.label != some.predicted).sum()
    for pair in found["pairs"]:
        picked = cases.find([["split", "=", "test"], *pair["filter"]])
        assert picked["total"] == pair["n"] and {r["predicted"] for r in picked["rows"]} == {pair["predicted"]}


def test_what_is_known_of_texts_is_jiwers(home):
    cases, frame, _ = make(kind="text")
    some = frame[frame.predicted.notna()]
    cer, length = cases.column("cer").data, cases.column("length").data
    assert cer[some.index[:60]].tolist() == pytest.approx([jiwer.cer(t, p) for t, p in zip(some.label[:60], some.predicted[:60])])
    edits = (cer * length)[some.index].sum() / length[some.index].sum()
    assert edits == pytest.approx(jiwer.cer(some.label.tolist(), some.predicted.tolist())) == pytest.approx(character_error_rate(some.label, some.predicted))
    found = cases.confusion()
    assert found["matrix"] == [] and {"t→l", ",→∅", "∅→x"} <= {p["filter"][0][2] for p in found["pairs"]}
    for pair in found["pairs"]:
        assert cases.find(pair["filter"])["total"] == pair["n"]
    bars = cases.slice("length")
    assert sum(b["n"] for b in bars) == 400 and len(bars) > 3
    assert cases.find([["confused", "has", "T→L"]])["total"] == cases.find([["confused", "has", "t→l"]])["total"]


def test_confusions_of_characters_by_hand():
    found = text_columns("text", ["a b", "", "abc", "Ab", None], ["ab", "x", "abc", "ab", "q"])
    assert found["confused"] == [["␣→∅"], [], [], ["A→a"], []] and found["length"] == [3, 0, 3, 2, None] and found["cer"] == [pytest.approx(1 / 3), None, 0.0, 0.5, None]
    assert text_columns("sequence", ["1 22 3"], ["4"]) == {"length": [3]} and text_columns("choice", ["a"], ["b"]) == {}
    far = ["".join(np.random.default_rng(i).choice(list("abcd"), 30)) for i in range(2)]
    assert text_columns("text", far[:1], far[1:])["cer"] == [pytest.approx(jiwer.cer(*far))]  # whatever is replaced by more or by fewer


@pytest.mark.parametrize(
    "asked",
    [
        [["nothing", "=", 1]], [["width", "like", 1]], [["width", ">", "wide"]], [["width", "has", 3]], [["author", "in", "writer 1"]], [["author", "<", 3]], [["right", "=", "yes"]],
        [["author", "=", 5]], ["width"], [["width", "="]], [[["width"], "=", 1]], {"width": 3}, [["annotators", "has", ["x"]]], [["annotators", "=", {"a": 1}]], 7, [["width", "in", 5]],
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(home, asked):
    cases, *_ = make(n=20)
    for ask in (cases.find, cases.confusion, lambda f: cases.slice("split", f)):
        with pytest.raises(BadInput):
            ask(asked)


def test_unknown_columns_are_named(home):
    cases, *_ = make(n=20)
    for ask in (lambda: cases.slice("pen"), lambda: cases.find(sort="pen"), lambda: cases.slice(None)):
        with pytest.raises(BadInput, match="There are: item, split"):
            ask()
    with pytest.raises(NotFound):
        cases.row_of("../../etc/passwd")
    assert set(OPS) == {"=", "!=", "in", "<", "<=", ">", ">=", "has", "empty"}


def test_one_item_with_all_that_is_known(home):
    cases, frame, items = make()
    row = cases.row_of(items[5].id)
    assert row["scores"] == {"a": 1.0} and row["meta.pen"] == "red" and row["annotators"] == ["anna", "ben"] and row["site"] == "site2.example"
    assert json.loads(json.dumps(row)) == row


def test_a_report_of_an_older_version_opens_and_says_so(home):
    older = lambda t: t.select(["item_id", "split", "label", "truth", "predicted", "confidence"])
    cases, frame, _ = make(change=older, form=None)
    assert any("older version" in w for w in cases.about["warnings"]) and cases.about["format"] == 1
    assert cases.find([["right", "=", False]])["total"] == ((frame.predicted != frame.label) & frame.predicted.notna()).sum()
    text, *_ = make(change=older, form=None, kind="text")
    assert text.confusion()["pairs"] and text.slice("length")
    newer, *_ = make(form=FORMAT + 1)
    assert any("newer version" in w for w in newer.about["warnings"])


def test_a_dataset_that_is_gone_or_another_one(home):
    cases, *_ = make(with_dataset=False)
    assert cases.find()["total"] == 400 and any("only the predictions" in w for w in cases.warnings)
    with pytest.raises(BadInput):
        cases.slice("width")
    other, *_ = make(n=100, seed=1)
    both = Cases(cases.report, other.report and open_dataset_of(other))
    assert len(both) == 400 and both.find([["width", "empty", True]])["total"] == 300 and any("does not hold" in w for w in both.warnings)
    assert open_cases(compose_cfg("evaluate"), cases.report.id).find([["width", ">", 0]])["total"] == 400


def open_dataset_of(cases):
    from fullstack_ml.records import find_artifact

    return find_artifact(compose_cfg("evaluate"), "dataset", cases.report.parents["dataset"])


def test_no_rows_at_all(home):
    for cases in (make(change=lambda t: t[:0])[0], make(kind="text", change=lambda t: t[:0])[0]):
        assert cases.find(sort="width", text="x") == {"total": 0, "right": 0, "wrong": 0, "unjudged": 0, "rows": []}
        assert all(cases.slice(c["name"]) == [] for c in cases.columns) and cases.confusion()["pairs"] == []
        assert json.loads(json.dumps([cases.about, cases.columns]))
    with draft("evaluate", compose_cfg("evaluate", ["parents={}", "seed=9"]), {}) as d:
        write_json(d.dir / "metrics.json", {"format": FORMAT, "label_kind": "choice"})
    bare = Cases(d.manifest)
    assert len(bare) == 0 and any("no predictions.parquet" in w for w in bare.warnings) and bare.find()["total"] == 0


def test_damage_is_an_error_of_the_family(home):
    cases, *_ = make(n=20)
    path = cases.report.path("metrics.json")
    path.write_text("{")
    assert any("cannot be read" in w for w in Cases(cases.report).warnings)
    with open(cases.report.path("predictions.parquet"), "ab") as f:
        f.write(b"x")
    with pytest.raises(Damaged, match="does not hold"):
        Cases(cases.report)
    with draft("evaluate", compose_cfg("evaluate", ["parents={}", "seed=8"]), {}) as d:
        (d.dir / "predictions.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(Damaged, match="cannot be read"):
        Cases(d.manifest)
    with draft("evaluate", compose_cfg("evaluate", ["parents={}", "seed=7"]), {}) as d:
        pq.write_table(pa.table({"other": [1]}), d.dir / "predictions.parquet")
    with pytest.raises(Damaged):
        Cases(d.manifest)


def test_columns_of_unusual_types():
    assert make_column("x", pa.chunked_array([pa.nulls(3)])).known.tolist() == [False] * 3
    assert make_column("x", pa.chunked_array([pa.array([b"a"])])) is None
    flag = make_column("x", pa.chunked_array([pa.array([True, None, False])]))
    assert flag.mask("=", True).tolist() == [True, False, False] and flag.mask("!=", True).tolist() == [False, True, True] and flag.order.tolist() == [2, 0, 1]
    lists = make_column("x", pa.chunked_array([pa.array([["b", "a"], None, [], ["c"]])]))
    assert [lists.at(i) for i in range(4)] == [["b", "a"], [], [], ["c"]] and lists.known.tolist() == [True, False, False, True]
    number = make_column("x", pa.chunked_array([pa.array([1, None, 3], pa.int32())]))
    assert number.at(1) is None and number.mask("empty", True).tolist() == [False, True, False]
