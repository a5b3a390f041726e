"""The evaluation application over HTTP: who may what, what is not there, reports of every bad kind, and judges whose server is killed."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotate_fixture import csrf_of, picture, sign_in
from evaluate_fixture import CLASSES, PASSWORD, make_stage
from starlette.testclient import TestClient

from fullstack_ml import accounts
from fullstack_ml.accounts import sign_in as open_session
from fullstack_ml.annotate import find_project
from fullstack_ml.apps.evaluate_app import make_site
from fullstack_ml.core import BadConfig, write_json
from fullstack_ml.leases import Given, Queue
from fullstack_ml.records import Annotation, Choice, draft
from fullstack_ml.verdicts import verdicts_of

ROLES = {"anybody": 0, "annotator": 1, "reviewer": 2, "manager": 3}
OURS = {"ann": "annotator", "rev": "reviewer", "man": "manager"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Password hashes with little work."""
    from argon2 import PasswordHasher

    monkeypatch.setattr(accounts, "_hasher", lambda h=PasswordHasher(1, 64, 1): h)


@pytest.fixture
def made(tmp_path):
    made = make_stage(tmp_path)
    yield made
    made.db.engine.dispose()


def visits(made):
    """Call what it gives with a name, or without one for a stranger: a client of one running site."""
    first = TestClient(make_site(made.cfg))

    def visit(name=""):
        client = TestClient(first.app, follow_redirects=False)
        client.portal = first.portal
        return sign_in(client, name) if name else client

    return first, visit


@pytest.fixture
def visit(made):
    first, visit = visits(made)
    with first:
        visit.site = first.app
        yield visit


def filled(path, made, item=None):
    """A route's path with values that exist."""
    a, b = made.reports
    values = {"report": a.id, "other": b.id, "item": item or made.items[0].id, "token": "x" * 43, "name": "base.css"}
    return re.sub(r"\{(\w+)\}", lambda m: values[m[1]], path)


def ours(site):
    return [(route, min(route.methods - {"HEAD"}), route.endpoint.rule) for route in site.routes]


def at(made, k=0):
    return f"/api/r/{made.reports[k].id}"


def verdict(item, what="wrong label", comment=""):
    return {"id": uuid.uuid4().hex, "item": item.id, "verdict": what, "comment": comment}


def f(*conditions):
    return {"f": json.dumps(conditions)}


# ---------------------------------------------------------------- who may what


def test_every_route_names_a_role_and_few_are_for_anybody(visit):
    site = visit.site
    assert {(m, r.path) for r, m, rule in ours(site) if rule.role == "anybody"} == {
        ("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/join/{token}"), ("POST", "/join/{token}"), ("GET", "/static/{name}"), ("GET", "/healthz"),
    }  # fmt: skip
    assert all(rule.changes == (m != "GET") and rule.role in ROLES for _, m, rule in ours(site))
    assert len({(m, r.path) for r, m, _ in ours(site)}) == len(site.routes)


@pytest.mark.parametrize("judges", ["annotator", "reviewer"])
def test_every_route_refuses_strangers_and_those_below_its_role(made, judges):
    made.cfg["app"]["judge_role"] = judges
    first, visit = visits(made)
    with first:
        clients = {"": visit(), **{name: visit(name) for name in OURS}}
        for route, method, rule in ours(first.app):
            path = filled(route.path, made)
            for name, client in clients.items():
                if path in ("/sign-out", "/me/sign-out") and name:
                    continue
                got = client.request(method, path, json={} if method == "POST" else None)
                told = f"{name or 'a stranger'}: {method} {route.path} -> {got.status_code}"
                if rule.role == "anybody":
                    assert got.status_code != 500, told
                elif not name:
                    assert got.status_code == 401 and "error" in got.json() and made.reports[0].id not in got.text, told
                elif ROLES[OURS[name]] < ROLES[rule.role]:
                    assert got.status_code == 403 and "needs the role" in got.json()["error"]["message"], told
                else:
                    assert got.status_code not in (401, 403, 500), told
        roles = {(m, r.path): rule.role for r, m, rule in ours(first.app)}
        assert roles["POST", "/api/r/{report}/verdicts"] == judges and roles["POST", "/api/r/{report}/send"] == "reviewer" and roles["GET", "/r/{report}"] == "annotator"


def test_an_annotator_looks_and_does_not_judge_where_so_configured(made):
    made.cfg["app"]["judge_role"] = "reviewer"
    first, visit = visits(made)
    with first:
        ann, rev = visit("ann"), visit("rev")
        assert ann.get(f"{at(made)}/cases").json()["total"] == 24 and boot_of(ann.get(f"/r/{made.reports[0].id}/cases"))["me"]["judges"] is False
        assert ann.post(f"{at(made)}/verdicts", json={"verdicts": [verdict(made.items[0])]}).status_code == 403 and verdicts_of(made.db) == []
        assert rev.post(f"{at(made)}/verdicts", json={"verdicts": [verdict(made.items[0])]}).json()["results"][0]["status"] == "stored"


