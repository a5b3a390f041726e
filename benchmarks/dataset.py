"""Versions of a dataset: how long they take and how much room, beside DVC and Lance where they are installed, in the same run.

    python benchmarks/dataset.py [--items 50000] [--folder FOLDER]

Each peer is given what it is made for: DVC a folder of the same files (added, changed, added again, checked out), Lance a table
with the bytes inside. Both store what they are told; ours reads the items and answers of a crawl of that size, agrees, looks for
near-duplicates, divides, seals, and only then writes.
A second, smaller pass first warms imports and disk for all of them.
"""
import argparse
import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import compose_cfg
from fullstack_ml.dataset import Dataset, dataset, diff_versions
from fullstack_ml.records import Item, draft, write_items


def size(folder: Path) -> float:
    """Megabytes in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


class Watch:
    """Seconds of each step, by who did it."""

    def __init__(self):
        self.seconds: dict[tuple[str, str], float] = {}
        self.room: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, who: str, what: str):
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        self.seconds[who, what] = time.perf_counter() - started


def pictures(n: int) -> list[bytes]:
    """Small bodies of 200 to 1,200 bytes, all different."""
    rng = np.random.default_rng(0)
    return [k.to_bytes(4, "big") + rng.bytes(200 + k % 1000) for k in range(n)]


def world(n: int, store: BlobStore, bodies: list[bytes]) -> tuple[list[Item], list[dict], list[dict]]:
    """Items with their bytes in the store, one in ten a near-duplicate of another, each answered by two people."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 256, (n, 18), np.uint8)
    hashes[1 : n // 5 : 2] = hashes[0 : n // 5 - 1 : 2] ^ np.array([3] + [0] * 17, np.uint8)
    items = [
        Item(
            url=f"https://gallery.example/pictures/{k // 100:04d}/{k:06d}.jpg", source="gallery", sha256=store.put(b), mime="image/jpeg", licence="CC-BY-4.0",
            page_url=f"https://gallery.example/pages/{k // 20:05d}.html", caption=f"Picture number {k}", author=f"Author {k % 97}", phash=hashes[k].tobytes().hex(),
            licence_from="a[rel~=license]@href", fetched_at=f"2026-11-{1 + k % 28:02d}T{k % 24:02d}:{k % 60:02d}:00+00:00", width=224, height=224,
        )
        for k, b in enumerate(bodies)
    ]  # fmt: skip
    return items, *say(items, range(n))


def label(k: int) -> str:
    return json.dumps({"kind": "choice", "names": [str(k % 10)]})


def say(items: list[Item], classes) -> tuple[list[dict], list[dict]]:
    """What two annotators said of each, and what they agree on."""
    answers = [
        {"id": f"{i.id}{who}", "item_id": i.id, "annotator": who, "label": label(c), "created": "2026-11-22T10:00:00.000+00:00", "seconds": 1.0}
        for i, c in zip(items, classes)
        for who in ("ada", "ben")
    ]
    agreed = [{"item_id": i.id, "label": label(c), "annotators": ["ada", "ben"], "agreement": 1.0, "n_answers": 2} for i, c in zip(items, classes)]
    return answers, agreed


def leave(cfg, items: list[Item], answers: list[dict], agreed: list[dict]) -> None:
    """A crawl and its annotations, as those stages would have left them."""
    with draft("crawl", cfg, {}) as d:
        write_items(d.dir / "items.parquet", items)
    with draft("annotate", cfg, {}) as d:
        for name, rows in (("answers", answers), ("consensus", agreed), ("checks", agreed[:100])):
            pq.write_table(pa.Table.from_pylist(rows), d.dir / f"{name}.parquet", compression="zstd")


def ours(watch: Watch, home: Path, bodies: list[bytes]) -> None:
    """Version 1, version 2 with one in a hundred changed, their difference, and the first one opened again."""
    os.environ["FSML_HOME"] = str(home)
    cfg, n = compose_cfg("dataset", ["name=bench", "report=null"], out=str(home / "artifacts")), len(bodies)
    items, answers, agreed = world(n, BlobStore(cfg.storage.blobs), bodies)
    leave(cfg, items, answers, agreed)
    with watch.step("fullstack_ml", "version 1"):
        v1 = dataset(cfg)
    changed = n // 300  # as many new, gone and relabelled
    store, rng = BlobStore(cfg.storage.blobs), np.random.default_rng(2)
    new = [
        Item(url=f"https://gallery.example/new/{k}.jpg", source="gallery", sha256=store.put(b"new" + rng.bytes(500)), licence="CC-BY-4.0", phash=rng.bytes(18).hex())
        for k in range(changed)
    ]
    classes = [k + (k < changed) for k in range(n)]
    items, classes = [*items[:-changed], *new], [*classes[:-changed], *range(changed)]
    leave(cfg, items, *say(items, classes))
    before = size(home / "artifacts" / "dataset")
    with watch.step("fullstack_ml", "version 2"):
        v2 = dataset(cfg)
    watch.room["fullstack_ml"] = size(home / "artifacts" / "dataset") - before
    with watch.step("fullstack_ml", "diff"):
        found = diff_versions(v1, v2)
    assert dict(found["change"].value_counts()) == {"added": changed, "removed": changed, "relabelled": changed}, found["change"].value_counts()
    with watch.step("fullstack_ml", "open version 1"):
        old = Dataset("bench", "0.0.1", cfg)
        assert len(old) == v1.metrics["items"] and old[0].item.id
    print(f"  ours: {v1.metrics['items']} items, {v1.metrics['groups']} groups; a version is {size(v2.dir):.1f} MB", file=sys.stderr)


def dvc(watch: Watch, home: Path, bodies: list[bytes]) -> None:
    """The same files in a folder under DVC."""
    repo = home / "dvc"
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def do(*words: str, program: tuple[str, ...] = (sys.executable, "-m", "dvc")) -> None:
        subprocess.run([*program, *words], cwd=repo, env=env, check=True, capture_output=True)

    (repo / "data").mkdir(parents=True)
    do("init", "-q", program=("git",))
    do("init", "-q")
    for k, body in enumerate(bodies):
        (repo / "data" / f"{k:06d}.jpg").write_bytes(body)

    def commit() -> None:
        do("add", "-q", "data")
        do("add", "-A", program=("git",))
        do("-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-qm", "version", program=("git",))

    with watch.step("DVC", "version 1"):
        commit()
    for k in range(len(bodies) // 100):
        (repo / "data" / f"{k:06d}.jpg").write_bytes(b"changed" + bodies[k])
    before = size(repo / ".dvc")
    with watch.step("DVC", "version 2"):
        commit()
    watch.room["DVC"] = size(repo / ".dvc") - before
    with watch.step("DVC", "diff"):
        do("diff", "HEAD~1", "HEAD", "--json")
    with watch.step("DVC", "open version 1"):
        do("checkout", "-q", "HEAD~1", program=("git",))
        do("checkout", "-q")


def lance(watch: Watch, home: Path, bodies: list[bytes]) -> None:
    """The same bytes in a Lance table; it compares no versions, so the ids and labels of both are read and compared here."""
    import lance as peer

    n, path = len(bodies), str(home / "table.lance")
    rows = pa.table({"id": [f"{k:06d}" for k in range(n)], "label": [label(k) for k in range(n)], "image": pa.array(bodies, pa.binary())})
    with watch.step("Lance", "version 1"):
        peer.write_dataset(rows, path)
    before = size(Path(path))
    part = rows.slice(0, n // 100).set_column(1, "label", pa.array([label(k + 1) for k in range(n // 100)]))
    with watch.step("Lance", "version 2"):
        peer.dataset(path).merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(part)
    watch.room["Lance"] = size(Path(path)) - before
    with watch.step("Lance", "diff"):
        old, new = (peer.dataset(path, version=v).to_table(columns=["id", "label"]).to_pandas().set_index("id")["label"] for v in (1, 2))
        assert (old != new.reindex(old.index)).sum() == n // 100
    with watch.step("Lance", "open version 1"):
        peer.dataset(path, version=1).take([0], columns=["id"])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder otherwise")
    args = parser.parse_args()
    peers = [run for run, module in ((dvc, "dvc"), (lance, "lance")) if importlib.util.find_spec(module)]
    for n in (2_000, args.items):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            watch, bodies = Watch(), pictures(n)
            for run in (ours, *peers):
                run(watch, Path(folder) / run.__name__, bodies) if (Path(folder) / run.__name__).mkdir() is None else None
                shutil.rmtree(Path(folder) / run.__name__, ignore_errors=True)
    names = list(dict.fromkeys(who for who, _ in watch.seconds))
    print(f"{args.items} items of 200 to 1,200 bytes, 1 % changed; seconds (as often as ours)\n")
    print("| step | " + " | ".join(names) + " |\n|---" * (len(names) > 0) + "|---" * (len(names)) + "|")
    for what in ("version 1", "version 2", "diff", "open version 1"):
        mine = watch.seconds["fullstack_ml", what]
        print(f"| {what} | " + " | ".join(f"{watch.seconds[who, what]:.3f} ({watch.seconds[who, what] / mine:.1f})" for who in names) + " |")
    print("| MB more for version 2 | " + " | ".join(f"{watch.room[who]:.1f}" for who in names) + " |")
    left = [name for name, module in (("DVC", "dvc"), ("Lance", "lance")) if not importlib.util.find_spec(module)]
    print(f"\nThe limits of the issue: 5, 1, 0.5 and 0.1 seconds, 5 MB. Not installed here: {', '.join(left) or 'none'}.")


if __name__ == "__main__":
    main()
