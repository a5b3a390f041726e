"""Invitations that work once, sessions that end, a manager who stays: on every database, and when two come at once."""
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from fullstack_ml import accounts
from fullstack_ml.accounts import accept, change_account, change_password, find_invitation, find_session, invite, list_accounts, list_invitations
from fullstack_ml.accounts import SignedOut, sign_in, sign_out, withdraw
from fullstack_ml.core import BadInput, FsmlError, NotFound, Refused
from fullstack_ml.records import Annotation, Choice, open_database

GOOD = "three words are good"


@pytest.fixture
def db(database_url):
    db = open_database(database_url)
    yield db
    db.engine.dispose()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The same hash with little work."""
    from argon2 import PasswordHasher

    monkeypatch.setattr(accounts, "_hasher", lambda h=PasswordHasher(1, 64, 1): h)


def tried(do, *args):
    try:
        return do(*args)
    except FsmlError as e:
        return e


def together(n, do):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(lambda k: tried(do, k), range(n)))


def test_an_invitation_becomes_an_account_and_a_session(db):
    token = invite(db, "annotator", "Maria")
    assert find_invitation(db, token)["role"] == "annotator"
    assert accept(db, token, "  Zoe\u0308  Kim ", GOOD) == "Zoë Kim"
    who = find_session(db, sign_in(db, "ZOË KIM", GOOD))
    assert (who.name, who.role) == ("Zoë Kim", "annotator") and who.may("annotator") and not who.may("reviewer")
    assert list_invitations(db) == [] and [a["name"] for a in list_accounts(db)] == ["Zoë Kim"]


def test_an_invitation_works_once_even_for_eight_at_once(db):
    token = invite(db, "annotator", "Maria")
    results = together(8, lambda k: accept(db, token, f"guest {k}", GOOD))
    assert sum(isinstance(r, str) for r in results) == 1
    assert all(isinstance(r, (str, NotFound)) for r in results)
    assert len(list_accounts(db)) == 1


def test_a_name_is_taken_once_even_by_eight_invitations_at_once(db):
    tokens = [invite(db, "annotator", "Maria") for _ in range(8)]
    results = together(8, lambda k: accept(db, tokens[k], ("Ann", "ANN", "ann", "aNN")[k % 4], GOOD))
    assert sum(isinstance(r, str) for r in results) == 1
    assert all(isinstance(r, (str, BadInput)) for r in results)
    assert len(list_invitations(db)) == 7, "whoever was too late may try another name"


def test_invitations_that_do_not_work_are_alike(lite):
    old, used, gone = invite(lite, "annotator", "Maria", seconds=-1), invite(lite, "annotator", "Maria"), invite(lite, "annotator", "Maria")
    accept(lite, used, "Ann", GOOD)
    withdraw(lite, next(i["id"] for i in list_invitations(lite)))
    said = {str(tried(accept, lite, token, "Bob", GOOD)) for token in (old, used, gone, "invented", "")}
    assert len(said) == 1 and "does not work" in said.pop()


@pytest.mark.parametrize("password", ["", "short", "a" * 257, "aaaaaaaaaa", "ann other"])
def test_a_weak_password_is_refused_and_not_repeated(lite, password):
    token = invite(lite, "annotator", "Maria")
    error = tried(accept, lite, token, "Ann Other", password)
    assert isinstance(error, BadInput) and (not password or password not in str(error))
    assert accept(lite, token, "Ann Other", GOOD), "the link still works"


@pytest.mark.parametrize("name", ["", " ", "\u200b", "a\x00b", "a\u202eb", "x" * 61, "...", "truth", "Caption", "import:coco", "Old Sheet"])
def test_names_that_a_guest_cannot_take(lite, name):
    lite.add([Annotation("0" * 16, "Old Sheet", Choice(("cat",)))])
    assert isinstance(tried(accept, lite, invite(lite, "annotator", "Maria"), name, GOOD), BadInput)
    assert list_accounts(lite) == []


def test_names_of_the_world(db):
    for name in ("김서연", "Ñandú", "O'Brien <b>", "🦜 parrot", "a" * 60):
        accept(db, invite(db, "annotator", "Maria"), name, GOOD)
        assert find_session(db, sign_in(db, name, GOOD)).name == name


def test_the_database_holds_nothing_that_opens_a_door(lite):
    first = invite(lite, "manager", "fsml")
    accept(lite, first, "Maria", GOOD)
    token, link = sign_in(lite, "Maria", GOOD), invite(lite, "annotator", "Maria")
    with lite.engine.connect() as c:
        rows = str([c.execute(sa.select(lite.tables[t])).all() for t in ("account", "invitation", "session")])
    assert not any(secret in rows for secret in (first, token, link, GOOD)) and "$argon2id$" in rows


def test_sign_in_does_not_say_what_is_wrong(lite):
    accept(lite, invite(lite, "annotator", "Maria"), "Ann", GOOD)
    accept(lite, invite(lite, "manager", "Maria"), "Bob", GOOD)
    change_account(lite, "Ann", state="blocked")
    said = {str(tried(sign_in, lite, *pair)) for pair in (("Ann", GOOD), ("Bob", "wrong password"), ("Nobody", GOOD), ("", ""), ("x" * 10_000, "y" * 10_000))}
    assert len(said) == 1
    with pytest.raises(SignedOut) as caught:
        sign_in(lite, "Bob", "wrong password")
    assert caught.value.status == 401


def test_an_unknown_name_costs_as_much_as_a_known_one(lite, monkeypatch):
    calls = []
    real = accounts._hasher()

    class Counting:
        def verify(self, kept, password):
            calls.append(kept[:10])
            return real.verify(kept, password)

        def hash(self, password):
            return real.hash(password)

    monkeypatch.setattr(accounts, "_hasher", Counting)
    accept(lite, invite(lite, "annotator", "Maria"), "Ann", GOOD)
    for name in ("Ann", "Nobody"):
        tried(sign_in, lite, name, "wrong password")
    assert len(calls) == 2 and calls[0] == calls[1]


def test_sessions_end(db):
    accept(db, invite(db, "annotator", "Maria"), "Ann", GOOD)
    accept(db, invite(db, "manager", "Maria"), "Bob", GOOD)
    short, one, two, bob = sign_in(db, "Ann", GOOD, seconds=0.2), sign_in(db, "Ann", GOOD), sign_in(db, "Ann", GOOD), sign_in(db, "Bob", GOOD)
    time.sleep(0.3)
    assert find_session(db, short) is None
    sign_out(db, one)
    assert find_session(db, one) is None and find_session(db, two)
    sign_out(db, name="Ann")
    assert find_session(db, two) is None and find_session(db, bob)
    again = sign_in(db, "Ann", GOOD)
    change_password(db, "Ann", GOOD, "four other words please")
    assert find_session(db, again) is None and isinstance(tried(sign_in, db, "Ann", GOOD), SignedOut)
    again = sign_in(db, "Ann", "four other words please")
    change_account(db, "Ann", state="blocked")
    assert find_session(db, again) is None
    change_account(db, "Ann", state="active")
    assert find_session(db, again) is None and find_session(db, sign_in(db, "Ann", "four other words please"))


def test_a_link_for_somebody_who_is_there_is_a_new_password(db):
    accept(db, invite(db, "reviewer", "Maria"), "Ann", GOOD)
    old = sign_in(db, "Ann", GOOD)
    assert accept(db, invite(db, "annotator", "Maria", name="ann"), "whatever", "four other words please") == "Ann"
    assert find_session(db, old) is None
    assert find_session(db, sign_in(db, "Ann", "four other words please")).role == "reviewer", "the role is given elsewhere"


def test_the_last_manager_stays(db):
    accept(db, invite(db, "manager", "fsml"), "Maria", GOOD)
    for change in ({"role": "reviewer"}, {"state": "blocked"}):
        assert isinstance(tried(lambda c: change_account(db, "Maria", **c), change), Refused)
    accept(db, invite(db, "manager", "Maria"), "Bob", GOOD)
    change_account(db, "Bob", state="blocked")
    assert isinstance(tried(lambda: change_account(db, "Maria", role="annotator")), Refused), "a blocked manager is none"
    change_account(db, "Bob", state="active")
    change_account(db, "Maria", role="annotator")
    assert isinstance(tried(lambda: change_account(db, "Bob", role="annotator")), Refused)


def test_managers_who_demote_each_other_at_once_leave_one(db):
    for name in ("A1", "A2", "A3", "A4"):
        accept(db, invite(db, "manager", "fsml"), name, GOOD)
    results = together(4, lambda k: change_account(db, f"A{k + 1}", role="annotator"))
    assert sum(isinstance(r, Refused) for r in results) == 1
    assert sum(a["role"] == "manager" for a in list_accounts(db)) == 1


def test_what_does_not_exist(lite):
    accept(lite, invite(lite, "manager", "fsml"), "Maria", GOOD)
    assert isinstance(tried(lambda: change_account(lite, "Nobody", role="annotator")), NotFound)
    for change in ({"role": "king"}, {"state": "asleep"}):
        assert isinstance(tried(lambda c: change_account(lite, "Maria", **c), change), BadInput)
    assert isinstance(tried(invite, lite, "king", "Maria"), BadInput)
    assert find_session(lite, "") is None and find_session(lite, "x" * 43) is None