def test_a_role_that_does_not_exist_is_named_at_the_start(made):
    made.cfg["app"]["judge_role"] = "king"
    with pytest.raises(BadConfig, match="king.*judge_role"):
        make_site(made.cfg)


def test_every_change_needs_the_token_and_comes_from_here(made, visit):
    man, stranger = visit("man"), visit()
    stranger.get("/sign-in")
    for route, method, rule in ours(visit.site):
        if method == "GET":
            continue
        client, path = stranger if rule.role == "anybody" else man, filled(route.path, made)
        token = client.headers.pop("x-csrf", None)
        for headers in ({}, {"x-csrf": ""}, {"x-csrf": "0" * 40}):
            assert client.post(path, json={}, headers=headers).status_code == 403, (path, headers)
        good = token or csrf_of(client.get("/sign-in").text)
        for other in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert client.post(path, json={}, headers={"x-csrf": good, **other}).status_code == 403, (path, other)
        if token:
            client.headers["x-csrf"] = token


def test_a_page_leads_a_stranger_to_the_door(visit, made):
    got = visit().get(f"/r/{made.reports[0].id}", headers={"accept": "text/html"})
    assert got.status_code == 303 and got.headers["location"] == f"/sign-in?next=/r/{made.reports[0].id}"
    assert "Reports" not in visit().get("/sign-in").text, "nothing is told"


def test_one_sign_in_opens_both_applications(made, visit):
    from fullstack_ml.apps.annotate_app import make_site as make_other

    rev = visit("rev")
    with TestClient(make_other(made.cfg)) as other:
        other.cookies = rev.cookies
        assert other.get("/").status_code == 200 and "rev" in other.get("/me").text


# ---------------------------------------------------------------- what is not there


def test_what_the_report_does_not_have_is_not_found(made, visit):
    rev = visit("rev")
    strange = made.write_dataset(made.labels[:3], "others", items=made.items[:3])
    other = made.write_report(strange, made.labels[:3], made.labels[:3], items=made.items[:3])
    ids = [made.items[5].id, "0" * 16, "x", "..%2f..%2fetc%2fpasswd", "%00", "a" * 400, made.items[0].id + "/x", "*", "%27%20or%201=1"]
    for item in ids:
        for path in (f"/r/{other.id}/items/{item}/picture", f"/r/{other.id}/items/{item}/thumb", f"/r/{other.id}/items/{item}", f"/api/r/{other.id}/items/{item}"):
            assert rev.get(path).status_code == 404, path
    assert rev.get(f"/r/{other.id}/items/{made.items[0].id}/picture").status_code == 200
    for report in ("latest", "20260101-000000-abc", made.reports[0].id[:8], "%2e%2e", "%2e%2e%2f", "x" * 300, made.dataset.id, "20260101-%2e%2e%2f", "-"):
        for path in (f"/r/{report}", f"/api/r/{report}/about", f"/api/r/{report}/cases", f"/r/{report}/page", f"/api/r/{made.reports[0].id}/compare/{report}", f"/r/{report}/items/{ids[0]}/thumb"):
            got = rev.get(path)
            assert got.status_code == 404, (path, got.text)
    told = rev.post(f"/api/r/{other.id}/verdicts", json={"verdicts": [verdict(made.items[5]), {**verdict(made.items[0]), "item": "../x"}]}).json()["results"]
    assert [r["status"] for r in told] == ["refused"] * 2 and verdicts_of(made.db) == []
    assert rev.post(f"/api/r/{other.id}/send", json={"items": [made.items[5].id]}).status_code == 404


