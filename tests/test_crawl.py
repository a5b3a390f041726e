"""The crawler: what it keeps, where it never goes, and what it survives."""
import asyncio
import collections
import contextlib
import gzip
import http.server
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import aiohttp
import pytest
from PIL import Image

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, FsmlError, NotFound, Refused, TooLarge, Unavailable, compose_cfg
from fullstack_ml.crawl import Crawler, crawl
from fullstack_ml.fetch import Answer, CheckedResolver, Hosts, Robots, canonical, check_address, fetch, retry_after, run_async
from fullstack_ml.frontier import Frontier
from fullstack_ml.pages import Found
from fullstack_ml.records import Item, list_artifacts, open_database, read_items
from fullstack_ml.sample_site import CC_BY, Site, gallery

LIMITS = {"max_body_mb": 0.5, "redirects": 3, "max_pixels": 10**7, "min_side": 8, "min_contrast": 8, "timeouts": {"connect": 2, "read": 2, "headers": 4, "body": 4, "whole": 5}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def site(n_items, port=0, seed=0):
    """The sample site in this process, so that its log can be read."""
    with Site(port, seed, n_items) as s:
        threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield s
        s.shutdown()


def config(url, out, *overrides):
    """The sample's rules for a server that is up already."""
    return compose_cfg("crawl", ["source.host=null", "source.sheets=null", f"source.start=['{url}/']", "read_site_signs=false", *overrides], out=str(out))


@contextlib.contextmanager
def server(answers):
    """A web site from a dict: path -> (status, headers, body), or a function of the handler."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", -1, True

        def do_GET(self):
            self.server.asked.append((self.path, time.monotonic()))
            self.server.heads.append(dict(self.headers))
            found = answers.get(self.path.partition("?")[0], (404, {}, b"not here"))
            if callable(found):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    return found(self)
                return None
            status, headers, body = found
            self.send_response(status)
            for name, value in {"Content-Type": "text/html", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.daemon_threads, s.asked, s.heads, s.url, s.answers = True, [], [], f"http://127.0.0.1:{s.server_port}", answers
    s.handle_error = lambda *args: None
    threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield s
    finally:
        s.shutdown()
        s.server_close()


def web(url, out, *overrides):
    """A site of one's own, by configuration only."""
    base = ["source=web", "source.name=mine", f"source.start=['{url}/']", "source.allow_private=[127.0.0.1]", "source.delay=0", "source.per_host=4", "retries=0", "read_site_signs=false", "contact=http://example.org/crawl"]
    return compose_cfg("crawl", [*base, *overrides], out=str(out))


def png(seed=0, side=24):
    out = io.BytesIO()
    Image.effect_noise((side, side), 60 + seed).save(out, "PNG")
    return out.getvalue()


def figure(src, caption="a seven", licence=CC_BY):
    return f'<figure><img src="{src}"><figcaption>{caption}</figcaption><a rel="license" href="{licence}">licence</a></figure>'


def get_one(url, allowed=("127.0.0.1",), may=None, limits=LIMITS):
    async def go():
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=CheckedResolver(allowed))) as session:
            return await fetch(session, url, limits, may, allowed)

    return asyncio.run(go())


# ---------------------------------------------------------------- the sample site


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    out = tmp_path_factory.mktemp("crawl")
    with site(200) as s:
        before = os.environ.get("FSML_HOME")
        os.environ["FSML_HOME"] = str(out)
        try:
            cfg = config(s.url, out)
            yield crawl(cfg), s, cfg
        finally:
            os.environ.pop("FSML_HOME") if before is None else os.environ.update(FSML_HOME=before)


def test_exactly_the_allowed_pictures_are_kept(crawled):
    m, s, cfg = crawled
    kept = {i.url.removeprefix(s.url): i for i in read_items(m.path("items.parquet")) if i.state == "kept"}
    allowed = {p.path: p for p in gallery(0, 200) if p.licence == CC_BY}
    assert kept.keys() == allowed.keys()
    store = BlobStore(cfg.storage.blobs)
    for path, item in kept.items():
        p = allowed[path]
        assert (item.caption, item.author, item.licence, item.mime) == (p.caption, "E. Alpaydin and C. Kaynak", "CC-BY-4.0", p.mime)
        assert item.page_url.startswith(f"{s.url}/page/") and item.licence_from and item.phash and (item.width, item.height) == (32, 32)
        assert store.get(item.sha256, check=True) == p.data


def test_what_is_not_kept_has_its_reason(crawled):
    m, s, _ = crawled
    why = {r["url"].removeprefix(s.url): r["reason"] for r in m.read_json("report.json")["not_kept"]}
    assert "robots.txt" in why["/private/"] and "circle" in why["/moved/a"] and "does not end" in why["/endless"] and "404" in why["/gone"]
    assert why["/pictures/broken.png"].startswith("The picture cannot be decoded")
    closed = {p.path for p in gallery(0, 200) if p.licence != CC_BY}
    assert closed and all(why[path].startswith("licence not allowed: all-rights-reserved") for path in closed)
    assert why.keys() == closed | {"/private/", "/moved/a", "/endless", "/gone", "/pictures/broken.png"}
    refused = {i.url.removeprefix(s.url): i for i in read_items(m.path("items.parquet")) if i.state == "refused"}
    assert refused.keys() == closed | {"/pictures/broken.png"} and not any(i.sha256 for i in refused.values())


def test_the_forbidden_and_the_unlicensed_are_never_asked_for(crawled):
    _, s, _ = crawled
    asked = collections.Counter(s.asked)
    closed = {p.path for p in gallery(0, 200) if p.licence != CC_BY}
    assert not any(path.startswith("/private") for path in asked) and not closed & asked.keys()
    assert s.asked[0] == "/robots.txt" and max(asked.values()) == 1, "no address is asked for twice"


