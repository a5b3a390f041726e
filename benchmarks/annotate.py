"""Labels a second of `fsml annotate-app` under many annotators, and what is in the database afterwards.

    python benchmarks/annotate.py [--annotators 64] [--seconds 60] [--workers 1] [--database URL] [--kills 0] [--label-studio PYTHON]

Each annotator is a signed-in client on a connection of its own that does, without a pause: next item, fetch the picture, answer.
The clients are plain asyncio in this process, on the same cores as the server, which is the command itself with everything it
writes down. With --kills, a server process is killed with SIGKILL so many times under the load; the clients try again until they
get an answer, as a browser does. Afterwards the database is compared with what the clients saw acknowledged.
With --label-studio (the interpreter of an environment that has it) Label Studio does the same work through its own API, on SQLite,
with as many people, each with an account.
"""
import argparse
import asyncio
import io
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


COMMAND = "annotate-app"  # what is served; the benchmark of the other application says its own


class Client:
    """HTTP/1.1 on one connection, as little as it takes: a library would cost more than the server that is measured."""

    def __init__(self, port: int, *headers: str):
        self.port, self.headers, self.reader, self.writer = port, "".join(f"{h}\r\n" for h in headers), None, None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        length = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{self.headers}{length}\r\n".encode() + body)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        if found := re.search(rb"content-length: (\d+)", head):
            body = await self.reader.readexactly(int(found[1]))
        elif b"transfer-encoding: chunked" in head:
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        else:
            body = b""
        if b"connection: close" in head:
            self.close()
        return status, body

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.writer = None


class Watch:
    """Seconds of each kind of request, labels that were acknowledged, and whatever went wrong."""

    def __init__(self):
        self.times: dict[str, list[float]] = {}
        self.labels: list[str] = []
        self.wrong: Counter = Counter()
        self.repeats = 0

    @contextmanager
    def of(self, name: str):
        started = time.perf_counter()
        yield
        self.times.setdefault(name, []).append(time.perf_counter() - started)

    def table(self, seconds: float) -> None:
        print(f"{len(self.labels)} labels in {seconds:.1f} s: {len(self.labels) / seconds:.1f} labels/s; errors: {dict(self.wrong) or 'none'}; tried again: {self.repeats}")
        for name, found in self.times.items():
            found.sort()
            at = {p: found[min(len(found) - 1, int(len(found) * p))] * 1000 for p in (0.5, 0.95, 0.99)}
            print(f"  {name:<8} p50 {at[0.5]:7.1f}   p95 {at[0.95]:7.1f}   p99 {at[0.99]:7.1f}   max {found[-1] * 1000:7.1f} ms   n {len(found)}")


# ---------------------------------------------------------------- ours


def pictures(n: int) -> list[bytes]:
    """The handwritten digits of scikit-learn as PNG, or as many of them as asked for."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = []
    for digit in load_digits().images[:n]:
        out = io.BytesIO()
        Image.fromarray((255 - digit * 15.9).astype("uint8")).resize((128, 128)).save(out, "PNG")
        found.append(out.getvalue())
    return found


def prepare(home: Path, url: str, annotators: int, n_items: int, wanted: int) -> tuple[str, list[str]]:  # project, tokens
    """Items, a project, and people who are signed in."""
    from fullstack_ml.accounts import accept, invite, sign_in
    from fullstack_ml.annotate import Project, Rules, fill, save_project
    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.records import Item, open_database

    db, store, mime = open_database(url), BlobStore(f"{home}/blobs"), {"mime": "image/png", "width": 128, "height": 128}
    names = [store.put(body) for body in pictures(500)]
    db.add(Item(url=f"http://digits.example/{n}", source="digits", sha256=names[n % len(names)], licence="CC-BY-4.0", **mime) for n in range(n_items))
    project = save_project(db, Project("digits", "choice", tuple("0123456789"), {"source": "digits"}, Rules(wanted=wanted)))
    fill(db, project)
    tokens = []
    for n in range(annotators):
        accept(db, invite(db, "annotator", "benchmark", f"person {n}"), f"person {n}", "three words are good")
        tokens.append(sign_in(db, f"person {n}", "three words are good"))
    db.engine.dispose()
    return project.id, tokens


@contextmanager
def served(home: Path, url: str, workers: int):
    """The command itself; its port and process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**os.environ, "FSML_HOME": str(home), "FSML_ARTIFACTS": str(home), "FSML_DATABASE_URL": url}
    command = [sys.executable, "-m", "fullstack_ml.cli", COMMAND, f"app.port={port}", f"app.workers={workers}", "app.per_second=10000"]
    with open(home / "server.log", "w") as log, subprocess.Popen(command, env=env, cwd=home, stdout=log, stderr=log) as process:
        try:
            for _ in range(300):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            yield port, process
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


