"""The crawler against a site that means harm, against kill -9, and beside others of its kind on one frontier."""
import asyncio
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiohttp
import pytest
from hostile import Hostile, figure, picture

from fullstack_ml.core import Refused, Unavailable
from fullstack_ml.fetch import CheckedResolver, fetch
from fullstack_ml.records import read_items

LIMIT_S, LIMIT_MB = 60, 300
# A crawl in a process of its own; its last line is what came of it.
CHILD = """
import json, sys, time
from fullstack_ml.core import compose_cfg
from fullstack_ml.crawl import crawl
started = time.monotonic()
m = crawl(compose_cfg("crawl", sys.argv[2:], out=sys.argv[1]))
print("\\n" + json.dumps({"dir": str(m.path("report.json").parent), "metrics": m.metrics, "seconds": time.monotonic() - started}))
"""


def start(out: Path, *overrides: str, **env: str) -> subprocess.Popen:
    """A crawl as a child process."""
    home = {"FSML_HOME": str(out), "FSML_ARTIFACTS": str(out / "artifacts"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", CHILD, str(out), *overrides], env={**os.environ, **home, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(child: subprocess.Popen, seconds: float) -> dict:  # dir, metrics, peak_mb, seconds
    """Wait for a crawl to end by itself; meanwhile its memory is looked at, with that of its children."""
    import psutil

    peak, over, tree = [0.0], threading.Event(), psutil.Process(child.pid)

    def watch() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(psutil.Error):
                peak[0] = max(peak[0], sum(p.memory_info().rss for p in [tree, *tree.children(recursive=True)]) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        said, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        said, errors = child.communicate()
        pytest.fail(f"the crawl does not end by itself within {seconds} s: {said[-500:]} {errors[-1500:]}")
    finally:
        over.set()
        watcher.join()
    assert child.returncode == 0, (child.returncode, said[-500:], errors[-3000:])
    return json.loads(said.strip().splitlines()[-1]) | {"peak_mb": peak[0]}


def fetches(folder: str) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(Path(folder) / "fetches.parquet").to_pylist()


# ---------------------------------------------------------------- the hostile site


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    """One crawl of the whole hostile site: what it took, and what it wrote down."""
    out = tmp_path_factory.mktemp("hostile")
    with Hostile() as site:
        child = start(
            out, "source=web", "source.name=hostile", f"source.start=['{site.url('main', '/')}']", f"source.hosts={site.hosts}", "source.allow_private=[127.0.0.1]",
            "source.delay=0", "source.per_host=16", "workers=24", "retries=1",
            "timeouts.connect=1", "timeouts.read=1", "timeouts.headers=2", "timeouts.body=2", "timeouts.whole=3", "timeouts.reader=3",
            "budget.n_pages=1500", "budget.seconds=45", "licences=[CC-BY-4.0]", "report=null",
        )  # fmt: skip
        took = finish(child, LIMIT_S)
        asked = list(site.asked)
    rows = {r["url"]: r for r in fetches(took["dir"])}
    items = {i.url: i for i in read_items(Path(took["dir"]) / "items.parquet")}
    return site, took, rows, items, asked


def test_the_crawl_ends_by_itself(crawled):
    assert crawled[1]["seconds"] < LIMIT_S


def test_it_stays_in_its_memory(crawled):
    assert crawled[1]["peak_mb"] < LIMIT_MB


def test_every_good_picture_is_kept(crawled):
    site, _, rows, items, _ = crawled
    kept = {url: items[url].sha256 for url in site.good if url in items and items[url].state == "kept"}
    lost = {url: (rows.get(url) or {}).get("reason", "never found") for url in site.good.keys() - kept.keys()}
    assert not lost
    assert kept == site.good


def test_nothing_else_is_kept(crawled):
    site, _, _, items, _ = crawled
    fine = {site.url(b.site, b.path) for b in site.bad if b.fine}
    assert {i.url for i in items.values() if i.state == "kept"} <= site.good.keys() | fine


def cases():
    """All bad addresses, by a plan that binds no port."""
    plan = Hostile()
    plan.ports = dict.fromkeys(Hostile.SITES, 0)
    plan._plan()
    return plan.bad


@pytest.mark.parametrize("bad", cases(), ids=lambda b: b.name)
def test_the_reason_is_recorded(crawled, bad):
    site, _, rows, items, _ = crawled
    url = site.url(bad.site, bad.path)
    row = rows.get(url)
    assert row, "the address is not recorded"
    if bad.fine and row["state"] == "done":
        return
    assert row["state"] not in ("done", "todo") and re.search(bad.why, row["reason"]), (row["state"], row["reason"])
    if bad.kind == "picture" and row["state"] != "left":
        assert url in items, (row["state"], row["reason"])
        assert items[url].state == "refused" and not items[url].sha256 and re.search(bad.why, items[url].meta.get("reason", items[url].reason))


def test_the_intranet_is_never_asked(crawled):
    assert not [path for site, path in crawled[4] if site == "secret"]


def test_what_robots_close_is_never_asked(crawled):
    closed = {("main", "/closed/room")} | {(site, path) for site in ("robots503", "robotshang", "robotsdrip", "robotsreset") for path in ("/page", "/1.png")}
    assert not closed & set(crawled[4])


@pytest.mark.parametrize("trap", ["/trap/", "/cal/", "/a/", "/shop"])
def test_no_trap_takes_the_budget(crawled, trap):
    site, _, rows, _, asked = crawled
    n = sum(where == "main" and path.startswith(trap) for where, path in asked)
    assert 0 < n < 800
    left = [r for url, r in rows.items() if url.startswith(site.url("main", trap)) and r["state"] not in ("done", "todo")]
    assert left and all(r["reason"] for r in left), "why the rest of the trap was left alone is recorded"


# ---------------------------------------------------------------- names that turn


def resolver_of(answers, monkeypatch):
    """The system's resolver gives these lists of addresses, one after the other."""
    left = iter(answers)

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": a, "port": port, "family": 2, "proto": 0, "flags": 0} for a in next(left)]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


def test_a_name_that_turns_private_is_refused(monkeypatch):
    resolver_of([["93.184.216.34"], ["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1"]], monkeypatch)

    async def ask():
        resolver = CheckedResolver([])
        assert [r["host"] for r in await resolver.resolve("turns.example", 80)] == ["93.184.216.34"]
        for _ in range(3):
            with pytest.raises(Refused, match="not public"):
                await resolver.resolve("turns.example", 80)

    asyncio.run(ask())


def test_one_private_address_among_public_ones_is_never_connected_to(monkeypatch):
    resolver_of([["93.184.216.34", "127.0.0.1"]], monkeypatch)

    async def ask():
        try:
            found = await CheckedResolver([]).resolve("mixed.example", 80)
        except Refused:
            return
        assert [r["host"] for r in found] == ["93.184.216.34"]

    asyncio.run(ask())


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """The name answers publicly once and privately ever after; nobody asks it a second time."""
    resolver_of([["93.184.216.34"], ["127.0.0.1"]], monkeypatch)
    tried = []

    async def connect(addr_infos, **kwargs):
        tried.extend(info[4][0] for info in addr_infos)
        raise OSError("not from here")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", connect)

    async def ask():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=CheckedResolver([]))) as session:
            with pytest.raises(Unavailable):
                await fetch(session, "http://turns.example/", {"max_body_mb": 1, "redirects": 3, "timeouts": {"connect": 2, "read": 2, "headers": 2, "body": 2, "whole": 5}})

    asyncio.run(ask())
    assert tried and set(tried) == {"93.184.216.34"}


# ---------------------------------------------------------------- a site that is only large


class Large:
    """Some hundred pages in a tree, three pictures on each, a small pause before each answer, and a log."""

    def __init__(self, n_pages: int, pause: float):
        self.asked: list[str] = []
        self.answers: dict[str, tuple[str, bytes]] = {"/robots.txt": ("text/plain", b"User-agent: *\nDisallow:\n")}
        for k in range(n_pages):
            links = "".join(f'<a href="/p/{j}">on</a>' for j in [*range(4 * k + 1, 4 * k + 5), k // 2, 0] if j < n_pages)
            self.answers[f"/p/{k}"] = ("text/html", (links + "".join(figure(f"/i/{k}-{j}", f"{k} {j}") for j in range(2)) + figure(f"/i/{k // 3}-0")).encode())
            for j in range(2):
                self.answers[f"/i/{k}-{j}"] = picture(5 * k + j)[::-1]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True

            def do_GET(self):
                outer.asked.append(self.path)
                time.sleep(pause)
                kind, body = outer.answers.get(self.path, ("text/html", b"<p>nothing"))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.handle_error = True, lambda *args: None
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Large":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def pictures(self) -> dict[str, str]:  # path -> SHA-256
        return {path: hashlib.sha256(body).hexdigest() for path, (kind, body) in self.answers.items() if kind.startswith("image")}

    def rules(self, workers: int) -> list[str]:
        """One source for all who crawl it."""
        return [
            "source=web", "source.name=large", f"source.start=['{self.url}/p/0']", "source.allow_private=[127.0.0.1]", "source.delay=0", f"source.per_host={workers}", f"workers={workers}",
            "licences=[CC-BY-4.0]",
        ]  # fmt: skip


def asked_of(site: Large) -> collections.Counter:
    """How often each address was asked for, what is asked once a host and process aside."""
    return collections.Counter(path for path in site.asked if path not in ("/robots.txt", "/ai.txt") and not path.startswith("/.well-known/"))


def kept(folder: str) -> set[tuple[str, str, str]]:
    return {(i.id, i.sha256, i.licence) for i in read_items(Path(folder) / "items.parquet") if i.state == "kept"}


def test_ten_kills_at_random_change_nothing(tmp_path):
    """kill -9 ten times: the set of an unbroken crawl, and twice only what was in flight."""
    rng, workers, n_kills = random.Random(7), 6, 10
    with Large(200, 0.004) as site:
        unbroken = kept(finish(start(tmp_path / "unbroken", *site.rules(workers)), 60)["dir"])
        assert {sha for _, sha, _ in unbroken} == set(site.pictures.values())
        site.asked.clear()
        at = sorted(rng.sample(range(1, 560), n_kills - 2))
        for k in range(n_kills):
            child = start(tmp_path / "killed", *site.rules(workers))
            if k in (0, 5):  # also while it starts, or moves in
                time.sleep(rng.uniform(0.2, 1.5))
            else:
                while len(set(site.asked)) < at[0] and child.poll() is None:
                    time.sleep(0.002)
                at.pop(0)
                time.sleep(rng.uniform(0, 0.03))
            child.send_signal(signal.SIGKILL)
            child.communicate()
        assert len(set(site.asked)) < len(site.answers), "the last kill came before the end"
        assert not list((tmp_path / "killed").rglob("items.parquet")), "a killed crawl leaves no artefact"
        took = finish(start(tmp_path / "killed", *site.rules(workers)), 60)
        asked = asked_of(site)
    assert kept(took["dir"]) == unbroken
    twice = sum(n - 1 for n in asked.values())
    assert asked.keys() == site.answers.keys() - {"/robots.txt"} and twice <= workers * n_kills, twice


# ---------------------------------------------------------------- several at once


def test_several_processes_share_one_frontier(tmp_path, database_url):
    """Three crawlers of one source on one database: the whole set, and no address twice."""
    with Large(120, 0.02) as site:
        children = [start(tmp_path, *site.rules(4), FSML_DATABASE_URL=database_url) for _ in range(3)]
        took = [finish(child, 90) for child in children]
        asked = asked_of(site)
    for t in took:  # whoever ends first waits for the others, or says as much as all of them know
        assert {sha for _, sha, _ in kept(t["dir"])} == set(site.pictures.values())
    assert site.asked.count("/robots.txt") <= 3
    assert asked.keys() == site.answers.keys() - {"/robots.txt"} and set(asked.values()) == {1}
    assert all(t["metrics"]["requests"] > 0 for t in took), "each of them did a part"


def test_a_killed_crawler_leaves_its_part_to_the_others(tmp_path, database_url):
    """One of two is killed: the other takes over what it held, and the set is whole."""
    with Large(120, 0.02) as site:
        children = [start(tmp_path, *site.rules(4), FSML_DATABASE_URL=database_url) for _ in range(2)]
        while len(set(site.asked)) < 60 and children[0].poll() is None:
            time.sleep(0.005)
        children[1].kill()
        children[1].communicate()
        took = finish(children[0], 90)
        twice = sum(n - 1 for n in asked_of(site).values())
    assert {sha for _, sha, _ in kept(took["dir"])} == set(site.pictures.values())
    assert twice <= 4, "what the killed one had in flight"