def test_again_gives_the_same_items(crawled):
    m, s, cfg = crawled
    again = crawl(cfg)
    assert [(i.id, i.sha256) for i in read_items(again.path("items.parquet"))] == [(i.id, i.sha256) for i in read_items(m.path("items.parquet"))]


def test_inside_a_running_loop_twice(tmp_path):
    async def notebook():
        with site(20) as s:
            return [crawl(config(s.url, tmp_path)).metrics["kept"] for _ in range(2)]

    n = sum(p.licence == CC_BY for p in gallery(0, 20))
    assert asyncio.run(notebook()) == [n, n]


def test_a_stop_inside_a_loop_stops_the_crawl():
    """The notebook's stop button must not leave a crawl running behind."""
    seen = []

    async def work():
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def notebook():
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        run_async(work())

    def stop(*_):
        raise InterruptedError("stop")

    old = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(InterruptedError):
            asyncio.run(notebook())
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert seen == ["cancelled"]


CHILD = "import sys; from fullstack_ml.core import compose_cfg; from fullstack_ml.crawl import crawl; crawl(compose_cfg('crawl', sys.argv[2:], out=sys.argv[1]))"


def test_kill_and_again(tmp_path):
    """kill -9 twice in the middle: the same set as an unbroken crawl, and only what was in flight is asked for twice."""
    with site(300) as s:
        overrides = ["source.host=null", "source.sheets=null", f"source.start=['{s.url}/']", "workers=8", "source.delay=0.004", "read_site_signs=false"]
        command = [sys.executable, "-c", CHILD, str(tmp_path), *overrides]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        for share in (0.35, 0.7):
            child = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            while len(set(s.asked)) < share * 330 and child.poll() is None:
                time.sleep(0.005)
            assert child.poll() is None, child.stderr.read().decode()[-2000:]
            child.kill()
            child.wait()
            child.stderr.close()
        time.sleep(0.2)
        cfg = compose_cfg("crawl", overrides, out=str(tmp_path))
        assert list_artifacts(cfg, "crawl") == []
        m = crawl(cfg)
        asked = collections.Counter(s.asked)
        kept = {i.url.removeprefix(s.url) for i in read_items(m.path("items.parquet")) if i.state == "kept"}
        assert kept == {p.path for p in gallery(0, 300) if p.licence == CC_BY}
        asked.pop("/robots.txt")
        twice = sum(n - 1 for n in asked.values())
        assert twice <= 2 * 8, twice
        assert m.metrics["pages"] == len([path for path in s.files if path.startswith("/page/")]) + 2


def test_what_was_spent_stays_spent(tmp_path):
    """A budget of pages holds over a kill."""
    pages = {f"/{k}": (200, {}, f'<a href="/{k + 1}">on</a>{figure(f"/{k}.png")}'.encode()) for k in range(1, 20)}
    with server({**pages, "/": pages["/1"], **{f"/{k}.png": (200, {"Content-Type": "image/png"}, png(k)) for k in range(20)}}) as s:
        cfg = web(s.url, tmp_path, "budget.n_pages=5")
        crawler = Crawler(cfg, open_database(cfg.storage.url), BlobStore(cfg.storage.blobs))
        frontier = crawler.frontier
        frontier.open(crawler.key)
        for k in range(4):  # as a crawl would have left it when it was killed: four pages done, one to do
            frontier.found(f"{s.url}/{k or ''}", "page", k, "")
            frontier.finish(frontier.rows[-1], "done")
        frontier.found(f"{s.url}/4", "page", 4, "")
        frontier.close()
        crawl(cfg)
        asked = [path for path, _ in s.asked if path != "/robots.txt"]
    assert "/4" in asked and not {"/", "/1", "/2", "/3", "/5"} & set(asked)


def test_pictures_of_another_host_survive_a_kill(tmp_path):
    """Where pictures come from anywhere, those that are still to do on another host are carried on."""
    with server({"/a.png": (200, {"Content-Type": "image/png"}, png())}) as cdn, server({"/": (200, {}, b"nothing")}) as s:
        cfg = web(s.url, tmp_path)
        crawler = Crawler(cfg, open_database(cfg.storage.url), BlobStore(cfg.storage.blobs))
        frontier = crawler.frontier
        frontier.open(crawler.key)
        frontier.found(f"{s.url}/", "page", 0, "start")
        frontier.finish(frontier.rows[-1], "done")
        crawler.push(f"{cdn.url}/a.png", "picture", 1, "", Item(url=f"{cdn.url}/a.png", source="mine", licence="CC-BY-4.0", page_url=f"{s.url}/"))
        frontier.close()
        assert crawl(cfg).metrics["kept"] == 1
        assert [path for path, _ in cdn.asked] == ["/robots.txt", "/a.png"] and s.asked == []


def test_the_rows_of_the_dead_are_taken_at_once(tmp_path):
    """A worker of this machine that is no more gives its addresses back without waiting for its lease."""
    db = open_database(f"sqlite:///{tmp_path}/a.db")
    dead, alive, ours = Frontier(db, "s"), Frontier(db, "s"), Frontier(db, "s")
    child = subprocess.Popen(["true"])
    child.wait()
    dead.me = f"{dead.me.rpartition('/')[0]}/{child.pid}-x"
    for f in (dead, alive, ours):
        f.open("key")
    for k in range(4):
        ours.found(f"http://h/{k}", "page", 0, "")
    ours.flush()
    assert len(dead.claim(2)) == 2 and len(alive.claim(1)) == 1
    assert len(ours.claim(9)) == 3, "one is free, two were held by the dead"
    assert ours.renew() == 1


