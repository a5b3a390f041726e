"""The annotation screens in a real browser, against the real application in a process of its own; the database says what was labelled."""
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("FSML_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[dev])")
if not CHROMIUM:
    pytest.skip("no chromium on the path (apt install chromium, or FSML_CHROMIUM=/path)", allow_module_level=True)

from PIL import Image, ImageDraw  # noqa: E402
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

from fullstack_ml.accounts import accept, invite  # noqa: E402
from fullstack_ml.annotate import Project, Rules, fill, save_project  # noqa: E402
from fullstack_ml.blobs import BlobStore  # noqa: E402
from fullstack_ml.records import Annotation, Box, Boxes, Choice, Item, Text, open_database  # noqa: E402
from fullstack_ml.review import write_guide  # noqa: E402

PASSWORD = "three words are good"
COLOURS = ("red", "green", "blue")


# ---------------------------------------------------------------- the application
@dataclass
class Site:
    """A storage with projects and people, and the process that serves it."""

    folder: Path
    db: object
    port: int = 0
    process: subprocess.Popen | None = None
    projects: dict = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        told = {"storage.url": f"sqlite:///{self.folder}/fsml.db", "storage.blobs": f"{self.folder}/blobs", "app.port": self.port,
                "app.per_second": 1000, "app.sign_in_per_minute": 1000, "app.access_log": "null"}  # fmt: skip
        log, env = (self.folder / "server.log").open("a"), {**os.environ, "FSML_ARTIFACTS": str(self.folder)}
        command = [Path(sys.executable).with_name("fsml"), "annotate-app", *(f"{k}={v}" for k, v in told.items())]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True, cwd=self.folder)
        end = time.monotonic() + 40
        while True:  # the port is known before the process that serves it has started
            if not self.port and (found := re.search(r"at http://127.0.0.1:(\d+)", (self.folder / "server.log").read_text())):
                self.port = int(found[1])
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.base}/healthz", timeout=5):
                return
            assert time.monotonic() < end and self.process.poll() is None, (self.folder / "server.log").read_text()[-3000:]
            time.sleep(0.1)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def add(self, name: str, kind: str, n: int, **rules) -> Project:
        """A project of n pictures with a caption that says what is in them."""
        store, items, said = BlobStore(f"{self.folder}/blobs"), [], []
        for k in range(n):
            image = Image.new("RGB", (320, 240) if kind != "text" else (320, 48), (235, 235, 228))
            draw = ImageDraw.Draw(image)
            draw.ellipse([60 + k, 60, 140 + k, 140], fill=COLOURS[k % 3])
            draw.text((10, 10), f"{name} {k}", fill="black")
            out = io.BytesIO()
            image.save(out, "PNG")
            items.append(Item(url=f"https://example.org/{name}/{k}", sha256=store.put(out.getvalue()), source=name, mime="image/png", width=image.width, height=image.height))
            label = {"choice": Choice((COLOURS[k % 3],)), "text": Text(f"{name} {k}"), "boxes": Boxes((Box(60 + k, 60, 80, 80, COLOURS[k % 3]),))}[kind]
            said.append(Annotation(items[-1].id, "model", label))
        self.db.add(items)
        self.db.add(said)
        project = save_project(self.db, Project(name, kind, () if kind == "text" else COLOURS, {"source": [name]}, Rules(**rules)))
        fill(self.db, project)
        self.projects[name] = project
        return project

    def held(self, project: Project) -> int:
        """Open assignments."""
        a = self.db.tables["assignment"]
        with self.db.engine.connect() as c:
            return len(c.execute(a.select().where(a.c.project == project.id, a.c.state == "open")).all())

    def answers(self, project: Project, who: str = "ann") -> list[Annotation]:
        """What the database holds, oldest first."""
        return sorted(self.db.get(Annotation, project=project.id, annotator=who), key=lambda a: a.created)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotate")
    site = Site(folder, open_database(f"sqlite:///{folder}/fsml.db"))
    for name, role in (("ann", "annotator"), ("ben", "annotator"), ("rev", "reviewer"), ("man", "manager")):
        accept(site.db, invite(site.db, role, "test", name), name, PASSWORD)
    for name, kind, n, rules in (
        ("keys", "choice", 8, {"suggest": "model"}), ("several", "choice", 3, {"several": True}), ("early", "choice", 6, {"suggest": "model"}), ("undo", "choice", 6, {}),
        ("killed", "choice", 20, {}), ("expired", "choice", 6, {}), ("crashed", "choice", 30, {}), ("grid", "choice", 9, {"suggest": "model"}), ("dispute", "choice", 3, {"wanted": 2}),
        ("lines", "text", 6, {"suggest": "model", "script": "korean"}), ("korean", "text", 4, {"script": "korean"}),
        ("blocks", "boxes", 4, {}), ("mouse", "boxes", 3, {"suggest": "model"}), ("broken", "boxes", 2, {"wanted": 2}),
    ):
        site.add(name, kind, n, **rules)
    write_guide(site.db, site.projects["keys"], "# Colours\n\nChoose the **colour** of the disc.", "test")
    site.start()
    yield site
    os.killpg(site.process.pid, signal.SIGKILL)