def test_what_makes_no_sense_is_refused_with_a_remedy(made, visit):
    rev, api = visit("rev"), at(made)
    bad = [{"f": "{"}, {"f": "7"}, {"f": '{"a": 1}'}, f(["nosuch", "=", 1]), f(["confidence", "~", 1]), f(["confidence", ">", "x"]), f(["predicted"]), f("x"), f([["a"], "=", 1]), f(["predicted", "in", "one"]),
           {"f": "[" * 5000}, {"f": json.dumps([["predicted", "=", "one"]] * 60)}, {"start": "-1"}, {"n": "9999"}, {"n": "many"}, {"sort": "nosuch"}, {"q": "x" * 600}]  # fmt: skip
    for asked in bad:
        got = rev.get(f"{api}/cases", params=asked)
        assert got.status_code == 422 and got.json()["error"]["remedy"], (asked, got.text)
    for path in (f"{api}/slice", f"{api}/slice?column=nosuch", f"{api}/flips/{made.reports[1].id}?which=moon", f"{api}/confusion?f=7", f"{api}/compare/{made.reports[1].id}?f=7"):
        assert rev.get(path).status_code == 422, path
    item = made.items[0]
    bodies = [{}, {"verdicts": {}}, {"verdicts": []}, {"verdicts": "all"}]
    assert [rev.post(f"{api}/verdicts", json=b).status_code for b in bodies] == [422] * 4
    assert rev.post(f"{api}/verdicts", json={"verdicts": [verdict(item)] * 501}).status_code == 413
    assert rev.post(f"{api}/verdicts", content=b"[" * 10).status_code == 422 and rev.post(f"{api}/verdicts", content=b"x" * 3_000_000).status_code == 413
    wrong = [7, None, [], {}, {"id": "x"}, {**verdict(item), "verdict": "dunno"}, {**verdict(item), "verdict": 7}, {**verdict(item), "comment": "x" * 5000}, {**verdict(item), "comment": ["x"]},
             {**verdict(item), "item": None}, {**verdict(item), "id": "F" * 32}, {**verdict(item), "comment": "\ud800"}]  # fmt: skip
    told = rev.post(f"{api}/verdicts", content=json.dumps({"verdicts": [verdict(item), *wrong, verdict(made.items[1])]})).json()["results"]
    assert [r["status"] for r in told] == ["stored", *["refused"] * len(wrong), "stored"] and all(r["error"]["remedy"] for r in told[1:-1])
    for body in ({}, {"items": []}, {"items": "all"}, {"items": [1]}, {"items": ["x"] * 6000}):
        assert rev.post(f"{api}/send", json=body).status_code == 422, body
    for body in ({}, {"name": "x"}, {"name": "", "filter": [["a", "=", 1]]}, {"name": "x" * 150, "filter": [["a", "=", 1]]}, {"name": "x", "filter": [1]}, {"name": 7, "filter": []}):
        assert rev.post("/api/slices", json=body).status_code == 422, body
    for kept in ('[["confidence", ">=", NaN]]', '[["confidence", "like", 1]]', '[[7, "=", 1]]'):
        assert rev.post("/api/slices", content=f'{{"name": "x", "filter": {kept}}}').status_code == 422, kept
    assert rev.get("/api/slices").status_code == 200
    assert rev.get(f"{api}/cases", params={"f": f'[["confidence", ">=", 1{"0" * 400}]]'}).status_code == 422
    assert rev.post("/api/demo/answer?release=20260101-000000-abc", content=b"x").status_code == 404 and rev.post("/api/demo/answer").status_code == 422
    assert [rev.get(f"/compare?{q}").status_code for q in ("", f"a={made.reports[0].id}&b={made.reports[0].id}", "a=//evil.example&b=x")] == [422] * 3
    assert len(verdicts_of(made.db)) == 2


# ---------------------------------------------------------------- looking


def boot_of(page):
    return json.loads(re.search(r'<script id="boot" type="application/json">(.*?)</script>', page.text)[1].replace("\\u003c", "<"))


def test_pages_are_shells_that_know_their_screen(made, visit):
    rev, (a, b), item = visit("rev"), (r.id for r in made.reports), made.items[3].id
    for path, screen in ((f"/r/{a}", "overview"), (f"/r/{a}/cases", "cases"), (f"/r/{a}/compare/{b}", "compare"), (f"/r/{a}/items/{item}", "item"), ("/demo", "demo")):
        page = rev.get(path)
        boot = boot_of(page)
        assert page.status_code == 200 and f'data-screen="{screen}"' in page.text and "/static/evaluate.js" in page.text and "/static/evaluate.css" in page.text
        assert boot["me"] == {"name": "rev", "role": "reviewer", "judges": True, "sends": True} and boot["csrf"] == rev.headers["x-csrf"] and boot["annotate"] == ""
        assert (boot.get("report"), boot.get("other"), boot.get("item")) == (a if screen != "demo" else None, b if screen == "compare" else None, item if screen == "item" else None)
        assert "default-src 'self'" in page.headers["content-security-policy"]
    start = rev.get("/")
    assert all(f'href="/r/{x}"' in start.text for x in (a, b)) and "78.3 %" in start.text and "numbers 0.0.1" in start.text
    assert rev.get(f"/compare?a={a}&b={b}").headers["location"] == f"/r/{a}/compare/{b}"
    own = rev.get(f"/r/{a}/page")
    assert "It has one page." in own.text and own.headers["content-security-policy"].startswith("default-src 'none'")


