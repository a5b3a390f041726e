"""Speed and memory of `fsml evaluate-app` on many predictions, and many who judge at once.

    python benchmarks/evaluate_app.py [FOLDER] [--rows 100000] [--seconds 10] [--judges 32] [--judging 30] [--database URL] [--kills 0]

FOLDER holds MNIST's idx files (train-images-idx3-ubyte.gz and the others); its 70,000 pictures are repeated until there are enough
rows. Without it, drawn pictures are. Labels are those of the files, predictions are right in 98 of 100 cases, by a seed: what is
measured is the application, which reads any report in the same way. The server is the command itself, in a process of its own.

What a person waits for is asked for over HTTP, one request after the other, as by one browser: the first screen of a report (its
page, what is known of it, the first cases, the confusions and eight slices, of a server that has just been started), then filters
and slices that differ each time, so that no cache helps. Times are those of the client; `at the server` are those of its journal.
Then so many people judge without a pause, each on a connection of their own, and afterwards the database is compared with what they
saw acknowledged. With --kills, a server process is killed with SIGKILL so many times meanwhile.

The peer is the same question asked of pandas in this process, without a server: `df[mask]` and `groupby`, p50 beside ours.
"""
import argparse
import asyncio
import json
import os
import random
import re
import signal
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

import annotate as other
import psutil

CLASSES = [str(k) for k in range(10)]


