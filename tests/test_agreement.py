"""Measures of agreement against published examples and other libraries; the quality report on what annotators really do."""
import json
import math
import random
import re
import time
from datetime import datetime, timedelta, timezone

import jiwer
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from fullstack_ml import measures
from fullstack_ml.agreement import bias, class_agreement, gather, gold_accuracy, item_agreement, pace, pair_agreement, quality, quality_page, soft_labels
from fullstack_ml.agreement import suggestion_effect
from fullstack_ml.core import BadInput
from fullstack_ml.measures import align_characters, box_matches, character_error_rate, cohen_kappa, fleiss_kappa, iou_matrix, krippendorff_alpha, label_distance
from fullstack_ml.measures import match_boxes, wilson
from fullstack_ml.records import Annotation, Box, Boxes, Choice, ItemSequence, Text

START = datetime(2026, 11, 22, 9, tzinfo=timezone.utc)


def said(item, who, label, at=0.0, seconds=None, **meta):
    label = Choice((label,)) if isinstance(label, str) else label
    return Annotation(item, who, label, (START + timedelta(seconds=at)).isoformat(timespec="milliseconds"), seconds, meta)


def spread(table):
    """A table of counts as two lists of answers."""
    return zip(*[(r, c) for r, row in enumerate(table) for c, n in enumerate(row) for _ in range(n)])


def by_item(*observers):
    return [[v for v in column if v != "."] for column in zip(*observers)]


# Published examples.


@pytest.mark.parametrize("table, kappa", [
    ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], 0.492),  # Cohen 1960, table 1
    ([[20, 5], [10, 15]], 0.40),  # 50 grant applications, en.wikipedia.org/wiki/Cohen's_kappa
    ([[45, 15], [25, 15]], 0.1304),  # the same page, equal percentages, different kappas
    ([[25, 35], [5, 35]], 0.2593),
])  # fmt: skip
def test_cohens_kappa_equals_published_examples(table, kappa):
    assert cohen_kappa(*spread(table)) == pytest.approx(kappa, abs=5e-4)


FOURTEEN = [[0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1], [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7]]  # fmt: skip
PSYCHIATRISTS = """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
                   00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006"""


def test_fleiss_kappa_equals_published_examples():
    assert fleiss_kappa(FOURTEEN) == pytest.approx(0.210, abs=5e-4)  # en.wikipedia.org/wiki/Fleiss'_kappa
    table = np.array([[int(d) for d in row] for row in PSYCHIATRISTS.split()])  # Fleiss 1971, table 1
    assert table.sum(0).tolist() == [26, 26, 30, 55, 43] and set(table.sum(1)) == {6}
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)