def test_a_new_crawl_asks_whether_anything_changed(tmp_path):
    """Nothing changed: 304 for everything, the same items. A changed page and picture come anew, a vanished one is gone."""
    with site(60) as s:
        cfg = config(s.url, tmp_path)
        first = crawl(cfg)
        n_asked = len(s.asked)
        again = crawl(cfg)
        assert len(s.asked) <= 2 * n_asked
        fetched = {r["url"]: r["status"] for r in fetches(again)}
        kept = [i for i in read_items(again.path("items.parquet")) if i.state == "kept"]
        assert all(fetched[i.url] == 304 for i in kept) and fetched[f"{s.url}/page/1"] == 304
        assert [(i.id, i.sha256, i.phash, i.caption) for i in kept] == [(i.id, i.sha256, i.phash, i.caption) for i in read_items(first.path("items.parquet")) if i.state == "kept"]
        gone, changed = kept[0].url.removeprefix(s.url), kept[1].url.removeprefix(s.url)
        s.files[changed] = ("image/png", png(3))
        del s.files[gone]
        third = crawl(cfg)
        items = {i.url.removeprefix(s.url): i for i in read_items(third.path("items.parquet"))}
        assert items[gone].state == "refused" and "404" in items[gone].reason and items[changed].sha256 not in ("", kept[1].sha256)
        store = BlobStore(cfg.storage.blobs)
        store.delete(kept[2].sha256)  # what is not in the store any more is fetched whole
        assert crawl(cfg).metrics["kept"] == third.metrics["kept"] and kept[2].sha256 in store


def fetches(manifest):
    import pyarrow.parquet as pq

    return pq.read_table(manifest.path("fetches.parquet")).to_pylist()


# ---------------------------------------------------------------- another site


def test_another_site_by_configuration_only(tmp_path):
    """Other tags, lazy pictures, a licence in the head, a base address, relative links, entities."""
    page = """<head><base href="/deep/er/"><link rel="license" href="http://creativecommons.org/publicdomain/zero/1.0/"></head>
    <div class="card" data-by="Ada &amp; Ben"><picture data-full="../pic/1.png"></picture><h3>Sept,  7</h3></div>
    <div class="card"><picture data-full="/pic/2.png"></picture><h3>Un</h3><i class="cc">CC BY-SA 4.0</i></div>
    <div class="card"><h3>without a picture</h3></div> <a class="more" href="?p=2&amp;o=1#top">plus</a> <a href="/ignored">no</a> <a class="more" href="/login">in</a>"""
    files = {"/": page, "/deep/er/": '<div class="card" data-by="Zoe"><picture data-full="/pic/3.png"></picture><h3>Trois</h3></div>'}
    answers = {path: (200, {}, text.encode()) for path, text in files.items()}
    answers |= {path: (200, {"Content-Type": "image/png"}, png(k)) for k, path in enumerate(["/deep/pic/1.png", "/pic/2.png", "/pic/3.png"])}
    rules = "{select: .card, image: [picture@data-full], caption: h3, author: ['@data-by'], licence: [i.cc]}"
    with server(answers) as s:
        m = crawl(web(s.url, tmp_path, f"source.item={rules}", "source.follow=[a.more]", "source.licence='CC BY 4.0'", "source.author=nobody", "licences=null"))
        asked = [path for path, _ in s.asked]
        heads = s.heads
    items = {i.caption: (i.url.removeprefix(s.url), i.author, i.licence, i.licence_from) for i in read_items(m.path("items.parquet"))}
    assert items == {
        "Sept, 7": ("/deep/pic/1.png", "Ada & Ben", "CC0-1.0", "page: link[rel~=license]@href"),
        "Un": ("/pic/2.png", "nobody", "CC-BY-SA-4.0", "i.cc"),
        "Trois": ("/pic/3.png", "Zoe", "CC-BY-4.0", "site rule"),
    }
    assert "/deep/er/?o=1&p=2" in asked and "/ignored" not in asked and "/login" not in asked
    assert all("http" in h["User-Agent"] and "Cookie" not in h for h in heads), "the agent names a contact"


def test_a_start_that_is_no_address_is_refused(tmp_path):
    for start in ("file:///etc/passwd", "/relative", "gopher://x/", "http://", ""):
        with pytest.raises(BadConfig, match="start"):
            crawl(web("", tmp_path, f"source.start=['{start}']"))


def test_pause_between_requests(tmp_path):
    """Redirects and robots' own delay count: no two requests of a host are closer than the pause."""
    answers = {"/robots.txt": (200, {"Content-Type": "text/plain"}, b"User-agent: *\nCrawl-delay: 0.15"), "/": (200, {}, (figure("/1.png") + figure("/2.png")).encode()),
               "/1.png": (302, {"Location": "/3.png"}, b""), **{f"/{k}.png": (200, {"Content-Type": "image/png"}, png(k)) for k in (2, 3)}}
    with server(answers) as s:
        crawl(web(s.url, tmp_path, "source.delay=0.02"))
        times = [t for path, t in s.asked if path != "/robots.txt"]
    assert len(times) == 4 and min(b - a for a, b in zip(times, times[1:])) > 0.13


def test_a_pause_beyond_the_budget_ends_the_crawl(tmp_path):
    answers = {"/robots.txt": (200, {}, b"User-agent: *\nCrawl-delay: 86400"), "/": (200, {}, (figure("/1.png") + figure("/2.png")).encode())}
    with server(answers) as s, pytest.raises(NotFound, match="kept nothing"):
        started = time.monotonic()
        crawl(web(s.url, tmp_path, "budget.seconds=3"))
    assert time.monotonic() - started < 10


