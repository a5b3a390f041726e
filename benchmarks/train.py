"""Images a second of training, data loading included, beside timm's own train.py, in the same run.

    python benchmarks/train.py --timm-train PATH/train.py [--data FOLDER_OF_IDX] [--models resnet18 mobilenetv3_small_100] [--images 5120] [--rounds 2]

PATH is timm's script, which its wheel does not hold: github.com/huggingface/pytorch-image-models. Both read the same PNG
files of 28 x 28 pixels (three channels, MNIST with --data, else noise with bars), batches of 128, SGD with momentum, no
augmentation, two epochs; of each contestant the faster epoch counts, and of several rounds the fastest. timm's figure is
the one that it prints itself; ours is the line of the log. Every setting of precision and memory layout runs on both
sides, one after the other, so that what else runs on the machine hits both alike. `ours, auto` chooses by itself.
Where other programs run as well, the clock says little. --cpu therefore compares computing time: of our loop as the
process counts it, of timm's script as what three epochs take longer than one, its loader's processes included; with
--threads 1 neither side waits for its own threads.
"""
import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SIZE, BATCH, EPOCHS = 28, 128, 2
SETTINGS = {"fp32 contiguous": ([], ("fp32", "contiguous")), "fp32 channels_last": (["--channels-last"], ("fp32", "channels_last")),
            "bf16 contiguous": (["--amp", "--amp-dtype", "bfloat16"], ("bf16", "contiguous")),
            "bf16 channels_last": (["--channels-last", "--amp", "--amp-dtype", "bfloat16"], ("bf16", "channels_last"))}  # fmt: skip


def pictures(folder: Path | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """MNIST in three channels, or noise with as many bars as the class says."""
    if folder:
        from fullstack_ml.arrays import read_idx

        images, labels = (next(read_idx(p) for p in sorted(folder.glob(f"train-{kind}*"))) for kind in ("images", "labels"))
        return np.repeat(images[:n, :, :, None], 3, 3), labels[:n]
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 80, (n, SIZE, SIZE, 3), np.uint8), np.arange(n) % 10
    for image, label in zip(images, labels):
        image[4:-4, 1 : 2 + 2 * label : 2] = 230
    return images, labels


def prepare(home: Path, folder: Path | None, n: int) -> None:
    """The same files as class folders for timm, and as a version for us."""
    import cv2

    from fullstack_ml.blobs import BlobStore
    from fullstack_ml.core import compose_cfg, write_json
    from fullstack_ml.records import Choice, Item, draft, label_to_dict, write_items

    cfg, rows = compose_cfg("dataset", out=str(home / "artifacts")), []
    store = BlobStore(cfg.storage.blobs)
    for k, (image, label) in enumerate(zip(*pictures(folder, n + BATCH))):
        data, split = cv2.imencode(".png", image)[1].tobytes(), "train" if k < n else "val"
        path = home / "images" / ("train" if k < n else "validation") / str(label) / f"{k:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows.append((Item(url=path.name, sha256=store.put(data), width=SIZE, height=SIZE), json.dumps(label_to_dict(Choice((str(label),)))), split))
    with draft("dataset", cfg, {}) as d:
        write_items(d.dir / "items.parquet", [i for i, *_ in rows], label=[l for _, l, _ in rows], split=[s for *_, s in rows])
        write_json(d.dir / "classes.json", [str(k) for k in range(10)])


def timm_rate(script: Path, home: Path, model: str, options: list[str], env: dict, epochs: int = EPOCHS) -> tuple[float, float]:
    """Images a second that timm's script says of its faster epoch, and the seconds of CPU that all of it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [sys.executable, str(script), "--data-dir", str(home / "images"), "--model", model, "--num-classes", "10", "--img-size", str(SIZE), "-b", str(BATCH),
             "--epochs", str(epochs), "--device", "cpu", "-j", "2", "--opt", "momentum", "--lr", "0.05", "--warmup-epochs", "0", "--no-aug",
             "--output", str(home / "timm"), "--log-interval", "1000", *options]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=1800)
    last = re.findall(r"Train: (\d+) \[.*?100%\)\].*?Time: [\d.]+s, +[\d.]+/s +\(([\d.]+)s,", done.stdout + done.stderr)
    if not last:
        raise SystemExit(f"timm's script said no rate: {(done.stdout + done.stderr)[-1500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(BATCH / float(seconds) for _, seconds in last), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


OURS = """
import json, sys, time
from fullstack_ml import train
from fullstack_ml.core import compose_cfg
class Clock:
    def before_epoch(self, learner): self.at = time.process_time()
    def after_batch(self, learner): self.took = time.process_time() - self.at
    def after_epoch(self, learner): TOOK.append(self.took / len(learner.batches.items))
