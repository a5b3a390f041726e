"""Milliseconds from a key to the next picture on the screen, in headless Chromium, against the real application on loopback.

    python benchmarks/annotate_keys.py [--labels 200] [--delay 0] [--pause 0.1] [--boxes 500] [--chromium /usr/bin/chromium]

The application runs as a process of its own on an empty SQLite storage with pictures that it is given here. A key is pressed when
the picture before stands on the screen. The time begins at the event's own timestamp and ends in the second animation frame after
the next picture has been put in: by then the frame that shows it has been handed over. A picture that is not
loaded yet when its turn comes is waited for, and the wait is counted. --delay adds milliseconds to every request of the page. The second figure is how long a frame takes while one of --boxes boxes is dragged about on one picture.
"""
import argparse
import contextlib
import io
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

PASSWORD = "three words are good"
NEXT = "n => new Promise(done => { const look = () => fsml.trail.length >= n && fsml.ready() ? done() : setTimeout(look, 2); look(); })"
# Moves the chosen box about for a second, one move a frame, and tells the time from frame to frame.
DRAG = """() => new Promise(done => {
  const stage = document.querySelector('.stage'), at = stage.querySelector('.picture').getBoundingClientRect(), gaps = [];
  const send = (type, x, y) => stage.dispatchEvent(new PointerEvent(type, {pointerId: 1, pointerType: 'mouse', button: 0, buttons: 1, bubbles: true, clientX: x, clientY: y}));
  stage.setPointerCapture = () => {};
  let k = 0, last = performance.now();
  send('pointerdown', at.left + 20, at.top + 20);
  const step = () => {
    const now = performance.now();
    gaps.push(now - last);
    last = now;
    if (k++ > 120) { send('pointerup', at.left + 60, at.top + 60); done(gaps.slice(2)); return; }
    send('pointermove', at.left + 30 + 2 * k, at.top + 30 + k);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def make_storage(folder: Path, url: str, labels: int, boxes: int) -> dict[str, str]:
    """Two projects and one annotator; gives name -> id of the projects."""
    from fullstack_ml.accounts import accept, invite
    from fullstack_ml.annotate import Project, Rules, fill, save_project
    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.records import Annotation, Box, Boxes, Item, open_database

    db, store, rng = open_database(url), BlobStore(f"{folder}/blobs"), np.random.default_rng(0)
    items = []
    for k in range(labels + 30):
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((640, 480), Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
        items.append(Item(url=f"https://example.org/{k}", sha256=store.put(out.getvalue()), source="keys" if k >= 5 else "boxes", mime="image/jpeg", width=640, height=480))
    db.add(items)
    many = Boxes(tuple(Box(int(x), int(y), int(w), int(h), "ab"[k % 2]) for k, (x, y, w, h) in enumerate(rng.integers((0, 0, 8, 8), (560, 400, 60, 60), (boxes, 4)))))
    db.add([Annotation(i.id, "model", many) for i in items[:5]])
    ids = {}
    for name, kind, classes in (("keys", "choice", ("one", "two", "three")), ("boxes", "boxes", ("a", "b"))):
        project = save_project(db, Project(name, kind, classes, {"source": [name]}, Rules(suggest="model")))
        fill(db, project)
        ids[name] = project.id
    for who, role in (("ann", "annotator"), ("man", "manager")):
        accept(db, invite(db, role, "benchmark", who), who, PASSWORD)
    return ids


@contextlib.contextmanager
def served(folder: Path, url: str):
    """The application as a process; gives its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    told = [f"storage.url={url}", f"storage.blobs={folder}/blobs", f"app.port={port}", "app.per_second=1000"]
    command = [Path(sys.executable).with_name("fsml"), "annotate-app", *told]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "FSML_ARTIFACTS": str(folder)}, start_new_session=True)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def show(name: str, times: list[float], note: str) -> None:
    times = sorted(times)
    print(f"{name:<34} n {len(times):>4}   p50 {statistics.median(times):6.1f} ms   p95 {times[int(0.95 * len(times))]:6.1f} ms   worst {times[-1]:6.1f} ms   {note}")


def press_keys(page: Page, labels: int, pause: float) -> list[float]:
    """One label after the other, each when the picture before it is there, and no faster than a very fast person."""
    page.wait_for_selector(".picture")
    time.sleep(1)
    for k in range(labels):
        page.keyboard.press("123"[k % 3])
        page.evaluate(NEXT, k + 1)
        time.sleep(pause)
    return page.evaluate("fsml.timings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0, help="milliseconds added to every request")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds from a picture to the next key")
    parser.add_argument("--boxes", type=int, default=500)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder, url = Path(name), f"sqlite:///{name}/fsml.db"
        ids = make_storage(folder, url, args.labels, args.boxes)
        with served(folder, url) as base:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(f"{base}/sign-in")
            page.fill("[name=name]", "ann")
            page.fill("[name=password]", PASSWORD)
            page.click("button.primary")
            page.wait_for_url(f"{base}/")
            if args.delay:
                page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", {"offline": False, "latency": args.delay, "downloadThroughput": -1, "uploadThroughput": -1})
            page.goto(f"{base}/p/{ids['keys']}/work")
            show("key to the next picture drawn", press_keys(page, args.labels, args.pause), f"640 x 480 JPEG, {args.delay:g} ms of delay, 2 frames included")
            page.wait_for_selector(".status[data-state=saved]")
            page.goto(f"{base}/p/{ids['boxes']}/work")
            page.wait_for_selector(".picture")
            time.sleep(0.5)
            for key in ("a", "Tab"):
                page.keyboard.press(key)
            show(f"one of {args.boxes} boxes dragged", page.evaluate(DRAG), "from frame to frame (16.7 is every frame of the screen)")
            browser.close()


if __name__ == "__main__":
    main()
