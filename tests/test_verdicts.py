"""What people say about a model's answers: kept once, counted by the newest, sent back once; the same on every database."""
import threading
import uuid
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from fullstack_ml.annotate import Project, Rules, consensus, fill, find_project, read_projects, save_project, standing
from fullstack_ml.core import BadInput, write_json
from fullstack_ml.leases import Given, Queue
from fullstack_ml.records import Annotation, Choice, Item, draft, open_database
from fullstack_ml.verdicts import (
    VERDICTS, Verdict, again_project, count_verdicts, judge, list_slices, newest_verdicts, save_slice, send_back, verdicts_of, why_changed,
)  # fmt: skip

CLASSES = list("0123456789")


@pytest.fixture
def db(shared_database_url):
    made = open_database(shared_database_url)
    with made.engine.begin() as tx:
        for table in made.tables.values():
            tx.execute(table.delete())
    yield made
    made.engine.dispose()


@pytest.fixture
def dataset(tmp_path):
    return a_dataset(tmp_path)


def a_dataset(folder, name="digits", classes=CLASSES):
    with draft("dataset", OmegaConf.create({"storage": {"root": str(folder)}}), {}) as d:
        write_json(d.dir / "classes.json", list(classes))
        d.metrics["name"] = name
    return d.manifest


def items(db, n=6):
    made = [Item(f"http://gallery.example/{k}.png", f"{k:064x}", "gallery", "image/png", width=28, height=28) for k in range(n)]
    db.add(made)
    return [i.id for i in made]


def say(item, who="ann", verdict="wrong label", comment="", report="r1", **more):
    return Verdict(report, item, who, verdict, comment, id=uuid.uuid4().hex, **more)


def states(db, project):
    t = db.tables["task"]
    with db.engine.connect() as c:
        return {r.item_id: (r.answers, r.wanted, r.state) for r in c.execute(t.select().where(t.c.project == project.id))}


def answer(db, project, who, name="7", n=10):
    queue = Queue(db, project)
    (held,) = queue.next([(who, n)])
    assert all(r.status == "stored" for r in queue.submit([Given(uuid.uuid4().hex, a.id, who, Choice((name,))) for a in held]))
    return [a.item_id for a in held]


# ---------------------------------------------------------------- judging


def test_stored_once_and_known_afterwards(db):
    one, two = items(db, 2)
    a, b = say(one, comment="  a \x00nine 한국어 🙂 "), say(two, verdict="fine", meta={"label": "7", "n": [1, None]})
    assert [j.status for j in judge(db, [a, b, a])] == ["stored", "stored", "known"]
    assert [j.status for j in judge(db, [a, b])] == ["known", "known"]
    kept = {v.id: v for v in verdicts_of(db, "r1")}
    assert len(kept) == 2 and kept[a.id].comment == "a nine 한국어 🙂" and kept[b.id].meta == {"label": "7", "n": [1, None]} and kept[a.id].created
    assert verdicts_of(db, "r2") == [] and [v.id for v in verdicts_of(db, items=[two])] == [b.id] and judge(db, []) == []


def test_one_bad_verdict_hurts_no_other(db):
    one, two = items(db, 2)
    good = say(one)
    bad = [replace(good, id="short"), replace(good, id="F" * 32), say(one, verdict="dunno"), say(one, comment="x" * 2001), replace(good, id="")]
    told = judge(db, [bad[0], good, *bad[1:], say(two)])
    assert [j.status for j in told] == ["refused", "stored", *["refused"] * 4, "stored"] and all(isinstance(j.error, BadInput) for j in told if j.status == "refused")
    assert [j.status for j in judge(db, bad)] == ["refused"] * 5, "nothing good among them"
    stolen = judge(db, [replace(good, author="ben"), replace(good, item_id=two), replace(good, report="r2")])
    assert [j.status for j in stolen] == ["refused"] * 3 and len(verdicts_of(db)) == 2, "an id is of one person and one item"


def test_the_newest_of_a_person_counts_and_all_stay(db):
    (one,) = items(db, 1)
    judge(db, [say(one, "ann", "ambiguous"), say(one, "ann", "wrong label"), say(one, "ben", "wrong label"), say(one, "cat", "fine")])
    for v in ("model error", "bad picture", "wrong label"):
        judge(db, [say(one, "ben", v)])
    judge(db, [say(one, "cat", "", "I was wrong")])
    told = count_verdicts(verdicts_of(db, "r1"), "cat")[one]
    assert told["counts"] == {"wrong label": 2} and told["mine"] is None and told["comment"] == "I was wrong" and not told["sent"]
    said = [v for v in verdicts_of(db, "r1") if v.author == "ben"]
    assert [v.verdict for v in said] == ["wrong label", "model error", "bad picture", "wrong label"] and len({v.created for v in said}) == 4
    assert [v.created for v in said] == sorted(v.created for v in said)
    assert newest_verdicts(verdicts_of(db, "r1"))[one]["r1", "ann"].verdict == "wrong label"