def pictures(folder: str | None) -> tuple[list[bytes], list[str]]:
    """PNG bytes and labels."""
    import cv2
    import numpy as np

    if folder:
        from fullstack_ml.arrays import idx_rows

        rows = [(cv2.imencode(".png", image)[1].tobytes(), name) for _, image, name in idx_rows(Path(folder))]
        return [b for b, _ in rows], [n for _, n in rows]
    rng = np.random.default_rng(0)
    made = []
    for k in range(2000):
        image = rng.integers(0, 40, (28, 28), np.uint8)
        cv2.putText(image, str(k % 10), (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
        made.append((cv2.imencode(".png", image)[1].tobytes(), str(k % 10)))
    return [b for b, _ in made], [n for _, n in made]


def prepare(home: Path, url: str, folder: str | None, n: int, judges: int) -> tuple[str, list[str], list[str]]:
    """A dataset version and two reports of n rows, and people who are signed in: report, items, tokens."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf

    from fullstack_ml.accounts import accept, invite, sign_in
    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.core import digest, write_json
    from fullstack_ml.records import draft, open_database

    db, store, cfg = open_database(url), BlobStore(f"{home}/blobs"), OmegaConf.create({"storage": {"root": str(home)}})
    bodies, labels = pictures(folder)
    names = [store.put(b) for b in bodies]
    rng, k = np.random.default_rng(0), np.arange(n) % len(bodies)
    label = [labels[i] for i in k]
    ids = [digest(i)[:16] for i in range(n)]
    said = json.dumps
    table = pa.table({
        "id": ids, "sha256": [names[i] for i in k], "mime": ["image/png"] * n, "width": pa.array([28] * n, pa.int32()), "height": pa.array([28] * n, pa.int32()),
        "url": [f"http://digits.example/{i}.png" for i in range(n)], "source": [f"source {i % 7}" for i in range(n)], "author": [f"author {i % 300}" for i in range(n)],
        "licence": ["CC-BY-SA-3.0"] * n, "caption": [f"digit no. {i}" for i in range(n)], "label": [said({"kind": "choice", "names": [x]}) for x in label],
        "truth": pa.nulls(n, pa.string()), "annotators": [said([f"annotator {i % 12}"]) for i in range(n)], "agreement": rng.choice([1.0, 0.67, 0.5], n), "group": pa.array(k),
        "split": [("train", "val", "test")[x] for x in rng.choice(3, n, p=[0.8, 0.08, 0.12])], "meta": [said({"pen": ("thin", "thick", "wide")[i % 3], "n": int(i % 50)}) for i in range(n)],
    }).sort_by("id")  # fmt: skip
    with draft("dataset", cfg, {}) as d:
        pq.write_table(table, d.dir / "items.parquet", compression="zstd")
        write_json(d.dir / "classes.json", CLASSES)
        d.metrics |= {"name": "mnist repeated", "version": "0.0.1", "items": n}
    reports = []
    for share in (0.97, 0.98):
        wrong = rng.random(n) > share
        predicted = [CLASSES[(int(x) + 1 + int(rng.integers(9))) % 10] if w else x for x, w in zip(label, wrong)]
        sure = np.where(wrong, rng.uniform(0.3, 0.9, n), rng.uniform(0.6, 1, n))
        rows = pa.table({
            "item_id": ids, "split": table["split"].take(pa.array(np.argsort(np.argsort(ids)))), "label": label, "truth": pa.nulls(n, pa.string()), "predicted": predicted,
            "confidence": sure, "scores": [said({p: round(float(s), 4), "other": round(1 - float(s), 4)}) for p, s in zip(predicted, sure)], "suspicion": rng.random(n) * wrong,
            "suggested": predicted, "error": [""] * n, "right": ~wrong,
        })  # fmt: skip
        with draft("evaluate", cfg, {"dataset": d.manifest}) as e:
            pq.write_table(rows, e.dir / "predictions.parquet")
            head = {"split": "test", "labels": "label", "who": "collected labels", "n": n}
            write_json(e.dir / "metrics.json", {"format": 2, "task": "ImageClassification", "label_kind": "choice", "main_metric": "accuracy", "figures": [], "headline": head, "n_items": n})
            e.metrics |= {"exact": float(1 - wrong.mean()), "accuracy_low": 0.9, "accuracy_high": 0.99, "n_test": n, "n_items": n}
        reports.append(e.manifest.id)
    tokens = []
    for j in range(judges):
        accept(db, invite(db, "annotator", "benchmark", f"person {j}"), f"person {j}", "three words are good")
        tokens.append(sign_in(db, f"person {j}", "three words are good"))
    db.engine.dispose()
    return reports, ids, tokens


def memory(process) -> tuple[float, float]:
    """MB that the processes of the server hold now: of the one that answers, and of all."""
    found = {p.pid: p for p in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]}
    held = [p.memory_full_info().uss / 2**20 for p in found.values()]
    return max(held), sum(held)


class Browser:
    """One person who looks."""

    def __init__(self, port: int, token: str):
        self.client, self.watch = other.Client(port, f"Cookie: fsml_session={token}"), other.Watch()

    async def get(self, name: str, path: str) -> bytes:
        with self.watch.of(name):
            status, body = await self.client.ask("GET", path)
        if status != 200:
            raise SystemExit(f"{path} answered {status}: {body[:200].decode()}")
        return body


def times(found: list[float]) -> str:
    found = sorted(found)
    at = [found[min(len(found) - 1, int(len(found) * p))] * 1000 for p in (0.5, 0.95)]
    return f"p50 {at[0]:7.1f}   p95 {at[1]:7.1f}   max {found[-1] * 1000:7.1f} ms   n {len(found)}"


COLUMNS = ("predicted", "source", "annotators", "agreement", "author", "meta.pen", "confidence", "label")


async def look(port: int, token: str, reports: list[str], n: int, seconds: float, process) -> None:
    report, api = reports[1], f"/api/r/{reports[1]}"
    one = Browser(port, token)
    await one.client.ask("GET", "/healthz")
    started = time.perf_counter()
    await one.get("page", f"/r/{report}/cases")
    await one.get("about", f"{api}/about")
    await one.get("first cases", f"{api}/cases?n=100")
    drawn = time.perf_counter() - started
    print(f"first screen of a server that has just started (page, about, 100 cases): {drawn * 1000:.0f} ms; memory of the server process {memory(process)[0]:.0f} MB")
    started = time.perf_counter()
    await one.get("page", f"/r/{reports[0]}/cases")
    await one.get("about", f"/api/r/{reports[0]}/about")
    await one.get("first cases", f"/api/r/{reports[0]}/cases?n=100")
    print(f"first screen of a report that nobody has opened yet: {(time.perf_counter() - started) * 1000:.0f} ms; memory {memory(process)[0]:.0f} MB")
    started = time.perf_counter()
    await one.get("page", f"/r/{report}/cases")
    await one.get("about", f"{api}/about")
    await one.get("first cases", f"{api}/cases?n=100")
    print(f"first screen of one that is open: {(time.perf_counter() - started) * 1000:.0f} ms")
    started = time.perf_counter()
    await one.get("confusion", f"{api}/confusion?" + urlencode({"f": json.dumps([["split", "=", "test"]])}))
    for column in COLUMNS:
        await one.get("slice", f"{api}/slice?" + urlencode({"column": column, "f": json.dumps([["split", "=", "test"]])}))
    print(f"confusion and eight slices of the overview: {(time.perf_counter() - started) * 1000:.0f} ms")
    one.watch.times.clear()
    rng, until = random.Random(0), time.monotonic() + seconds
    while time.monotonic() < until:
        f = json.dumps([["confidence", ">", round(rng.uniform(0.3, 0.9), 5)], *rng.choice([[["right", "=", False]], [["predicted", "=", rng.choice(CLASSES)]], [["source", "in", ["source 1", "source 4"]]], []])])
        start, sort = rng.randrange(n // 50), rng.choice(["confidence", "suspicion", "label", "item", ""])
        await one.get("filter, sort, page", f"{api}/cases?" + urlencode({"f": f, "sort": sort, "down": 1, "start": start, "n": 100}))
        await one.get("slice", f"{api}/slice?" + urlencode({"column": rng.choice(COLUMNS), "f": f}))
        await one.get("confusion", f"{api}/confusion?" + urlencode({"f": f}))
        await one.get("search", f"{api}/cases?" + urlencode({"q": f"no. {rng.randrange(n // 10)}", "n": 100}))
        item = json.loads(await one.get("cases again", f"{api}/cases?n=100&start={rng.randrange(n // 2)}"))["rows"][7]["item"]
        await one.get("thumb", f"/r/{report}/items/{item}/thumb")
    for k in range(3):
        await one.get("compare", f"{api}/compare/{reports[0]}?" + urlencode({"f": json.dumps([["confidence", ">", 0.4 + k / 100]])}))
        await one.get("story of an item", f"{api}/items/{item}")
    for name, found in one.watch.times.items():
        print(f"  {name:<19} {times(found)}")
    print(f"memory of the server process {memory(process)[0]:.0f} MB, of all its processes {memory(process)[1]:.0f} MB")


def journal(home: Path) -> None:
    """Times at the server, by its own journal."""
    found: dict[str, list[float]] = {}
    for line in (home / "evaluate-app.log").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["route"], []).append(row["ms"] / 1000)
    print("at the server, by its journal:")
    for name in ("cases", "slice", "confusion", "take_verdicts"):
        if name in found:
            print(f"  {name:<19} {times(found[name])}")


def peer(home: Path, reports: list[str]) -> None:
    """The same questions to pandas."""
    import pandas as pd

    df = pd.read_parquet(home / "evaluate" / reports[1] / "predictions.parquet").merge(pd.read_parquet(home / "dataset" / next(os.walk(home / "dataset"))[1][0] / "items.parquet", columns=["id", "source", "agreement"]), left_on="item_id", right_on="id")
    spent: dict[str, list[float]] = {"filter, sort, page": [], "slice": []}
    for k in range(30):
        started = time.perf_counter()
        df[(df["confidence"] > 0.3 + k / 100) & ~df["right"]].sort_values("confidence", ascending=False).head(100).to_dict("records")
        spent["filter, sort, page"].append(time.perf_counter() - started)
        started = time.perf_counter()
        df[df["confidence"] > 0.3 + k / 100].groupby("source")["right"].agg(["size", "mean"]).to_dict("records")
        spent["slice"].append(time.perf_counter() - started)
    print("pandas in this process, without HTTP, without intervals:")
    for name, found in spent.items():
        print(f"  {name:<19} {times(found)}")


async def judge(port: int, token: str, report: str, items: list[str], until: float, watch, said: list) -> None:
    """One person, who sends a verdict, waits for its answer, and sends the next."""
    client = other.Client(port, f"Cookie: fsml_session={token}")
    _, page = await client.ask("GET", f"/r/{report}/cases")
    csrf = json.loads(re.search(rb'id="boot" type="application/json">(.*?)</script>', page)[1])["csrf"]
    client.headers += f"X-CSRF: {csrf}\r\n"
    rng = random.Random(token)
    while time.monotonic() < until:
        one = {"id": uuid.uuid4().hex, "item": rng.choice(items), "verdict": rng.choice(["wrong label", "model error", "fine"]), "comment": ""}
        body, started = json.dumps({"verdicts": [one]}).encode(), time.perf_counter()
        while True:  # until it is acknowledged, as a browser does
            try:
                status, answer = await client.ask("POST", f"/api/r/{report}/verdicts", body)
                if status == 200 and json.loads(answer)["results"][0]["status"] in ("stored", "known"):
                    said.append(one["id"])
                    break
                watch.wrong[status] += 1
            except (OSError, asyncio.IncompleteReadError, ValueError):
                watch.repeats += 1
                client.close()
            await asyncio.sleep(0.05)
        watch.times.setdefault("verdict", []).append(time.perf_counter() - started)
    client.close()


async def kill(process, n: int, seconds: float) -> None:
    for _ in range(n):
        await asyncio.sleep(seconds / (n + 1))
        children = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
        for c in children[:1]:
            c.send_signal(signal.SIGKILL)


async def judging(port: int, process, reports: list[str], items: list[str], tokens: list[str], seconds: float, kills: int, url: str) -> None:
    watch, said, until = other.Watch(), [], time.monotonic() + seconds
    some = items[:5000]
    await asyncio.gather(kill(process, kills, seconds), *(judge(port, t, reports[1], some, until, watch, said) for t in tokens))
    found = watch.times["verdict"]
    print(f"{len(tokens)} judges, {seconds:.0f} s, {kills} kills: {len(said)} verdicts, {len(said) / seconds:.0f} a second; refused or failed: {dict(watch.wrong) or 'none'}; sent again: {watch.repeats}")
    print(f"  {'verdict':<19} {times(found)}")
    from fullstack_ml.records import open_database
    from fullstack_ml.verdicts import verdicts_of

    db = open_database(url)
    kept = [v.id for v in verdicts_of(db, reports[1])]
    db.engine.dispose()
    lost, twice, more = set(said) - set(kept), [i for i, n in Counter(kept).items() if n > 1], set(kept) - set(said)
    print(f"in the database: {len(kept)}; lost {len(lost)}, doubled {len(twice)}, never acknowledged {len(more)}")
    if lost or twice or len(said) != len(set(said)):
        raise SystemExit("verdicts were lost or doubled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?")
    for name, value in (("rows", 100_000), ("seconds", 10.0), ("judges", 32), ("judging", 30.0), ("kills", 0)):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--database")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fsml-evaluate-") as folder:
        home = Path(folder)
        url = args.database or f"sqlite:///{home}/fsml.db"
        started = time.perf_counter()
        reports, items, tokens = prepare(home, url, args.folder, args.rows, max(args.judges, 1))
        print(f"{args.rows:,} predictions of {'MNIST, repeated' if args.folder else 'drawn digits, repeated'}, two reports, made in {time.perf_counter() - started:.1f} s; {os.cpu_count()} cores")
        other.COMMAND = "evaluate-app"
        with other.served(home, url, 1) as (port, process):
            asyncio.run(look(port, tokens[0], reports, args.rows, args.seconds, process))
            if args.judges:
                asyncio.run(judging(port, process, reports, items, tokens, args.judging, args.kills, url))
                with suppress(psutil.Error):
                    print(f"memory of the server process afterwards {memory(process)[0]:.0f} MB")
        journal(home)
        peer(home, reports)


if __name__ == "__main__":
    main()