def test_busy_host_is_asked_again(tmp_path):
    calls = collections.Counter()

    def busy(h):
        calls["n"] += 1
        body = png() if calls["n"] > 1 else b""
        h.send_response(200 if body else 503)
        h.send_header("Retry-After", "0")
        h.send_header("Content-Type", "image/png")
        h.send_header("Content-Length", str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    with server({"/": (200, {}, figure("/1.png").encode()), "/1.png": busy}) as s:
        assert crawl(web(s.url, tmp_path, "retries=1")).metrics["kept"] == 1


# ---------------------------------------------------------------- where a crawl may begin


def test_every_kind_of_beginning(tmp_path):
    """A sitemap named in robots.txt, a feed, a list on this machine, an API with pages, a folder: one configuration, the same items."""
    import gzip as gz

    picture = {"Content-Type": "image/png"}
    (tmp_path / "pictures" / "three").mkdir(parents=True)
    (tmp_path / "pictures" / "three" / "a.png").write_bytes(png(41))
    (tmp_path / "pictures" / "metadata.csv").write_text("file_name,caption,licence\nthree/a.png,from a folder,CC0-1.0\n")
    with server({}) as s:
        u = s.url
        (tmp_path / "list.csv").write_text(f"address,text,terms\n{u}/list.png,from a list,CC0-1.0\n")
        feed = f"""<rss version="2.0" xmlns:media="http://search.yahoo.com/mrss/" xmlns:cc="http://creativecommons.org/ns#"><channel><item><title>from a feed</title>
            <link>{u}/page</link><media:content url="{u}/feed.png" medium="image"/><cc:license>{CC_BY}</cc:license></item></channel></rss>"""
        api = [{"results": [{"url": f"{u}/api{k}.png", "title": f"from an api {k}", "license": "by", "license_version": "4.0"}], "next": f"{u}/api/2" if k == 1 else None} for k in (1, 2)]
        sitemap = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"><url><loc>{u}/mapped</loc></url></urlset>'
        answers = {
            "/robots.txt": (200, {}, f"User-agent: *\nSitemap: {u}/map.xml.gz".encode()), "/map.xml.gz": (200, {"Content-Type": "application/gzip"}, gz.compress(sitemap.encode())),
            "/mapped": (200, {}, figure("/mapped.png", "from a sitemap").encode()), "/page": (200, {}, b"<p>no picture"), "/feed": (200, {"Content-Type": "application/rss+xml"}, feed.encode()),
            "/api/1": (200, {"Content-Type": "application/json"}, json.dumps(api[0]).encode()), "/api/2": (200, {"Content-Type": "application/json"}, json.dumps(api[1]).encode()), "/": (200, {}, b"<p>start"),
            **{f"/{name}.png": (200, picture, png(k)) for k, name in enumerate(("mapped", "feed", "list", "api1", "api2"))},
        }
        s.answers.update(answers)
        m = crawl(web(
            u, tmp_path, "source.sitemaps=[robots.txt]", f"source.feeds=['{u}/feed']", "source.lists=[list.csv]", f"source.apis=['{u}/api/1']", "source.folders=[pictures]",
            "source.list={url: address, page_url: null, caption: text, author: null, licence: terms, kind: picture}",
            "source.api.records=results", "source.api.image=url", "source.api.caption=title", "source.api.licence='license license_version'", "source.api.next=next",
        ))  # fmt: skip
    kept = {i.caption: (i.licence, i.url.rpartition("/")[2]) for i in read_items(m.path("items.parquet")) if i.state == "kept"}
    assert kept == {
        "from a sitemap": ("CC-BY-4.0", "mapped.png"), "from a feed": ("CC-BY-4.0", "feed.png"), "from a list": ("CC0-1.0", "list.png"),
        "from an api 1": ("CC-BY-4.0", "api1.png"), "from an api 2": ("CC-BY-4.0", "api2.png"), "from a folder": ("CC0-1.0", "a.png"),
    }  # fmt: skip


def read_letters(body, url, headers, source):
    """A reader of one's own, as a configuration may name it."""
    from fullstack_ml.pages import Found

    return Found(links=[], items=[Item(url=f"{url}{line}.png", source=source["name"], caption=line, licence="CC0-1.0") for line in body.decode().split()])


def test_where_yaml_ends_a_function_begins(tmp_path):
    with server({"/": (200, {"Content-Type": "text/letters"}, b"a b"), **{f"/{c}.png": (200, {"Content-Type": "image/png"}, png(k)) for k, c in enumerate("ab")}}) as s:
        m = crawl(web(s.url, tmp_path, "source.reader={_target_: hydra.utils.get_method, path: test_crawl.read_letters}"))
    assert sorted(i.caption for i in read_items(m.path("items.parquet")) if i.state == "kept") == ["a", "b"]


def test_a_beginning_that_cannot_be_used(tmp_path):
    with pytest.raises(NotFound, match="nowhere.csv"):
        crawl(web("http://127.0.0.1:9", tmp_path, "source.lists=[nowhere.csv]"))
    with pytest.raises(BadConfig, match="password"):
        crawl(web("http://ada:secret@127.0.0.1:9", tmp_path))
    with pytest.raises(BadConfig, match="contact"):
        crawl(web("http://gallery.example", tmp_path, "contact=null"))
    with pytest.raises(BadConfig, match="place to start"):
        crawl(web("http://127.0.0.1:9", tmp_path, "source.start=[]"))


# ---------------------------------------------------------------- what may be kept


def with_exif(licence, seed=9):
    out, image = io.BytesIO(), Image.effect_noise((24, 24), 90 + seed)
    exif = Image.Exif()
    exif[0x8298], exif[0x013B] = licence, "Ada"
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_policy_decides_what_may_enter(tmp_path):
    """Allowed, waiting for review, refused; a file may speak where the page is silent, and contradict it; opt-outs come first."""
    jpeg = {"Content-Type": "image/jpeg"}
    shown = figure("/by.jpg", "by") + figure("/nc.jpg", "nc", "https://creativecommons.org/licenses/by-nc/4.0/") + figure("/sly.jpg", "sly")
    silent = '<figure><img src="/{}"><figcaption>{}</figcaption></figure>'
    answers = {
        "/": (200, {}, (shown + silent.format("open.jpg", "open") + silent.format("mute.jpg", "mute") + '<a href="/no">no</a>').encode()),
        "/no": (200, {"X-Robots-Tag": "noai, noimageai"}, figure("/noai.jpg", "noai").encode()), "/ai.txt": (200, {"Content-Type": "text/plain"}, b"User-Agent: *\nDisallow: /nc.jpg"),
        "/by.jpg": (200, jpeg, with_exif("", 1)), "/nc.jpg": (200, jpeg, with_exif("", 2)), "/sly.jpg": (200, jpeg, with_exif("All rights reserved", 3)),
        "/open.jpg": (200, jpeg, with_exif("CC BY 4.0", 4)), "/mute.jpg": (200, jpeg, with_exif("", 5)), "/noai.jpg": (200, jpeg, with_exif("", 6)),
    }  # fmt: skip
    with server(answers) as s:
        m = crawl(web(s.url, tmp_path, "review=[CC-BY-NC*]"))
        store = BlobStore(compose_cfg("crawl", out=str(tmp_path)).storage.blobs)
        items = {i.caption: i for i in read_items(m.path("items.parquet"))}
        assert {k: (i.state, i.reason) for k, i in items.items()} == {
            "by": ("kept", ""), "open": ("kept", ""), "nc": ("review", "licence not allowed: CC-BY-NC-4.0"), "sly": ("review", "the file says otherwise: all-rights-reserved"),
            "mute": ("refused", "licence not allowed: unknown"), "noai": ("refused", "opted out: noai noimageai"),
        }  # fmt: skip
        assert items["open"].licence == "CC-BY-4.0" and "EXIF" in items["open"].licence_from and items["open"].author == "Ada"
        assert all((i.sha256 in store) == (i.state != "refused") for i in items.values() if i.sha256) and not items["mute"].sha256
        assert "/noai.jpg" not in [path for path, _ in s.asked] and "/mute.jpg" in [path for path, _ in s.asked]
        m = crawl(web(s.url, tmp_path, "read_site_signs=true", "review=[CC-BY-NC*]", "read_embedded=false"))
        items = {i.caption: i for i in read_items(m.path("items.parquet"))}
        assert items["nc"].reason == "opted out: ai.txt" and items["open"].reason == "licence not allowed: unknown"
        s.answers["/ai.txt"] = (200, {"Content-Type": "text/plain"}, b"User-agent: mine\nDisallow: /by.jpg")
        for agent, state in (("mine", "refused"), ("other", "kept")):  # what is said to one name is said to whoever bears it
            m = crawl(web(s.url, tmp_path, "read_site_signs=true", f"agent={agent}"))
            assert {i.caption: i.state for i in read_items(m.path("items.parquet"))}["by"] == state
        m = crawl(web(s.url, tmp_path, "licences=[CC-BY-4.0,CC-BY-NC-4.0]", "opt_out=allow"))
        assert {i.caption: i.state for i in read_items(m.path("items.parquet"))} == {"by": "kept", "open": "kept", "nc": "kept", "sly": "review", "mute": "refused", "noai": "kept"}


def test_a_trap_ends(tmp_path):
    """A calendar without end beside a gallery of as many pages: the one is left, the other is read to its end."""
    def endless(h):
        n = int(h.path.rpartition("/")[2])
        body = (f'<a href="/day/{n + 1}">next</a><a href="/day/{n + 2}">later</a>').encode()
        h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    pages = {f"/show/{k}": (200, {}, f'<a href="/show/{k + 1}">on</a>{figure(f"/{k}.png")}'.encode()) for k in range(60)}
    answers = {"/": (200, {}, b'<a href="/day/1">calendar</a><a href="/show/0">gallery</a><a href="/x/y/x/y/x/y">again</a>'), **pages,
               **{f"/day/{n}": endless for n in range(3000)}, **{f"/{k}.png": (200, {"Content-Type": "image/png"}, png(k, 24 + k)) for k in range(60)}}
    with server(answers) as s:
        m = crawl(web(s.url, tmp_path, "trap_pages=30"))
        days = [path for path, _ in s.asked if path.startswith("/day/")]
    assert m.metrics["kept"] == 60 and 30 <= len(days) <= 60
    why = [r["reason"] for r in m.read_json("report.json")["not_kept"]]
    assert any("trap" in w for w in why) and "The address repeats itself" in why


# ---------------------------------------------------------------- manners


def test_a_slow_host_keeps_nobody_waiting(tmp_path):
    def slow(h):
        time.sleep(1.0)
        h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%b" % (len(png()), png()))

    with server({f"/{k}.png": slow for k in range(6)}) as far:
        shown = "".join(figure(f"{far.url}/{k}.png") for k in range(6)) + "".join(figure(f"/{k}.png") for k in range(40))
        with server({"/": (200, {}, shown.encode()), **{f"/{k}.png": (200, {"Content-Type": "image/png"}, png(k, 24 + k)) for k in range(40)}}) as s:
            m = crawl(web(s.url, tmp_path, "workers=4", "source.per_host=2"))
            assert m.metrics["kept"] == 46
            assert max(t for _, t in s.asked) < max(t for _, t in far.asked) - 0.3, "the quick host was done before the slow one"


def test_a_busy_host_is_asked_less():
    """Halved and slowed by a 503, and given back by good answers."""
    async def go():
        hosts = Hosts(8, 0.0, time.monotonic() + 9)
        hosts.answered("h", busy=True, wait=0.2)
        h = hosts.of("h")
        assert h.limit == 4 and h.rest == 0.25 and h.at > time.monotonic() + 0.15
        hosts.answered("h", busy=True)
        assert h.limit == 2 and h.rest == 0.5
        for _ in range(60):
            hosts.answered("h")
        assert h.limit == 8 and h.rest == 0
        hosts.put("h", (0,), "late")
        h.at = time.monotonic() + 99
        hosts.line[0] = (h.at, 0, h)
        assert await hosts.take() == ("late", True), "what would come too late comes at once"

    asyncio.run(go())


@pytest.mark.parametrize("said, seconds", [("7", 7), ("²", 0), ("٣", 0), ("", 0), ("soon", 0), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("9" * 40, 999999999999)])
def test_retry_after(said, seconds):
    assert retry_after({"Retry-After": said}) == seconds


def test_an_absurd_patience_costs_one_address(tmp_path):
    answers = {"/": (200, {}, (figure("/busy.png") + figure("/1.png")).encode()), "/busy.png": (503, {"Retry-After": "1000000000"}, b""), "/1.png": (200, {"Content-Type": "image/png"}, png())}
    with server(answers) as s:
        m = crawl(web(s.url, tmp_path))
    assert m.metrics["kept"] == 1 and "patience" in str(m.read_json("report.json")["not_kept"])


# ---------------------------------------------------------------- robots.txt


@pytest.mark.parametrize("status, may", [(200, True), (404, True), (403, True), (401, True), (500, False), (503, False), (429, False)])
def test_robots_status(tmp_path, status, may):
    """RFC 9309: 4xx means no rules, 5xx means stay away; 429 asks for distance too."""
    with server({"/robots.txt": (status, {}, b""), "/": (200, {}, figure("/1.png").encode()), "/1.png": (200, {"Content-Type": "image/png"}, png())}) as s:
        with contextlib.nullcontext() if may else pytest.raises(NotFound):
            crawl(web(s.url, tmp_path))
        assert ([path for path, _ in s.asked] == ["/robots.txt"]) is not may


def test_robots_that_cannot_be_read_now_are_read_later(tmp_path, monkeypatch):
    """A 503 means wait: the host is asked again, and crawled when it can say."""
    answers = []

    def busy(h):
        body = b"User-agent: *\nDisallow: /private"
        answers.append(time.monotonic())
        h.wfile.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n" if len(answers) == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    before = Robots.__init__
    monkeypatch.setattr(Robots, "__init__", lambda self, *args: before(self, *args, pause=0.3))
    with server({"/robots.txt": busy, "/": (200, {}, figure("/1.png").encode()), "/1.png": (200, {"Content-Type": "image/png"}, png())}) as s:
        assert crawl(web(s.url, tmp_path, "retries=1")).metrics["kept"] == 1
    assert len(answers) == 2 and answers[1] - answers[0] > 0.25


def test_robots_of_every_host_that_a_redirect_leads_to(tmp_path):
    with server({"/robots.txt": (200, {}, b"User-agent: *\nDisallow: /"), "/1.png": (200, {"Content-Type": "image/png"}, png())}) as closed:
        with server({"/": (200, {}, figure("/1.png").encode()), "/1.png": (302, {"Location": f"{closed.url}/1.png"}, b"")}) as s:
            with pytest.raises(NotFound):
                crawl(web(s.url, tmp_path))
        assert [path for path, _ in closed.asked] == ["/robots.txt"]


def test_a_page_never_leads_to_another_site(tmp_path):
    """Pictures may come from anywhere, pages may not: neither by a link nor by a redirect."""
    with server({"/": (200, {}, figure("/x.png").encode())}) as other:
        html = f'<a href="{other.url}/">there</a><a href="/moved">and there</a>{figure("/1.png")}'
        with server({"/": (200, {}, html.encode()), "/moved": (302, {"Location": f"{other.url}/"}, b""), "/1.png": (200, {"Content-Type": "image/png"}, png())}) as s:
            m = crawl(web(s.url, tmp_path))
        assert m.metrics["kept"] == 1 and other.asked == []
        assert "another site" in str(m.read_json("report.json")["not_kept"])


def url_vectors():
    path = Path(os.environ.get("FSML_SHARED") or Path(__file__).parents[2] / "shared") / "data" / "urls" / "w3lib_vectors.json"
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no vectors at {path.name}: set FSML_SHARED"))]
    return [pytest.param(v, id=f"{k}-{v['test'].removeprefix('test_')}") for k, v in enumerate(json.loads(path.read_text()))]


@pytest.mark.parametrize("vector", url_vectors())
def test_url_vector(vector):
    """w3lib's own vectors, through the installed w3lib; and what is canonical by them is what the crawler makes of it."""
    import w3lib.url

    if vector["test"].endswith("_fail"):
        pytest.xfail("w3lib's own test expects it to fail: of a parameter that occurs twice both are replaced")
    assert getattr(w3lib.url, vector["fn"])(*vector["args"], **vector["kw"]) == vector["want"]
    if vector["fn"] == "canonicalize_url" and not vector["kw"] and len(vector["args"]) == 1 and isinstance(vector["args"][0], str):
        url = vector["args"][0]
        if url.startswith(("http://", "https://")) and "@" not in url and "#" not in vector["want"]:
            assert canonical(url) == vector["want"]


SHARED = Path(os.environ.get("FSML_SHARED") or Path(__file__).parents[2] / "shared")
# (test, agent, url) where Protego decides otherwise than Google's parser, and why.
_LESS = "Protego also compares percent-decoded and plain spellings: it honours an Allow that Google's parser overlooks"
DEVIATIONS = {
    ("GoogleOnly_AcceptUserAgentUpToFirstSpace", "http://foo.bar/x/y"): "the vector's agent has a space in its name; ours has none",
    ("ID_Encoding", "http://foo.bar/foo/bar/ツ"): _LESS,
    ("ID_Encoding", "http://foo.bar/foo/bar/baz"): _LESS,
    ("ID_LineSyntax_Groups_OtherRules", "http://foo.bar/"): "Protego ends a list of agents at a line it does not know; Google's parser reads on",
}


def robots_vectors():
    path = SHARED / "data" / "robots" / "google_vectors.json"
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no vectors at {path.name}: set FSML_SHARED"))]
    return [pytest.param(v, id=f"{k}-{v['test']}") for k, v in enumerate(json.loads(path.read_text()))]


@pytest.mark.parametrize("vector", robots_vectors())
def test_robots_vector(vector):
    async def rules(url):
        return Answer(url, 200, "text/plain", vector["robots"].encode())

    async def may():
        try:
            await Robots(vector["agent"], rules).check(vector["url"])
            return True
        except Refused:
            return False

    why = DEVIATIONS.get((vector["test"], vector["url"]))
    if asyncio.run(may()) != vector["allowed"]:
        assert why, vector
        pytest.xfail(why)


# ---------------------------------------------------------------- where it must not go


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
    "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "::127.0.0.1",
])  # fmt: skip
def test_private_addresses(address):
    with pytest.raises(Refused, match="not public"):
        check_address(address, "host.example", allowed=["127.0.0.1"])
    check_address(address, "host.example", allowed=["host.example"])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822", "2002:5db8:d822::1"])