# ---------------------------------------------------------------- the browser
@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


STATES: dict[str, dict] = {}  # signed in once, reused by every test


@pytest.fixture
def open_page(site: Site, browser: Browser):
    """Opens a screen of a project as somebody; fails on any script error or refused resource of the page."""
    contexts, errors = [], []

    def opened(name: str, screen: str = "work", who: str = "ann", wait: str = ".picture", **options) -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 720}, storage_state=STATES.get(who), **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
        if who not in STATES:
            sign_in(page, site, who)
            STATES[who] = context.storage_state()
        page.goto(f"{site.base}/p/{site.projects[name].id}/{screen}")
        page.wait_for_selector(wait)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors, errors


def sign_in(page: Page, site: Site, who: str) -> None:
    page.goto(f"{site.base}/sign-in")
    page.fill("[name=name]", who)
    page.fill("[name=password]", PASSWORD)
    page.click("button.primary")
    page.wait_for_url(f"{site.base}/")


def until(page: Page, script: str, seconds: float = 20):
    """Waits until an expression is true; asks from outside, since the page's own policy allows no eval."""
    end = time.monotonic() + seconds
    while not (found := page.evaluate(script)):
        assert time.monotonic() < end, f"never true: {script}; the page says: {page.inner_text('.status')}"
        time.sleep(0.015)
    return found


READY = "window.fsml?.ready()"  # before a picture is drawn no key counts that says something about it
NOW = f"{READY} && document.querySelector('.stage .picture') && document.querySelector('.veil').hidden && fsml.tasks.queue[0]?.item"


def answer(page: Page, act) -> str:
    """Does something that answers the picture at the front, waits for the next one, says which item it was."""
    item = until(page, NOW)
    act()
    until(page, f"fsml.trail.at(-1)?.item === {json.dumps(item)} && ({READY} || !fsml.tasks.queue.length)")
    return item


def saved(page: Page) -> None:
    until(page, "document.querySelector('.status').innerText === 'All saved' && fsml.outbox.waiting === 0", 15)


def press(page: Page, *keys: str):
    return lambda: [page.keyboard.press(k) for k in keys]


def by_item(answers: list[Annotation]) -> dict:
    return {a.item_id: a.label for a in answers}