async def annotator(port: int, project: str, token: str, until: float, watch: Watch) -> None:
    """One person: next, picture, answer, as long as there is time."""
    client = Client(port, f"Cookie: fsml_session={token}")

    async def ask(name: str, method: str, path: str, value: dict | None = None) -> bytes:
        body = b"" if value is None else json.dumps(value).encode()
        for attempt in range(200):
            try:
                with watch.of(name):
                    status, said = await client.ask(method, path, body)
            except (OSError, EOFError):
                client.close()
                watch.repeats += 1
                await asyncio.sleep(0.1)
                continue
            if status in (502, 503):
                watch.repeats += 1
                await asyncio.sleep(0.1)
                continue
            if status != 200:
                watch.wrong[f"{name} {status} {said[:100]!r}"] += 1
            return said
        raise SystemExit(f"{name}: no answer after 200 tries")

    page = await ask("page", "GET", f"/p/{project}/work")
    csrf = re.search(rb'"csrf": ?"(\w+)"', page)
    client.headers += f"X-CSRF: {csrf[1].decode()}\r\n"
    while time.perf_counter() < until:
        task = json.loads(await ask("next", "POST", f"/api/p/{project}/next", {"n": 1}))["tasks"]
        if not task:
            watch.wrong["nothing to do"] += 1
            return client.close()
        if (await ask("picture", "GET", task[0]["picture"]))[:4] != b"\x89PNG":
            watch.wrong["no picture"] += 1
        label, id = {"kind": "choice", "names": [str(random.randrange(10))]}, uuid.uuid4().hex
        given = {"id": id, "assignment": task[0]["id"], "label": label, "skip": "", "seconds": 0.1, "meta": {"suggestion": None, "accepted": False, "guide": 0, "comment": ""}}
        result = json.loads(await ask("submit", "POST", f"/api/p/{project}/answers", {"answers": [given]}))["results"][0]
        if result["status"] in ("stored", "known"):
            watch.labels.append(id)
        else:
            watch.wrong[f"submit {result['status']}"] += 1
    client.close()


async def kill_some(process: subprocess.Popen, n: int, seconds: float) -> int:
    """SIGKILL for one server process after the other, never for their parent."""
    killed = 0
    for _ in range(n):
        await asyncio.sleep(seconds / (n + 1))
        workers = [p for p in psutil.Process(process.pid).children() if any("spawn_main" in a for a in p.cmdline())]
        if workers:
            random.choice(workers).kill()
            killed += 1
    return killed


def compare(url: str, project: str, watch: Watch, wanted: int) -> None:
    """What the database holds, against what was acknowledged."""
    import sqlalchemy as sa

    from fullstack_ml.records import open_database

    db = open_database(url)
    a, t = db.tables["annotation"], db.tables["task"]
    with db.engine.connect() as c:
        ids = Counter(c.execute(sa.select(a.c.id).where(a.c.project == project)).scalars())
        over = c.execute(sa.select(a.c.item_id).where(a.c.project == project).group_by(a.c.item_id).having(sa.func.count() > wanted)).all()
        twice = c.execute(sa.select(a.c.item_id).where(a.c.project == project).group_by(a.c.item_id, a.c.annotator).having(sa.func.count() > 1)).all()
        counted = c.execute(sa.select(sa.func.sum(t.c.answers)).where(t.c.project == project)).scalar()
    lost = [i for i in watch.labels if i not in ids]
    print(f"database: {len(ids)} answers, {counted} counted in tasks; acknowledged and lost: {len(lost)}; items with more than {wanted}: {len(over)}; answered twice by one person: {len(twice)}")


