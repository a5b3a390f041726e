"""Answers a second of `fsml crawl` beside Scrapy: the same site, the same files, the same run, one after the other.

    python benchmarks/crawl.py [--site FOLDER] [--rounds 3] [--scrapy-python PYTHON]

Without --site the site is made of Debian packages that ship HTML with pictures (`apt-get download`, unpacked into --cache).
It stands on loopback, whole in memory, in a process of its own; an aiohttp client that does nothing with what it reads says
how fast that server is. Both crawlers are whole processes, start-up included. Ours is the stage with everything it writes
down (frontier, licences, hashes, decoded pictures, artefact; the report with pictures apart); Scrapy follows the same links and stores the same files.
"""
import argparse
import asyncio
import email.utils
import hashlib
import itertools
import mimetypes
import multiprocessing
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import aiohttp
import psutil

PACKAGES = ("gimp-help-en", "qtbase5-doc-html", "grass-doc", "libitpp-doc")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PEER = Path(__file__).with_name("crawl_peer.py")


# ---------------------------------------------------------------- the site


def debian(cache: Path) -> Path:  # folder of HTML
    """The site from Debian's documentation packages, unpacked once."""
    for package in PACKAGES:
        if not (cache / "done" / package).is_file():
            cache.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", package], cwd=cache, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (deb,) = cache.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", str(deb), str(cache / "site")], check=True)
            (cache / "done").mkdir(exist_ok=True)
            (cache / "done" / package).touch()
            deb.unlink()
    return cache / "site" / "usr" / "share"


def answers_of(folder: Path) -> dict[bytes, bytes]:  # path -> whole answer
    """Every page and picture of a folder as the bytes that are sent, and a first page that leads to all parts."""
    files = {f"/{p.relative_to(folder).as_posix()}": p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.lower() in (".html", ".htm", ".css", *PICTURES)}
    pages = [p for p in files if p.endswith((".html", ".htm"))]
    roots: dict[str, str] = {}
    for page in sorted(pages, key=lambda p: (p.count("/"), not p.endswith("index.html"), p)):
        if not any(page.startswith(root) for root in roots):
            roots[page.rpartition("/")[0] + "/"] = page
    first = "<title>parts</title>" + "".join(f'<p><a href="{page}">{page}</a>' for page in roots.values())

    def answer(body: bytes, mime: str, changed: float) -> bytes:
        said = {"Content-Type": mime, "Content-Length": len(body), "ETag": f'"{hashlib.md5(body).hexdigest()}"', "Last-Modified": email.utils.formatdate(changed, usegmt=True)}
        return ("HTTP/1.1 200 OK\r\n" + "".join(f"{k}: {v}\r\n" for k, v in said.items()) + "\r\n").encode() + body

    answers = {path.encode(): answer(p.read_bytes(), mimetypes.guess_type(path)[0] or "application/octet-stream", p.stat().st_mtime) for path, p in files.items()}
    answers[b"/"] = answer(first.encode(), "text/html", 0)
    answers[b"/robots.txt"] = answer(b"User-agent: *\nDisallow: /none/\n", "text/plain", 0)
    return answers


class Static(asyncio.Protocol):
    """As little as answers a GET: keep-alive, nothing parsed but the path."""

    missing = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, answers: dict[bytes, bytes], asked: Counter):
        self.answers, self.asked, self.rest = answers, asked, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        for head in heads:
            path = unquote(head.split(b" ", 2)[1].partition(b"?")[0].decode()).encode()
            self.asked[path] += 1
            self.transport.write(self.answers.get(path, self.missing))