TOOK, train.Bar = [], Clock
made = train.train(compose_cfg("train", sys.argv[2:], out=sys.argv[1]))
rows = [json.loads(line) for line in made.path("metrics.jsonl").read_text().splitlines()]
print("RATE", max(r["images_per_second"] for r in rows), 1e6 * min(TOOK), made.metrics["precision"], made.metrics["layout"])
"""


def our_rate(home: Path, model: str, precision: str, layout: str, env: dict) -> tuple[float, float, str]:
    """Images a second, microseconds of CPU an image, and the setting."""
    words = [f"model.name={model}", "task.size=28", "task.channels=3", "augment=none", f"batch_size={BATCH}", f"epochs={EPOCHS}", "optim.opt=momentum", "optim.lr=0.05",
             "optim.warmup_epochs=0", "tracking=disabled", "device=cpu", f"speed.precision={precision}", f"speed.layout={layout}", "task.label_smoothing=0.1"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", OURS, str(home / "artifacts"), *words], capture_output=True, text=True, env=env, timeout=1800)
    found = re.search(r"RATE ([\d.]+) ([\d.]+) (\w+) (\w+)", done.stdout)
    if not found:
        raise SystemExit(f"our run said no rate: {(done.stdout + done.stderr)[-1500:]}")
    return float(found[1]), float(found[2]), f"{found[3]} {found[4]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm-train", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--data", type=Path, help="folder with MNIST's idx files")
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenetv3_small_100"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="compare computing time too")
    args = parser.parse_args()
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))}
    with tempfile.TemporaryDirectory() as home:
        prepare(Path(home), args.data, args.images)
        print(f"{args.images} pictures of {SIZE} x {SIZE} x 3, batches of {BATCH}, {args.threads} threads; images/s", flush=True)
        for model in args.models:
            theirs, ours, cpu, timm_cpu, auto, chosen = {}, {}, {}, {}, 0.0, ""
            for _ in range(args.rounds):
                for name in args.settings:
                    options, speed = SETTINGS[name]
                    rate, took = timm_rate(args.timm_train, Path(home), model, options, env, 1 if args.cpu else EPOCHS)
                    if args.cpu:
                        rate, more = timm_rate(args.timm_train, Path(home), model, options, env, 3)
                        timm_cpu[name] = min(timm_cpu.get(name, 1e9), 1e6 * (more - took) / (2 * args.images))
                    theirs[name] = max(theirs.get(name, 0), rate)
                    rate, used, _ = our_rate(Path(home), model, *speed, env)
                    ours[name], cpu[name] = max(ours.get(name, 0), rate), min(cpu.get(name, 1e9), used)
                rate, _, chosen = our_rate(Path(home), model, "auto", "auto", env) if not args.cpu else (0.0, 0.0, "nothing")
                auto = max(rate, auto)
            for name in args.settings:
                print(f"{model:<24}{name:<20} timm {theirs[name]:7.0f}   ours {ours[name]:7.0f}   ratio {ours[name] / theirs[name]:.2f}", flush=True)
                print(f"{'':<24}{'us of CPU an image':<20} timm {timm_cpu.get(name, 0):7.0f}   ours {cpu[name]:7.0f}   ratio {timm_cpu.get(name, 0) / cpu[name]:.2f}", flush=True)
            best, own = max(theirs.values()), max(*ours.values(), auto)
            print(f"{model:<24}{'best of each':<20} timm {best:7.0f}   ours {own:7.0f}   ratio {own / best:.2f}   (auto took {chosen}: {auto:.0f})", flush=True)


if __name__ == "__main__":
    main()