# ---------------------------------------------------------------- choice
def test_choice_with_keys_and_mouse(site, open_page):
    page, project = open_page("keys"), site.projects["keys"]
    suggested = until(page, "fsml.tasks.queue[0].suggestion.names[0]")
    expected = {answer(page, press(page, "Enter")): Choice((suggested,))}
    expected[answer(page, press(page, "2"))] = Choice(("green",))
    expected[answer(page, press(page, "3"))] = Choice(("blue",))
    expected[answer(page, lambda: page.get_by_role("button", name="red").click())] = Choice(("red",))
    skipped = answer(page, press(page, "s", "3"))
    page.keyboard.press("c")
    page.keyboard.type("a doubtful one")
    page.keyboard.press("Enter")
    expected[last := answer(page, press(page, "1"))] = Choice(("red",))
    saved(page)
    answers = site.answers(project)
    assert by_item(answers) == expected and skipped not in expected
    metas = {a.item_id: a.meta for a in answers}
    first = answers[0]
    assert first.meta["accepted"] is True and first.meta["suggestion"]["names"] == [suggested] and first.meta["guide"] == 1 and first.seconds > 0
    assert metas[last]["comment"] == "a doubtful one"
    page.keyboard.press("g")
    page.get_by_role("heading", name="Colours").wait_for()


def test_several_classes(site, open_page):
    page = open_page("several")
    item = answer(page, press(page, "1", "3", "Enter"))
    other = answer(page, lambda: [page.get_by_role("button", name=n).first.click() for n in ("green", "red", "green", "Send")])
    saved(page)
    assert by_item(site.answers(site.projects["several"])) == {item: Choice(("red", "blue")), other: Choice(("red",))}
    assert site.held(site.projects["several"]) == 1
    page.goto(f"{site.base}/")  # what nobody has looked at goes back to the queue when the page goes
    end = time.monotonic() + 5
    while site.held(site.projects["several"]):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_key_counts_before_the_picture_is_drawn(site, browser, open_page):
    page = open_page("early")
    held, free = [], []
    page.route("**/picture", lambda route: route.continue_() if free else held.append(route))
    page.reload()
    until(page, "window.fsml?.tasks.queue.length > 0")
    for _ in range(8):
        page.keyboard.press("1")
    assert page.evaluate("fsml.outbox.waiting + fsml.trail.length") == 0
    free.append(True)
    for route in held:
        route.continue_()
    until(page, NOW)
    assert page.evaluate("fsml.outbox.waiting + fsml.trail.length") == 0
    page.keyboard.down("2")
    for _ in range(5):
        page.keyboard.down("2")  # a key that is held down repeats
    page.keyboard.up("2")
    time.sleep(0.2)
    answer(page, press(page, "3"))
    saved(page)
    assert len(said := site.answers(site.projects["early"])) <= 2
    keys = [("1", "Digit1"), ("c", "KeyC"), (" ", "Space"), ("1", "Digit1")]  # faster than the next picture is drawn
    page.evaluate(f"for (const [key, code] of {json.dumps(keys)}) document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key, code, bubbles: true, cancelable: true }}))")
    page.wait_for_selector("dialog textarea")
    page.keyboard.type("us")
    page.evaluate("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true })); document.activeElement === document.body || fail")
    answer(page, press(page, "3"))
    saved(page)
    after = site.answers(site.projects["early"])
    assert len(after) == len(said) + 2 and after[-1].meta["comment"] == "us"


def test_undo_reaches_across_a_reload(site, open_page):
    page, project = open_page("undo"), site.projects["undo"]
    items = [answer(page, press(page, k)) for k in "123"]
    for n, key in enumerate(("u", "Backspace"), 1):
        page.keyboard.press(key)
        until(page, f"document.querySelector('.trace').innerText.startsWith('{n} back') && document.querySelector('.veil').hidden && {READY}")
    until(page, "document.querySelector('.class[aria-pressed=true]')?.innerText.includes('green')")
    page.keyboard.press("1")  # the second one is red now; then forward by itself
    until(page, "document.querySelector('.trace').innerText.startsWith('1 back')")
    saved(page)
    page.reload()
    until(page, NOW)
    until(page, "fsml.trail.length === 3")
    for n in (1, 2, 3):
        page.keyboard.press("PageUp")
        until(page, f"document.querySelector('.trace').innerText.startsWith('{n} back') && document.querySelector('.veil').hidden && {READY}")
    until(page, "document.querySelector('.class[aria-pressed=true]')?.innerText.includes('red')")
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    until(page, "document.querySelector('.trace').hidden")
    saved(page)
    answers = site.answers(project)
    assert by_item(answers) == dict(zip(items, (Choice(("blue",)), Choice(("red",)), Choice(("blue",)))))
    assert len(answers) == 5  # nothing is overwritten: both changes lie beside what was there before