def ours(args: argparse.Namespace, annotators: int, seconds: float) -> float:
    """Measure once; labels a second."""
    with tempfile.TemporaryDirectory(prefix="fsml-annotate-") as folder:
        home = Path(folder)
        url = args.database or f"sqlite:///{home}/fsml.db"
        project, tokens = prepare(home, url, annotators, args.items, args.wanted)
        watch = Watch()
        with served(home, url, args.workers) as (port, process):

            async def load() -> tuple[float, int]:
                started = time.perf_counter()
                people = [annotator(port, project, token, started + seconds, watch) for token in tokens]
                killer = asyncio.create_task(kill_some(process, args.kills, seconds))
                await asyncio.gather(*people)
                return time.perf_counter() - started, await killer

            took, killed = asyncio.run(load())
            mb = sum(p.memory_info().rss for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]) / 2**20
        watch.times.pop("page", None)
        print(f"\nfsml annotate-app, {url.partition(':')[0]}, {args.workers} server process(es), {annotators} annotators, {args.items} items, {args.wanted} answer(s) each, {killed} kills, {mb:.0f} MB")
        watch.table(took)
        compare(url, project, watch, args.wanted)
        return len(watch.labels) / took


# ---------------------------------------------------------------- Label Studio

PEOPLE = """
import sys, json
from django.contrib.auth import get_user_model
from organizations.models import Organization
from rest_framework.authtoken.models import Token
org, found = Organization.objects.first(), []
org.jwt.legacy_api_tokens_enabled = True
org.jwt.save()
for n in range({n}):
    user, _ = get_user_model().objects.get_or_create(email=f"person{{n}}@example.org", username=f"person{{n}}")
    user.active_organization = org
    user.save()
    org.add_user(user)
    token, _ = Token.objects.get_or_create(user=user)
    found.append(token.key)
print("TOKENS " + json.dumps(found))
"""


