"""Two reports side by side: the counts are those of the plain arrays, the test is McNemar's, and what cannot be compared is left out and told."""
import json
from math import comb

import jiwer
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fullstack_ml import cli
from fullstack_ml.blobs import BlobStore
from fullstack_ml.cases import Cases
from fullstack_ml.compare import STATES, compare, find_report, flips, to_text
from fullstack_ml.core import BadInput, NotFound, compose_cfg, write_json
from fullstack_ml.intervals import bootstrap_interval, coverage, mcnemar
from fullstack_ml.records import Item, draft, write_items
from fullstack_ml.report_page import comparison_page

N = 400
IDS = [Item(url=f"http://127.0.0.1/{i}").id for i in range(N)]
HOSTILE = "<script>alert(1)</script>"


def dataset(name="digits", n=N, groups=2):
    """A dataset version whose items stand in groups of near-duplicates."""
    with draft("dataset", compose_cfg("dataset", [f"name={name}", "parents={}"]), {}) as d:
        write_items(d.dir / "items.parquet", [Item(url=f"http://127.0.0.1/{i}") for i in range(n)], label=["{}"] * n, group=[i // groups for i in range(n)])
    return d.manifest


def report(data, truth, said, split="test", seed=0, kind="choice", start=0, **parents):
    """A report with these answers; None: the item could not be read."""
    n, confidence = len(truth), np.random.default_rng(seed).random(len(truth))
    split = [split] * n if isinstance(split, str) else list(split)
    with draft("evaluate", compose_cfg("evaluate", [f"seed={seed}", "parents={}"]), {"dataset": data, **parents}) as d:
        right = [None if p is None else bool(p == t) for t, p in zip(truth, said)]
        columns = {"item_id": IDS[start : start + n], "split": split, "label": [str(t) for t in truth], "predicted": [None if p is None else str(p) for p in said]}
        pq.write_table(pa.table({**columns, "right": pa.array(right, pa.bool_()), "confidence": confidence}), d.dir / "predictions.parquet")
        write_json(d.dir / "metrics.json", {"format": 2, "label_kind": kind})
    return Cases(d.manifest, data)


def answers(seed=0, first=0.8, second=0.85):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, N)
    return truth, *(np.where(rng.random(N) < share, truth, (truth + 1) % 10) for share in (first, second))


def test_counts_are_those_of_the_arrays(home):
    truth, before, after = answers()
    data = dataset()
    a, b = report(data, truth, before), report(data, truth, after, seed=1)
    found = compare(a, b)
    was, is_ = before == truth, after == truth
    assert [found[k] for k in STATES] == [(was & is_).sum(), (~was & is_).sum(), (was & ~is_).sum(), (~was & ~is_).sum()]
    assert (found["n"], found["a"], found["b"]) == (N, was.mean(), is_.mean()) and found["difference"] == pytest.approx(is_.mean() - was.mean())
    assert found["low"] < found["difference"] < found["high"] and found["only_a"] == found["only_b"] == found["relabelled"] == 0
    assert f"{found['fixed']} were fixed" in found["said"] and json.loads(json.dumps(found)) == found
    assert a.mask([["predicted", "=", "1"]]).sum() == compare(a, b, [["predicted", "=", "1"]])["n"]


@pytest.mark.parametrize("fixed, broken", [(0, 0), (1, 0), (5, 5), (15, 3), (3, 15), (40, 22), (200, 150)])
def test_mcnemar_is_the_binomial_by_hand(fixed, broken):
    n, k = fixed + broken, min(fixed, broken)
    by_hand = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if fixed != broken else 1.0
    assert mcnemar(fixed, broken) == pytest.approx(by_hand)


def test_two_equally_good_models_are_rarely_told_apart(home):
    """At 5 %, of 200 pairs of equally good models about ten may be told apart; the exact test errs on the safe side."""
    rng = np.random.default_rng(0)
    p = [mcnemar(*np.bincount((rng.random((300, 2)) < 0.9) @ [1, 2], minlength=4)[1:3]) for _ in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.09


def test_the_interval_of_a_difference_covers_it():
    """Each item answered by two models, right with chances 0.8 and 0.86 that hang together; items come in twos."""
    rng, held, times = np.random.default_rng(0), 0, 150
    for _ in range(times):
        hard = rng.random(120)
        gain = np.repeat((hard < 0.86).astype(float) - ((hard + 0.1 * rng.random(120)) % 1 < 0.8), 2)
        low, high = bootstrap_interval(gain, np.arange(240) // 2, resamples=400, seed=int(rng.integers(2**31)))
        held += low <= 0.06 <= high
    assert 0.89 <= held / times <= 0.99


def test_near_duplicates_are_drawn_together(home):
    truth, before, after = answers()
    twice = lambda x: np.repeat(x[: N // 2], 2)
    wide = compare(*(report(dataset("grouped"), twice(truth), twice(s), seed=i) for i, s in enumerate((before, after))))
    narrow = compare(*(report(dataset("single", groups=1), twice(truth), twice(s), seed=i) for i, s in enumerate((before, after))))
    assert wide["difference"] == narrow["difference"]
    assert 1.25 < (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) < 1.6  # the square root of two


def test_no_difference_claims_no_certainty(home):
    truth, before, _ = answers()
    a = report(dataset(), truth, before)
    found = compare(a, a)
    assert found["p"] == 1 and found["difference"] == 0 and -0.05 < found["low"] < 0 < found["high"] < 0.05
    nobody = compare(a, a, [["predicted", "=", "nothing"]])
    assert nobody["n"] == 0 and nobody["a"] is None and nobody["low"] is None and "no judged item" in nobody["said"]
    assert json.loads(json.dumps(nobody)) == nobody and "no judged item" in to_text(nobody, "a", "b")


def test_what_is_left_out_is_told(home):
    truth, before, after = answers()
    changed = np.where(np.arange(N) < 12, (truth + 5) % 10, truth)  # relabelled in the second version
    split_a, split_b = ["test"] * N, ["train" if 20 <= i < 30 else "test" for i in range(N)]
    unread = [None if 40 <= i < 45 else p for i, p in enumerate(before)]
    a = report(dataset(), truth[:380], unread[:380], split_a[:380])
    b = report(dataset("later"), changed[10:], after[10:], split_b[10:], seed=1, start=10)
    found = compare(a, b)
    assert (found["only_a"], found["only_b"], found["relabelled"], found["taught"], found["unjudged"]) == (10, 20, 2, 10, 5)
    assert found["n"] == 380 - 10 - 2 - 10 - 5 == sum(found[k] for k in STATES)
    for which in (*STATES, "only_a", "only_b", "relabelled", "taught", "unjudged"):
        rows = flips(a, b, which, n=1000)
        assert len(rows) == found[which] and len({r["item"] for r in rows}) == len(rows)
        assert all((r["a"] is None) == (which == "only_b") and (r["b"] is None) == (which == "only_a") for r in rows)
    assert "10 items only in x" in to_text(found, "x", "y") and "trained on" in to_text(found, "x", "y")


def test_training_items_are_mentioned(home):
    truth, before, after = answers()
    split = ["train" if i % 2 else "test" for i in range(N)]
    a, b = report(dataset(), truth, before, split), report(dataset(), truth, after, split, seed=1)
    assert "200 of them are training items" in compare(a, b)["said"] and "training" not in compare(a, b, [["split", "=", "test"]])["said"]


def test_flips_show_the_surest_mistakes_first(home):
    truth, before, after = answers()
    a, b = report(dataset(), truth, before), report(dataset(), truth, after, seed=1)
    rows = flips(a, b, "broken", n=1000)
    sure = [r["b"]["confidence"] for r in rows]
    assert sure == sorted(sure, reverse=True) and all(r["a"]["right"] and not r["b"]["right"] and r["a"]["predicted"] == r["expected"] for r in rows)
    pages = [r["item"] for start in range(0, len(rows), 7) for r in flips(a, b, "broken", start=start, n=7)]
    assert pages == [r["item"] for r in rows] and json.loads(json.dumps(rows)) == rows
    with pytest.raises(BadInput, match="There are: both_right"):
        flips(a, b, "better")


def test_texts_are_compared_by_their_edits_too(home):
    rng = np.random.default_rng(0)
    truth = ["".join(rng.choice(list("abcdef"), rng.integers(3, 20))) for _ in range(N)]
    spoil = lambda t, share: "".join(c if rng.random() > share else "x" for c in t)
    before, after = [spoil(t, 0.1) for t in truth], [spoil(t, 0.03) for t in truth]
    found = compare(*(report(dataset(), truth, said, seed=i, kind="text") for i, said in enumerate((before, after))))
    assert found["cer"]["a"] == pytest.approx(jiwer.cer(truth, before)) and found["cer"]["b"] == pytest.approx(jiwer.cer(truth, after))
    assert found["cer"]["low"] < found["cer"]["difference"] < found["cer"]["high"] < 0 and "Edits per hundred" in to_text(found, "a", "b")
    with pytest.raises(BadInput, match="kinds of label"):
        compare(report(dataset(), truth, before, kind="text"), report(dataset(), *answers()[:2], seed=5))


@pytest.mark.parametrize("values, groups", [([1, 0, 0, 1], [0, 0, 1, 1]), ([1, 1, 1], [0, 1, 2]), ([1, 0], [0, 0]), ([0.5], [0])])
def test_groups_that_are_all_alike_have_an_interval(values, groups):
    low, high = bootstrap_interval(np.array(values, float), groups)
    assert 0 <= low <= np.mean(values) <= high <= 1 and low < high


def test_a_gain_that_cancels_out_within_its_group_has_an_interval():
    """Near-duplicates with two labels, of which each model gets another one right."""
    truth = ["a", "b", *["a"] * 8]
    data = dataset(n=10)
    found = compare(report(data, truth, ["a", "a", *["a"] * 8]), report(data, truth, ["b", "b", *["a"] * 8], seed=1))
    assert (found["fixed"], found["broken"], found["difference"]) == (1, 1, 0) and -1 <= found["low"] < 0 < found["high"] <= 1


def test_the_page_is_harmless(home):
    truth, before, after = answers()
    names = {str(i): f"{HOSTILE}{i}" for i in range(10)}
    wild = lambda values: [names[str(v)] for v in values]
    a, b = (report(dataset(), wild(truth), wild(said), seed=i) for i, said in enumerate((before, after)))
    page = comparison_page(a, b, BlobStore(str(home / "blobs")), names=(HOSTILE, "after"))
    assert "<script" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page and page.count("no picture") >= 24


def test_the_command(home, capsys):
    truth, before, after = answers()
    data = dataset()
    with draft("train", compose_cfg("train", ["parents={}"]), {"dataset": data}) as run:
        pass
    a, b = report(data, truth, before), report(data, truth, after, seed=1, train=run.manifest)
    assert find_report(compose_cfg("evaluate"), run.manifest.id).report.id == b.report.id
    assert cli.main(["compare", a.report.id, run.manifest.id, "--page", "out.html"]) == 0
    said = capsys.readouterr().out
    assert compare(a, b)["said"] in said and "out.html" in said and (home / "out.html").read_text().startswith("<!doctype html>")
    for words, code in ((["compare", a.report.id], 2), (["compare", "1999", "latest"], 3), (["compare", "a", "b", "--page"], 2), (["compare", "a", "b", "split=none"], 2), (["compare", "a", "--fast"], 2)):
        assert cli.main(words) == code, words
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(NotFound):
        find_report(compose_cfg("evaluate"), "1999")


@pytest.mark.parametrize("share, n, times, grouped, low, high", [(0.9, 200, 1, True, 0.91, 0.99), (0.8, 100, 2, True, 0.91, 0.99), (0.8, 100, 2, False, 0.7, 0.9)])
def test_intervals_cover_the_truth_as_often_as_they_claim(share, n, times, grouped, low, high):
    assert low <= coverage(share, n, times, grouped, repetitions=200, resamples=400, seed=1) <= high