# ---------------------------------------------------------------- nothing is lost
def test_a_killed_server_costs_nothing(site, open_page):
    page, project = open_page("killed"), site.projects["killed"]
    items = [answer(page, press(page, "1")) for _ in range(2)]
    saved(page)
    site.kill()
    items += [answer(page, press(page, "2")) for _ in range(3)]
    until(page, "/Offline · 3 wait/.test(document.querySelector('.status').innerText)")
    site.start()
    saved(page)
    context = page.context
    context.set_offline(True)
    items += [answer(page, press(page, "3")) for _ in range(2)]
    page.close(run_before_unload=False)  # the answers wait in the browser, not in the page
    context.set_offline(False)
    page = context.new_page()
    page.goto(f"{site.base}/p/{project.id}/work")
    until(page, NOW)
    saved(page)
    answers = site.answers(project)
    assert by_item(answers) == dict(zip(items, [Choice((c,)) for c in ("red", "red", "green", "green", "green", "blue", "blue")]))
    assert len(answers) == len({a.id for a in answers}) == 7
    until(page, "fsml.trail.length === 7")  # and undo knows them


def test_a_crashed_page_gets_back_what_it_held(site, open_page):
    """A page that ends without a word leaves its leases behind; the next one of the same person takes them up again."""
    page = open_page("crashed")
    held = "fsml.tasks.queue.map(t => t.item)"
    before = until(page, f"{held}.length > 6 && {held}")
    page.evaluate("navigator.sendBeacon = () => true")  # nothing is said when it goes
    page.close()
    n = site.held(site.projects["crashed"])
    again = open_page("crashed")
    assert set(until(again, f"{held}.length > 6 && {held}")) == set(before) and site.held(site.projects["crashed"]) == n
    again.reload()  # this time it says goodbye, and takes the first ones again
    again.wait_for_selector(".picture")
    until(again, f"{held}.length > 6")
    assert site.held(site.projects["crashed"]) == n


def test_a_session_that_ends_costs_nothing(site, open_page):
    page, project = open_page("expired"), site.projects["expired"]
    items = [answer(page, press(page, "1"))]
    saved(page)
    page.context.clear_cookies()
    items.append(answer(page, press(page, "2")))
    until(page, "/Signed out · 1 waits/.test(document.querySelector('.status').innerText)")
    with page.context.expect_page() as popup:
        page.get_by_role("link", name="Sign in again").click()
    tab = popup.value
    tab.fill("[name=name]", "ann")
    tab.fill("[name=password]", PASSWORD)
    tab.click("button.primary")
    tab.wait_for_url(f"{site.base}/")
    tab.close()
    saved(page)
    until(page, "document.querySelector('.banner').hidden")
    items.append(answer(page, press(page, "3")))
    saved(page)
    assert by_item(site.answers(project)) == dict(zip(items, [Choice((c,)) for c in COLOURS]))