def test_a_clock_that_was_ahead_keeps_nothing_new_from_counting(db):
    (one,) = items(db, 1)
    judge(db, [say(one, "ann", "fine")])
    with db.engine.begin() as tx:
        tx.execute(db.tables["verdict"].update().values(created="2099-01-01T00:00:00.000000+00:00"))
    judge(db, [say(one, "ann", "wrong label")])
    assert count_verdicts(verdicts_of(db, "r1"), "ann")[one]["mine"] == "wrong label"


def test_many_judge_at_once_and_none_is_lost(db):
    ids, said, wrong = items(db, 20), [], []

    def person(k):
        own = open_database(db.url.render_as_string(hide_password=False))
        try:
            for round in range(5):
                some = [say(i, f"person {k}", VERDICTS[(k + round) % 5]) for i in ids[:4]]
                said.extend(some)
                judge(own, some)
                judge(own, some[:2])
        except Exception as e:
            wrong.append(e)
        own.engine.dispose()

    people = [threading.Thread(target=person, args=(k,)) for k in range(6)]
    for p in people:
        p.start()
    for p in people:
        p.join()
    assert not wrong and sorted(v.id for v in verdicts_of(db, "r1")) == sorted(v.id for v in said) and len(said) == 120
    assert all(sum(c["counts"].values()) == 6 for c in count_verdicts(verdicts_of(db, "r1")).values())


# ---------------------------------------------------------------- back to annotation


def test_wrong_labels_become_tasks_once(db, dataset):
    ids = items(db)
    project = again_project(db, dataset)
    assert project == again_project(db, dataset) and project.name == "again: digits" and list(project.classes) == CLASSES
    assert project.rules.blind and project.rules.over and project.rules.order == "sequence"
    judge(db, [say(ids[3]), say(ids[1]), say(ids[0], verdict="ambiguous"), say(ids[2], verdict="wrong label", report="r2")])
    sent = send_back(db, project, "r1", [ids[3], ids[0], ids[1], ids[2], ids[3], "nosuch"])
    assert (sent["new"], sent["again"], sent["known"]) == ([ids[3], ids[1]], [], []) and set(sent["left"]) == {ids[0], ids[2], "nosuch"}
    assert states(db, project) == {ids[3]: (0, 1, "open"), ids[1]: (0, 1, "open")}
    twice = send_back(db, project, "r1", [ids[3], ids[1]])
    assert (twice["new"], twice["again"], twice["known"]) == ([], [], [ids[3], ids[1]])
    judge(db, [say(ids[3], "ben")])
    assert send_back(db, project, "r1", [ids[3]])["known"] == [ids[3]], "it waits there already"
    assert count_verdicts(verdicts_of(db, "r1"))[ids[3]]["sent"] and all(v.sent == project.id for v in verdicts_of(db, "r1", [ids[3]]))
    assert states(db, project) == {ids[3]: (0, 1, "open"), ids[1]: (0, 1, "open")}
    assert answer(db, project, "cat") == [ids[3], ids[1]], "in the order in which they were sent"


def test_what_is_done_there_wants_one_more_answer(db, dataset):
    ids = items(db, 2)
    project = again_project(db, dataset)
    judge(db, [say(i) for i in ids])
    send_back(db, project, "r1", ids)
    answer(db, project, "cat")
    assert send_back(db, project, "r1", ids)["known"] == ids, "the same verdicts lead there no second time"
    judge(db, [say(ids[0], "dan", report="r2")])
    assert send_back(db, project, "r2", ids[:1])["again"] == ids[:1]
    assert states(db, project) == {ids[0]: (1, 2, "open"), ids[1]: (1, 1, "full")}
    assert answer(db, project, "cat") == [] and answer(db, project, "dan") == ids[:1]
    assert states(db, project)[ids[0]] == (2, 2, "full")


def test_the_project_holds_what_was_sent_and_a_manager_who_fills_it_adds_nothing(db, dataset):
    ids = items(db)
    project = again_project(db, dataset)
    judge(db, [say(i) for i in ids[:4]])
    send_back(db, project, "r1", ids[:2])
    save_project(db, replace(find_project(db, project.id), state="closed"))
    send_back(db, project, "r1", ids[2:4])
    now = find_project(db, project.id)
    assert now.state == "open", "whoever sends more wants it done" and sorted(now.query["id"]) == sorted(ids[:4])
    assert fill(db, now) == 0 and set(states(db, now)) == set(ids[:4])
    db.update(Item, ids[4], state="withdrawn")
    judge(db, [say(ids[4])])
    assert "withdrawn" in send_back(db, project, "r1", [ids[4]])["left"][ids[4]]


def test_many_send_the_same_at_once(db, dataset):
    ids = items(db, 8)
    project = again_project(db, dataset)
    judge(db, [say(i, who) for i in ids for who in ("ann", "ben")])
    told, wrong = [], []

    def person(k):
        own = open_database(db.url.render_as_string(hide_password=False))
        try:
            told.append(send_back(own, project, "r1", ids[k:] + ids[:k]))
        except Exception as e:
            wrong.append(e)
        own.engine.dispose()

    people = [threading.Thread(target=person, args=(k,)) for k in range(5)]
    for p in people:
        p.start()
    for p in people:
        p.join()
    assert not wrong and sorted(i for t in told for i in t["new"]) == sorted(ids) and not any(t["again"] for t in told)
    assert states(db, project) == {i: (0, 1, "open") for i in ids} and sorted(find_project(db, project.id).query["id"]) == sorted(ids)


