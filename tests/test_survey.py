"""The survey of a collection: what it counts, what it finds, and what its page never does."""
import io
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import sha256
from fullstack_ml.pictures import inspect
from fullstack_ml.records import Box, Boxes, Choice, Item, Text, label_to_dict, write_items
from fullstack_ml.sample_site import NAMES, answer_sheet, gallery, wrong_captions
from fullstack_ml.survey import balance, bars, survey, tally

LIMITS = {"max_pixels": 10**7, "min_side": 8, "min_contrast": 8}
WORDS = {str(k): [name] for k, name in enumerate(NAMES)}
HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(2)>{{ 7 * 7 }} \u202e\0 ünï 数'


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return BlobStore(str(tmp_path_factory.mktemp("blobs")))


@pytest.fixture(scope="module")
def crawled(store, tmp_path_factory):
    """The sample gallery as a crawl leaves it."""
    items = []
    for k, p in enumerate(gallery()):
        free = p.licence.startswith("http")
        known = {"licence": "CC-BY-4.0", "licence_from": "a[rel=license]"} if free else {"licence": "all-rights-reserved", "state": "refused", "reason": f"The licence is refused: {k}"}
        item = Item(url=f"http://gallery.example{p.path}", source="sample", page_url=f"http://gallery.example/page/{k // 48}", caption=p.caption, author="A. and K.",
                    fetched_at=f"2026-11-22T05:{k // 60 % 60:02d}:{k % 60:02d}.000+00:00", sha256=store.put(p.data), **known)
        items.append(inspect(item, p.data, LIMITS))
    path = tmp_path_factory.mktemp("crawl") / "items.parquet"
    write_items(path, items)
    return pd.read_parquet(path)


@pytest.fixture(scope="module")
def version(crawled):
    """The gallery as a dataset version: labels from captions, splits by content."""
    table = crawled[crawled["state"] == "kept"].drop_duplicates("sha256").reset_index(drop=True)
    said = [next(c for c, (w,) in WORDS.items() if re.search(rf"(?<!\w)({c}|{w})(?!\w)", x.lower())) for x in table["caption"]]
    return table.assign(label=[json.dumps(label_to_dict(Choice((s,)))) for s in said], split=["test" if int(h[:4], 16) % 5 == 0 else "train" for h in table["sha256"]])


def picture(store, seed, light=0, size=(40, 30)):
    noise = np.random.default_rng(seed).integers(0, 140, (5, 6, 3), np.uint8) + light
    out = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return inspect(Item(url=f"https://a.example/{seed}.png", source="s", sha256=store.put(out.getvalue())), out.getvalue(), LIMITS)


def table_of(items, **columns):
    rows = [{k: v for k, v in vars(i).items() if k != "data"} for i in items]
    return pd.DataFrame(rows).assign(**columns)


def pictures_in(page):
    return re.findall(r'src="data:image/webp;base64,[A-Za-z0-9+/=]+"', page)


def check_page(found):
    """It is one file that asks nobody and runs nothing, and its facts are JSON."""
    page = found.html()
    assert len(page) < 1_500_000
    assert not re.search(r"<script|<link|<iframe|@import|url\(", page, re.I)
    assert not [tag for tag in re.findall(r"<[a-z][^>]*>", page) if re.search(r"""\son\w+\s*=(?![^"]*"[^"]*$)""", re.sub(r'"[^"]*"', '""', tag))]
    assert all(src.startswith("data:image/webp") for src in re.findall(r'src="([^"]*)', page))
    assert all(re.match("https?://", href) for href in re.findall(r'href="([^"]*)', page))
    assert json.loads(json.dumps(found.facts, allow_nan=False)) == json.loads(json.dumps(found.facts))
    return page


# A crawl