# ---------------------------------------------------------------- text
def test_text_with_keys_and_mouse(site, open_page):
    page = open_page("lines")
    suggested = until(page, "fsml.tasks.queue[0].suggestion.text")
    expected = {answer(page, press(page, "Enter")): Text(suggested)}
    expected[answer(page, lambda: (page.keyboard.insert_text("cafe\u0301 "), page.keyboard.press("Enter")))] = Text("café")
    mended = until(page, "fsml.tasks.queue[0].suggestion.text")
    expected[answer(page, lambda: (page.keyboard.press("Tab"), page.keyboard.type("!"), page.keyboard.press("Enter")))] = Text(mended + "!")
    jamo = [*"ㅎㅏㄴㄱㅡㄹ", "space", *"ㄷㅏㄹㄱㅣ"]  # the tail of 닭 goes on to the next syllable

    def with_mouse():
        for sign in jamo:
            page.locator(".char-keys").get_by_text(sign, exact=True).click()
        page.get_by_role("button", name="Send").click()

    expected[answer(page, with_mouse)] = Text("한글 달기")
    skipped = answer(page, press(page, "Alt+s", "1"))
    saved(page)
    assert by_item(site.answers(site.projects["lines"])) == expected and skipped not in expected


def test_an_input_method_keeps_its_enter(site, open_page):
    page = open_page("korean")
    until(page, NOW)
    ime = page.context.new_cdp_session(page)
    for part in ("ㅎ", "하", "한"):
        ime.send("Input.imeSetComposition", {"text": part, "selectionStart": 1, "selectionEnd": 1})
    # The Enter that ends a syllable belongs to the input method: the browser marks it with 229.
    ime.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "windowsVirtualKeyCode": 229, "key": "Process", "code": "Enter"})
    page.keyboard.press("Enter")
    time.sleep(0.2)
    assert page.evaluate("fsml.trail.length + fsml.outbox.waiting") == 0
    ime.send("Input.insertText", {"text": "한"})
    ime.send("Input.imeSetComposition", {"text": "그", "selectionStart": 1, "selectionEnd": 1})
    ime.send("Input.insertText", {"text": "글"})
    item = answer(page, press(page, "Enter"))
    saved(page)
    assert by_item(site.answers(site.projects["korean"])) == {item: Text("한글")}


# ---------------------------------------------------------------- boxes
def test_boxes_with_keys_alone(site, open_page):
    page = open_page("blocks")
    until(page, NOW)
    press(page, "2", "n", *["ArrowLeft"] * 2, "Shift+ArrowDown", "Enter")()  # one green box, sized
    first = until(page, "document.querySelector('.facts').innerText")
    w, h, x, y = map(int, re.findall(r"\d+", first.split(":")[1]))
    press(page, "Shift+ArrowLeft", "ArrowUp", "Alt+ArrowRight")()  # moved by 10 and 1, wider by 1
    press(page, "d", "3", "t")()  # the same once more, blue, with a text
    page.keyboard.type("naive 1")
    press(page, "Enter", "d", "Delete", "Control+z", "Control+z")()
    item = answer(page, press(page, "Tab", "Enter"))
    nothing = answer(page, press(page, "Enter", "Enter"))  # asked once more before it means: no boxes
    copied = answer(page, press(page, "n", "Escape", "n", "Enter", "Enter"))
    saved(page)
    labels = by_item(site.answers(site.projects["blocks"]))
    one, two = labels[item].boxes
    assert (one.x, one.y, one.w, one.h, one.name) == (x - 10, y - 1, w + 1, h, "green")
    assert (two.w, two.h, two.name, two.text) == (one.w, one.h, "blue", "naive 1") and two.x > one.x
    assert labels[nothing] == Boxes(()) and len(labels[copied].boxes) == 1


def test_boxes_with_the_mouse(site, open_page):
    page = open_page("mouse")
    until(page, NOW)
    at = page.locator(".picture").bounding_box()
    scale = at["width"] / 320

    def drag(*points):
        spots = [(at["x"] + x * scale, at["y"] + y * scale) for x, y in points]
        page.mouse.move(*spots[0])
        page.mouse.down()
        for s in spots[1:]:
            page.mouse.move(*s, steps=3)
        page.mouse.up()

    def work():
        page.keyboard.press("Escape")  # the suggestion is put away
        drag((20, 30), (120, 100))
        drag((70, 60), (90, 80))  # the inside of the chosen box moves it
        drag((140, 120), (160, 130))  # its corner sizes it
        page.get_by_role("button", name="blue").click()
        page.keyboard.press("Escape")
        drag((250, 200), (400, 300))  # beyond the border
        page.get_by_role("button", name="Send").click()

    item = answer(page, work)
    mended = answer(page, lambda: [page.get_by_role("button", name=n).click() for n in ("Mend suggestion", "Send")])
    saved(page)
    labels = by_item(site.answers(site.projects["mouse"]))
    one, two = labels[item].boxes
    near = [abs(a - b) <= 1 for a, b in zip((one.x, one.y, one.w, one.h), (40, 50, 120, 80))]
    assert all(near) and one.name == "blue", one
    assert two.x + two.w == 320 and two.y + two.h == 240 and abs(two.x - 250) <= 1
    assert labels[mended].boxes[0].w == 80