def test_cases_are_found_counted_and_sliced(made, visit):
    ann, api = visit("ann"), at(made)
    told = ann.get(f"{api}/about").json()
    assert told["label_kind"] == "choice" and told["warnings"] == [] and {"predicted", "right", "meta.pen", "verdict", "confidence"} <= {c["name"] for c in told["columns"]}
    found = ann.get(f"{api}/cases", params={**f(["right", "=", False]), "sort": "confidence", "down": "1", "n": "3"}).json()
    assert (found["total"], found["wrong"], found["right"], len(found["rows"])) == (5, 5, 0, 3)
    assert [r["confidence"] for r in found["rows"]] == sorted((r["confidence"] for r in found["rows"]), reverse=True)
    assert found["rows"][0]["verdict"] == {"mine": None, "comment": "", "counts": {}, "sent": False}
    assert ann.get(f"{api}/cases", params={"q": 'more" 7'}).json()["rows"][0]["error"]
    sliced = ann.get(f"{api}/slice", params={"column": "meta.pen", **f(["split", "=", "test"])}).json()
    assert {s["value"]: s["n"] for s in sliced} == {"thin": 4, "thick": 4}
    for s in sliced:
        assert ann.get(f"{api}/cases", params=f(["split", "=", "test"], *s["filter"])).json()["total"] == s["n"]
    confused = ann.get(f"{api}/confusion").json()
    assert sum(map(sum, confused["matrix"])) == 23 and all(ann.get(f"{api}/cases", params=f(*p["filter"])).json()["total"] == p["n"] for p in confused["pairs"])


def test_pictures_of_a_report(made, visit):
    ann, item, at_ = visit("ann"), made.items[4], f"/r/{made.reports[0].id}/items"
    got = ann.get(f"{at_}/{item.id}/picture")
    assert got.content == made.store.get(item.sha256) and got.headers["content-type"] == "image/png" and ann.get(f"{at_}/{item.id}/thumb").status_code == 200
    assert ann.get(f"{at_}/{item.id}/picture", headers={"if-none-match": got.headers["etag"]}).status_code == 304


def test_two_reports_side_by_side(made, visit):
    ann, (a, b) = visit("ann"), made.reports
    told = ann.get(f"{at(made)}/compare/{b.id}").json()
    assert (told["n"], told["fixed"], told["broken"], told["unjudged"]) == (23, 2, 1, 1) and told["said"]
    for which in ("fixed", "broken", "both_wrong", "both_right", "unjudged"):
        flips = ann.get(f"{at(made)}/flips/{b.id}?which={which}&n=500").json()
        assert flips["total"] == told[which] == len(flips["rows"]), which
    assert {r["report"] for r in flips["rows"]} == {made.reports[0].id}
    (broken,) = ann.get(f"{at(made)}/flips/{b.id}?which=broken").json()["rows"]
    assert broken["item"] == made.items[1].id and broken["a"]["right"] and not broken["b"]["right"] and broken["verdict"]["counts"] == {}


def test_the_whole_story_of_an_item(made, visit):
    ann, item = visit("ann"), made.items[5]
    again = made.write_dataset([Choice(("one",))] * 24, version="0.0.2")
    made.db.add([Annotation(item.id, "ben", Choice(("two",)), created="2026-02-01", seconds=3.0, meta={"comment": "sure <b>"})])
    for k in (0, 1):
        ann.post(f"{at(made, k)}/verdicts", json={"verdicts": [verdict(item, comment=f"in {k}")]})
    told = ann.get(f"{at(made)}/items/{item.id}").json()
    it = told["item"]
    assert it["page_url"] == item.page_url and it["licence"] == "CC0-1.0" and it["author"] == "Ada" and it["source_url"] == "https://example.org" and it["meta.pen"] == "thin"
    assert it["scores"] and it["verdict"]["mine"] == "wrong label" and it["item"] == item.id
    assert [(a["annotator"], a["label"], a["comment"]) for a in told["answers"]] == [("caption", "three", ""), ("ben", "two", "sure <b>")]
    assert [(v["id"], v["label"]) for v in told["versions"]] == [(again.id, "one"), (made.dataset.id, "three")]
    assert [(p["report"], p["predicted"], p["right"]) for p in told["predictions"]] == [(made.reports[1].id, "three", True), (made.reports[0].id, "one", False)]
    assert [(v["report"], v["comment"], v["saw"]["label"]) for v in told["verdicts"]] == [(made.reports[0].id, "in 0", "three"), (made.reports[1].id, "in 1", "three")]


def test_captions_of_strangers_become_no_markup(made, visit):
    page = visit("ann").get(f"/r/{made.reports[0].id}/items/{made.items[0].id}")
    assert "<i>caption" not in page.text
    assert "<i>caption" in visit("ann").get(f"{at(made)}/items/{made.items[0].id}").json()["item"]["caption"], "scripts set it as text"


# ---------------------------------------------------------------- judging