def test_a_crawl_is_counted_guessed_and_shown(crawled, store):
    found = survey(crawled, store, classes=WORDS, title="Crawl of sample")
    facts, page = found.facts, check_page(found)
    assert facts["kept"] + facts["refused"] == len(crawled) and facts["classes"]["guessed"] and facts["classes"]["n_labelled"] == facts["kept"]
    assert facts["counts"]["licence"] == [{"value": "CC-BY-4.0", "n": facts["kept"], "share": 1.0}]
    assert facts["left_out"][0]["reason"] == "The licence is refused" and facts["left_out"][0]["n"] == 18 and len(facts["left_out"][0]["examples"]) == 3
    assert facts["near"]["groups"] == 72 and facts["near"]["equal"] == 18, "the copies that the gallery made"
    assert "Crawl of sample" in page and len(pictures_in(page)) > 100
    assert any("one source" in w for w in facts["warnings"])


def test_wrong_captions_are_found_among_the_suspicious_labels(version, store):
    facts = survey(version, store, classes=list(WORDS)).facts
    wrong = wrong_captions() & set(version["sha256"])
    of = dict(zip(version["id"], version["sha256"]))
    named = [of[x["id"]] for x in facts["issues"]["worst"]]
    assert facts["issues"]["agreement"] > 0.95 and 0.5 * len(wrong) < facts["issues"]["n_found"] < 2 * len(wrong)
    assert sum(n in wrong for n in named) >= 0.9 * len(named) and len(named) > 10
    sheet = answer_sheet()
    right = [x for x, n in zip(facts["issues"]["worst"], named) if n in wrong]
    assert sum(x["suggested"] == sheet[n] for x, n in zip(facts["issues"]["worst"], named)) >= 0.9 * len(right)


def test_requests_that_failed_are_reasons_too(crawled, store):
    fetches = pd.DataFrame([
        {"url": "http://a.example/x", "kind": "page", "state": "failed", "reason": "It does not answer: x", "n_bytes": None},
        {"url": "http://a.example/y", "kind": "picture", "state": "refused", "reason": None, "n_bytes": None},
        {"url": crawled["url"][0], "kind": "picture", "state": "done", "reason": "", "n_bytes": 777},
    ])  # fmt: skip
    facts = survey(crawled[:200], None, fetches=fetches).facts
    assert {"It does not answer", "refused"} <= {r["reason"] for r in facts["left_out"]}
    assert facts["bytes"]["sum"] == 777


# Classes and balance


def test_what_a_balanced_set_lacks_follows_from_the_shares():
    assert [(r["name"], r["lacks"]) for r in balance({"7": 40, "6": 180})] == [("6", 0), ("7", 140)]
    assert [(r["name"], r["lacks"]) for r in balance({"a": 100, "b": 10}, ["a", "b", "c"], {"a": 0.5, "b": 0.25, "c": 0.25})] == [("a", 0), ("b", 40), ("c", 50)]
    assert balance({}, ["a"])[0]["lacks"] == 0 and balance({}) == []
    assert balance({"odd": 3}, ["a"])[1] == {"name": "odd", "n": 3, "share": 1.0, "expected": 0.0, "known": False, "lacks": 0}


def test_a_tally_sums_up_its_tail_and_bars_keep_outsiders():
    assert tally(list("aaabbcd"), 2)[-1] == {"value": "2 others", "n": 2, "share": 2 / 7, "rest": True} and tally([]) == []
    assert bars([-5, 0.5, 99, float("nan")], [0, 1, 2]) == {"n": 3, "median": 0.5, "edges": [0.0, 1.0, 2.0], "counts": [2, 1]}


def test_boxes_are_counted_by_name(store):
    labels = [json.dumps(label_to_dict(Boxes(tuple(Box(0, 0, 5, 5, n) for n in names)))) for names in (["cat", "cat"], [], ["dog"])]
    found = survey(table_of([picture(store, k) for k in range(3)], label=labels), store, classes=["cat", "dog", "cow"])
    facts = found.facts["classes"]
    assert (facts["kind"], facts["boxes"], facts["n_labelled"]) == ("boxes", 3, 3) and {r["name"]: r["n"] for r in facts["rows"]} == {"cat": 2, "dog": 1, "cow": 0}
    assert [s["name"] for s in found.facts["sheets"]] == ["cat", "dog"]
    assert "boxes" in check_page(found)