A, B = by_item("0100000010", "1110010000"), by_item("aabbdcccedda", "babbbccceddd")
C = by_item("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_krippendorffs_alpha_equals_his_examples():
    """Computing Krippendorff's Alpha-Reliability, 2011: A, B, C; and C as interval data."""
    assert [round(krippendorff_alpha(u), 3) for u in (A, B, C)] == [0.095, 0.692, 0.743]
    assert round(krippendorff_alpha(C, lambda a, b: (np.array(a, float) - np.array(b, float)) ** 2), 3) == 0.849


@pytest.mark.parametrize("k, n, low, high", [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_equals_newcombes_table(k, n, low, high):
    """Newcombe 1998, table I, method 3."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_overlap_equals_a_drawing():
    a = Boxes((Box(0, 0, 10, 10, "cat"), Box(50, 50, 10, 10, "cat")))
    b = Boxes((Box(5, 0, 10, 10, "cat"), Box(52, 50, 10, 10, "cat"), Box(20, 0, 5, 5, "cat")))
    assert iou_matrix(a, b) == pytest.approx(np.array([[50 / 150, 0, 0], [0, 80 / 120, 0]]))
    assert [(i, j) for i, j, _ in match_boxes(a, b)] == [(1, 1)] and label_distance([a], [b])[0] == pytest.approx(1 - 2 / 5)


def test_character_errors_equal_a_count_by_hand_and_jiwer():
    assert character_error_rate(["kitten"], ["sitting"]) == 0.5  # s for k, i for e, g added; six characters
    rng = random.Random(0)
    words = ["".join(rng.choices("abcé한글", k=rng.randint(1, 9))) for _ in range(200)]
    other = ["".join(rng.choices("abcé한글", k=rng.randint(1, 9))) for _ in range(200)]
    assert character_error_rate(words, other) == pytest.approx(jiwer.cer(words, other))
    assert character_error_rate(["cat "], ["cat"]) == 0.25 and jiwer.cer("cat ", "cat") == 0  # jiwer alone forgives spaces


# Against other libraries, on random tables.


def tables(n=25):
    rng = np.random.default_rng(1)
    for _ in range(n):
        n_classes, people = rng.integers(2, 6), rng.integers(2, 6)
        real = rng.integers(0, n_classes, 40)
        given = np.where(rng.random((people, 40)) < 0.7, real, rng.integers(0, n_classes, (people, 40))).astype(float)
        given[rng.random(given.shape) < 0.3] = np.nan
        yield given


def test_alpha_equals_the_package_krippendorff():
    krippendorff = pytest.importorskip("krippendorff")
    for given in tables():
        units = [[float(v) for v in column if v == v] for column in given.T]
        assert krippendorff_alpha(units) == pytest.approx(krippendorff.alpha(given, level_of_measurement="nominal"), abs=1e-12)
        interval = krippendorff_alpha(units, lambda a, b: np.subtract(a, b) ** 2)
        assert interval == pytest.approx(krippendorff.alpha(given, level_of_measurement="interval"), abs=1e-12)


def test_the_table_of_pairs_equals_scikit_learn():
    rng = np.random.default_rng(2)
    answers = [said(f"{i}", f"p{w}", f"c{rng.integers(3)}") for i in range(60) for w in range(4) if rng.random() < 0.8]
    by = {(a.item_id, a.annotator): str(a.label) for a in answers}
    for row in pair_agreement(gather(answers)):
        shared = [i for i in range(60) if (f"{i}", row["a"]) in by and (f"{i}", row["b"]) in by]
        x, y = ([by[f"{i}", row[k]] for i in shared] for k in ("a", "b"))
        assert row["n"] == len(shared) and row["kappa"] == pytest.approx(cohen_kappa_score(x, y))
        assert [row["same"], row["similarity"]] == pytest.approx([np.mean([p == q for p, q in zip(x, y)])] * 2)


def test_alphas_of_records_are_those_of_lists():
    answers = [said(f"u{k:02d}", f"o{j}", v) for k, unit in enumerate(C) for j, v in enumerate(unit)]
    overall = quality(answers)["overall"]
    assert overall["alpha"] == pytest.approx(krippendorff_alpha(C)) and overall["low"] < overall["alpha"] < overall["high"]
    for row in class_agreement(gather(answers)):
        assert row["alpha"] == pytest.approx(krippendorff_alpha([[v == row["name"] for v in u] for u in C]))


def test_many_boxes_at_once_equal_the_hungarian_method_one_by_one():
    rng = np.random.default_rng(3)

    def some(n):
        return Boxes(tuple(Box(*rng.integers(0, 12, 2).tolist(), *rng.integers(5, 14, 2).tolist(), "ab"[rng.integers(2)]) for _ in range(n)))

    a, b = ([some(rng.integers(0, 7)) for _ in range(150)] for _ in range(2))
    for least in (0.2, 0.5):
        m, one = box_matches(a, b, least), [match_boxes(x, y, least) for x, y in zip(a, b)]
        assert np.bincount(m.of, minlength=150).tolist() == [len(p) for p in one]
        assert np.bincount(m.of, m.iou, 150) == pytest.approx([sum(x for _, _, x in p) for p in one])
        names = [(k, x.boxes[i].name) for k, (x, p) in enumerate(zip(a, one)) for i, _, _ in p]
        assert sorted(zip(m.of.tolist(), (m.names[k] for k in m.name))) == sorted(names)


def test_as_many_boxes_as_possible_find_a_partner():
    """The middle box of one answer overlaps best with the box that the left one needs."""
    a = Boxes((Box(0, 0, 10, 10, "x"), Box(3, 0, 10, 10, "x")))
    b = Boxes((Box(3, 0, 10, 10, "x"), Box(6, 0, 10, 10, "x")))
    assert len(match_boxes(a, b)) == 2 and label_distance([a], [b])[0] == 0


# Edges: None, never NaN.


def test_what_cannot_be_known_is_none():
    assert cohen_kappa([], []) is None and cohen_kappa("aa", "aa") is None and cohen_kappa("aa", "bb") == 0
    assert fleiss_kappa([]) is None and fleiss_kappa([[2, 0], [2, 0]]) is None and fleiss_kappa([[1, 0], [0, 1]]) is None
    assert krippendorff_alpha([]) is None and krippendorff_alpha([["a"], ["b"], []]) is None and krippendorff_alpha([["a", "a"]]) is None
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) < 0 and krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    assert wilson(0, 0) == (None, None) and character_error_rate([], []) is None and character_error_rate([""], ["a"]) is None
    with pytest.raises(BadInput, match="as many"):
        cohen_kappa("ab", "a")
    with pytest.raises(BadInput, match=r"\[2, 3\]"):
        fleiss_kappa([[2, 0], [2, 1]])


def test_empty_and_mixed_labels():
    none, one = Boxes(()), Boxes((Box(0, 0, 1, 1, "a"),))
    assert label_distance([none, none, one], [none, one, one]).tolist() == [0, 1, 0]
    assert match_boxes(none, one) == [] and iou_matrix(none, one).shape == (0, 1) and len(label_distance([], [])) == 0
    assert label_distance([Text(""), Text("")], [Text(""), Text("ab")]).tolist() == [0, 1]
    assert label_distance([ItemSequence(("a", "b"))], [ItemSequence(("a", "c"))]).tolist() == [0.5]
    assert label_distance([Choice(("a", "b"))], [Choice(("b", "c"))]).tolist() == [pytest.approx(2 / 3)]
    with pytest.raises(BadInput, match="choice, text"):
        label_distance([Text("a")], [Choice(("a",))])


CASES = {
    "nothing": [],
    "one answer": [said("1", "ann", "a")],
    "one annotator": [said(str(k), "ann", "ab"[k % 2], seconds=1.0) for k in range(5)],
    "one class": [said(str(k), w, "a") for k in range(5) for w in ("ann", "bob")],
    "no overlap": [said(str(k), "ab"[k % 2], "a") for k in range(6)],
    "empty boxes": [said(str(k), w, Boxes(())) for k in range(3) for w in ("ann", "bob")],
    "some boxes": [said("1", "ann", Boxes((Box(0, 0, 4, 4, "x"),))), said("1", "bob", Boxes(())), said("2", "bob", Boxes(()))],
    "several classes": [said("1", "ann", Choice(("a", "b"))), said("1", "bob", Choice(("b", "a"))), said("1", "cid", Choice(("b",))), said("2", "ann", Choice(("c",)))],
    "texts": [said("1", "ann", Text("cat")), said("1", "bob", Text("cut")), said("2", "bob", Text("")), said("2", "ann", Text(""))],
    "sequences": [said("1", "ann", ItemSequence(("a", "b"))), said("1", "bob", ItemSequence(("a",)))],
    "mixed kinds": [said("1", "ann", "a"), said("1", "bob", "a"), said("1", "cid", Text("a"))],
    "strange times and suggestions": [Annotation("1", "ann", Choice(("a",)), "yesterday", -3.0, {"suggestion": {"kind": "nonsense"}}),
                                      Annotation("1", "bob", Choice(("b",)), "", math.inf, {"suggestion": [1]})],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("known", ["no gold", "gold"])
def test_every_case_has_a_report_without_nan(case, known):
    answers = CASES[case]
    gold = {a.item_id: a.label for a in answers} if known == "gold" else None
    found = quality(answers, ["a", "never said"], gold=gold, skips=[{"reason": "blurred"}, {}])
    json.dumps(found, allow_nan=False)
    page = quality_page(json.loads(json.dumps(found)), case)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page)
    assert found["n_answers"] == (2 if case == "mixed kinds" else len(answers)) and found["warnings"]


# What counts.


def test_the_newest_answer_counts_and_decisions_and_machines_do_not():
    answers = [said("1", "ann", "b", 5), said("1", "ann", "a", 0), said("1", "bob", "b"), said("1", "caption", "a"), said("1", "rev", "a", 9, decision=True)]
    found = gather(reversed(answers), besides=["caption"])
    assert found.people == ["ann", "bob"] and found.values == [Choice(("b",))]
    assert quality(answers, besides=["caption"])["n_unanimous"] == 1


def test_order_within_a_label_does_not_matter():
    boxes = (Box(0, 0, 2, 2, "a"), Box(5, 5, 2, 2, "b"))
    for x, y in ((Choice(("a", "b")), Choice(("b", "a"))), (Boxes(boxes), Boxes(boxes[::-1]))):
        assert len(gather([said("1", "ann", x), said("1", "bob", y)]).values) == 1


def test_items_and_soft_labels():
    answers = [said("1", w, c) for w, c in zip("pqrs", "aabb")] + [said("2", "p", "a"), said("3", "p", Choice(("a", "b"))), said("3", "q", Choice(("a",)))]
    found = gather(answers)
    one, two, three = sorted(item_agreement(found), key=lambda i: i["item_id"])
    assert (one["similarity"], one["entropy"], two["similarity"], two["entropy"], three["similarity"]) == (pytest.approx(1 / 3), 1.0, None, 0.0, 0.5)
    shares = sorted(soft_labels(found, {"p": 3, "q": 0}), key=lambda i: i["item_id"])
    assert shares[0]["shares"] == {"a": 0.6, "b": 0.4} and shares[2]["shares"] == {"a": 1.0, "b": 1.0}
    assert {v for row in soft_labels(found, dict.fromkeys("pqrs", 0)) for v in row["shares"].values()} == {0.0}
    with pytest.raises(BadInput, match="negative"):
        soft_labels(found, {"p": -1})
    with pytest.raises(BadInput, match="Boxes"):
        soft_labels(gather([said("1", "p", Boxes(()))]))


def test_the_agreement_on_a_class_of_boxes():
    a = Boxes((Box(0, 0, 10, 10, "cat"), Box(50, 0, 10, 10, "dog")))
    b = Boxes((Box(2, 0, 10, 10, "cat"),))
    cat, dog, owl = class_agreement(gather([said("1", "ann", a), said("1", "bob", b), said("2", "ann", a)]), ["cat", "dog", "owl"])
    assert (cat["n"], cat["items"], cat["same"], cat["iou"]) == (3, 2, 1.0, pytest.approx(2 / 3))
    assert (dog["n"], dog["same"], dog["iou"]) == (2, 0.0, None) and (owl["n"], owl["same"]) == (0, None)


def test_texts_are_judged_by_their_characters():
    answers = [said(str(k), who, Text("kitten" if who != "bob" else "sitting")) for k in range(4) for who in ("ann", "bob", "cid")]
    found = quality(answers, gold={str(k): Text("kitten") for k in range(4)})
    ann, bob, _ = found["people"]
    assert (ann["gold_cer"], bob["gold_cer"], ann["gold_accuracy"], bob["gold_accuracy"]) == (0, 0.5, 1, 0)
    assert {(t["said"], t["meant"], t["n"]) for t in found["taken"]} == {("s", "k", 4), ("i", "e", 4), ("g", "", 4)}
    assert align_characters(["a"], ["b"]).substitutions == 1


def test_suggestions_show_the_anchor():
    """Twenty gold items: half with a suggestion, of which half are wrong; ann keeps all, bob corrects all."""
    answers, gold = [], {}
    for k in range(40):
        gold[str(k)] = Choice(("a",))
        hint = None if k % 2 else {"kind": "choice", "names": ["b" if k % 4 else "a"]}
        answers += [said(str(k), "ann", hint["names"][0] if hint else "a", suggestion=hint), said(str(k), "bob", "a", suggestion=hint)]
    ann, bob, everyone = suggestion_effect(gather(answers), gold)
    assert (ann["shown"], ann["kept_share"], ann["wrong_shown"], ann["wrong_kept_share"], ann["alone_wrong_share"]) == (20, 1.0, 10, 1.0, 0.0)
    assert (bob["kept"], bob["kept_right"], bob["changed_right"], bob["wrong_kept"]) == (10, 10, 10, 0) and everyone["shown"] == 40
    warned = [w for w in quality(answers, gold=gold)["warnings"] if "suggestion" in w]
    assert len(warned) == 1 and warned[0].startswith("ann keeps 100 % of 10 wrong suggestions")


def test_pace_and_pauses():
    answers = [said(str(k), "ann", "a", at=60 * k, seconds=2.0) for k in range(10)] + [said("x", "ann", "a", at=601, seconds=5000.0), said("y", "ann", "a", at=602)]
    (ann,) = quality(answers)["people"]
    assert ann["timed"] == 11 and ann["median_seconds"] == 2 and ann["per_hour"] == pytest.approx(3600 * 11 / (20 + 300))
    steps = [p for p in pace(gather(answers)) if not p["annotator"]]
    assert sum(p["timed"] for p in steps) == 11 and steps[0]["at"] == "2026-11-22T09:00:00+00:00"
    assert len({p["at"] for p in pace(gather([said(str(k), "a", "a", at=9e7 * k, seconds=1.0) for k in range(500)]))}) <= 61


def test_a_lean_is_measured_against_the_consensus():
    rng = random.Random(5)
    answers = []
    for k in range(400):
        real = rng.choice("abc")
        answers += [said(str(k), w, real) for w in ("ann", "bob")] + [said(str(k), "eve", "a" if real == "b" and rng.random() < 0.5 else real)]
    leans, taken = bias(gather(answers), {a.item_id: a.label for a in answers if a.annotator == "ann"})
    rows = {(r["annotator"], r["name"]): r for r in leans}
    assert rows["eve", "a"]["z"] > 6 and rows["eve", "b"]["z"] < -6 and rows["eve", "c"]["z"] == rows["ann", "a"]["z"] == 0
    assert (taken[0]["annotator"], taken[0]["said"], taken[0]["meant"]) == ("eve", "a", "b") and len(taken) == 1


def test_intervals_hold_what_was_simulated():
    """Over 200 simulated projects the 95 % interval of alpha holds the alpha of a very large one about as often as it says."""
    rng = np.random.default_rng(6)

    def project(n):
        real = rng.integers(0, 4, n)
        value = np.where(rng.random((3, n)) < 0.85, real, rng.integers(0, 4, (3, n))).T.ravel()
        return measures.alpha_of(np.repeat(np.arange(n), 3), value, list(range(4)))

    real = project(200_000).alpha
    held = sum(a.low <= real <= a.high for a in (project(150) for _ in range(200)))
    assert 180 <= held <= 199


def test_accuracy_comes_out_as_it_was_put_in():
    rng = np.random.default_rng(7)
    skill, gold = {"ann": 0.95, "bob": 0.8, "cid": 0.6}, {str(k): Choice((f"c{k % 5}",)) for k in range(2000)}
    answers = [said(i, w, str(c) if rng.random() < p else f"c{(int(i) + rng.integers(1, 5)) % 5}") for i, c in gold.items() for w, p in skill.items()]
    for name, row in gold_accuracy(gather(answers), gold).items():
        assert row["low"] < skill[name] < row["high"] and row["high"] - row["low"] < 0.05
    for row in pair_agreement(gather(answers)):
        p, q = skill[row["a"]], skill[row["b"]]
        assert row["kappa"] == pytest.approx((p * q + (1 - p) * (1 - q) / 4 - 0.2) / 0.8, abs=0.04)


# The page.

HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(2)>{{ 7 * 7 }} \u202e ünï 数'


def test_the_page_is_self_contained_and_escapes_everything():
    answers = [said(f"{k}{HOSTILE}", w, HOSTILE + str(k * n % 3), at=90 * k, seconds=1.0 + n, suggestion={"kind": "choice", "names": [HOSTILE]}) for k in range(30)
               for n, w in enumerate((HOSTILE, "bob", "cid"))]  # fmt: skip
    found = quality(answers, [HOSTILE], gold={a.item_id: a.label for a in answers if a.annotator == "bob"}, skips=[{"reason": HOSTILE, "annotator": HOSTILE}])
    page = quality_page(found, HOSTILE, link="/p/1/items/{item}?a=1&b=2", picture=lambda i: "/thumb?" + i)
    assert "<script" not in page and "<img src=x" not in page and "{{ 7 * 7 }}" in page and "style=" not in page
    assert 'href="/p/1/items/1%3Cscript%3E' in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") > 5 and "Who agrees with whom" in page and "Pace" in page
    assert "'nonce-abc'" in (strict := quality_page(found, "x", nonce="abc")) and '<style nonce="abc">' in strict and "unsafe-inline" not in strict
    assert "<a href" not in quality_page(found, "x")


def test_the_room_says_what_it_warns_of():
    assert quality([])["warnings"] == ["There are no answers yet."]
    text = " ".join(quality([said(str(k), "ab"[k % 2], "x") for k in range(9)], skips=[{"reason": "blurred", "annotator": "a"}] * 3)["warnings"])
    assert "No item has two answers" in text and "No gold item" in text and "3 items were skipped, most of them because: blurred." in text


def test_a_good_team_is_not_suspected():
    """Chance alone names nobody: twenty equal annotators, four projects."""
    rng, warned = np.random.default_rng(8), 0
    for _ in range(4):
        gold = {str(k): Choice((f"c{k % 4}",)) for k in range(60)}
        answers = [said(i, f"p{w:02d}", str(c) if rng.random() < 0.93 else f"c{rng.integers(4)}", seconds=2.0) for i, c in gold.items() for w in range(20)]
        warned += len(quality(answers, gold=gold)["warnings"])
    assert warned <= 6  # of 80 people, each with an interval of 95 %


def test_a_hundred_thousand_answers_take_seconds():
    rng = np.random.default_rng(9)
    people = rng.permuted(np.tile(np.arange(30), (33_334, 1)), axis=1)[:, :3]
    answers = [said(f"{k}", f"p{w:02d}", f"c{k % 10 if r < 0.9 else int(r * 1000) % 10}", at=k, seconds=2.0)
               for k, (row, rs) in enumerate(zip(people.tolist(), rng.random((33_334, 3)).tolist())) for w, r in zip(row, rs)]  # fmt: skip
    agreed = {str(k): {"label": Choice((f"c{k % 10}",))} for k in range(33_334)}
    quality(answers[:300], consensus=agreed)  # libraries are imported
    start = time.process_time()
    found = quality(answers, consensus=agreed, gold={str(k): Choice((f"c{k % 10}",)) for k in range(500)})
    assert time.process_time() - start < 10 and found["n_answers"] == 100_002 and len(found["pairs"]) == 435


def test_what_was_taken_back_or_predicted_is_no_answer():
    a, b = Choice(("a",)), Choice(("b",))
    said = [Annotation("i", "ann", a, created="2026-01-01"), Annotation("i", "bob", b, created="2026-01-01"), Annotation("i", "import:yolo", b, created="2026-01-01", meta={"predicted": True}),
            Annotation("i", "bob", b, created="2026-01-02", meta={"withdrawn": True})]  # fmt: skip
    found = quality(said)
    assert found["n_answers"] == 1 and [p["annotator"] for p in found["people"]] == ["ann"] and found["disputed"] == []


def test_boxes_where_nobody_else_sees_any():
    cat = Boxes((Box(1, 1, 5, 5, "cat"),))
    said = [Annotation(f"i{k}", who, cat if who == "ann" else Boxes(()), created="2026-01-01") for k in range(40) for who in ("ann", "bob", "cid")]
    found = quality(said, ["cat"])
    assert found["bias"][0]["lean"] is None and json.dumps(found, allow_nan=False) and "cat" in quality_page(found)