def test_a_verdict_is_stored_once_and_counts_for_all(made, visit):
    ann, bob, api, item = visit("ann"), visit("bob"), at(made), made.items[5]
    v = verdict(item, comment="a one")
    assert [ann.post(f"{api}/verdicts", json={"verdicts": [v, v]}).json()["results"] for _ in range(2)] == [
        [{"id": v["id"], "status": "stored"}, {"id": v["id"], "status": "known"}], [{"id": v["id"], "status": "known"}] * 2]  # fmt: skip
    assert bob.post(f"{api}/verdicts", json={"verdicts": [v]}).json()["results"][0]["status"] == "refused", "the id is another person's"
    bob.post(f"{api}/verdicts", json={"verdicts": [verdict(item, "fine"), verdict(item, "wrong label")]})
    (row,) = bob.get(f"{api}/cases", params=f(["item", "=", item.id])).json()["rows"]
    assert row["verdict"] == {"mine": "wrong label", "comment": "", "counts": {"wrong label": 2}, "sent": False}
    (kept,) = [x for x in verdicts_of(made.db) if x.author == "ann"]
    assert kept.meta == {"dataset": made.dataset.id, "label": "three", "predicted": "one", "confidence": pytest.approx(0.85), "suggested": "one"}
    ann.post(f"{api}/verdicts", json={"verdicts": [verdict(item, "")]})
    (row,) = ann.get(f"{api}/cases", params=f(["item", "=", item.id])).json()["rows"]
    assert row["verdict"]["mine"] is None and row["verdict"]["counts"] == {"wrong label": 1}
    assert len(verdicts_of(made.db)) == 4, "nothing is overwritten"


def test_what_was_judged_can_be_filtered_and_sliced(made, visit):
    ann, api = visit("ann"), at(made)
    ann.post(f"{api}/verdicts", json={"verdicts": [verdict(i, w) for i, w in zip(made.items, ("wrong label", "fine", "wrong label"))]})
    assert ann.get(f"{api}/cases", params=f(["verdict", "=", "wrong label"])).json()["total"] == 2
    assert ann.get(f"{api}/cases", params=f(["verdict", "empty", True])).json()["total"] == 21
    assert {s["value"]: s["n"] for s in ann.get(f"{api}/slice?column=verdict").json()}["wrong label"] == 2
    ann.post(f"{api}/verdicts", json={"verdicts": [verdict(made.items[9], "wrong label")]})
    until(lambda: ann.get(f"{api}/cases", params=f(["verdict", "=", "wrong label"])).json()["total"] == 3, 10)


def test_named_slices_are_everybodys(made, visit):
    ann, bob = visit("ann"), visit("bob")
    kept = [["confidence", "<", 0.6], ["right", "=", False]]
    assert ann.post("/api/slices", json={"name": "unsure & wrong", "filter": kept}).status_code == 200
    (got,) = bob.get("/api/slices").json()["slices"]
    assert (got["name"], got["filter"], got["author"]) == ("unsure & wrong", kept, "ann")
    assert bob.post("/api/slices", json={"name": "unsure & wrong", "filter": []}).json()["slices"] == []


def test_wrong_labels_go_back_with_one_click(made):
    made.cfg["app"]["annotate"] = "https://labels.example.org/"
    first, visit = visits(made)
    with first:
        ann, rev, api = visit("ann"), visit("rev"), at(made)
        ann.post(f"{api}/verdicts", json={"verdicts": [verdict(made.items[5]), verdict(made.items[10]), verdict(made.items[15], "fine")]})
        ids = [made.items[k].id for k in (10, 5, 15)]
        assert ann.post(f"{api}/send", json={"items": ids}).status_code == 403
        told = rev.post(f"{api}/send", json={"items": ids}).json()
        project = find_project(made.db, "again: numbers")
        assert (told["new"], told["again"], told["known"], list(told["left"])) == (2, 0, 0, [ids[2]]) and told["name"] == project.name
        assert told["link"] == f"https://labels.example.org/p/{project.id}/work"
        assert rev.post(f"{api}/send", json={"items": ids}).json()["known"] == 2
        (row,) = rev.get(f"{api}/cases", params=f(["item", "=", ids[0]])).json()["rows"]
        assert row["verdict"]["sent"] is True
        (held,) = Queue(made.db, project).next([("cat", 5)])
        assert [h.item_id for h in held] == ids[:2] and not any(h.suggestion or h.caption for h in held)
        Queue(made.db, project).submit([Given(uuid.uuid4().hex, h.id, "cat", Choice((CLASSES[0],))) for h in held])
        assert rev.post(f"{api}/send", json={"items": ids}).json()["known"] == 2, "these verdicts have led there"
        story = rev.get(f"{api}/items/{ids[0]}").json()
        assert [(a["annotator"], a["project"]) for a in story["answers"]] == [("caption", ""), ("cat", "again: numbers")] and story["verdicts"][0]["sent"] == project.id


# ---------------------------------------------------------------- reports of every bad kind


def without(report, name):
    """The report after somebody has deleted a file of it, its manifest saying so."""
    told = json.loads((report.dir / "manifest.json").read_text())
    told["files"].pop(name)
    (report.dir / name).unlink()
    write_json(report.dir / "manifest.json", told)
    return report


def overwrite(path, body):
    path.chmod(0o644)
    path.write_bytes(body)


