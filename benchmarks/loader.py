"""Pictures a second of the loader, beside ImageFolder, WebDataset, Lance and Hugging Face datasets, in the same run.

    python benchmarks/loader.py [--data PICTURES] [--folder KEPT] [--rounds 3] [--quick]

Shuffled epochs of 24,000 JPEGs of 224 x 224 pixels, quality 85, on two cores, into batches of 64 that are torch
tensors of bytes: [64, 3, 224, 224] from ImageFolder's own transform, [64, 224, 224, 3] from all others. Pictures are
crops of those below --data (a folder or a tar), or of textures with the spectrum of photographs. Peers get two worker
processes and, ImageFolder's first line apart, the decoder that we use: what is compared is the loading. Each
contestant reads two epochs in a process of its own, round after round, with all files in the page cache; the fastest
round counts, and the ratio is that of the second epoch, when everybody's workers are up. CPU is that of both epochs,
children included: it says more than the clock where other programs run. Seconds to the first batch start where the
loader is made (Lance's own starts fresh processes, which import everything anew). Memory is what the processes hold
together besides mapped files.
"""
import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

SIDE, BATCH, WORKERS, CLASSES = 224, 64, 2, [f"c{k}" for k in range(10)]
CONTESTANTS = {  # name -> the package that it needs
    "ImageFolder, as it is": "torchvision", "ImageFolder, our decoder": "torchvision", "WebDataset": "webdataset", "Hugging Face datasets": "datasets",
    "Lance, its torch loader": "lance", "Lance, take in threads": "lance", "ours, files": "fullstack_ml", "ours, packed copy": "fullstack_ml", "ours, decoded copy": "fullstack_ml",
}  # fmt: skip


# ---------------------------------------------------------------- the pictures


def originals(data: Path | None) -> list[np.ndarray]:
    """Pictures to cut from: given ones, or coloured noise whose amplitude falls with frequency as in photographs."""
    if data and data.is_file():
        with tarfile.open(data) as tar:
            bodies = [tar.extractfile(m).read() for m in tar if m.name.lower().endswith((".jpg", ".jpeg", ".png"))][:200]
    else:
        bodies = [p.read_bytes() for p in sorted(data.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png")][:200] if data else []
    found = [image for b in bodies if (image := cv2.imdecode(np.frombuffer(b, np.uint8), 1)) is not None and min(image.shape[:2]) >= SIDE]
    if found:
        return found
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(640), np.fft.rfftfreq(640), indexing="ij"))
    frequency[0, 0] = 1
    for _ in range(40):
        planes = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((640, 640))) / frequency**1.15) for _ in range(3)]
        mixed = np.stack([planes[0] + 0.25 * p for p in planes], 2)
        found.append(((mixed - mixed.mean()) / mixed.std() * 50 + 128).clip(0, 255).astype(np.uint8))
    return found


def prepare(folder: Path, data: Path | None, n: int) -> None:
    """The same pictures for everybody, each in its own layout."""
    if (folder / "done").exists():
        return
    found, rng = originals(data), np.random.default_rng(1)
    for k in range(n):
        image = found[k % len(found)]
        side = int(rng.integers(SIDE, 1 + min(2 * SIDE, *image.shape[:2])))
        y, x = (int(rng.integers(0, s - side + 1)) for s in image.shape[:2])
        path = folder / "images" / CLASSES[k % len(CLASSES)] / f"{k:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = cv2.resize(image[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        path.write_bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    paths = sorted((folder / "images").rglob("*.jpg"), key=lambda p: p.name)
    labels = [CLASSES.index(p.parent.name) for p in paths]
    if find_spec("webdataset"):
        import webdataset as wds

        with wds.ShardWriter(f"{folder}/shard-%04d.tar", maxcount=1000, verbose=0) as out:
            for p, label in zip(paths, labels):
                out.write({"__key__": p.stem, "jpg": p.read_bytes(), "cls": label})
    import pyarrow as pa

    table = pa.table({"image": pa.array([p.read_bytes() for p in paths], pa.binary()), "label": labels})
    if find_spec("lance"):
        import lance

        lance.write_dataset(table, str(folder / "images.lance"))
    if find_spec("datasets"):
        import datasets

        datasets.Dataset(table).save_to_disk(str(folder / "huggingface"))
    version(folder, paths)
    (folder / "done").touch()