def test_other_kinds_of_label(db, tmp_path):
    texts = again_project(db, a_dataset(tmp_path, "lines", []), "text")
    assert texts.label_kind == "text" and texts.classes == ()
    boxes = again_project(db, a_dataset(tmp_path, "boxes", ["cat"]), "boxes")
    assert boxes.classes == ("cat",)
    with pytest.raises(BadInput, match="asks for choice, text or boxes"):
        again_project(db, a_dataset(tmp_path, "games", ["a", "b"]), "sequence")
    assert {p.name for p in read_projects(db)} == {"again: lines", "again: boxes"}


def test_new_answers_stand_over_those_that_were_wrong():
    projects = [Project("main", "choice", ("1", "7"), id="main"), Project("again", "choice", ("1", "7"), rules=Rules(over=True), id="again")]

    def said(*given):
        return [Annotation(item, who, Choice((name,)), f"2026-01-{n:02}", project=p, meta=meta) for n, (item, who, name, p, meta) in enumerate(given, 1)]

    both = said(("i", "ada", "1", "main", {}), ("i", "ben", "1", "main", {}), ("j", "ada", "1", "main", {}), ("i", "cat", "7", "again", {}), ("i", "truth", "1", "", {}))
    found = consensus(standing(both, projects, ["truth"]), ["truth"])
    assert str(found["i"]["label"]) == "7" and found["i"]["annotators"] == ["cat"] and str(found["j"]["label"]) == "1"
    assert [a.annotator for a in standing(both, projects, ["truth"])] == ["ada", "cat", "truth"]
    back = [*both, *said(*[("x", "x", "1", "main", {})] * 5, ("i", "cat", "7", "again", {"withdrawn": True}))[5:]]
    assert str(consensus(standing(back, projects), ["truth"])["i"]["label"]) == "1", "taken back"
    later = [*both, *said(*[("x", "x", "1", "main", {})] * 6, ("i", "rae", "1", "main", {"decision": True}))[6:]]
    assert str(consensus(standing(later, projects), ["truth"])["i"]["label"]) == "1", "a later decision stands"
    assert standing(both, projects[:1]) == both


# ---------------------------------------------------------------- why a version changed


def label(name):
    return f'{{"kind": "choice", "names": ["{name}"]}}'


def change(item, old, new, what="relabelled"):
    return {"id": item, "change": what, "old_label": old and label(old), "new_label": new and label(new)}


def test_the_verdicts_behind_a_change(db):
    ids, url = items(db), db.url.render_as_string(hide_password=False)
    judge(db, [say(ids[0], "ann", comment="a nine", meta={"label": "3"}), say(ids[0], "ben", "fine", meta={"label": "3"}), say(ids[1], "ann", meta={"label": "7"}),
               say(ids[2], "ann", "bad picture"), say(ids[3], "ann", "model error", meta={"label": "3"}), say(ids[4], "ann", "wrong label", meta={"label": "3"})])  # fmt: skip
    judge(db, [say(ids[4], "ann", "fine", meta={"label": "3"})])
    changes = [change(i, "3", "9") for i in (ids[0], ids[1], ids[3], ids[4], ids[5])] + [change(ids[2], "3", None, "removed")]
    found = why_changed(url, changes)
    assert sorted((w["item"], w["by"], w["said"]) for w in found) == sorted([(ids[0], "ann", "wrong label"), (ids[2], "ann", "bad picture")])
    (one,) = [w for w in found if w["item"] == ids[0]]
    assert (one["old"], one["new"], one["comment"], one["report"], one["change"]) == ("3", "9", "a nine", "r1", "relabelled") and len(one["verdict"]) == 32
    assert why_changed(url, []) == [] and why_changed(url, [change(ids[0], "3", "3", "moved")]) == []


# ---------------------------------------------------------------- slices


def test_a_slice_has_one_name(db):
    save_slice(db, "  thin \n strokes ", [["pen", "=", "thin"]], "ann")
    save_slice(db, "Thin strokes", [["pen", "=", "Thin"]], "ann")
    save_slice(db, "thin strokes", [["pen", "=", "fine"], ["width", ">", 3]], "ben")
    assert [(s["name"], s["author"], len(s["filter"])) for s in list_slices(db)] == [("Thin strokes", "ann", 1), ("thin strokes", "ben", 2)]
    save_slice(db, "thin strokes", [], "ben")
    assert len(list_slices(db)) == 1
    for name, kept in (("", [["a", "=", 1]]), ("x" * 101, [["a", "=", 1]]), ("long", [["a", "=", "x" * 30_000]])):
        with pytest.raises(BadInput):
            save_slice(db, name, kept, "ann")