def serve(folder: Path, pipe) -> None:
    """Serve a folder until the other end of the pipe is closed; each message is answered with what was asked since the last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers, asked = answers_of(folder), Counter()

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: Static(answers, asked), "127.0.0.1", 0, backlog=1024)
        over = asyncio.Event()

        def told() -> None:
            try:
                pipe.recv()
                pipe.send(dict(asked))
                asked.clear()
            except EOFError:
                over.set()

        asyncio.get_running_loop().add_reader(pipe.fileno(), told)
        pipe.send((server.sockets[0].getsockname()[1], sorted(answers), sum(map(len, answers.values()))))
        await over.wait()

    asyncio.run(main())


async def drain(url: str, paths: list[str], workers: int = 32) -> float:  # answers a second
    """What the server gives to a client that only reads."""
    left = iter(paths)

    async def work(session: aiohttp.ClientSession) -> None:
        for path in left:
            async with session.get(url + path) as answer:
                await answer.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=workers)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(work(session) for _ in range(workers)))
        return len(paths) / (time.perf_counter() - started)


# ---------------------------------------------------------------- the crawlers


def watched(command: list[str], env: dict[str, str], cwd: Path) -> tuple[float, float, float, str]:  # seconds, seconds of CPU, peak MB of the whole tree, its output
    """Run a command to its end; its memory is looked at every 50 ms."""
    started, most, before = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(child.stdout.read()))
        reader.start()
        tree = psutil.Process(child.pid)
        while child.poll() is None:
            total = 0
            try:
                for p in [tree, *tree.children(recursive=True)]:
                    total += p.memory_info().rss
            except psutil.Error:
                pass
            most = max(most, total / 2**20)
            time.sleep(0.05)
        reader.join()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)[:300]}\n{''.join(said)[-3000:]}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, most, "".join(said)


def overrides(url: str, workers: int, picture: str) -> list[str]:
    """The stage as a user would set it for a site of one licence that may be asked without a pause."""
    return [
        "source=web", "source.name=site", f"source.start=['{url}/']", "source.allow_private=[127.0.0.1]", "source.delay=0", f"source.per_host={workers}", f"workers={workers}",
        "source.licence=CC0-1.0", "source.page_licence=[]", "source.item={select: img, image: 'img@src', caption: 'img@alt', author: [], licence: []}", f"source.deny=['^(?!.*{picture})']",
        "licences=null", "budget.n_pages=1000000", "min_side=1", "min_contrast=0", "trap_pages=null", "read_site_signs=false", "reader_mb=300",
        "report=null",  # the page with pictures is written when the crawl is over
    ]  # fmt: skip


def ours(url: str, folder: Path, workers: int) -> tuple[list[str], dict[str, str]]:
    env = {**os.environ, "FSML_HOME": str(folder), "FSML_ARTIFACTS": str(folder / "artifacts")}
    for name in ("FSML_DATABASE_URL", "FSML_BLOBS_URL"):
        env.pop(name, None)
    return [sys.executable, "-m", "fullstack_ml.cli", "crawl", *overrides(url, workers, r"(/|\.html?)([?#]|$)")], env


def stored_by_us(folder: Path) -> set[str]:  # hashes
    """What the artefact says and the blob store holds."""
    import pyarrow.parquet as pq

    (path,) = folder.rglob("items.parquet")
    return {r["sha256"] for r in pq.read_table(path, columns=["sha256", "state"]).to_pylist() if r["sha256"]}


def stored_by_scrapy(folder: Path) -> set[str]:
    return {hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="a folder of HTML with pictures; without it Debian's documentation")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "fsml-crawl-site", help="where the packages are unpacked")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=32, help="requests at once of ours")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 32, 64], help="of Scrapy: tried once each, the best one runs the rounds")
    parser.add_argument("--scrapy-python", default=sys.executable, help="an interpreter that has Scrapy")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    args = parser.parse_args()
    folder = (args.site or debian(args.cache)).resolve()
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, there), daemon=True)
    server.start()
    there.close()
    port, paths, size = here.recv()
    url, paths = f"http://127.0.0.1:{port}", [p.decode() for p in paths]
    print(f"site: {sum(p.endswith(('.html', '.htm')) for p in paths)} pages, {sum(p.lower().endswith(PICTURES) for p in paths)} pictures, {size / 2**20:.0f} MB")
    print(f"the server gives {asyncio.run(drain(url, paths)):.0f} answers/s to an aiohttp client that only reads\n", flush=True)
    work = Path(tempfile.mkdtemp(prefix="fsml-crawl-"))
    numbers, runs, sets = itertools.count(), {}, {}

    def run(name: str, how: str, concurrency: int, *flags: str) -> float:
        out = work / str(next(numbers))
        out.mkdir()
        here.send("count")
        here.recv()
        if how == "ours":
            command, env = ours(url, out, concurrency)
        else:
            command, env = [args.scrapy_python, str(PEER), f"{url}/", "--out", str(out / "files"), "--concurrency", str(concurrency), *flags], dict(os.environ)
        seconds, cpu, most, said = watched(command, env, out)
        here.send("count")
        asked = here.recv()
        stored = stored_by_us(out) if how == "ours" else stored_by_scrapy(out / "files")  # it stays: ext4 is slow to make files just after many were deleted
        result = {"answers": sum(asked.values()), "distinct": len(asked), "files": len(stored), "seconds": seconds, "cpu": cpu, "rate": sum(asked.values()) / seconds, "mb": most}
        runs.setdefault(name, []).append(result)
        sets[name] = stored
        print(f"{name:<28} {result['answers']:>6} answers, {result['distinct']} addresses, {len(stored)} files, {seconds:6.1f} s, {result['rate']:6.0f}/s, {most:4.0f} MB", flush=True)
        if how != "ours" and not said.strip().splitlines()[-1].startswith("{"):
            print(said[-1000:])
        return result["rate"]

    try:
        best, way = args.concurrency[0], "tuned"
        if not args.no_peer:
            tried = {n: run(f"Scrapy, {n} at once (tried)", "scrapy", n) for n in args.concurrency} if len(args.concurrency) > 1 else {best: 0}
            best = max(tried, key=tried.get)
            run("Scrapy, CrawlSpider (usual)", "scrapy", best, "--way", "usual")
            tuned = run("Scrapy, tuned (tried)", "scrapy", best)
            way = "pipeline" if run("Scrapy, FilesPipeline (tried)", "scrapy", best, "--way", "pipeline") > tuned else "tuned"
        for k in range(args.rounds):
            turns = [lambda: run("ours", "ours", args.workers)] + ([] if args.no_peer else [lambda: run("Scrapy", "scrapy", best, "--way", way)])
            for turn in turns if k % 2 == 0 else turns[::-1]:
                turn()
    finally:
        here.close()
        server.join(5)
        shutil.rmtree(work, ignore_errors=True)
    print("\n| medians | answers | addresses | files | seconds | of CPU | answers/s | peak MB |\n|---|---|---|---|---|---|---|---|")
    for name, found in runs.items():
        m = {key: statistics.median(r[key] for r in found) for key in found[0]}
        print(f"| {name} | {m['answers']:.0f} | {m['distinct']:.0f} | {m['files']:.0f} | {m['seconds']:.1f} | {m['cpu']:.1f} | {m['rate']:.0f} | {max(r['mb'] for r in found):.0f} |")
    if "Scrapy" in runs and "ours" in runs:
        a, b = (statistics.median(r["rate"] for r in runs[name]) for name in ("ours", "Scrapy"))
        print(f"\n{a / b:.2f} times Scrapy's answers a second at {max(r['mb'] for r in runs['ours']):.0f} MB (asked for: 4 times within 150 MB)")
        only, other = sets["ours"] - sets["Scrapy"], sets["Scrapy"] - sets["ours"]
        print("both stored the same files" if not only | other else f"files that only ours stored: {len(only)}; only Scrapy: {len(other)}")


if __name__ == "__main__":
    main()