def test_texts_have_lengths_and_letters(store):
    labels = [json.dumps(label_to_dict(Text(t))) for t in ("Grüße", "", "x" * 30)]
    found = survey(table_of([picture(store, k) for k in range(3)], label=labels), store)
    assert found.facts["classes"]["text"]["empty"] == 1 and "ß" in found.facts["classes"]["text"]["rare"]
    check_page(found)


# What hides


def test_a_class_that_is_darker_or_comes_from_elsewhere_is_named(store):
    items = [picture(store, k, light=100 * (k % 2)) for k in range(80)]
    table = table_of(items, label=[("day", "night")[k % 2] for k in range(80)], source=[("here", "there")[k % 2] for k in range(80)])
    texts = [s["column"] for s in survey(table, store).facts["shortcuts"]]
    assert "brightness" in texts and "source" in texts
    mixed = table.assign(label=[("a", "b")[k // 2 % 2] for k in range(80)])
    assert survey(mixed, store).facts["shortcuts"] == []


def test_leaks_between_splits_are_found_and_told_apart(version, store):
    assert survey(version.drop_duplicates("sha256"), None).facts["splits"]["bytes"] == 0
    twice = pd.concat([version[:100].assign(split="train"), version[:3].assign(split="test", id=["x", "y", "z"])], ignore_index=True)
    twice.loc[102, "sha256"] = sha256(b"a copy that was saved again")
    found = survey(twice, store)
    assert (found.facts["splits"]["bytes"], found.facts["splits"]["near"]) == (2, 1)
    assert any("two splits" in w for w in found.facts["warnings"]) and "two splits" in check_page(found)


def test_labels_without_sense_are_not_called_wrong(store):
    rng = np.random.default_rng(0)
    facts = survey(table_of([picture(store, k) for k in range(80)], label=rng.choice(["a", "b", "c"], 80).tolist()), store).facts
    assert facts["issues"]["n_found"] == 0 and facts["issues"]["agreement"] < 0.6 and facts["issues"]["why"]


def test_an_odd_picture_is_found(crawled, store):
    few = crawled[crawled["state"] == "kept"][:300]
    out = io.BytesIO()
    flag = Image.new("RGB", (32, 32), (200, 0, 0))
    flag.paste((0, 0, 90), (0, 0, 16, 32))
    flag.save(out, "PNG")
    odd = few[:1].assign(id="odd", sha256=store.put(out.getvalue()), phash="")
    facts = survey(pd.concat([few, odd], ignore_index=True), store).facts
    assert facts["odd"]["worst"][0]["id"] == "odd" and facts["odd"]["n_found"] < 5


def test_signs_and_unknown_licences_are_warned_of(store):
    items = [picture(store, k) for k in range(4)]
    table = table_of(items, opt_out=["noai tdm-reservation", "noai", "", None], state=["kept", "review", "kept", "kept"], licence=["", "MIT", "MIT", "MIT"])
    table["meta"] = [{"embedded": {"source_type": "trainedAlgorithmicMedia"}}, "not json", "[]", None]
    warnings = " ".join(survey(table, store).facts["warnings"])
    assert all(w in warnings for w in ("noai (2)", "licence of 1 picture is unknown", "1 picture waits", "machine made"))


# Two versions


def test_drift_counts_what_changed_and_tests_what_moved(version, store):
    before = version[:1200]
    after = version[200:].copy()
    after.loc[after.index[:7], "label"] = json.dumps(label_to_dict(Choice(("3",))))
    after.loc[after.index[7:10], "split"] = "val"
    drift = survey(after, None, before=before).facts["drift"]
    same = sum(a == json.dumps(label_to_dict(Choice(("3",)))) for a in version["label"][200:207])
    assert (drift["added"], drift["removed"], drift["relabelled"], drift["moved"]) == (len(version) - 1200, 200, 7 - same, 3)
    dark = after.assign(meta=[json.dumps({"look": {**json.loads(m)["look"], "brightness": json.loads(m)["look"]["brightness"] - 0.2}}) for m in after["meta"]])
    found = survey(dark, None, before=before)
    moved = {c["column"]: c for c in found.facts["drift"]["columns"]}
    assert moved["brightness"]["p"] < 1e-6 and moved["brightness"]["shift"] > 0.5 and moved["contrast"]["p"] > 0.01
    assert "has moved" in check_page(found)


# What must not break it


def test_empty_tables_and_missing_columns_are_no_error(version, store):
    for table in (pd.DataFrame(), version[:0], version[:1], version[["id"]], version[["sha256"]], version[["caption", "label"]], version.drop(columns=["phash", "meta"])):
        for before in (None, pd.DataFrame(), version):
            check_page(survey(table, store, classes=["1"], before=before, fetches=pd.DataFrame()))
    check_page(survey(version, None))


def test_strange_cells_are_no_error(store):
    n = 6
    columns = {
        "width": [None, -1, 0, float("nan"), float("inf"), "wide"], "phash": ["zz", "ff", "", None, "f", "00" * 18], "fetched_at": ["never", "", None, "2026", 3, "2026-01-01"],
        "meta": ["{", None, 3, "[]", '{"look": 3}', '{"look": {"brightness": "x"}, "embedded": 3}'], "label": ["{", '{"kind": "x"}', 3, None, Choice(("a",)), '{"kind": "choice"}'],
        "split": ["train", "", None, "x", "test", 3], "url": ["::", "http://[", "javascript:alert(1)", "", None, "http://a"],
    }  # fmt: skip
    check_page(survey(table_of([picture(store, k) for k in range(n)]).astype(object).assign(**columns), store, classes=["a"]))


def test_damaged_and_missing_blobs_are_counted_and_left_out(store):
    table = table_of([picture(store, k) for k in range(5)])
    table.loc[0, "sha256"], table.loc[1, "sha256"], table.loc[2, "sha256"] = "0" * 64, "no hash", store.put(b"not a picture")
    found = survey(table, store)
    assert found.facts["read"] == {"n": 2, "of": 5, "kept": 5} and "3 could not be read" in check_page(found)


@pytest.mark.parametrize("column", ["caption", "author", "licence", "licence_from", "source", "mime", "reason", "url", "page_url", "split", "label", "opt_out", "id"])
def test_what_a_stranger_wrote_is_shown_as_text(store, column):
    table = table_of([picture(store, k) for k in range(30)])
    table[column] = HOSTILE
    table.loc[:3, "state"] = "refused"
    found = survey(table, store, title=HOSTILE, classes=[HOSTILE])
    page = check_page(found)
    assert "alert(1)" in page and "<img src=x" not in page and "49" not in re.findall(r"<h1>(.*?)</h1>", page, re.S)[0]


def test_a_survey_is_the_same_twice(version, store):
    assert survey(version[:300], store).html() == survey(version[:300], store).html()


def test_fifty_thousand_rows_take_seconds_and_say_how_many_were_read(version, store):
    n = 50_000
    rng = np.random.default_rng(0)
    table = version.iloc[np.arange(n) % len(version)].reset_index(drop=True)
    table = table.assign(id=[f"i{k}" for k in range(n)], phash=[h.tobytes().hex() for h in rng.integers(0, 256, (n, 18), np.uint8)])
    began = time.perf_counter()
    found = survey(table, store, classes=list(WORDS), before=table[:48_000], most_read=2000)
    page = check_page(found)
    assert time.perf_counter() - began < 40, "about six seconds where nothing else runs"
    assert found.facts["read"] == {"n": 2000, "of": 2000, "kept": n} and "a random sample of 50,000" in page