# ---------------------------------------------------------------- a screenful, and decisions
def test_grid(site, open_page):
    page, project = open_page("grid", "grid", wait=".tile img"), site.projects["grid"]
    until(page, "document.querySelectorAll('.tile img').length === 9 && !document.querySelector('.btn.primary').disabled")
    items = page.evaluate("fsml.tasks.held.map(e => e.item)")
    truth = page.evaluate("Object.fromEntries(fsml.tasks.held.map(e => [e.item, e.suggestion.names[0]]))")
    page.keyboard.press("3")  # blue: two tiles become it, one of them with the keyboard
    other = [i for i in range(9) if truth[items[i]] != "blue"]
    page.locator(".tile").nth(other[0]).click()
    until(page, f"document.querySelectorAll('.tile')[{other[0]}].innerText === 'blue'")
    for _ in range(other[1] - other[0]):
        page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    left = next(i for i in range(9) if truth[items[i]] == "blue")
    page.locator(".tile").nth(left).click()  # not of this class: left for later
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('.tile').length === 1")
    saved(page)
    expected = {i: Choice((truth[i],)) for i in items} | {items[other[0]]: Choice(("blue",)), items[other[1]]: Choice(("blue",))}
    del expected[items[left]]
    assert by_item(site.answers(project)) == expected


def test_review_decides(site, open_page):
    project = site.projects["dispute"]
    for who, key in (("ann", "1"), ("ben", "2")):
        page = open_page("dispute", who=who)
        for _ in range(3):
            answer(page, press(page, key))
        saved(page)
    page = open_page("dispute", "review", "rev", wait=".answer")
    items = []
    for keys in (["1"], ["2"], ["o", "3"]):
        until(page, "document.querySelector('.veil').hidden && document.querySelectorAll('.answer').length === 2")
        time.sleep(0.06)
        before = page.evaluate("fsml.trail.length")
        shown = page.locator(".answer").all_inner_texts()
        for k in keys:
            page.keyboard.press(k)
            time.sleep(0.2)
        items.append((until(page, f"fsml.trail.length > {before} && fsml.trail.at(-1).item"), shown, keys[-1]))
    until(page, "document.querySelector('.veil').innerText.includes('No disputes')")
    saved(page)
    decided = {a.item_id: a for a in site.answers(project, "rev")}
    for item, shown, key in items:
        wanted = "blue" if key == "3" else next(c for c in COLOURS if c in shown[int(key) - 1])
        assert decided[item].label == Choice((wanted,)) and decided[item].meta["decision"] is True
    assert len(site.answers(project, "ann")) == len(site.answers(project, "ben")) == 3  # what people said stays


def test_nothing_scrolls_while_one_works(site, open_page):
    page = open_page("broken")
    for width, height, scheme in ((1280, 720, "light"), (1024, 768, "dark"), (820, 1180, "light")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        time.sleep(0.1)
        over = page.evaluate("[document.scrollingElement.scrollHeight - innerHeight, document.scrollingElement.scrollWidth - innerWidth]")
        assert max(over) <= 0, (width, height)
        assert page.evaluate("[...document.querySelectorAll('button')].filter(b => !(b.innerText.trim() || b.ariaLabel)).length") == 0
