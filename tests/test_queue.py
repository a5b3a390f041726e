"""Work handed out to many: never more than was asked for, nothing lost, and every answer stored once."""
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from house import ROOT

from fullstack_ml.annotate import Project, Rules, check_label, consensus, fill, find_project, is_alike, newest_answers, read_projects, read_scores, recount, save_project
from fullstack_ml.core import BadInput, NotFound, compose_cfg
from fullstack_ml.leases import Given, Queue, history
from fullstack_ml.records import Annotation, Box, Boxes, Choice, Item, Text, draft, open_database
from fullstack_ml.review import answer_question, ask, decide, disputes, list_questions, progress_of, read_guide, write_guide

ONE, SEVEN = Choice(("1",)), Choice(("7",))


def items(n: int) -> list[Item]:
    return [Item(url=f"http://gallery.example/{k}.png", source="gallery", width=28, height=28, mime="image/png", fetched_at=f"2026-01-01T{k:06}") for k in range(n)]


@pytest.fixture(scope="module")
def shared(shared_database_url):
    made = open_database(shared_database_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def db(shared):
    with shared.engine.begin() as tx:
        for table in shared.tables.values() if hasattr(shared.tables, "values") else shared.tables:
            tx.execute(table.delete())
    return shared


def project(db, n: int = 6, kind: str = "choice", classes=("1", "7"), **rules) -> Queue:
    """A project over n items, filled."""
    db.add(items(n))
    made = save_project(db, Project("digits", kind, classes, rules=Rules(**rules)))
    fill(db, made)
    return Queue(db, made)


def say(task, who: str, label=ONE, id: str = "", **more) -> Given:
    return Given(id or secrets.token_hex(16), task if isinstance(task, str) else task.id, who, label, **more)


def skip(task, who: str, why: str = "blurred") -> Given:
    return Given(secrets.token_hex(16), task.id, who, skip=why)


def statuses(results) -> list[str]:
    return [r.status for r in results]


def tasks(db) -> dict[str, dict]:
    with db.engine.connect() as c:
        return {r["item_id"]: dict(r) for r in c.execute(db.tables["task"].select()).mappings()}


def check_counts(db, project: Project) -> None:
    """What the tasks say is what the assignments say, and nobody was asked for more than was wanted."""
    with db.engine.connect() as c:
        held = [dict(r) for r in c.execute(db.tables["assignment"].select()).mappings()]
    late = {(a.item_id, a.annotator) for a in db.get(Annotation, project=project.id) if a.meta.get("late")}
    n = Counter((r["item_id"], r["state"]) for r in held)
    for item, task in tasks(db).items():
        assert (task["answers"], task["leases"]) == (n[item, "answered"], n[item, "open"]), "counts drifted"
        if not task["gold"]:
            assert n[item, "answered"] + n[item, "open"] - sum(i == item for i, _ in late) <= task["wanted"], "more than was wanted"


# --- handing out -----------------------------------------------------------------------------------------------------


def test_work_comes_in_order_and_each_item_once(db):
    q = project(db, 5)
    ada, ben = q.next([("ada", 2), ("ben", 2)])
    assert [t.item_id for t in ada + ben] == [i.id for i in items(4)], "oldest first, nothing twice"
    assert (ada[0].width, ada[0].height, ada[0].mime, ada[0].suggestion) == (28, 28, "image/png", None)
    assert len(q.next([("cy", 9)])[0]) == 1 and q.next([("dee", 1)]) == [[]]
    assert statuses(q.submit([say(t, "ada") for t in ada] + [say(t, "ben", SEVEN) for t in ben])) == ["stored"] * 4
    assert [(a.annotator, a.label, a.project) for a in db.get(Annotation)] == [("ada", ONE, q.project.id)] * 2 + [("ben", SEVEN, q.project.id)] * 2
    check_counts(db, q.project)
    assert progress_of(db, q.project)["by"] == {"ada": 2, "ben": 2}


def test_several_are_wanted_and_nobody_sees_an_item_twice(db):
    q = project(db, 3, wanted=2)
    for who in ("ada", "ben", "cy"):
        found = [t for _ in range(4) for t in q.next([(who, 2)])[0]]
        assert len({t.item_id for t in found}) == len(found) == (0 if who == "cy" else 3)
    check_counts(db, q.project)
    assert {t["state"] for t in tasks(db).values()} == {"full"}


def test_one_annotator_twice_in_a_batch(db):
    q = project(db, 4, wanted=2)
    first, second = q.next([("ada", 2), ("ada", 2)])
    assert len({t.item_id for t in first + second}) == 4


def test_a_lease_left_alone_returns_to_others_and_to_the_same(db):
    q = project(db, 1, lease=0.3)
    (mine,) = q.next([("ada", 1)])[0]
    assert q.next([("ben", 1)]) == [[]]
    time.sleep(0.4)
    assert q.sweep() == 1 and q.sweep() == 0
    (again,) = q.next([("ada", 1)])[0]
    assert again.id == mine.id and again.until > mine.until, "somebody who was away finds it again"
    time.sleep(0.4)
    q.sweep()
    (taken,) = q.next([("ben", 1)])[0]
    assert taken.item_id == mine.item_id and taken.id != mine.id
    check_counts(db, q.project)


def test_next_sweeps_by_itself(db):
    q = project(db, 1, lease=0.2)
    q.next([("ada", 1)])
    time.sleep(1.1)
    assert len(q.next([("ben", 1)])[0]) == 1


def test_a_lease_can_be_renewed_and_given_back(db):
    q, a = project(db, 2), db.tables["assignment"]
    first, second = q.next([("ada", 2)])[0]
    db.transact(lambda tx: tx.execute(a.update().values(lease=time.time() - 1)))
    assert q.extend("ada", [first.id]) == 1 and q.extend("ben", [second.id]) == 0
    assert q.sweep() == 1, "only the one that was not renewed"
    assert q.give_back("ben", [first.id]) == 0 and q.give_back("ada", [first.id, second.id]) == 1
    assert {t["leases"] for t in tasks(db).values()} == {0}
    assert len(q.next([("ben", 5)])[0]) == 2
    check_counts(db, q.project)


def test_far_ahead_of_the_others(db):
    q = project(db, 60, wanted=2)
    q.submit([say(t, "ada") for _ in range(6) for t in q.next([("ada", 10)])[0]])
    assert q.next([("ada", 1)]) == [[]]
    ben, cy = q.next([("ben", 3), ("cy", 3)])
    assert not {t.item_id for t in ben} & {t.item_id for t in cy} and [t.item_id for t in ben] == [i.id for i in items(3)]
    q.give_back("cy", [t.id for t in cy])
    rest = [t for _ in range(10) for t in q.next([("ben", 10)])[0]]
    assert len({t.item_id for t in rest}) == 57, "what was given back behind one's place is found in the end"


def test_what_is_withdrawn_is_not_handed_out(db):
    q = project(db, 3)
    db.update(Item, items(1)[0].id, state="withdrawn", reason="the author asked")
    assert [t.item_id for t in q.next([("ada", 5)])[0]] == [i.id for i in items(3)][1:]
    assert progress_of(db, q.project)["withdrawn"] == 1
    db.update(Item, items(1)[0].id, state="kept")
    fill(db, q.project)
    assert [t.item_id for t in Queue(db, "digits").next([("ada", 5)])[0]] == [items(1)[0].id]


def test_a_closed_project_hands_nothing_out_and_takes_what_is_late(db):
    q, other = project(db, 3), None
    (held,) = q.next([("ada", 1)])[0]
    save_project(db, replace(q.project, state="closed"))
    other = Queue(db, q.project.id)
    assert q.next([("ada", 1), ("ben", 1)]) == [[], []] == other.next([("cy", 1), ("dee", 1)])
    assert statuses(q.submit([say(held, "ada")])) == ["stored"]
    save_project(db, replace(q.project, state="open"))
    assert len(q.next([("ben", 1)])[0]) == 1


# --- answers ---------------------------------------------------------------------------------------------------------


def test_twice_is_once(db):
    q = project(db, 2)
    (task, other) = q.next([("ada", 2)])[0]
    given = say(task, "ada", seconds=1.5, meta={"guide": 2})
    assert statuses(q.submit([given, given])) == ["stored", "known"] and statuses(q.submit([given])) == ["known"]
    (a,) = db.get(Annotation)
    assert (a.id, a.seconds, a.meta) == (given.id, 1.5, {"guide": 2})
    assert statuses(q.submit([say(other, "ada", id=given.id)])) == ["refused"], "the id of another answer"
    check_counts(db, q.project)


def test_a_refused_answer_hurts_no_other(db):
    q = project(db, 3)
    first, second, third = q.next([("ada", 3)])[0]
    bad = [say(first, "ada", Choice(("8",))), say(second, "ben"), say("nosuch", "ada"), say(third, "ada", id="short"), say(third, "ada", Text("7")),
           Given(secrets.token_hex(16), third.id, "ada"), say(third, "ada", seconds=float("nan")), say(third, "ada", meta={"comment": "x" * 30_000})]  # fmt: skip
    results = q.submit([*bad, say(third, "ada")])
    assert statuses(results) == ["refused"] * 8 + ["stored"]
    assert "8" in str(results[0].error) and isinstance(results[1].error, NotFound) and isinstance(results[2].error, NotFound)
    assert [a.item_id for a in db.get(Annotation)] == [third.item_id]
    assert statuses(q.submit([say(first, "ada")])) == ["stored"], "corrected"


def test_a_changed_answer_is_a_new_annotation(db):
    q = project(db, 1)
    (task,) = q.next([("ada", 1)])[0]
    results = q.submit([say(task, "ada", ONE), say(task, "ada", SEVEN)])
    assert statuses(results) == ["stored"] * 2
    assert [a.label for a in db.get(Annotation)] == [ONE, SEVEN], "in the order in which they were given"
    q.submit([say(task, "ada", ONE)])
    assert newest_answers(db.get(Annotation))[task.item_id]["ada"].label == ONE
    assert [(h["label"]["names"], h["assignment"]) for h in history(db, q.project, "ada")] == [(["1"], task.id)]
    assert tasks(db)[task.item_id]["answers"] == 1
    check_counts(db, q.project)


def test_a_late_answer_is_kept(db):
    q = project(db, 2, lease=0.2)
    first, second = q.next([("ada", 2)])[0]
    time.sleep(0.3)
    q.sweep()
    (ben,) = q.next([("ben", 1)])[0]
    assert ben.item_id == first.item_id
    assert statuses(q.submit([say(first, "ada"), say(second, "ada")])) == ["late", "stored"], "the second place was still free"
    late, other = (next(a for a in db.get(Annotation) if a.item_id == t.item_id) for t in (first, second))
    assert late.meta == {"late": True} and other.meta == {}
    assert statuses(q.submit([say(ben, "ben")])) == ["stored"]
    check_counts(db, q.project)


def test_a_client_cannot_say_that_its_answer_is_a_decision(db):
    q = project(db, 1)
    (task,) = q.next([("ada", 1)])[0]
    q.submit([say(task, "ada", meta={"decision": True, "withdrawn": True, "over": [], "late": True, "comment": "so"})])
    assert db.get(Annotation)[0].meta == {"comment": "so"}


def test_a_skip_frees_the_place_and_enough_of_them_end_the_task(db):
    q = project(db, 1, wanted=2)
    (ada,) = q.next([("ada", 1)])[0]
    assert statuses(q.submit([skip(ada, "ada")])) == ["stored"] and statuses(q.submit([skip(ada, "ada")])) == ["known"]
    assert tasks(db)[ada.item_id]["state"] == "open" and q.next([("ada", 1)]) == [[]], "not to the same person again"
    (ben,) = q.next([("ben", 1)])[0]
    q.submit([skip(ben, "ben", "cut off")])
    assert tasks(db)[ada.item_id]["state"] == "skipped" and q.next([("cy", 1)]) == [[]]
    (found,) = disputes(db, q.project)
    assert found["why"] == "skipped" and found["answers"] == [] and {s["reason"] for s in found["skips"]} == {"blurred", "cut off"}
    assert statuses(q.submit([say(ada, "ada")])) == ["stored"], "an answer after a skip counts"
    assert tasks(db)[ada.item_id]["answers"] == 1
    assert [(h["label"] is None, h["skipped"]) for who in ("ada", "ben") for h in history(db, q.project, who)] == [(False, ""), (True, "cut off")]
    check_counts(db, q.project)


def test_who_skips_after_an_answer_takes_it_back(db):
    q = project(db, 1, wanted=1)
    (task,) = q.next([("ada", 1)])[0]
    given = [say(task, "ada"), skip(task, "ada")]
    assert statuses(q.submit(given[:1])) == ["stored"] and statuses(q.submit(given[1:])) == ["stored"] and statuses(q.submit(given[1:])) == ["known"]
    assert newest_answers(db.get(Annotation)) == {} == consensus(db.get(Annotation)) and tasks(db)[task.item_id]["answers"] == 0
    q.submit([say(task, "ada", SEVEN)])
    assert consensus(db.get(Annotation))[task.item_id]["label"] == SEVEN
    assert statuses(q.submit([say(task, "ada", ONE), skip(task, "ada", "no")])) == ["stored"] * 2 and consensus(db.get(Annotation)) == {}


def test_text_that_no_database_takes(db):
    q = project(db, 2, "text", ())
    first, second = q.next([("ada", 2)])[0]
    assert statuses(q.submit([say(first, "ada", Text(" e\u0301\0 \ud800한국어 🙂 ")), skip(second, "ada", "\0\ud800why")])) == ["stored"] * 2
    assert db.get(Annotation)[0].label == Text("é 한국어 🙂") and history(db, q.project, "ada")[0]["skipped"] == "why"
    assert statuses(q.submit([say(second, "ada", Text(" \0"), meta={"comment": "\ud800"})])) == ["refused"]
    assert statuses(q.submit([say(second, "ada", Text("a"), meta={"comment": "\ud800\0 ok"})])) == ["stored"]


# --- differing answers, gold, orders ---------------------------------------------------------------------------------


def differ(q: Queue, k: int = 0) -> str:
    """Ada and Ben say different things about the task that comes next; its item."""
    ada, ben = (q.next([(who, 1)])[0][0] for who in ("ada", "ben"))
    assert ada.item_id == ben.item_id
    q.submit([say(ada, "ada", ONE)])
    q.submit([say(ben, "ben", SEVEN)])
    return ada.item_id


def test_a_third_is_asked_where_two_differ(db):
    q = project(db, 2, wanted=2, wanted_if_disputed=3)
    torn = differ(q)
    assert (tasks(db)[torn]["wanted"], tasks(db)[torn]["state"]) == (3, "open") and disputes(db, q.project) == []
    found = q.next([("cy", 5)])[0]
    assert found[0].item_id == torn
    q.submit([say(found[0], "cy", SEVEN)])
    (row,) = disputes(db, q.project)
    assert row["why"] == "low agreement" and [a["annotator"] for a in row["answers"]] == ["ada", "ben", "cy"]
    check_counts(db, q.project)


def test_what_is_disputed_comes_first(db):
    q = project(db, 50, wanted=3, order="disagreement")
    torn = differ(q)
    assert [t.item_id for t in q.next([("dee", 3)])[0]][0] == torn
    q2 = Queue(db, q.project)
    far = q2.next([("eve", 20)])[0]
    assert torn not in {t.item_id for t in far}, "its third place is taken"


def test_disputed_tasks_reach_those_who_are_ahead(db):
    q = project(db, 50, wanted=3, order="disagreement")
    q.next([("cy", 20)])
    for who, label in (("ada", ONE), ("ben", SEVEN)):
        tasks_ = q.next([(who, 30)])[0]
        q.submit([say(t, who, label) for t in tasks_[-2:]])
    assert {t.item_id for t in q.next([("cy", 2)])[0]} == {i.id for i in items(50)[28:30]}


def test_gold_is_handed_out_at_its_share_once_to_everybody_and_cannot_be_told_apart(lite):
    made = items(400)
    lite.add(made)
    lite.add([Annotation(i.id, "truth", ONE) for i in made[:200]])
    p = save_project(lite, Project("digits", "choice", ("1", "7"), rules=Rules(gold_share=0.2, gold="truth", suggest="truth", blind=True)))
    fill(lite, p)
    gold = {i for i, t in tasks(lite).items() if t["gold"]}
    assert len(gold) == 80 and progress_of(lite, p)["gold"] == 80
    q, shares, places = Queue(lite, p), [], Counter()
    for who in ("ada", "ben"):
        seen = []
        while found := q.next([(who, 8)])[0]:
            places.update(k for k, t in enumerate(found) if t.item_id in gold)
            q.submit([say(t, who) for t in found])
            seen += [t.item_id for t in found]
            if who == "ada" and len(seen) >= 160:
                break
        assert len(set(seen)) == len(seen)
        shares.append(len(gold & set(seen)) / len(seen))
    assert 0.1 < shares[0] < 0.32 and 0.1 < shares[1] < 0.4, shares
    assert len(places) >= 7, "not always at the same place"
    assert disputes(lite, p) == [] and q.next([("truth", 50)])[0] == []
    task = Queue(lite, p).next([("cy", 100)])[0]
    assert not any("gold" in k for t in task for k in vars(t))
    check_counts(lite, p)


def test_orders(lite):
    lite.add(items(30))
    ids, found = [i.id for i in items(30)], {}
    sure = {i: 1 - k / 30 for k, i in enumerate(ids[:20])}
    for order in ("sequence", "random", "uncertain"):
        p = save_project(lite, Project(order, "choice", ("1", "7"), rules=Rules(order=order, seed=1)))
        assert fill(lite, p, sure) == 30 and fill(lite, p) == 0
        found[order] = [t.item_id for t in Queue(lite, p).next([("ada", 30)])[0]]
    assert found["sequence"] == ids and found["random"] != ids and set(found["random"]) == set(ids)
    assert found["uncertain"][:20] == ids[19::-1] and set(found["uncertain"][20:]) == set(ids[20:])
    p = find_project(lite, "uncertain")
    q = Queue(lite, p)
    q.give_back("ada", [h["id"] for h in _held(lite, p)])
    fill(lite, p, {i: k / 30 for k, i in enumerate(ids)})
    assert [t.item_id for t in Queue(lite, p).next([("ben", 30)])[0]] == ids, "a better model moves what waits"


def test_the_order_of_a_report(lite, tmp_path):
    cfg = compose_cfg("annotate", out=str(tmp_path))
    with draft("evaluate", cfg, {}) as d:
        pq.write_table(pa.table({"item_id": ["a", "b", "c"], "confidence": [0.5, None, 0.25]}), d.dir / "predictions.parquet")
    assert read_scores(cfg, "latest") == {"a": 0.5, "c": 0.25}


def _held(db, p):
    a = db.tables["assignment"]
    with db.engine.connect() as c:
        return c.execute(a.select().where(a.c.project == p.id, a.c.state == "open")).mappings().all()


def shown(db, p, who: str) -> list[str | None]:
    return [t.suggestion and t.suggestion["names"][0] for t in Queue(db, p).next([(who, 2)])[0]]


def test_suggestions_are_shown_unless_blind(lite):
    made = items(2)
    lite.add([*made, Annotation(made[0].id, "caption", ONE, "2026-01-01"), Annotation(made[0].id, "caption", SEVEN, "2026-01-02"), Annotation(made[1].id, "caption", Text("7"))])
    p = save_project(lite, Project("digits", "choice", ("1", "7"), rules=Rules(wanted=3, suggest="caption")))
    fill(lite, p)
    assert shown(lite, p, "ada") == ["7", None]
    p = save_project(lite, replace(p, rules=replace(p.rules, blind=True)))
    assert shown(lite, p, "ben") == [None, None]
    lite.add([Annotation(made[1].id, "caption", ONE, "2026-01-03")])
    fill(lite, save_project(lite, replace(p, rules=replace(p.rules, blind=False))))
    assert shown(lite, p, "cy") == ["7", "1"]


# --- projects, review ------------------------------------------------------------------------------------------------


def test_projects_are_found_changed_and_filled_with_what_is_new(db):
    q = project(db, 4)
    p = q.project
    assert read_projects(db) == [p] == [find_project(db, "digits")] and find_project(db, p.id) == p
    with pytest.raises(NotFound, match="digits"):
        find_project(db, "letters")
    db.add(items(6))
    assert fill(db, p) == 2 and fill(db, p) == 0
    task = q.next([("ada", 6)])[0][0]
    q.submit([say(task, "ada")])
    more = save_project(db, replace(p, rules=Rules(wanted=2)))
    assert more.created == p.created and {t["wanted"] for t in tasks(db).values()} == {2} and {t["state"] for t in tasks(db).values()} == {"open"}
    with pytest.raises(BadInput, match="another kind"):
        save_project(db, replace(p, label_kind="text"))
    narrow = save_project(db, Project("one", "text", query={"source": ["gallery", "x"], "licence": None, "id": items(1)[0].id}))
    assert fill(db, narrow) == 1
    with pytest.raises(BadInput, match="colour"):
        fill(db, save_project(db, Project("one", "text", query={"colour": "red"})))


@pytest.mark.parametrize("change", [
    {"label_kind": "sequence"}, {"name": " "}, {"name": "x" * 121}, {"classes": ("1",)}, {"classes": ("1", "1")}, {"state": "gone"}, {"label_kind": "boxes", "classes": ()},
])  # fmt: skip
def test_what_cannot_be_a_project(lite, change):
    with pytest.raises(BadInput):
        save_project(lite, replace(Project("digits", "choice", ("1", "7")), id="", **change))


@pytest.mark.parametrize("rules", [{"wanted": 0}, {"order": "any"}, {"gold_share": 0.5}, {"gold_share": 1, "gold": "truth"}, {"lease": 0}, {"wanted_if_disputed": -1}])
def test_rules_that_do_not_fit(rules):
    with pytest.raises(BadInput, match=next(iter(rules))):
        Rules(**rules)


def test_a_decision_goes_over_the_answers(db):
    q = project(db, 1, wanted=2)
    torn = differ(q)
    (row,) = disputes(db, q.project)
    assert row["why"] == "differ" and (row["width"], row["height"]) == (28, 28) and consensus(db.get(Annotation))[torn]["label"] is None
    id = secrets.token_hex(16)
    made = decide(db, q.project, torn, SEVEN, "rae", "a clear seven", id)
    assert decide(db, q.project, torn, SEVEN, "rae", "a clear seven", id) == made and made.meta["over"] == [a["id"] for a in row["answers"]]
    said = consensus(db.get(Annotation))[torn]
    assert (said["label"], said["agreement"], said["decided"]) == (SEVEN, 1.0, True) and disputes(db, q.project) == []
    decide(db, q.project, torn, ONE, "rae")
    assert consensus(db.get(Annotation))[torn]["label"] == ONE, "the newest decision"
    for bad in (lambda: decide(db, q.project, "nosuch", ONE, "rae"), lambda: decide(db, q.project, torn, Choice(("8",)), "rae"), lambda: decide(db, q.project, torn, ONE, "rae", id="x")):
        with pytest.raises((NotFound, BadInput)):
            bad()


def test_guides_are_versions(db):
    p = project(db, 1).project
    assert read_guide(db, p)["version"] == 0
    assert [write_guide(db, p, text, "mo") for text in ("Be brief.", "Be exact. 🙂")] == [1, 2]
    assert read_guide(db, p)["text"] == "Be exact. 🙂" and read_guide(db, p, 1)["text"] == "Be brief."
    with pytest.raises(NotFound):
        read_guide(db, p, 9)
    with pytest.raises(BadInput):
        write_guide(db, p, "é" * 30_001, "mo")
    write_guide(db, p, "é" * 30_000, "mo")


def test_questions_are_asked_and_answered(db):
    p = project(db, 1).project
    first, second = (ask(db, p, item, "ada", text) for item, text in ((items(1)[0].id, "A one or a seven?"), ("", "When is it due?")))
    answer_question(db, first, "A seven has a bar.", "mo")
    assert [(r["id"], r["answer"]) for r in list_questions(db, p)] == [(second, ""), (first, "A seven has a bar.")]
    assert [r["id"] for r in list_questions(db, p, items(1)[0].id)] == [first]
    for bad in (lambda: ask(db, p, "nosuch", "ada", "?"), lambda: ask(db, p, "", "ada", " "), lambda: answer_question(db, "nosuch", "x", "mo")):
        with pytest.raises((NotFound, BadInput)):
            bad()


# --- labels ----------------------------------------------------------------------------------------------------------

BOXES = Project("b", "boxes", ("cat", "dog"))


def test_labels_come_into_one_form():
    several = Project("s", "choice", ("a", "b", "c"), rules=Rules(several=True))
    assert check_label(several, 9, 9, Choice(("c", "a"))) == Choice(("a", "c"))
    assert check_label(Project("t", "text"), 9, 9, Text("e\u0301\r\nb ")) == Text("é\nb")
    assert check_label(BOXES, 10, 10, Boxes((Box(-0.4, 0, 10.8, 5, "cat", " x "),))) == Boxes((Box(0, 0, 10, 5, "cat", "x"),))
    assert check_label(BOXES, None, None, Boxes(())) == Boxes(())


@pytest.mark.parametrize("project, label", [
    (Project("s", "choice", ("a", "b")), Choice(("a", "b"))), (Project("s", "choice", ("a", "b")), Choice(())), (Project("t", "text"), Text("x" * 10_001)),
    *((BOXES, Boxes((box,))) for box in (Box(0, 0, 0, 5, "cat"), Box(0, 0, 5, 5, "cow"), Box(0, 0, 12, 5, "cat"), Box(-3, 0, 5, 5, "cat"), Box(float("nan"), 0, 5, 5, "cat"),
                                         Box("0", 0, 5, 5, "cat"), Box(True, 0, 5, 5, "cat"), Box(0, 0, 1e400, 5, "cat"))),
    (BOXES, Boxes((Box(0, 0, 1, 1, "cat"),) * 1001)),
])  # fmt: skip
def test_labels_that_do_not_fit(project, label):
    with pytest.raises(BadInput):
        check_label(project, 10, 10, label)


def test_boxes_agree_when_each_has_a_partner():
    a, near, far = (Boxes((Box(x, 0, 10, 10, "cat"), Box(50, 50, 10, 10, "dog"))) for x in (0, 2, 8))
    assert is_alike(a, near) and not is_alike(a, far) and not is_alike(a, Boxes(a.boxes[:1])) and is_alike(Boxes(()), Boxes(()))
    said = [Annotation("i", who, label) for who, label in (("ada", a), ("ben", near), ("cy", far))]
    found = consensus(said)["i"]
    assert found["label"] in (a, near) and found["agreement"] == pytest.approx(2 / 3)
    assert consensus(said[1:])["i"]["label"] in (near, None) and consensus([said[0], said[2]])["i"]["label"] is None
    third = Annotation("i", "dee", Boxes((Box(1, 0, 10, 10, "cat"), Box(50, 50, 10, 10, "dog"))))
    assert consensus([*said[:2], third])["i"]["label"] == third.label, "the one in the middle"


# --- what is lost, and what comes back -------------------------------------------------------------------------------


def test_a_page_that_crashed_gets_back_what_it_held(db):
    q = project(db, 9)
    held = q.next([("ada", 3)])[0]
    time.sleep(0.01)
    other = Queue(db, q.project)
    mine, bens = other.next([("ada", 5, []), ("ben", 2, [])])
    assert [t.id for t in mine[:3]] == [t.id for t in held] and len({t.item_id for t in mine}) == 5, "what she held comes first, then more"
    assert all(t.until > held[0].until for t in mine) and not {t.item_id for t in mine} & {t.item_id for t in bens}
    assert [t.id for t in other.next([("ada", 2, [t.id for t in mine[:4]])])[0]][0] == mine[4].id, "but not what the page still has"
    assert len(other.next([("ada", 2)])[0]) == 1 and other.next([("ada", 2)]) == [[]]
    first, second = other.next([("ada", 2, []), ("ada", 2, [])])
    assert len({t.id for t in first + second}) == 4, "two pages of one person in one batch"
    q.submit([say(t, "ada") for t in mine])
    assert not {t.id for t in other.next([("ada", 9, [])])[0]} & {t.id for t in mine}, "what is answered is done"
    db.update(Item, bens[0].item_id, state="withdrawn", reason="the author asked")
    assert [t.id for t in q.next([("ben", 2, [])])[0]] == [bens[1].id]
    save_project(db, replace(q.project, state="closed"))
    assert q.next([("ben", 2, [])]) == [[]]
    check_counts(db, q.project)


def test_nobody_holds_more_than_two_hundred(lite):
    q = project(lite, 330)
    held = [t for _ in range(4) for t in q.next([("ada", 100)])[0]]
    assert len(held) == 200 and len(q.next([("ben", 100)])[0]) == 100
    assert len(q.next([("ada", 100, [])])[0]) == 100, "what she holds can always be had back"
    q.submit([say(t, "ada") for t in held[:5]])
    assert len(q.next([("ada", 9)])[0]) == 5


def test_a_batch_with_a_skip_that_is_sent_again(db):
    q = project(db, 1)
    (task,) = q.next([("ada", 1)])[0]
    given = [skip(task, "ada"), say(task, "ada", SEVEN)]
    assert statuses(q.submit(given)) == ["stored"] * 2 and statuses(q.submit(given)) == ["known"] * 2
    assert newest_answers(db.get(Annotation))[task.item_id]["ada"].label == SEVEN and tasks(db)[task.item_id]["answers"] == 1, "the reply was lost, not the answer"
    assert statuses(q.submit([skip(task, "ben"), given[1]])) == ["refused", "known"]


def test_the_later_answer_counts_although_a_clock_is_behind(db, monkeypatch):
    import fullstack_ml.leases as leases

    class Ahead(leases.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + leases.timedelta(minutes=1)

    q = project(db, 1, wanted=2)
    (task,) = q.next([("ada", 1)])[0]
    with monkeypatch.context() as m:
        m.setattr(leases, "datetime", Ahead)
        q.submit([say(task, "ada", ONE)])
    q.submit([say(task, "ada", SEVEN)])
    assert newest_answers(db.get(Annotation))[task.item_id]["ada"].label == SEVEN == history_label(db, q, "ada")


def history_label(db, q, who: str):
    return Choice(tuple(history(db, q.project, who)[0]["label"]["names"]))


def test_at_the_end_gold_does_not_come_alone(lite):
    made = items(40)
    lite.add([*made, *(Annotation(i.id, "truth", ONE) for i in made)])
    p = save_project(lite, Project("digits", "choice", ("1", "7"), rules=Rules(gold_share=0.5, gold="truth")))
    fill(lite, p)
    q, gold = Queue(lite, p), {i for i, t in tasks(lite).items() if t["gold"]}
    while found := q.next([("ada", 4)])[0]:
        assert len({t.item_id for t in found} - gold) > 0 or len(found) == 4, "who gets few, and all of them gold, would know them"
        q.submit([say(t, "ada") for t in found])
    for _ in range(20):  # with as many or as few as would all be gold by chance
        for n in (1, 2, 4):
            q.idle.clear()
            assert q.next([("ada", n)]) == [[]] and q.next([("ben", n)]) == [[]]


def test_gold_comes_alone_while_there_is_other_work(lite):
    made = items(40)
    lite.add([*made, *(Annotation(i.id, "truth", ONE) for i in made)])
    p = save_project(lite, Project("digits", "choice", ("1", "7"), rules=Rules(gold_share=0.9, gold="truth")))
    fill(lite, p)
    q, gold = Queue(lite, p), {i for i, t in tasks(lite).items() if t["gold"]}
    seen = [t.item_id for _ in range(40) for t in q.next([("ada", 1)])[0]]
    assert len(gold) == 36 and len(set(seen)) == len(seen) and gold & {*seen} and {*seen} >= {i.id for i in made} - gold and seen[-1] not in gold


def test_two_may_fill_at_once(db):
    q, errors, added = project(db, 1), [], []
    db.add(items(400))

    def work():
        try:
            added.append(fill(db, q.project))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and sum(added) == 399 and len(tasks(db)) == 400


def test_another_order_moves_what_waits(lite):
    p, ids = project(lite, 30).project, [i.id for i in items(30)]
    order = lambda: [i for i, t in sorted(tasks(lite).items(), key=lambda x: x[1]["rank"])]
    shuffled = save_project(lite, replace(p, rules=replace(p.rules, order="random")))
    assert order() == ids and fill(lite, shuffled) == 0 and order() != ids
    lite.add(items(32))
    assert fill(lite, save_project(lite, p)) == 2 and order() == [i.id for i in items(32)]


# --- many at once ----------------------------------------------------------------------------------------------------

WORK = """
import json, random, secrets, sys, time
from fullstack_ml.leases import Given, Queue
from fullstack_ml.records import Choice, open_database
url, me, size, until = sys.argv[1], sys.argv[2], int(sys.argv[3]), time.time() + 60
q, idle, told = Queue(open_database(url), "digits"), 0, 0
names = [f"{me}-{k}" for k in range(4)]
while idle < 3 and time.time() < until:
    found = q.next([(who, size) for who in names])
    given = [Given(secrets.token_hex(16), t.id, who, Choice((random.choice("17"),))) for who, tasks in zip(names, found) for t in tasks]
    given += random.sample(given, len(given) // 4)  # sent again
    results = q.submit(given)
    assert all(r.status in ("stored", "known") for r in results), results
    told += sum(r.status == "stored" for r in results)
    for r in results:
        print(r.id, flush=True)
    idle = 0 if given else idle + 1
    time.sleep(0 if given else 0.4)
"""


def start(db, me: str, size: int = 3) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WORK, db.url.render_as_string(hide_password=False), me, str(size)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_four_processes_at_once(db):
    q = project(db, 150, wanted=2, wanted_if_disputed=3)
    running = [start(db, f"p{k}") for k in range(4)]
    said = [p.communicate(timeout=120) for p in running]
    assert [err for _, err in said] == [""] * 4
    stored = db.get(Annotation)
    assert {a.id for a in stored} == {id for out, _ in said for id in out.split()}, "what was acknowledged is there, and nothing else"
    assert len({(a.item_id, a.annotator) for a in stored}) == len(stored)
    check_counts(db, q.project)
    assert {t["state"] for t in tasks(db).values()} == {"full"} and all(t["answers"] == t["wanted"] for t in tasks(db).values())
    assert {t["wanted"] for t in tasks(db).values()} == {2, 3}, "chance makes both"


def test_a_killed_process_loses_no_answer_and_no_task(db):
    q = project(db, 300, wanted=1, lease=2)
    killed = [start(db, f"k{k}", 2) for k in range(2)]
    acknowledged = [p.stdout.readline().strip() for p in killed for _ in range(20)]
    time.sleep(0.3)
    for p in killed:
        p.send_signal(signal.SIGKILL)
        acknowledged += p.stdout.read().split()
        p.wait()
    time.sleep(2.2)
    out, err = start(db, "after", 8).communicate(timeout=120)
    assert not err
    stored = {a.id for a in db.get(Annotation)}
    assert {i for i in acknowledged if len(i) == 32} | set(out.split()) <= stored
    check_counts(db, q.project)
    assert {t["state"] for t in tasks(db).values()} == {"full"} and {t["leases"] for t in tasks(db).values()} == {0}


def test_threads_share_a_queue(db):
    q, errors = project(db, 120), []

    def work(who):
        try:
            while found := q.next([(who, 4)])[0]:
                q.submit([say(t, who) for t in found])
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(f"t{k}",)) for k in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and len(db.get(Annotation)) == 120
    check_counts(db, q.project)


def test_counts_can_be_made_again_from_the_assignments(db):
    q = project(db, 5, wanted=2)
    q.submit([say(t, "ada") for t in q.next([("ada", 3)])[0]])
    before = tasks(db)
    with db.engine.begin() as tx:
        tx.execute(db.tables["task"].update().values(answers=9, leases=9, state="lost"))
        recount(tx, db, q.project.id)
    assert tasks(db) == before


def test_fifty_thousand_items(lite):
    import sqlalchemy as sa

    with lite.engine.begin() as tx:
        lite.insert(tx, "item", [{c.name: getattr(i, c.name) for c in lite.tables["item"].columns} for i in items(50_000)])
    p = save_project(lite, Project("digits", "choice", ("1", "7"), rules=Rules(wanted=2, order="random")))
    began = time.process_time()
    assert fill(lite, p) == 50_000
    assert time.process_time() - began < 15
    q, names = Queue(lite, p), [f"a{k}" for k in range(64)]
    began = time.process_time()
    for _ in range(5):
        found = q.next([(who, 1) for who in names])
        assert set(statuses(q.submit([say(t, who) for who, ts in zip(names, found) for t in ts]))) == {"stored"}
    assert time.process_time() - began < 5, "64 people a second, with room to spare"
    with lite.engine.connect() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(lite.tables["annotation"])).scalar() == 320


def test_nothing_is_read_twice_from_the_beginning(lite):
    q = project(lite, 3000, wanted=3)
    statements = []
    import sqlalchemy as sa

    sa.event.listen(lite.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    for _ in range(20):
        q.submit([say(t, "ada") for t in q.next([("ada", 100)])[0]])
    assert len(statements) < 20 * 20, "one who is far ahead does not go through all of it again"
    assert json.dumps(progress_of(lite, q.project)["by"]) == '{"ada": 2000}' and os.path.exists(lite.url.database)
