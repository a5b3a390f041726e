"""The annotation application over HTTP: who may what, what strangers and bad guests get, and processes that are killed."""
import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from html import unescape

import httpx
import psutil
import pytest
from annotate_fixture import KINDS, PASSWORD, csrf_of, make_annotation_fixture, sign_in
from starlette.testclient import TestClient

from fullstack_ml import accounts
from fullstack_ml.accounts import change_account, invite
from fullstack_ml.annotate import Rules, save_project
from fullstack_ml.apps.annotate_app import make_site
from fullstack_ml.records import Annotation, Item

LABELS = {"choice": {"kind": "choice", "names": ["cat"]}, "text": {"kind": "text", "text": "abc"}, "boxes": {"kind": "boxes", "boxes": [{"x": 1, "y": 2, "w": 9, "h": 9, "name": "cat"}]}}
ROLES = {"anybody": 0, "annotator": 1, "reviewer": 2, "manager": 3}
OURS = {"ann": "annotator", "rev": "reviewer", "man": "manager"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Password hashes with little work."""
    from argon2 import PasswordHasher

    monkeypatch.setattr(accounts, "_hasher", lambda h=PasswordHasher(1, 64, 1): h)


@pytest.fixture
def made(tmp_path):
    made = make_annotation_fixture(tmp_path)
    yield made
    made.db.engine.dispose()


@pytest.fixture
def site(made):
    return make_site(made.cfg)


@pytest.fixture
def visit(site):
    """Call it with a name, or without one for a stranger: a client of one running site."""
    with TestClient(site) as first:
        def visit(name="", password=PASSWORD):
            client = TestClient(site, follow_redirects=False)
            client.portal = first.portal
            return sign_in(client, name, password) if name else client

        yield visit


def answer(task, label, **more):
    return {"id": uuid.uuid4().hex, "assignment": task["id"], "label": label, "seconds": 1.0, **more}


def place(made, kind="choice"):
    p = made.projects[kind]
    return f"/api/p/{p.id}", f"/p/{p.id}"


def filled(path, made):
    """A route's path with values that exist."""
    p = made.projects["choice"]
    values = {"project": p.id, "item": made.items["choice"][0].id, "id": "0" * 40, "token": "x" * 43, "name": "base.css"}
    return re.sub(r"\{(\w+)\}", lambda m: values[m[1]], path)


def ours(site):
    return [(route, min(route.methods - {"HEAD"}), route.endpoint.rule) for route in site.routes]


# ---------------------------------------------------------------- who may what


def test_every_route_names_a_role_and_few_are_for_anybody(site):
    assert all(rule.role in ROLES for _, _, rule in ours(site))
    assert {(m, r.path) for r, m, rule in ours(site) if rule.role == "anybody"} == {
        ("GET", "/sign-in"), ("POST", "/sign-in"), ("GET", "/join/{token}"), ("POST", "/join/{token}"), ("GET", "/static/{name}"), ("GET", "/healthz"),
    }  # fmt: skip
    assert all(rule.changes == (m != "GET") for _, m, rule in ours(site))
    assert len({(m, r.path) for r, m, _ in ours(site)}) == len(site.routes)


def test_every_route_refuses_strangers_and_those_below_its_role(site, made, visit):
    clients = {"": visit(), **{name: visit(name) for name in OURS}}
    for route, method, rule in ours(site):
        path = filled(route.path, made)
        for name, client in clients.items():
            if path in ("/sign-out", "/me/sign-out") and name:
                continue
            got = client.request(method, path, json={} if method == "POST" else None)
            told = f"{name or 'a stranger'}: {method} {route.path} -> {got.status_code}"
            if rule.role == "anybody":
                assert got.status_code != 500, told
            elif not name:
                assert got.status_code == 401 and "error" in got.json(), told
            elif ROLES[OURS[name]] < ROLES[rule.role]:
                assert got.status_code == 403 and "needs the role" in got.json()["error"]["message"], told
            else:
                assert got.status_code not in (401, 403, 500), told


def test_every_change_needs_the_token_and_comes_from_here(site, made, visit):
    man, stranger = visit("man"), visit()
    stranger.get("/sign-in")
    for route, method, rule in ours(site):
        if method == "GET":
            continue
        client, path = stranger if rule.role == "anybody" else man, filled(route.path, made)
        token = client.headers.pop("x-csrf", None)
        for headers in ({}, {"x-csrf": ""}, {"x-csrf": "0" * 40}):
            assert client.post(path, json={}, headers=headers).status_code == 403, (path, headers)
            assert client.post(path, data={"csrf": "0" * 40}, headers=headers).status_code == 403, (path, headers)
        good = token or csrf_of(client.get("/sign-in").text)
        for other in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert client.post(path, json={}, headers={"x-csrf": good, **other}).status_code == 403, (path, other)
        if token:
            client.headers["x-csrf"] = token


def test_a_page_leads_a_stranger_to_the_door_and_back(visit, made):
    client = visit()
    _, at = place(made)
    got = client.get(f"{at}/work", headers={"accept": "text/html"})
    assert got.status_code == 303 and got.headers["location"] == f"/sign-in?next={at}/work"
    page = client.get(got.headers["location"]).text
    got = client.post("/sign-in", data={"csrf": csrf_of(page), "name": "ANN", "password": PASSWORD, "next": unescape(re.search('name="next" value="([^"]*)"', page)[1])})
    assert (got.status_code, got.headers["location"]) == (303, f"{at}/work")
    cookie = got.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/" in cookie
    for evil in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nset-cookie: x=1"):
        client = visit()
        csrf = csrf_of(client.get("/sign-in").text)
        assert client.post("/sign-in", data={"csrf": csrf, "name": "ann", "password": PASSWORD, "next": evil}).headers["location"] == "/", evil


def test_a_new_sign_in_is_a_new_token_and_an_old_one_ends(visit, made):
    client = visit()
    client.get("/sign-in")
    before = client.cookies["fsml_session"]
    sign_in(client, "ann")
    assert client.cookies["fsml_session"] != before
    kept = client.cookies["fsml_session"]
    assert client.post("/sign-out").status_code == 303
    assert client.get("/me", headers={"cookie": f"fsml_session={kept}"}).status_code == 401


def test_whoever_is_blocked_is_out_and_a_role_counts_at_once(visit, made):
    ann, man = visit("ann"), visit("man")
    api, at = place(made)
    assert man.post("/people/change", data={"name": "ann", "role": "reviewer"}).status_code == 303
    assert ann.get(f"{api}/disputes").status_code == 200
    assert man.post("/people/change", data={"name": "ann", "state": "blocked"}).status_code == 303
    assert ann.post(f"{api}/next", json={}).status_code == 401
    assert man.post("/people/change", data={"name": "man", "role": "annotator"}).status_code == 403


def test_the_memory_of_a_session_is_short(tmp_path):
    made = make_annotation_fixture(tmp_path, app={"session_seconds": 0.3})
    with TestClient(make_site(made.cfg)) as client:
        sign_in(client, "ann")
        assert client.get("/me").status_code == 200
        change_account(made.db, "ann", state="blocked")  # by another process
        time.sleep(0.4)
        assert client.get("/me").status_code == 401


def test_an_invitation_is_a_door_for_one(visit, made):
    man = visit("man")
    page = man.post("/people/invite", data={"role": "annotator"}).text
    path = re.search(r"http://testserver(/join/[\w-]{43})", page)[1]
    assert path not in man.get("/people").text, "it is shown once"
    guest = visit()
    csrf = csrf_of(guest.get(path).text)
    bad = guest.post(path, data={"csrf": csrf, "name": "truth", "password": PASSWORD})
    assert bad.status_code == 422 and "taken" in bad.text
    save_project(made.db, replace(made.projects["choice"], rules=Rules(suggest="ocr-v2")))
    bad = guest.post(path, data={"csrf": csrf, "name": "OCR-v2", "password": PASSWORD})
    assert bad.status_code == 422 and "taken" in bad.text, "it will answer some day"
    assert guest.post(path, data={"csrf": csrf, "name": "Zoë", "password": PASSWORD}).status_code == 303
    assert "Zoë" in guest.get("/me").text
    assert visit().get(path).status_code == 404
    lost = re.search(r"http://testserver(/join/[\w-]{43})", man.post("/people/invite", data={"role": "annotator", "name": "Zoë"}).text)[1]
    other = visit()
    assert other.post(lost, data={"csrf": csrf_of(other.get(lost).text), "name": "x", "password": "four other words now"}).status_code == 303
    assert guest.get("/me").status_code == 401, "a new password ends the old sessions"


# ---------------------------------------------------------------- work


@pytest.mark.parametrize("kind", KINDS)
def test_next_picture_answer(visit, made, kind):
    ann, (api, at) = visit("ann"), place(made, kind)
    got = ann.post(f"{api}/next", json={"n": 3}).json()
    assert len(got["tasks"]) == 3 and got["guide"] == 1 and got["lease"] == 600 and got["left"] is not None
    for task in got["tasks"]:
        shown = ann.get(task["picture"])
        assert shown.status_code == 200 and shown.headers["content-type"] == "image/png"
        item = next(i for i in made.items[kind] if i.id == task["item"])
        assert shown.content == made.store.get(item.sha256)
        assert ann.get(task["picture"], headers={"if-none-match": shown.headers["etag"]}).status_code == 304
        assert ann.get(task["picture"].replace("/picture", "/thumb")).status_code == 200
    one, two, three = got["tasks"]
    a, s = answer(one, LABELS[kind], meta={"guide": 1, "comment": "sure", "decision": True, "late": True}), answer(two, None, skip="blurred")
    told = ann.post(f"{api}/answers", json={"answers": [a, s, a]}).json()["results"]
    assert [r["status"] for r in told] == ["stored", "stored", "known"]
    assert ann.post(f"{api}/answers", json={"answers": [a]}).json()["results"][0]["status"] == "known"
    (kept,) = made.db.get(Annotation, annotator="ann")
    assert kept.id == a["id"] and kept.item_id == one["item"] and kept.project == made.projects[kind].id and kept.seconds == 1.0
    assert kept.meta == {"guide": 1, "comment": "sure"}, "facts that the server states cannot be sent"
    mine = ann.get(f"{api}/mine?n=10").json()["answers"]
    assert {(m["item"], m["skip"]) for m in mine} == {(one["item"], ""), (two["item"], "blurred")}
    assert all(m["width"] == 64 and m["picture"] == f"{at}/items/{m['item']}/picture" for m in mine)
    assert ann.post(f"{api}/extend", json={"assignments": [three["id"]]}).json()["extended"] == 1
    assert ann.post(f"{api}/return", json={"assignments": [three["id"]]}).json()["returned"] == 1


def test_one_bad_answer_hurts_no_other(visit, made):
    ann, bob, (api, _) = visit("ann"), visit("bob"), place(made, "boxes")
    tasks = ann.post(f"{api}/next", json={"n": 4}).json()["tasks"]
    (foreign,) = bob.post(f"{api}/next", json={"n": 1}).json()["tasks"]
    box = {"x": 1, "y": 2, "w": 9, "h": 9, "name": "cat"}
    bad = [
        answer(tasks[1], {"kind": "boxes", "boxes": [box | {"w": 1e9}]}), answer(tasks[1], {"kind": "boxes", "boxes": [box | {"x": -50}]}),
        answer(tasks[1], {"kind": "boxes", "boxes": [box | {"name": "cow"}]}), answer(tasks[1], {"kind": "boxes", "boxes": [box | {"x": "1"}]}),
        answer(tasks[1], {"kind": "boxes", "boxes": [box | {"w": 0}]}), answer(tasks[1], {"kind": "boxes", "boxes": "all"}), answer(tasks[1], {"kind": "boxes"}),
        answer(tasks[1], {"kind": "choice", "names": ["cat"]}), answer(tasks[1], {"kind": "moon"}), answer(tasks[1], "cat"), answer(tasks[1], None),
        answer(tasks[1], {"kind": ["boxes"]}), answer(tasks[1], {"kind": "boxes", "boxes": [box | {"colour": 1}]}),
        answer(foreign, LABELS["boxes"]), answer({"id": "f" * 40}, LABELS["boxes"]), answer({"id": "../../x"}, LABELS["boxes"]),
        answer(tasks[1], LABELS["boxes"]) | {"id": "short"}, answer(tasks[1], LABELS["boxes"]) | {"seconds": "fast"}, answer(tasks[1], LABELS["boxes"]) | {"seconds": -1},
        answer(tasks[1], LABELS["boxes"]) | {"meta": []}, answer(tasks[1], LABELS["boxes"]) | {"meta": {"comment": "x" * 3000}}, 7, None, [], {},
    ]  # fmt: skip
    told = ann.post(f"{api}/answers", json={"answers": [answer(tasks[0], LABELS["boxes"]), *bad, answer(tasks[2], LABELS["boxes"])]})
    results = told.json()["results"]
    assert told.status_code == 200 and [r["status"] for r in results] == ["stored", *["refused"] * len(bad), "stored"], results
    assert all(r["error"]["message"] and r["error"]["remedy"] for r in results[1:-1])
    assert len(made.db.get(Annotation, annotator="ann")) == 2


def test_nan_and_infinity_are_no_places(visit, made):
    ann, (api, _) = visit("ann"), place(made, "boxes")
    (task,) = ann.post(f"{api}/next", json={"n": 1}).json()["tasks"]
    for value in ("NaN", "Infinity", "1e999", "-1e999"):
        body = json.dumps({"answers": [answer(task, LABELS["boxes"])]}).replace('"x": 1', f'"x": {value}')
        assert value in body
        got = ann.post(f"{api}/answers", content=body)
        assert got.status_code == 422 or got.json()["results"][0]["status"] == "refused", (value, got.text)


def test_an_annotator_sees_no_answer_of_another(visit, made):
    ann, bob, (api, at) = visit("ann"), visit("bob"), place(made, "text")
    (task,) = bob.post(f"{api}/next", json={"n": 1}).json()["tasks"]
    secret = {"kind": "text", "text": "what bob read"}
    assert bob.post(f"{api}/answers", json={"answers": [answer(task, secret, meta={"comment": "what bob thought"})]}).json()["results"][0]["status"] == "stored"
    ann.post(f"{api}/next", json={"n": 50})
    for path in (f"{api}/mine", f"{api}/mine?annotator=bob", f"{api}/next", f"{api}/questions", f"{api}/guide", f"{api}/disputes", f"{at}/work", f"{at}/quality",
                 f"{at}/manage", f"{at}/review", f"{at}/export?format=csv", f"{at}/questions", "/"):  # fmt: skip
        shown = ann.get(path).text
        assert "what bob" not in shown and "bob" not in shown, path


def test_two_never_get_one_item_beyond_what_is_wanted(visit, made):
    clients, (api, _) = [visit(n) for n in ("ann", "bob", "rev", "man")], place(made)
    dealt = [t["item"] for _ in range(4) for c in clients for t in c.post(f"{api}/next", json={"n": 1}).json()["tasks"]]
    assert len(dealt) == len(set(dealt)) == 8
    assert clients[0].post(f"{api}/next", json={"n": 1}).json()["tasks"] == []


def test_calls_at_once_share_transactions(made):
    site = make_site(made.cfg)
    client = TestClient(site)
    sign_in(client, "ann")
    cookie, token, api = client.cookies["fsml_session"], client.headers["x-csrf"], place(made)[0]

    async def many():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://testserver", cookies={"fsml_session": cookie}, headers={"x-csrf": token}) as c:
            await c.post(f"{api}/next", json={"n": 1})
            room = next(r for r in rooms() if r.id == made.projects["choice"].id)
            sizes, real = [], room.queue.next
            room.queue.next = lambda wants: sizes.append(len(wants)) or real(wants)
            answers = await asyncio.gather(*(c.post(f"{api}/next", json={"n": 1}) for _ in range(40)))
            return sizes, answers

    def rooms():
        return site.routes[0].endpoint.handler.__self__.rooms.values()

    sizes, answers = asyncio.run(many())
    assert sum(sizes) == 40 and len(sizes) < 20, sizes
    items = [t["item"] for a in answers for t in a.json()["tasks"]]
    assert len(items) == len(set(items)) == 7


def test_a_closed_project_hands_out_nothing(visit, made):
    man, ann, (api, at) = visit("man"), visit("ann"), place(made)
    assert man.post(f"{at}/state", data={"state": "closed"}).status_code == 303
    assert ann.post(f"{api}/next", json={"n": 1}).json()["tasks"] == []
    assert man.post(f"{at}/state", data={"state": "open"}).status_code == 303
    assert len(ann.post(f"{api}/next", json={"n": 1}).json()["tasks"]) == 1


def test_a_page_that_was_loaded_again_gets_back_what_it_had(visit, made):
    ann, (api, _) = visit("ann"), place(made)
    held = ann.post(f"{api}/next", json={"n": 3}).json()["tasks"]
    assert not {t["id"] for t in ann.post(f"{api}/next", json={"n": 2}).json()["tasks"]} & {t["id"] for t in held}, "another tab"
    again = ann.post(f"{api}/next", json={"n": 8, "have": [held[0]["id"]]}).json()["tasks"]
    assert {t["id"] for t in held[1:]} < {t["id"] for t in again} and held[0]["id"] not in {t["id"] for t in again}
    assert len({t["item"] for t in again}) == len(again) == 7
    assert len(ann.post(f"{api}/next", json={"n": 8, "have": []}).json()["tasks"]) == 8


# ---------------------------------------------------------------- pictures


def test_a_picture_is_asked_for_by_the_id_of_an_item_of_the_project(visit, made):
    ann, (_, at), (_, other) = visit("ann"), place(made), place(made, "text")
    item, foreign = made.items["choice"][0], made.items["text"][0]
    assert ann.get(f"{at}/items/{item.id}/picture").status_code == 200
    for id in (foreign.id, item.sha256, item.id.upper(), item.id[:-1], "0" * 16, "..", "%2e%2e", "..%2f..%2ffsml.db", "%00", "a" * 5000, "é", f"{item.id}%0a"):
        for what in ("picture", "thumb"):
            assert ann.get(f"{at}/items/{id}/{what}").status_code == 404, id
    assert ann.get(f"{other}/items/{foreign.id}/picture").status_code == 200
    for project in ("0" * 16, "choice", "..", made.projects["choice"].name):
        assert ann.get(f"/p/{project}/items/{item.id}/picture").status_code == 404


def test_a_picture_that_was_taken_down_is_gone(visit, made):
    ann, (_, at), item = visit("ann"), place(made), made.items["choice"][0]
    made.db.update(Item, item.id, state="withdrawn")
    assert ann.get(f"{at}/items/{item.id}/picture").status_code == 404


def test_an_item_that_is_no_picture_is_not_served(visit, made):
    ann, (_, at), item = visit("ann"), place(made), made.items["choice"][0]
    made.db.update(Item, item.id, mime="text/html")
    assert ann.get(f"{at}/items/{item.id}/picture").status_code == 404


# ---------------------------------------------------------------- hostile input


@pytest.mark.parametrize("body, status", [
    (b"", 200), (b"{}", 200), (b'{"n": 0}', 422), (b'{"n": 1e3}', 422), (b'{"n": true}', 422), (b'{"n": "8"}', 200), (b'{"n": null}', 422), (b'{"n": [1]}', 422),
    (b"[]", 422), (b"7", 422), (b"nonsense", 422), (b'{"n": 1', 422), (b"\xff\xfe", 422), (b"[" * 4000, 422), (b" " * 200_000, 413),
    (b'{"have": null}', 200), (b'{"have": 7}', 422), (b'{"have": ["../x"]}', 422),
])  # fmt: skip
def test_bodies_of_next(visit, made, body, status):
    got = visit("ann").post(f"{place(made)[0]}/next", content=body, headers={"content-type": "application/json"})
    assert got.status_code == status, got.text


def test_wrong_types_are_refused_everywhere(site, visit, made):
    man = visit("man")
    values = [None, True, 0, -1, 1e308, "", "x" * 70_000, "\0", "\ud800", [], [[]], {}, {"kind": "choice"}, {"a": {"b": []}}]
    keys = ("n", "answers", "assignments", "text", "answer", "item", "label", "id", "comment")
    for route, method, rule in ours(site):
        if method == "POST" and route.path.startswith("/api/"):
            for value in values:
                got = man.post(filled(route.path, made), content=json.dumps(dict.fromkeys(keys, value)))
                assert got.status_code < 500, (route.path, str(value)[:50], got.text)


def test_forms_with_wrong_fields_are_refused_everywhere(site, visit, made):
    man = visit("man")
    fields = ("name", "password", "role", "state", "id", "label_kind", "classes", "rules", "wanted", "lease", "gold_share", "order", "source", "guide", "text", "answer", "do", "old", "new")
    for route, method, rule in ours(site):
        if method == "POST" and not route.path.startswith("/api/") and route.path not in ("/sign-out", "/me/sign-out"):
            for value in ("", "\0", "nan", "-1", "1e9", "x" * 3000, "<script>", "ㅎ" * 50, "%", "../../etc"):
                got = man.post(filled(route.path, made), data=dict.fromkeys(fields, value), headers={"accept": "text/html"})
                assert got.status_code < 500, (route.path, value[:20], got.text[:300])
    got = man.post("/projects/new", content=b"name=%ff%fe&\xff", headers={"content-type": "application/x-www-form-urlencoded"})
    assert got.status_code == 422


def test_huge_bodies_are_refused_while_they_are_read(visit, made):
    ann, (api, at) = visit("ann"), place(made)
    assert ann.post(f"{api}/answers", content=b" " * (9 << 20)).status_code == 413

    def endless():
        for _ in range(1000):
            yield b" " * 65536

    started = time.monotonic()
    assert ann.post(f"{api}/answers", content=endless()).status_code == 413
    assert time.monotonic() - started < 10
    assert ann.post(f"{api}/answers", json={"answers": [{}] * 501}).status_code == 413
    assert ann.post(f"{api}/next", content=b" " * 200_000).status_code == 413


def test_what_people_write_is_shown_as_text(visit, made):
    man, ann, (api, at) = visit("man"), visit("ann"), place(made)
    evil = '<img src=x onerror=alert(1)>"\'</textarea></script><script>alert(1)</script>'
    assert ann.post(f"{api}/questions", json={"text": evil, "item": made.items["choice"][0].id}).status_code == 200
    (q,) = ann.get(f"{api}/questions").json()["questions"]
    assert q["text"] == evil and man.post(f"{api}/questions/{q['id']}", json={"answer": evil}).status_code == 200
    assert ann.post(f"{api}/questions/{q['id']}", json={"answer": "mine"}).status_code == 403
    page = man.post("/people/invite", data={"role": "annotator", "name": "<b onclick=x>Eve"}).text
    made.db.add([])
    guide = evil + "\n\n[go](javascript:alert(1)) [x](data:text/html,x) ![p](javascript:alert(2)) ![q](https://evil.example/x.png)\n\n<iframe src=x></iframe>"
    assert man.post(f"{at}/guide", data={"text": guide, "do": "preview"}).status_code == 200
    assert man.post(f"{at}/guide", data={"text": guide, "do": "save"}).status_code == 303
    assert man.post(f"{at}/rules", data={"about": evil, "wanted": "1", "order": "sequence", "lease": "600", "seed": "0", "gold_share": "0"}).status_code == 303
    pages = [page, *(man.get(p).text for p in ("/", "/people", f"{at}/guide", f"{at}/questions", f"{at}/manage", f"{at}/work", f"{at}/review", f"{at}/quality", f"{at}/questions?item={evil}"))]
    pages.append(json.loads(man.get(f"{api}/guide").text)["html"])
    for shown in pages:
        for tag, attributes in tags_of(shown):
            assert not any(name.startswith("on") or name in ("style", "srcdoc") for name in attributes), (tag, attributes)
            assert tag not in ("iframe", "u", "object", "embed", "base") and (tag, attributes.get("src")) != ("img", "x"), (tag, attributes)
            assert tag != "script" or attributes.get("src", "").startswith("/static/") or attributes.get("type") == "application/json", attributes
            assert not re.match(r"(?i)\s*(javascript|data:text|vbscript)", attributes.get("href") or attributes.get("src") or ""), attributes
            assert tag != "img" or attributes["src"].startswith("/p/"), attributes


def tags_of(page):
    """Every element of a page as a browser sees it, with its attributes."""
    from html.parser import HTMLParser

    found = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attributes: found.append((tag, {k: v or "" for k, v in attributes}))
    reader.feed(page)
    return found


def test_the_guide_has_versions_and_pictures_of_the_project(visit, made):
    man, ann, (api, at) = visit("man"), visit("ann"), place(made)
    first = ann.get(f"{api}/guide").json()
    assert first["version"] == 1 and f'src="{at}/items/{made.items["choice"][0].id}/picture"' in first["html"] and "&lt;script&gt;" in first["html"]
    assert man.post(f"{api}/guide", json={"text": "# New\n\n| a | b |\n|---|---|\n| 1 | 2 |"}).json() == {"version": 2}
    assert "<table>" in ann.get(f"{api}/guide").json()["html"]
    assert "older version" in ann.get(f"{at}/guide?version=1").text and ann.get(f"{at}/guide?version=9").status_code == 404
    assert ann.post(f"{api}/next", json={}).json()["guide"] in (1, 2)


def test_every_answer_carries_the_headers_that_keep_a_page_safe(visit, made):
    ann, (api, at) = visit("ann"), place(made)
    paths = ("/", "/nowhere", f"{at}/work", f"{api}/mine", f"{at}/items/{made.items['choice'][0].id}/picture", "/static/base.css", f"{at}/manage", "/sign-in")
    for path in paths:
        got = ann.get(path).headers
        assert got["x-content-type-options"] == "nosniff" and got["referrer-policy"] == "same-origin", path
        assert "frame-ancestors 'none'" in got["content-security-policy"] and "unsafe" not in got["content-security-policy"], path
    assert visit("man").get(f"{at}/quality").headers["content-security-policy"].count("frame-ancestors 'none'") == 1


def test_what_is_private_stays_out_of_caches(visit, made):
    man, (api, at) = visit("man"), place(made)
    for path in ("/", "/me", f"{at}/work", f"{at}/manage", f"{at}/quality", f"{api}/mine", f"{at}/export?format=csv", "/people", "/nowhere", f"{at}/items/{'0' * 16}/picture"):
        assert man.get(path).headers["cache-control"] == "no-store", path
    assert man.post("/me", data={"old": "wrong words here", "new": PASSWORD}).headers["cache-control"] == "no-store"
    assert man.get(f"{at}/items/{made.items['choice'][0].id}/picture").headers["cache-control"].startswith("private")


def test_a_cookie_over_https_is_of_this_host_alone(tmp_path):
    made = make_annotation_fixture(tmp_path, n=1, app={"cookie_secure": True})
    with TestClient(make_site(made.cfg), base_url="https://testserver", follow_redirects=False) as client:
        got = client.get("/sign-in").headers["set-cookie"]
        assert got.startswith("__Host-fsml_session=") and "; Secure" in got and "Path=/;" in got
        sign_in(client, "ann")
        assert client.get("/me").status_code == 200
        token = client.cookies["__Host-fsml_session"]
        client.cookies.clear()
        assert client.get("/me", headers={"cookie": f"fsml_session={token}"}).status_code == 401


def test_a_second_sign_in_ends_the_first(visit):
    client = visit("ann")
    first, client.headers["x-csrf"] = client.cookies["fsml_session"], ""
    assert client.get("/sign-in").headers["location"] == "/"
    csrf = csrf_of(client.get("/me").text)
    assert client.post("/sign-in", data={"csrf": csrf, "name": "bob", "password": PASSWORD}, headers={"x-csrf": csrf}).status_code == 303
    assert "bob" in client.get("/me").text
    client.cookies.clear()
    assert client.get("/me", headers={"cookie": f"fsml_session={first}"}).status_code == 401


def test_a_link_of_somebody_else_does_not_speak_in_our_name(visit, made):
    man, words = visit("man"), "/people?said=Call+0123"
    assert "Call 0123" in man.get(words).text and "Call 0123" in man.get(words, headers={"sec-fetch-site": "same-origin"}).text
    for site in ("cross-site", "none", "same-site"):
        assert "Call 0123" not in man.get(words, headers={"sec-fetch-site": site}).text


def test_a_stranger_cannot_make_a_mistake_of_ours(visit, made, caplog):
    client = visit()
    for path in ("/sign-in?" + "&".join(f"a{n}=1" for n in range(200)), "/sign-in?next=%00", "/join/%00", "/join/" + "%ff" * 20, "/%ff%00", "/p/%00/work", "/static/%00.css"):
        assert client.get(path).status_code in (401, 404, 422), path
    csrf = csrf_of(client.get("/sign-in").text)
    for origin in ("http://[", "null", "http://", "http://testserver.evil.example", "http://testserver@evil.example"):
        assert client.post("/sign-in", data={"csrf": csrf, "name": "ann", "password": PASSWORD}, headers={"origin": origin}).status_code == 403, origin
    for name in ("\0", "ann\0", "x" * 60_000, "ﬀ" * 100, "\u202eann"):
        assert client.post("/sign-in", data={"csrf": csrf, "name": name, "password": PASSWORD}).status_code in (401, 422), name
    assert client.get("/healthz", headers={"cookie": "fsml_session=" + "x" * 43}).status_code == 200
    assert not caplog.records


def test_an_error_tells_no_path_and_no_statement(visit, made, monkeypatch, caplog):
    import errno

    from sqlalchemy.exc import DataError

    from fullstack_ml.core import Unavailable

    ann, (_, at) = visit("ann"), place(made)
    wrong = [Unavailable("The blob store failed", "/srv/secret/place", "Ask."), OSError(errno.ENOSPC, "No space left", "/srv/secret/place"),
             DataError("INSERT", {"password": "/srv/secret/place"}, Exception("bad value"))]  # fmt: skip
    for error, status in zip(wrong, (503, 503, 500)):
        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("fullstack_ml.blobs.BlobStore.get", fail)
        got = ann.get(f"{at}/items/{made.items['choice'][0].id}/picture")
        assert got.status_code == status and "secret" not in got.text, got.text
    assert "secret" in caplog.text and "secret" not in caplog.records[-1].exc_text


def test_a_site_is_called_by_its_own_name_only(site, made):
    with TestClient(site) as client:
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.", "", "127.0.0.1@evil.example"):
            assert client.get("/healthz", headers={"host": host}).status_code == 403, host
        assert client.get("/healthz", headers=[("host", "localhost"), ("host", "evil.example")]).status_code == 403
        for host in ("127.0.0.1:8018", "localhost", "[::1]:1", "LOCALHOST:3"):
            assert client.get("/healthz", headers={"host": host}).status_code == 200, host


def test_static_files_are_those_of_the_folder(visit):
    client = visit()
    got = client.get("/static/base.css")
    assert got.status_code == 200 and got.headers["content-type"].startswith("text/css")
    assert client.get("/static/base.css", headers={"if-none-match": got.headers["etag"]}).status_code == 304
    for name in ("../web.py", "..%2fweb.py", "%2e%2e%2fweb.py", "report.html", ".hidden.css", "nothing.js", "base.css/", "a\\b.css", "%00.css", "x" * 3000 + ".css"):
        assert client.get(f"/static/{name}").status_code == 404, name


def test_tries_to_sign_in_are_counted(tmp_path):
    made = make_annotation_fixture(tmp_path, app={"sign_in_per_minute": 5})
    with TestClient(make_site(made.cfg), follow_redirects=False) as client:
        csrf = csrf_of(client.get("/sign-in").text)
        codes = [client.post("/sign-in", data={"csrf": csrf, "name": "ann", "password": f"wrong {k}"}).status_code for k in range(8)]
        assert codes == [401] * 5 + [429] * 3
        late = client.post("/sign-in", data={"csrf": csrf, "name": "ANN", "password": PASSWORD})
        assert late.status_code == 429 and int(late.headers["retry-after"]) >= 1
        assert client.post("/sign-in", data={"csrf": csrf, "name": "bob", "password": PASSWORD}).status_code == 303
        codes = [client.get(f"/join/{'x' * 42}{k % 10}").status_code for k in range(60)]
        assert codes[0] == 404 and codes[-1] == 429


def test_calls_of_one_account_are_counted(tmp_path):
    made = make_annotation_fixture(tmp_path, app={"per_second": 5})
    with TestClient(make_site(made.cfg)) as client:
        sign_in(client, "ann")
        codes = [client.post(f"{place(made)[0]}/next", json={"n": 1}).status_code for _ in range(40)]
        assert 200 in codes and codes[-1] == 429


def test_the_journal_has_a_line_a_request_and_nothing_of_its_contents(tmp_path):
    made = make_annotation_fixture(tmp_path, app={"access_log": str(tmp_path / "log" / "app.log")})
    token = invite(made.db, "annotator", "man")
    with TestClient(make_site(made.cfg)) as client:
        client.get(f"/join/{token}")
        sign_in(client, "ann")
        client.post(f"{place(made)[0]}/questions", json={"text": "a secret question", "item": ""})
    text = (tmp_path / "log" / "app.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["status"] for line in lines} >= {200, 303} and lines[-1]["who"] == "ann" and lines[-1]["route"] == "ask_question"
    assert token not in text and "secret" not in text and PASSWORD not in text


# ---------------------------------------------------------------- the manager


def test_a_manager_makes_a_project_in_the_browser(visit, made):
    man = visit("man")
    sent = {"name": "Birds & 새", "label_kind": "choice", "classes": "robin\nwren\n", "source": "choice, text", "guide": "# Look", "wanted": "2", "order": "random",
            "seed": "3", "gold_share": "0.25", "gold": "truth", "lease": "60", "suggest": "", "wanted_if_disputed": "3", "several": "on", "scores": "", "script": ""}  # fmt: skip
    for wrong in ({"name": ""}, {"label_kind": "moon"}, {"classes": "one"}, {"wanted": "many"}, {"gold_share": "7"}, {"lease": "nan"}, {"order": "by luck"}, {"classes": ""}):
        got = man.post("/projects/new", data=sent | wrong)
        assert got.status_code == 422 and 'role="alert"' in got.text and (wrong.get("name") == "" or "Birds &amp; 새" in got.text), wrong
    got = man.post("/projects/new", data=sent)
    assert got.status_code == 303, got.text
    at = re.match(r"/p/[0-9a-f]{16}", got.headers["location"])[0]
    assert man.post("/projects/new", data=sent).status_code == 422, "the name is taken"
    assert "Birds &amp; 새" in man.get("/").text
    tasks = visit("ann").post(f"/api{at}/next", json={"n": 50}).json()
    assert len(tasks["tasks"]) == 16 and tasks["lease"] == 60 and tasks["guide"] == 1
    page = man.get(f"{at}/manage").text
    assert "ann" in page and 'value="random" selected' in page
    assert man.post(f"{at}/fill").status_code == 303


def test_pace_and_people_are_told(visit, made):
    man, ann, (api, at) = visit("man"), visit("ann"), place(made)
    tasks = ann.post(f"{api}/next", json={"n": 3}).json()["tasks"]
    ann.post(f"{api}/answers", json={"answers": [answer(tasks[0], LABELS["choice"]), answer(tasks[1], None, skip="dark")]})
    row = re.search(r"<tr><td>ann</td>(.*?)</tr>", man.get(f"{at}/manage").text)[1]
    assert re.findall(r'<td class="num">([^<]*)</td>', row) == ["1", "1", "1", "1", "1.0"]
    page = man.get("/people").text
    assert all(name in page for name in ("ann", "bob", "rev", "man"))


def test_disputes_and_decisions(tmp_path, monkeypatch):
    made = make_annotation_fixture(tmp_path, rules=Rules(wanted=2), n=2)
    with TestClient(make_site(made.cfg)) as first:
        people = {}
        for name in ("ann", "bob", "rev"):
            people[name] = TestClient(first.app)
            people[name].portal = first.portal
            sign_in(people[name], name)
        api, _ = place(made)
        for name, word in (("ann", "cat"), ("bob", "dog")):
            tasks = people[name].post(f"{api}/next", json={"n": 2}).json()["tasks"]
            people[name].post(f"{api}/answers", json={"answers": [answer(t, {"kind": "choice", "names": [word]}) for t in tasks]})
        found = people["rev"].get(f"{api}/disputes?n=1").json()["disputes"]
        assert len(found) == 1 and {a["annotator"] for a in found[0]["answers"]} == {"ann", "bob"} and found[0]["picture"].endswith("/picture")
        sent = {"id": uuid.uuid4().hex, "item": found[0]["item"], "label": {"kind": "choice", "names": ["dog"]}, "comment": "it barks"}
        assert [people["rev"].post(f"{api}/decisions", json=sent).json() for _ in range(2)] == [{"id": sent["id"]}] * 2
        assert people["ann"].post(f"{api}/decisions", json=sent).status_code == 403
        for wrong in ({"label": None}, {"label": {"kind": "choice", "names": ["cow"]}}, {"item": "0" * 16}, {"id": "x"}, {"item": made.items["text"][0].id}):
            assert people["rev"].post(f"{api}/decisions", json=sent | {"id": uuid.uuid4().hex} | wrong).status_code in (404, 422), wrong
        assert found[0]["item"] not in {d["item"] for d in people["rev"].get(f"{api}/disputes").json()["disputes"]}
        assert len(made.db.get(Annotation, item_id=found[0]["item"])) == 4, "truth, two answers, and a decision: nothing is overwritten"


def test_answers_go_out_and_come_in_again(visit, made):
    man, ann, (api, at) = visit("man"), visit("ann"), place(made)
    tasks = ann.post(f"{api}/next", json={"n": 3}).json()["tasks"]
    ann.post(f"{api}/answers", json={"answers": [answer(t, LABELS["choice"]) for t in tasks]})
    got = man.get(f"{at}/export?format=csv")
    assert got.status_code == 200 and got.headers["content-type"] == "application/zip" and got.content[:2] == b"PK"
    assert man.get(f"{at}/export?format=moon").status_code == 422
    done = man.post(f"{at}/import", data={"format": "csv"}, files={"file": ("../../a b.zip", got.content)})
    assert done.status_code == 200 and done.json()["known"] == 3, done.text
    for name, body in (("x.zip", b"PK nonsense"), ("x.csv", b"\xff\xfe\x00"), ("", b"x")):
        assert man.post(f"{at}/import", data={"format": "csv"}, files={"file": (name, body)}).status_code in (413, 422, 404), name
    shown = man.post(f"{at}/import", data={"format": "csv"}, files={"file": ("x.zip", b"PK")}, headers={"accept": "text/html"})
    assert shown.status_code >= 400 and 'role="alert"' in shown.text
    assert len(made.db.get(Annotation, project=made.projects["choice"].id)) == 3


# ---------------------------------------------------------------- processes


def app_command(*words):
    return [sys.executable, "-m", "fullstack_ml.cli", "annotate-app", *words]


@pytest.fixture
def running(artifacts, tmp_path):
    """Start `fsml annotate-app`; gives its address, its process and the lines it has said."""
    started = []

    def start(*words):
        p = subprocess.Popen(app_command("app.port=0", *words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
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


def servers(p):
    def is_server(child):
        try:
            return "spawn_main" in " ".join(child.cmdline())
        except psutil.Error:  # it has just ended
            return False

    return [c for c in psutil.Process(p.pid).children() if is_server(c)]


def half_a_request(url, text):
    host, port = url.removeprefix("http://").split(":")
    s = socket.create_connection((host, int(port)), 10)
    s.sendall(text)
    return s


def ended(s):
    """What was answered before the server hung up."""
    with s:
        try:
            return b"".join(iter(lambda: s.recv(4096), b""))[:12]
        except ConnectionError:
            return b""


def test_the_first_start_prints_a_link_for_the_manager(running):
    url, p, lines = running("app.workers=2", "app.body_seconds=1")
    slow = [half_a_request(url, text) for text in (b"", b"GET / HT", b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", b"GET /" + b"a" * 100_000)]
    link = re.search(rf"{url}/join/[\w-]{{43}}", lines[1])[0]
    with httpx.Client(base_url=url) as client:
        page = client.get(link).text
        got = client.post(link, data={"csrf": csrf_of(page), "name": "Maria", "password": PASSWORD})
        assert got.status_code == 303
        assert client.get("/people").status_code == 200
        assert [ended(s) for s in slow] == [b"", b"", b"HTTP/1.1 408", b""], "whoever says nothing, or too much, is not waited for"
        until(lambda: len(servers(p)) == 2)
        for child in servers(p):  # killed one after the other, each comes back
            child.kill()
        until(lambda: len(servers(p)) == 2 and client.get("/people").status_code == 200)
    p.send_signal(signal.SIGINT)
    assert p.wait(30) == 130 and "Traceback" not in "".join(p.stdout.readlines())
    _, again, lines = running("app.port=0")
    assert not any("join" in line for line in lines)
    again.terminate()
    assert again.wait(30) == 0


def test_no_server_is_left_when_the_parent_is_killed(running):
    url, p, _ = running("app.workers=2")
    until(lambda: len(servers(p)) == 2)
    children = servers(p)
    p.kill()
    until(lambda: not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children))


def test_a_port_that_is_taken_is_one_line(artifacts):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        done = subprocess.run(app_command(f"app.port={s.getsockname()[1]}"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 7 and len(done.stderr.splitlines()) == 1 and "app.port=0" in done.stderr


def test_other_addresses_need_a_name(artifacts):
    done = subprocess.run(app_command("app.host=0.0.0.0", "app.port=0"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "app.hosts" in done.stderr


def test_the_command_is_in_the_help():
    done = subprocess.run([sys.executable, "-m", "fullstack_ml.cli", "--help"], capture_output=True, text=True, timeout=60)
    assert "annotate-app" in done.stdout
    done = subprocess.run(app_command("--help"), capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0 and "annotate-app [key=value ...]" in done.stdout