def label_studio(args: argparse.Namespace, annotators: int, seconds: float) -> float:
    """The same work through Label Studio's own API."""
    with tempfile.TemporaryDirectory(prefix="label-studio-") as folder:
        home, token = Path(folder), secrets.token_hex(20)
        command = str(Path(args.label_studio).with_name("label-studio"))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        env = {**os.environ, "LABEL_STUDIO_BASE_DATA_DIR": str(home), "LOCAL_FILES_SERVING_ENABLED": "true", "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
               "LATEST_VERSION_CHECK": "false", "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}  # fmt: skip
        start = [command, "start", "--no-browser", "--port", str(port), "--username", "boss@example.org", "--password", "three words are good", "--user-token", token,
                 "--data-dir", str(home), "--internal-host", "127.0.0.1"]  # fmt: skip
        with open(home / "server.log", "w") as log, subprocess.Popen(start, env=env, cwd=home, stdout=log, stderr=log) as process:
            try:
                return asyncio.run(_label_studio(args, home, port, token, command, env, annotators, seconds, process))
            except BaseException:
                print((home / "server.log").read_text()[-2000:])
                raise
            finally:
                for p in [*psutil.Process(process.pid).children(recursive=True), process]:
                    p.kill()


async def _label_studio(args, home: Path, port: int, token: str, command: str, env: dict, annotators: int, seconds: float, process) -> float:
    boss = Client(port, f"Authorization: Token {token}")
    for _ in range(300):
        with suppress(OSError, EOFError):
            if (await boss.ask("GET", "/api/projects"))[0] == 200:
                break
        boss.close()
        await asyncio.sleep(1)
    said = subprocess.run([command, "shell", "--data-dir", str(home)], input=f"exec({PEOPLE.format(n=annotators)!r})\n", env=env, cwd=home, capture_output=True, text=True, timeout=300)
    found = re.search(r"TOKENS (\[.*\])", said.stdout)
    if not found:
        raise SystemExit(f"Label Studio made no accounts: {said.stdout[-1000:]} {said.stderr[-1000:]}")
    tokens = json.loads(found[1])
    config = '<View><Image name="image" value="$image"/><Choices name="digit" toName="image">' + "".join(f'<Choice value="{n}"/>' for n in range(10)) + "</Choices></View>"
    status, body = await boss.ask("POST", "/api/projects", json.dumps({"title": "digits", "label_config": config, "maximum_annotations": 1}).encode())
    project = json.loads(body)["id"]
    files = b"".join(
        f'--cut\r\nContent-Disposition: form-data; name="{n}"; filename="{n}.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + body + b"\r\n" for n, body in enumerate(pictures(90))
    )  # it takes 100 files at once
    status, body = await boss.ask("POST", f"/api/projects/{project}/import", files + b"--cut--\r\n", "multipart/form-data; boundary=cut")
    status, body = await boss.ask("GET", f"/api/tasks?project={project}&page_size=100&fields=all")
    images = [t["data"]["image"] for t in json.loads(body)["tasks"]]
    n_tasks = min(args.items, 3000)
    for first in range(len(images), n_tasks, 500):
        tasks = [{"data": {"image": images[n % len(images)]}} for n in range(first, min(first + 500, n_tasks))]
        status, body = await boss.ask("POST", f"/api/projects/{project}/import", json.dumps(tasks).encode())
        if status not in (200, 201):
            raise SystemExit(f"import: {status} {body[:500]!r}")
    watch, done = Watch(), Counter()

    async def person(key: str, until: float) -> None:
        client = Client(port, f"Authorization: Token {key}")
        while time.perf_counter() < until:
            try:
                with watch.of("next"):
                    status, body = await client.ask("GET", f"/api/projects/{project}/next")
                if status != 200:
                    watch.wrong[f"next {status}"] += 1
                    continue
                task = json.loads(body)
                with watch.of("picture"):
                    status, _ = await client.ask("GET", task["data"]["image"])
                if status != 200:
                    watch.wrong[f"picture {status}"] += 1
                answer = {"result": [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [str(random.randrange(10))]}}], "lead_time": 0.1}
                with watch.of("submit"):
                    status, body = await client.ask("POST", f"/api/tasks/{task['id']}/annotations", json.dumps(answer).encode())
                if status == 201:
                    watch.labels.append(str(json.loads(body)["id"]))
                    done[task["id"]] += 1
                else:
                    watch.wrong[f"submit {status}"] += 1
            except (OSError, EOFError):
                client.close()
                watch.repeats += 1
        client.close()

    started = time.perf_counter()
    await asyncio.gather(*(person(key, started + seconds) for key in tokens))
    took = time.perf_counter() - started
    mb = sum(p.memory_info().rss for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]) / 2**20
    print(f"\nLabel Studio, SQLite, {annotators} annotators, {n_tasks} tasks, 1 answer each, {mb:.0f} MB")
    watch.table(took)
    print(f"tasks labelled by more than one person although one was asked for: {sum(n > 1 for n in done.values())} of {len(done)}")
    return len(watch.labels) / took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, nargs="+", default=[64])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--wanted", type=int, default=1, help="answers per item")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    parser.add_argument("--database", help="an empty database of MariaDB or PostgreSQL as SQLAlchemy writes it; without it SQLite in a temporary folder")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILLs of server processes under the load")
    parser.add_argument("--label-studio", help="an interpreter that has Label Studio: it runs the same work afterwards")
    args = parser.parse_args()
    for n in args.annotators:
        a = ours(args, n, args.seconds)
        if args.label_studio:
            print(f"\n{a / label_studio(args, n, args.seconds):.0f} times the labels a second of Label Studio with {n} annotators")


if __name__ == "__main__":
    main()