def test_public_addresses(address):
    check_address(address, "host.example", allowed=[])


def test_no_spelling_of_loopback_gets_through():
    with server({"/": (200, {}, b"secret")}) as s:
        port = s.server_port
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "0x7f.0.0.1", "0", "[::ffff:127.0.0.1]", "[::1]", "１２７.0.0.1", "127。0。0。1", "localhost."):
            with pytest.raises((Refused, Unavailable)):
                get_one(f"http://{host}:{port}/", allowed=[])
        assert s.asked == []


def test_a_private_site_is_refused_when_not_named(tmp_path):
    with server({"/": (200, {}, figure("/1.png").encode())}) as s:
        with pytest.raises(NotFound, match="kept nothing"):
            crawl(web(s.url, tmp_path, "source.allow_private=[]"))
        assert s.asked == []


def test_a_redirect_to_a_private_address(tmp_path):
    """The site itself is named; where it sends us is not."""
    with server({"/": (200, {}, b"secret")}) as intranet:
        for host in ("localhost", "[::ffff:7f00:1]", "2130706433"):
            answers = {"/": (302, {"Location": f"http://{host}:{intranet.server_port}/"}, b"")}
            with server(answers) as s, pytest.raises((Refused, Unavailable)):
                get_one(f"{s.url}/", allowed=["127.0.0.1"])
        assert intranet.asked == []
    for target in ("file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1/", "javascript:0", "http://["):
        with server({"/": (302, {"Location": target}, b"")}) as s, pytest.raises(Refused, match="nowhere"):
            get_one(f"{s.url}/")


