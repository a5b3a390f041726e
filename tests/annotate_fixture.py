"""A small annotation site for tests: items of three kinds, three projects, three people with known passwords."""
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fullstack_ml.accounts import accept, invite
from fullstack_ml.annotate import Project, Rules, fill, save_project
from fullstack_ml.blobs import BlobStore
from fullstack_ml.records import Annotation, Boxes, Choice, Database, Item, Text, open_database
from fullstack_ml.review import write_guide

PASSWORD = "three words are good"
PEOPLE = {"ann": "annotator", "bob": "annotator", "rev": "reviewer", "man": "manager"}
KINDS = {"choice": ("cat", "dog", "<b>bird</b>"), "text": (), "boxes": ("cat", "dog")}


@dataclass(frozen=True)
class Made:
    """What was made."""

    cfg: dict  # for `make_site`
    db: Database
    store: BlobStore
    projects: dict[str, Project]  # kind of label -> project
    items: dict[str, list[Item]]  # kind of label -> items


def picture(k: int, width: int = 64, height: int = 48) -> bytes:
    """A PNG that differs from the others."""
    pixels = np.full((height, width, 3), (40 + 7 * k % 200, 90, 200 - 5 * k % 150), np.uint8)
    cv2.rectangle(pixels, (5 + k % 20, 5), (30 + k % 20, 30), (255, 255, 255), -1)
    return cv2.imencode(".png", pixels)[1].tobytes()


def make_annotation_fixture(folder: Path, url: str = "", n: int = 8, rules: Rules = Rules(), app: dict | None = None) -> Made:
    """Fill a storage; `n` items a project."""
    url = url or f"sqlite:///{folder}/fsml.db"
    db, store = open_database(url), BlobStore(folder / "blobs")
    items, projects, k = {}, {}, 0
    for kind, classes in KINDS.items():
        items[kind] = []
        for _ in range(n):
            body, k = picture(k), k + 1
            about = f'A "{kind}" <script>alert({k})</script>'
            items[kind].append(Item(f"https://example.org/{kind}/{k}.png", store.put(body), kind, "image/png", caption=about, licence="CC0-1.0", width=64, height=48))
        db.add(items[kind])
        label = {"choice": Choice(("cat",)), "text": Text("abc"), "boxes": Boxes(())}[kind]
        db.add([Annotation(i.id, "truth", label) for i in items[kind]])
        projects[kind] = save_project(db, Project(f"{kind} <i>one</i>", kind, classes, {"source": [kind]}, rules, "About <u>it</u>"))
        fill(db, projects[kind])
        write_guide(db, projects[kind], f"# Guide\n\n<script>alert(1)</script>\n\n![one](item:{items[kind][0].id})", "man")
    for name, role in PEOPLE.items():
        accept(db, invite(db, role, "fsml"), name, PASSWORD)
    settings = {"per_second": 10_000, "sign_in_per_minute": 10_000, "session_seconds": 0.0, **(app or {})}
    return Made({"storage": {"url": url, "blobs": str(folder / "blobs"), "root": str(folder)}, "app": settings}, db, store, projects, items)


def sign_in(client, name: str, password: str = PASSWORD):
    """Sign a client of httpx or Starlette in by the form; afterwards it sends the token by itself."""
    page = client.get("/sign-in").text
    answer = client.post("/sign-in", data={"csrf": csrf_of(page), "name": name, "password": password}, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    client.headers["x-csrf"] = csrf_of(client.get("/me").text)
    return client


def csrf_of(page: str) -> str:
    """The token of a form."""
    return re.search(r'name="csrf" value="(\w+)"', page)[1]