def older(made):
    """As the code before wrote them: fewer columns, no format."""
    with draft("evaluate", made.storage, {"dataset": made.dataset}) as d:
        rows = [{"item_id": i.id, "split": "test", "label": str(l), "predicted": str(l)} for i, l in zip(made.items, made.labels)]
        pq.write_table(pa.Table.from_pylist(rows), d.dir / "predictions.parquet")
        write_json(d.dir / "metrics.json", {"label_kind": "choice", "figures": []})
    return d.manifest


def gone(made):
    other = made.write_dataset(made.labels, "gone")
    report = made.write_report(other, made.labels, made.labels)
    shutil.rmtree(other.dir)
    return report


def empty(made):
    return made.write_report(made.write_dataset([], "empty", items=[]), [], [], items=[])


def another(made):
    """Its dataset version holds half of the items that it speaks of."""
    return made.write_report(made.write_dataset(made.labels[:12], "half", items=made.items[:12]), made.labels, made.labels)


def broken_predictions(made):
    report = made.write_report(made.dataset, made.labels, made.labels)
    overwrite(report.dir / "predictions.parquet", b"PAR1 nonsense")
    return report


def broken_metrics(made):
    report = made.write_report(made.dataset, made.labels, made.labels)
    overwrite(report.dir / "metrics.json", b"{")
    return report


def bare(made):
    report = made.write_report(made.dataset, made.labels, made.labels)
    for name in ("predictions.parquet", "metrics.json", "report.html"):
        without(report, name)
    return report


@pytest.mark.parametrize("make, opens, says", [
    (empty, True, ""), (gone, True, "dataset version"), (another, True, "12 of 24"), (older, True, "older version"), (bare, True, "predictions.parquet"),
    (broken_metrics, True, "figures"), (broken_predictions, False, "does not hold"),
])  # fmt: skip
def test_a_bad_report_is_a_clear_page_and_no_trace(made, visit, tmp_path, make, opens, says):
    report, rev, item = make(made), visit("rev"), made.items[3].id
    api, texts = f"/api/r/{report.id}", []
    for path in ("/", f"/r/{report.id}", f"/r/{report.id}/cases", f"/r/{report.id}/page", f"/r/{report.id}/items/{item}", f"/r/{report.id}/compare/{made.reports[0].id}", f"{api}/about",
                 f"{api}/cases", f"{api}/cases?f=%5B%5B%22right%22,%22=%22,false%5D%5D&sort=confidence", f"{api}/slice?column=predicted", f"{api}/slice?column=verdict", f"{api}/confusion",
                 f"{api}/items/{item}", f"{api}/compare/{made.reports[0].id}", f"{at(made)}/compare/{report.id}", f"{at(made)}/flips/{report.id}", f"/r/{report.id}/items/{item}/thumb"):  # fmt: skip
        for accept in ("text/html", "application/json"):
            got = rev.get(path, headers={"accept": accept})
            texts.append(got.text)
            assert got.status_code in (200, 303, 404, 422) or not opens and got.status_code == 500, (path, got.text)
            assert got.status_code != 500 or "mistake of the application" not in got.text, path
    assert not any("Traceback" in t or str(tmp_path) in t or "fullstack_ml/" in t for t in texts)
    about = rev.get(f"{api}/about")
    assert (about.status_code == 200) == opens and says in (" ".join(about.json()["warnings"]) if opens else about.json()["error"]["message"])
    if opens:
        assert rev.get(f"{api}/cases").json()["total"] == (0 if make in (empty, bare) else 24)
    told = rev.post(f"{api}/send", json={"items": [item]})
    assert told.status_code in (200, 404, 422, 500) and "Traceback" not in told.text


def test_the_picture_of_a_report_whose_dataset_is_gone(made, visit):
    report, ann, item = gone(made), visit("ann"), made.items[3]
    assert ann.get(f"/r/{report.id}/items/{item.id}/picture").content == made.store.get(item.sha256), "the database still knows it"
    assert "gone" in ann.get("/").text


def test_a_missing_picture_is_a_clear_answer(made, visit):
    ann, item = visit("ann"), made.items[3]
    made.store.delete(item.sha256)
    for what in ("picture", "thumb"):
        got = ann.get(f"/r/{made.reports[0].id}/items/{item.id}/{what}")
        assert got.status_code == 404 and "no such bytes" in got.json()["error"]["message"]
    assert ann.get(f"{at(made)}/items/{item.id}").status_code == 200


def test_a_storage_without_reports_says_how_to_make_one(tmp_path):
    made = make_stage(tmp_path)
    shutil.rmtree(tmp_path / "evaluate")
    first, visit = visits(made)
    with first:
        assert "fsml evaluate" in visit("ann").get("/").text
    made.db.engine.dispose()


def test_a_report_that_is_made_meanwhile_is_there(made, visit):
    ann = visit("ann")
    ann.get("/")
    report = made.write_report(made.dataset, made.labels, made.labels)
    assert report.id in ann.get("/").text and ann.get(f"/api/r/{report.id}/cases").json()["right"] == 24