def version(folder: Path, paths: list[Path]) -> None:
    """As our dataset stage would have left them."""
    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.core import compose_cfg, write_json
    from fullstack_ml.records import Choice, Item, draft, label_to_dict, write_items

    cfg = compose_cfg("dataset", out=str(folder / "artifacts"))
    store = BlobStore(cfg.storage.blobs)
    items = [Item(url=p.name, sha256=store.put(p.read_bytes()), width=SIDE, height=SIDE) for p in paths]
    with draft("dataset", cfg, {}) as d:
        labels = [json.dumps(label_to_dict(Choice((p.parent.name,)))) for p in paths]
        write_items(d.dir / "items.parquet", items, label=labels, split=["train"] * len(items))
        write_json(d.dir / "classes.json", CLASSES)


# ---------------------------------------------------------------- the contestants: each gives an iterable of tensors, an epoch each time


class Epochs:
    """A loader, and what of its batches is the tensor."""

    def __init__(self, loader, pick):
        self.loader, self.pick = loader, pick

    def __iter__(self):
        return map(self.pick, self.loader() if callable(self.loader) else self.loader)


def decode(body: bytes) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(body)


def folder_loader(folder: Path, own_decoder: bool):
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2 import PILToTensor

    data = ImageFolder(folder / "images", transform=PILToTensor())
    if own_decoder:
        data = ImageFolder(folder / "images", loader=lambda path: torch.from_numpy(decode(Path(path).read_bytes())))
    return Epochs(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True), lambda batch: batch[0])


def webdataset_loader(folder: Path):
    import torch
    import webdataset as wds

    shards = sorted(str(p) for p in folder.glob("shard-*.tar"))
    data = wds.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).to_tuple("jpg", "cls").map_tuple(lambda b: torch.from_numpy(decode(b)), int)
    return Epochs(wds.WebLoader(data.batched(BATCH), batch_size=None, num_workers=WORKERS, persistent_workers=True), lambda batch: batch[0])


def huggingface_loader(folder: Path):
    import datasets
    import torch

    def transform(rows: dict) -> dict:
        return {"image": [torch.from_numpy(decode(b)) for b in rows["image"]], "label": rows["label"]}

    data = datasets.load_from_disk(str(folder / "huggingface")).with_transform(transform)
    return Epochs(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True), lambda batch: batch["image"])


def lance_collate(rows: list[dict]):
    import torch

    return torch.from_numpy(np.stack([decode(r["image"]) for r in rows]))


def lance_loader(folder: Path):
    from lance.torch.data import SafeLanceDataset, get_safe_loader

    data = SafeLanceDataset(str(folder / "images.lance"))
    return Epochs(get_safe_loader(data, batch_size=BATCH, shuffle=True, num_workers=WORKERS, collate_fn=lance_collate, persistent_workers=True), lambda batch: batch)


def lance_threads(folder: Path):
    """What its users write who do not want processes: rows by number, decoded where they arrive."""
    from concurrent.futures import ThreadPoolExecutor

    import lance

    data = lance.dataset(str(folder / "images.lance"))
    rng = np.random.default_rng(0)

    def epoch():
        order = rng.permutation(data.count_rows())
        with ThreadPoolExecutor(WORKERS) as pool:
            yield from pool.map(lambda k: lance_collate(data.take(order[k : k + BATCH], columns=["image"]).to_pylist()), range(0, len(order), BATCH))

    return Epochs(epoch, lambda batch: batch)


def our_loader(folder: Path, cache: str):
    import torch

    from fullstack_ml.core import compose_cfg
    from fullstack_ml.dataset import open_dataset
    from fullstack_ml.loader import Loader
    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.records import find_artifact
    from fullstack_ml.task import load_task

    cfg = compose_cfg("train", out=str(folder / "artifacts"))
    data, store = open_dataset(find_artifact(cfg, "dataset")), BlobStore(cfg.storage.blobs)
    data.items("train")
    task = load_task({"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": SIDE})
    started = time.perf_counter()
    loader = Loader(data, "train", store, task, BATCH, shuffle=True, cache=cache, threads=WORKERS)
    return started, Epochs(loader, lambda batch: torch.from_numpy(batch["image"]))