def test_a_name_that_resolves_to_loopback(tmp_path, monkeypatch):
    """Not the name but what it resolves to counts, and it is resolved once."""
    
    async def lie(self, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", lie)
    with server({"/": (200, {}, b"secret")}) as s:
        with pytest.raises(Refused, match="not public"):
            get_one(f"http://gallery.example:{s.server_port}/")
        assert s.asked == []
        assert get_one(f"http://gallery.example:{s.server_port}/", allowed=["gallery.example"]).body == b"secret"


# ---------------------------------------------------------------- what a hostile server sends


def peak_mb():
    """Most memory that this process ever had: it only grows."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_gzip_bomb_is_cut():
    packed = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packed.compress(bytes(2**20)) for _ in range(100)) + packed.flush()
    assert len(bomb) < 2**19
    with server({"/": (200, {"Content-Encoding": "gzip"}, bomb)}) as s:
        before = peak_mb()
        with pytest.raises(TooLarge, match="does not end"):
            get_one(f"{s.url}/")
        assert peak_mb() - before < 70


@pytest.mark.parametrize("coding", ["gzip", "br", "nonsense"])
def test_body_that_is_not_what_it_says(coding):
    with server({"/": (200, {"Content-Encoding": coding}, b"no such thing, really not")}) as s:
        with contextlib.nullcontext() if coding == "nonsense" else pytest.raises(Unavailable):
            get_one(f"{s.url}/")


def endless_header(h):
    h.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for k in range(10**7):
        h.wfile.write(b"X-%d: %s\r\n" % (k, b"y" * 1000))


def long_header(h):
    h.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(10**5):
        h.wfile.write(b"y" * 1000)


def slow(h):
    h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        h.wfile.write(b"y")
        h.wfile.flush()
        time.sleep(0.1)


def short(h):
    h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")


def garbage(h):
    h.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff")


@pytest.mark.parametrize("how", [endless_header, long_header, slow, short, garbage])
def test_hostile_answer_is_an_error_of_ours(how):
    with server({"/": how}) as s:
        before, started = peak_mb(), time.monotonic()
        with pytest.raises(Unavailable):
            get_one(f"{s.url}/", limits={**LIMITS, "timeouts": {"connect": 1, "read": 1, "headers": 1.2, "body": 1.2, "whole": 1.5}})
        assert peak_mb() - before < 60 and time.monotonic() - started < 4


def test_redirects_have_an_end():
    chain = {f"/{k}": (302, {"Location": f"/{k + 1}"}, b"") for k in range(20)}
    with server(chain) as s:
        with pytest.raises(Refused, match="Too many redirects"):
            get_one(f"{s.url}/0")
        assert len(s.asked) == 4
        with pytest.raises(Refused, match="circle"), server({"/": (301, {"Location": "/"}, b"")}) as loop:
            get_one(f"{loop.url}/")


def test_a_hostile_page_never_ends_the_crawl(tmp_path):
    """Good pictures are kept beside whatever else a page does."""
    bad = {"/slow": short, "/garbage": garbage, "/bomb": (200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(2**23))), "/text": (200, {"Content-Type": "text/plain"}, b"x"),
           "/broken.png": (200, {"Content-Type": "image/png"}, png()[:200]), "/nul": (200, {}, b"\x00\xff\xfe<figure><img src='\x00'>"), "/long": (200, {}, f'<a href="/{"x" * 10**5}">far</a>'.encode())}
    links = "".join(f'<a href="{path}">x</a>' for path in bad) + '<a href="http://[">x</a><a href="http://ex ample:99999/">x</a><a href="mailto:a@b">x</a>'
    caption = "long " * 10**5
    answers = {"/": (200, {}, (links + figure("/1.png", caption) + figure("/broken.png") + figure("data:image/png;base64,AAAA")).encode()), "/1.png": (200, {"Content-Type": "image/png"}, png()), **bad}
    with server(answers) as s:
        m = crawl(web(s.url, tmp_path, "max_body_mb=2", "timeouts.read=1"))
    (item,) = (i for i in read_items(m.path("items.parquet")) if i.state == "kept")
    assert len(item.caption) == 4000
    assert {r["url"].removeprefix(s.url) for r in m.read_json("report.json")["not_kept"]} >= {"/slow", "/garbage", "/bomb", "/text", "/broken.png"}


# ---------------------------------------------------------------- small parts


def test_canonical():
    assert canonical("/a?b=2&a=1#x", "http://h.example/z/") == "http://h.example/a?a=1&b=2"
    assert canonical("http://ada:secret@h.example/") is None, "no name and password reach an address"
    for bad in ("mailto:a@b", "javascript:x", "data:,", "http://[", "file:///etc/passwd", "x" * 5000):
        assert canonical(bad, "http://h.example/") is None, bad


def test_errors_are_of_the_family():
    assert issubclass(Refused, FsmlError)


def test_a_child_that_was_taken_over_chooses_an_error_and_nothing_else(tmp_path):
    """The name that comes back is looked up among errors, not among all that `core` has."""
    from omegaconf import OmegaConf

    from fullstack_ml.reader import Readers

    answer = json.dumps({"error": "write_atomic", "what": str(tmp_path / "x"), "value": "taken over"})
    said = f"import sys, struct; sys.stdin.buffer.readline(); sys.stdin.buffer.readline(); a = {answer!r}.encode(); sys.stdout.buffer.write(b'!' + struct.pack('>I', len(a)) + a)"

    async def go():
        async with Readers({**OmegaConf.to_container(compose_cfg("crawl")), "readers": 1}) as readers:
            (reader,), pipe = readers.all, asyncio.subprocess.PIPE
            await reader.stop()
            reader.child = await asyncio.create_subprocess_exec(sys.executable, "-c", said, stdin=pipe, stdout=pipe)
            reader.child.stdin.write(b"{}\n")
            await readers.ask({"do": "examine"}, b"")

    with pytest.raises(BadInput, match="taken over"):
        asyncio.run(go())


def deadly(body: bytes, url: str, headers: dict, source: dict):
    """A reader of one's own that dies of some bytes and never ends on others."""
    if body == b"die":
        os._exit(1)
    while body == b"stall":
        time.sleep(1)
    return Found(items=[Item(url=url, caption=body.decode())])


def test_a_child_that_dies_takes_nobody_with_it():
    """Of many requests in the pipe only those that kill or stall a child are refused, and each answer reaches whoever asked."""
    from omegaconf import OmegaConf

    from fullstack_ml.reader import Readers

    cfg = OmegaConf.to_container(compose_cfg("crawl", ["source=sample", "source.reader={_target_: test_crawl.deadly, _partial_: true}"]))
    cfg |= {"readers": 1, "timeouts": {**cfg["timeouts"], "reader": 4}}
    bodies = [b"1", b"2", b"die", b"3", b"4", b"5", b"stall", b"die", b"6", b"7"]

    async def go():
        async with Readers(cfg) as readers:
            asked = [readers.read("page", b, "http://gallery.example/", {"Content-Type": "text/html"}) for b in bodies]
            return await asyncio.gather(*asked, return_exceptions=True)

    said = [str(f) if isinstance(f, BadInput) else f.items[0].caption.encode() for f in asyncio.run(go())]
    assert [s for s in said if isinstance(s, bytes)] == [b for b in bodies if b.isdigit()]
    assert ["memory" in said[2], "too long" in said[6], "memory" in said[7]] == [True] * 3