def test_texts_go_the_same_way(tmp_path):
    made = make_stage(tmp_path, kind="text")
    first, visit = visits(made)
    with first:
        rev, api = visit("rev"), at(made)
        assert boot_of(rev.get(f"/r/{made.reports[0].id}"))["label_kind"] == "text"
        pairs = rev.get(f"{api}/confusion").json()["pairs"]
        assert pairs and all(rev.get(f"{api}/cases", params=f(*p["filter"])).json()["total"] == p["n"] for p in pairs[:5])
        assert rev.get(f"{api}/slice?column=length").json()
        rev.post(f"{api}/verdicts", json={"verdicts": [verdict(made.items[5])]})
        told = rev.post(f"{api}/send", json={"items": [made.items[5].id]}).json()
        assert told["new"] == 1 and find_project(made.db, told["project"]).label_kind == "text"
    made.db.engine.dispose()


# ---------------------------------------------------------------- the demo


READER = {"_target_": "fullstack_ml.tasks.ocr.LineReading", "labels": list("abcde"), "height": 32}
SMALL_READER = {
    "_target_": "fullstack_ml.models.line_reader.LineReader", "width": 48, "encoder_depth": 1, "depth": 1, "n_heads": 2, "dropout": 0.0, "stride": 4,
    "backbone": {"_target_": "fullstack_ml.models.backbone.backbone", "name": "test_resnet", "n_outputs": 0, "channels": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """Two sealed releases, of different tasks."""
    from release_fixture import MODEL, TASK

    from fullstack_ml.release import sample_release

    return [sample_release(tmp_path_factory.mktemp("sealed"), task, model, steps) for task, model, steps in ((TASK, MODEL, 40), (READER, SMALL_READER, 60))]


@pytest.fixture
def releases(made, sealed):
    found = []
    for path in sealed:
        with draft("release", made.storage, {}) as d:
            shutil.copy(path, d.dir / "release.zip")
            d.metrics["release"] = f"sample-{len(found)}"
        found.append(d.manifest)
    return found


def test_each_release_answers_an_own_picture(made, visit, releases):
    from fullstack_ml.release import open_release
    from fullstack_ml.task import load_task

    ann = visit("ann")
    listed = ann.get("/api/demo/releases").json()["releases"]
    assert [(r["id"], r["name"], r["label_kind"]) for r in listed] == [(releases[1].id, "sample-1", "text"), (releases[0].id, "sample-0", "choice")]
    for k, release in enumerate(releases):
        opened = open_release(release.path("release.zip"))
        item, label = opened.task.sample(4, seed=1)[2]
        (wanted,) = opened.predict([item])
        got = ann.post(f"/api/demo/answer?release={release.id}", content=item.data, headers={"content-type": "image/png"})
        told = got.json()
        assert got.status_code == 200 and told["label"] == str(wanted.label) and told["confidence"] == pytest.approx(wanted.confidence, abs=1e-4), told
        assert told["variant"] == "float" and told["ms"] > 0 and told["saliency"].startswith("data:image/png;base64,") and set(told["scores"]) == set(wanted.scores)
        plain = ann.post(f"/api/demo/answer?release={release.id}&map=0", content=item.data, headers={"content-type": "image/png"}).json()
        assert plain["saliency"] is None and plain["label"] == told["label"]
        assert load_task(opened.about["task"]).label_kind == told["label_kind"]


def test_bad_pictures_are_refused_by_the_task(made, visit, releases):
    ann = visit("ann")
    whole = picture(1, 64, 64)
    for body, status in ((b"x" * 100, 415), (whole[:60], 422), (b"", 422), (whole, 200)):
        got = ann.post(f"/api/demo/answer?release={releases[0].id}", content=body, headers={"content-type": "image/png"})
        assert got.status_code == status and (status == 200 or got.json()["error"]["remedy"]), (body[:10], got.text)
    assert ann.post(f"/api/demo/answer?release={releases[0].id}", content=whole, headers={"content-type": "text/html"}).status_code == 415
    assert ann.post(f"/api/demo/answer?release={releases[0].id}", content=b"\x89PNG" + b"x" * (21 * 2**20)).status_code == 413


def test_a_release_that_was_changed_does_not_answer(made, visit, releases):
    path = releases[0].path("release.zip")
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 255
    overwrite(path, bytes(body))
    got = visit("ann").post(f"/api/demo/answer?release={releases[0].id}", content=picture(1), headers={"content-type": "image/png"})
    assert got.status_code == 500 and got.json()["error"]["kind"] == "Damaged" and str(path) not in got.text
    assert [r["id"] for r in visit("ann").get("/api/demo/releases").json()["releases"]] == [releases[1].id]


# ---------------------------------------------------------------- processes


def until(check, seconds=40):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if check():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("it did not come true in time")


@pytest.fixture
def running(artifacts, tmp_path):
    """Start `fsml evaluate-app`; gives its address, its process and the lines it has said."""
    started = []

    def start(*words):
        command = [sys.executable, "-m", "fullstack_ml.cli", "evaluate-app", "app.per_second=10000", *words]
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
        started.append(p)
        lines = [p.stdout.readline()]
        url = re.search(r"http://[\w.:]+\d", lines[0])
        assert url, lines + ([p.stdout.read()] if p.poll() is not None else [])
        until(lambda: httpx.get(f"{url[0]}/healthz").status_code == 200)
        os.set_blocking(p.stdout.fileno(), False)
        return url[0], p, [*lines, *p.stdout.readlines()]

    yield start
    for p in started:
        p.kill()
        p.wait()


def servers(p):
    def is_server(child):
        try:
            return "spawn_main" in " ".join(child.cmdline())
        except psutil.Error:  # it has just ended
            return False

    return [c for c in psutil.Process(p.pid).children() if is_server(c)]


class Judge(threading.Thread):
    """A person who judges as fast as the server lets them, and sends again until it is acknowledged."""

    def __init__(self, url, token, csrf, report, items):
        super().__init__(daemon=True)
        self.url, self.report, self.items, self.stop, self.said, self.again, self.wrong = [url], report, items, threading.Event(), [], 0, []
        self.headers = {"cookie": f"fsml_session={token}", "x-csrf": csrf}

    def run(self):
        k = 0
        client = httpx.Client(headers=self.headers, timeout=20)
        while not self.stop.is_set():
            some = [{"id": uuid.uuid4().hex, "item": self.items[(k + j) % len(self.items)], "verdict": ("wrong label", "fine")[(k + j) % 2]} for j in range(3)]
            while True:
                try:
                    got = client.post(f"{self.url[0]}/api/r/{self.report}/verdicts", json={"verdicts": some})
                    if got.status_code == 503:
                        continue
                    results = got.json()["results"]
                    self.wrong += [r for r in results if r["status"] == "refused"]
                    self.said += [r["id"] for r in results if r["status"] != "refused"]
                    break
                except (httpx.HTTPError, ValueError, KeyError):  # the server is gone, in the middle of an answer maybe
                    self.again += 1
                    time.sleep(0.05)
            k += 3
        client.close()


def test_a_killed_server_loses_no_acknowledged_verdict_and_doubles_none(artifacts, running):
    made = make_stage(artifacts)
    url, p, _ = running("app.port=0")
    port = url.rpartition(":")[2]
    tokens = {name: open_session(made.db, name, PASSWORD) for name in ("ann", "bob", "rev", "man")}
    judges = []
    for name, token in tokens.items():
        page = httpx.get(f"{url}/r/{made.reports[0].id}/cases", cookies={"fsml_session": token})
        judges.append(Judge(url, token, boot_of(page)["csrf"], made.reports[0].id, [i.id for i in made.items]))
    for judge in judges:
        judge.start()
    for _ in range(2):  # a server process, whose parent starts another
        n = sum(len(j.said) for j in judges)
        until(lambda: sum(len(j.said) for j in judges) > n + 60)
        before = {s.pid for s in servers(p)}
        for s in servers(p):
            s.kill()
        until(lambda: {s.pid for s in servers(p)} - before)
    n = sum(len(j.said) for j in judges)
    until(lambda: sum(len(j.said) for j in judges) > n + 60)
    for s in servers(p):  # all of it, as when the machine runs out of memory
        s.kill()
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    running(f"app.port={port}")
    n = sum(len(j.said) for j in judges)
    until(lambda: sum(len(j.said) for j in judges) > n + 60)
    for judge in judges:
        judge.stop.set()
    for judge in judges:
        judge.join(30)
    said, kept = [id for j in judges for id in j.said], [v.id for v in verdicts_of(made.db)]
    assert not any(j.is_alive() for j in judges) and not any(j.wrong for j in judges) and sum(j.again for j in judges) > 0
    assert len(said) == len(set(said)) >= 240 and len(kept) == len(set(kept)) and set(said) == set(kept), "whoever was not answered has sent again"
    made.db.engine.dispose()


def test_the_command_starts_says_where_and_ends(running):
    url, p, lines = running("app.port=0")
    assert "no reports yet" in lines[0] and re.search(rf"{url}/join/[\w-]{{43}}", lines[1])
    p.send_signal(signal.SIGINT)
    assert p.wait(30) == 130 and "Traceback" not in "".join(p.stdout.readlines())


def test_the_command_is_in_the_help():
    done = subprocess.run([sys.executable, "-m", "fullstack_ml.cli", "--help"], capture_output=True, text=True, timeout=60)
    assert "evaluate-app" in done.stdout
    done = subprocess.run([sys.executable, "-m", "fullstack_ml.cli", "evaluate-app", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "evaluate-app [key=value ...]" in done.stdout