def run_one(name: str, folder: Path, epochs: int = 2) -> dict:
    """Epochs of one contestant, in this process."""
    import torch  # noqa: F401  everybody's tensors; importing it is not loading

    for package in {CONTESTANTS[name]} - {"fullstack_ml"}:
        __import__(package)
    make = {
        "ImageFolder, as it is": lambda: folder_loader(folder, False), "ImageFolder, our decoder": lambda: folder_loader(folder, True),
        "WebDataset": lambda: webdataset_loader(folder), "Hugging Face datasets": lambda: huggingface_loader(folder), "Lance, its torch loader": lambda: lance_loader(folder),
        "Lance, take in threads": lambda: lance_threads(folder),
        "ours, files": lambda: our_loader(folder, "none"), "ours, packed copy": lambda: our_loader(folder, "packed"), "ours, decoded copy": lambda: our_loader(folder, "decoded"),
    }[name]  # fmt: skip
    started = time.perf_counter()
    made = make()
    started, batches = made if isinstance(made, tuple) else (started, made)
    found, worked = [], cpu_seconds()
    for _ in range(epochs):
        n, first, shape = 0, 0.0, ()
        for batch in batches:
            first, shape = first or time.perf_counter() - started, shape or tuple(batch.shape)
            n += len(batch)
        found.append((time.perf_counter() - started, first))
        started = time.perf_counter()
    del batch, batches, made  # worker processes end, and are counted
    gc.collect()
    return {"n": n, "seconds": found[0][0], "first": found[0][1], "later": found[-1][0], "shape": shape, "cpu": (cpu_seconds() - worked) / epochs}


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


# ---------------------------------------------------------------- measuring


def memory_of(pid: int) -> int:  # bytes
    """What a process and its children hold besides mapped files; shared pages are counted once."""
    total = 0
    try:
        fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        total = 1024 * sum(int(fields[k].split()[0]) for k in ("Pss_Anon", "Pss_Shmem") if k in fields)
        children = [c for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
        total += sum(memory_of(int(c)) for c in children)
    except (OSError, ValueError):
        pass
    return total


def measure(name: str, folder: Path, timeout: float = 900) -> dict:
    """Two epochs in a fresh process, its memory watched from here."""
    process = subprocess.Popen([sys.executable, __file__, "--folder", str(folder), "--one", name], stdout=subprocess.PIPE, text=True)
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            peak[0] = max(peak[0], memory_of(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        over.set()
        process.kill()
        watcher.join()
    if process.returncode:
        sys.exit(f"{name} failed")
    return {**json.loads(out.splitlines()[-1]), "memory": peak[0]}


def warm(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as f:
                while f.read(1 << 22):
                    pass


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="pictures to cut from: a folder or a tar; without it textures are made")
    parser.add_argument("--folder", type=Path, help="where the pictures go, and stay; without it a temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="beginnings of contestants' names")
    parser.add_argument("--quick", action="store_true", help="2,400 pictures, one round")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    if args.one:
        print(json.dumps(run_one(args.one, args.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, n = (args.folder or Path(temporary)).resolve(), 2400 if args.quick else 24_000
        prepare(folder, args.data, n)
        names = [name for name, package in CONTESTANTS.items() if find_spec(package) and (not args.only or name.startswith(tuple(args.only)))]
        for name in names:
            if name.endswith("copy"):
                print(f"{name}: made in a first pass of {measure(name, folder)['seconds']:.1f} s")
        warm(folder)
        sizes = [p.stat().st_size for p in (folder / "images").rglob("*.jpg")]
        found = {name: [] for name in names}
        for _ in range(1 if args.quick else args.rounds):
            for name in names:
                found[name].append(measure(name, folder))
    print(f"{n:,} JPEGs of {SIDE} x {SIDE} pixels, {np.mean(sizes) / 1e3:.1f} kB each; batches of {BATCH}, uint8; 2 cores; fastest of {len(found[names[0]])}\n")
    base = next((n / min(r["later"] for r in found[name]) for name in names if name == "ImageFolder, as it is"), None)
    print(f"{'pictures/s':26}{'1st epoch':>11}{'2nd epoch':>11}{'ratio':>7}{'CPU us each':>13}{'first batch s':>15}{'memory MB':>11}  batch")
    for name, rounds in found.items():
        best = min(rounds, key=lambda r: r["later"])
        first, speed = (n / min(r[k] for r in rounds) for k in ("seconds", "later"))
        ratio = f"{speed / base:.1f}" if base else ""
        cpu, begin, memory = (of(r[k] for r in rounds) for of, k in ((min, "cpu"), (min, "first"), (max, "memory")))
        print(f"{name:26}{first:>11,.0f}{speed:>11,.0f}{ratio:>7}{1e6 * cpu / n:>13,.0f}{begin:>15.2f}{memory / 1e6:>11,.0f}  {best['shape']}")
        if best["n"] != n:
            print(f"{'':26}gave {best['n']} pictures")


if __name__ == "__main__":
    main()
