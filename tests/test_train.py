"""Training: a run that is killed ends where an unbroken one does, and nothing ever asks for a login."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, BadInput, FsmlError, Unavailable, compose_cfg, sha256, write_json
from fullstack_ml.records import draft, label_to_dict, list_artifacts, write_items

OVERRIDES = ["problem.classes=[one,two,three]", "~problem.aliases", "batch_size=8", "device=cpu"]
CHILD = """
import os, sys, time
import torch
from fullstack_ml.core import compose_cfg, FsmlError
from fullstack_ml import train
class Slow:
    def after_batch(self, learner):
        print(learner.epoch, learner.step, flush=True); time.sleep(float(os.environ.get("SLOW", 0)))
train.Bar = Slow
torch.set_num_threads(1)
try: print(train.train(compose_cfg("train", sys.argv[2:], out=sys.argv[1])).id)
except FsmlError as e: print(e, file=sys.stderr); sys.exit(e.exit_code)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A small version, as `dataset` would have left it."""
    from fullstack_ml.task import load_task

    out = tmp_path_factory.mktemp("train")
    cfg = compose_cfg("train", [*OVERRIDES, f"storage.blobs={out}/blobs"], out=str(out))
    store, pairs = BlobStore(cfg.storage.blobs), load_task(cfg.task).sample(80)
    for item, _ in pairs:
        store.put(item.data)
    with draft("dataset", cfg, {}) as d:
        splits = ["val" if k % 5 == 0 else "train" for k in range(80)]
        write_items(d.dir / "items.parquet", [i for i, _ in pairs], label=[json.dumps(label_to_dict(l)) for _, l in pairs], split=splits)
        write_json(d.dir / "classes.json", ["one", "two", "three"])
    return out


def start(out, *overrides, slow=0.0):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SLOW": str(slow)}
    command = [sys.executable, "-c", CHILD, str(out), *OVERRIDES, *overrides]
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def runs(out):
    return list_artifacts(compose_cfg("train", OVERRIDES, out=str(out)), "train")


def log(manifest):
    return [json.loads(line) for line in manifest.path("metrics.jsonl").read_text().splitlines()]


def test_killed_and_run_again(data, capsys):
    """SIGKILL in the middle of the second epoch, then the same command: the same weights, bit for bit. wandb's file reads back as our log."""
    import torch

    from fullstack_ml.train import read_wandb, train

    n, options = len(runs(data)), ["epochs=3", "tracking=offline"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cfg = compose_cfg("train", [*OVERRIDES, *options], out=str(data))
        killed = start(data, *options, slow=0.05)
        while not (line := killed.stdout.readline()).startswith("1 12"):
            assert line or killed.poll() is None, killed.stderr.read()[-2000:]
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert len(runs(data)) == n, "nothing half-made under a final name"
        capsys.readouterr()
        second = train(cfg)
        assert "carries on after epoch 1 of 3" in capsys.readouterr().out
        first = train(cfg)
        assert "carries on" not in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    assert second.id != first.id and second.key == first.key
    assert sha256(second.path("model.safetensors")) == sha256(first.path("model.safetensors"))
    clock = ("images_per_second",)
    assert [{k: v for k, v in r.items() if k not in clock} for r in log(second)] == [{k: v for k, v in r.items() if k not in clock} for r in log(first)]
    assert [r["epoch"] for r in log(second)] == [0, 1, 2] and first.metrics["accuracy"] == second.metrics["accuracy"]
    assert not any("checkpoint" in f for f in second.files)
    for run in (first, second):
        table = read_wandb(run)
        seen = table.dropna(subset=["val_loss"])
        assert seen["val_loss"].tolist() == pytest.approx([r["val_loss"] for r in log(run)])
        assert seen["epoch"].tolist() == [0, 1, 2] and table["_step"].is_monotonic_increasing and table["_step"].is_unique


def test_online_without_a_key_is_refused_at_once(data, monkeypatch):
    from fullstack_ml.train import train

    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    n, started = len(runs(data)), time.monotonic()
    with pytest.raises(BadConfig, match="WANDB_API_KEY") as e:
        train(compose_cfg("train", [*OVERRIDES, "epochs=1", "tracking=online"], out=str(data)))
    assert e.value.exit_code == 2 and len(runs(data)) == n and time.monotonic() - started < 10


def test_disabled_leaves_only_our_log(data):
    from fullstack_ml.train import read_curves, read_wandb, train

    manifest = train(compose_cfg("train", [*OVERRIDES, "epochs=1", "tracking=disabled", "seed=4000000000", "~callbacks.bar"], out=str(data)))
    assert sorted(manifest.files) == ["metrics.jsonl", "model.json", "model.safetensors"] or not any("wandb" in f for f in manifest.files)
    assert len(read_wandb(manifest)) == 0 and len(read_curves(manifest)) == 1
    assert manifest.metrics["split"] == "val" and manifest.verify()


def test_a_loss_that_is_no_number_stops(data):
    from fullstack_ml.train import train

    with pytest.raises(BadConfig, match="no longer a number.*epoch 0.*optim.lr"):
        train(compose_cfg("train", [*OVERRIDES, "epochs=2", "optim.lr=1e12", "optim.warmup_epochs=0", "tracking=disabled", "~callbacks.bar"], out=str(data)))


def test_other_classes_are_refused(data):
    from fullstack_ml.train import train

    with pytest.raises(BadConfig, match="other classes"):
        train(compose_cfg("train", ["tracking=disabled"], out=str(data)))


@pytest.mark.parametrize("override, said", [("optim.opt=nosuch", "optimiser"), ("optim.sched=nosuch", "schedule")])
def test_names_that_timm_does_not_know(data, override, said):
    from fullstack_ml.train import train

    with pytest.raises(BadConfig, match=said):
        train(compose_cfg("train", [*OVERRIDES, override, "epochs=1", "tracking=disabled"], out=str(data)))


# ---------------------------------------------------------------- what is wrong with the data


def version(out, n=40, labels=None, classes=("one", "two", "three"), soft=None, damage=()):
    """A version of bars; what is wrong with it is told by item number."""
    from fullstack_ml.task import load_task

    cfg = compose_cfg("train", [*OVERRIDES, f"storage.blobs={out}/blobs"], out=str(out))
    store, pairs = BlobStore(cfg.storage.blobs), load_task(cfg.task).sample(n)
    texts = {k: json.dumps({"kind": "choice", "names": [name]}) if name else None for k, name in (labels or {}).items()}
    for k, (item, _) in enumerate(pairs):
        name = store.put(item.data)
        if k in damage:
            path = store._path(name)
            with open(path, "r+b") as f:
                f.truncate(60)
    items = [replace(item, id=f"item{k:02d}", source="here") for k, (item, _) in enumerate(pairs)]
    rows = {"label": [texts.get(k, json.dumps(label_to_dict(label))) for k, (_, label) in enumerate(pairs)], "split": ["val" if k % 5 == 0 else "train" for k in range(n)]}
    with draft("dataset", cfg, {}) as d:
        write_items(d.dir / "items.parquet", items, **rows, **({"soft": [(soft or {}).get(k) for k in range(n)]} if soft else {}))
        write_json(d.dir / "classes.json", list(classes))
    return out


PLAIN = ["tracking=disabled", "speed.precision=fp32", "speed.layout=channels_last", "~callbacks.bar", "epochs=1"]


def run(out, *more):
    from fullstack_ml.train import train

    return train(compose_cfg("train", [*OVERRIDES, *PLAIN, *more], out=str(out)))


def test_a_label_outside_the_set_names_its_item(tmp_path):
    version(tmp_path, labels={7: "four", 8: None, 10: "five"})
    with pytest.raises(BadInput, match="item07 of here.*four.*Such items: 3.*on_strange=skip"):
        run(tmp_path)
    made = run(tmp_path, "labels.on_strange=skip")
    assert made.metrics["skipped"] == {"label unknown": 3}


def test_a_class_that_nobody_shows_is_named(tmp_path):
    version(tmp_path, labels={k: "one" for k in range(40) if k % 3 == 2})
    with pytest.raises(BadConfig, match="No training item shows this class: three"):
        run(tmp_path)
    assert run(tmp_path, "labels.on_empty_class=skip").metrics["skipped"] == {"class without items": 1}


def test_a_corrupt_picture_in_mid_epoch(tmp_path):
    version(tmp_path, damage=(13, 15))
    with pytest.raises(FsmlError, match="Item item1[35] of here"):
        run(tmp_path)
    skipped = run(tmp_path, "loader.on_error=skip").metrics["skipped"]
    assert sum(skipped.values()) == 2, skipped


class Poison:
    """The gradient of one batch is no number: its pictures are."""

    def __init__(self, at=3):
        self.at = at

    def before_batch(self, learner):
        if learner.at == self.at and learner.epoch == 0:
            learner.batch["image"] = learner.batch["image"].float() * float("nan")


def test_a_batch_without_a_number_names_its_items_or_is_left_out(tmp_path, monkeypatch):
    import torch

    from fullstack_ml import train as room
    from fullstack_ml.task import load_model, load_task

    version(tmp_path)
    monkeypatch.setattr(room, "Bar", Poison)
    poison = ["+callbacks.poison={_target_: fullstack_ml.train.Bar}"]
    with pytest.raises(BadConfig, match=r"no longer a number: epoch 0, batch 4, items item\d\d, item\d\d.*optim.lr"):
        run(tmp_path, *poison)
    made = run(tmp_path, *poison, "callbacks.stop_on_nan.on_nan=skip")
    assert made.metrics["batches_without_number"] == 1
    weights = load_model(load_task(made.read_json("model.json")["task"]), made.read_json("model.json")["model"], made.path("model.safetensors")).state_dict()
    assert all(torch.isfinite(v).all() for v in weights.values()), "not even the statistics of the normalisations saw it"
    with pytest.raises(BadConfig, match="no longer a number"):
        run(tmp_path, *poison, "callbacks.stop_on_nan.on_nan=skip", "callbacks.stop_on_nan.most=0")


@pytest.mark.parametrize("override, said", [
    ("speed.precision=fp16", "fp16.*auto, fp32, bf16"), ("speed.layout=round", "round"), ("labels.balance=some", "balance"), ("labels.on_strange=perhaps", "perhaps"),
    ("callbacks.ema.decay=2", "0 and 1"), ("callbacks.clip.max_norm=-1", "positive"), ("callbacks.early_stop.patience=0", "epoch or more"), ("accumulate=0", "accumulate=1"),
    ("callbacks.stop_on_nan.on_nan=pray", "raise or skip"), ("batch_size=1", "Raise batch_size"), ("device=cuda", "no such device.*auto, cpu"), ("device=gpu", "no such device"), ("callbacks.checkpoint.on_full=pray", "raise or skip"),
])  # fmt: skip
def test_settings_that_make_no_sense(tmp_path, override, said):
    version(tmp_path)
    with pytest.raises(BadConfig, match=said):
        run(tmp_path, override)


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_keeps_the_checkpoint_before_it(tmp_path):
    version(tmp_path)
    disk = tmp_path / "train"
    disk.mkdir()
    size = 4_600  # one checkpoint of this network has 1.7 MB without the optimiser's two moments, 5 MB with them
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        with pytest.raises(Unavailable, match="checkpoint could not be written.*Make room"):
            run(tmp_path, "epochs=2")
        assert not list(disk.rglob("*.new")) and not list(disk.glob("[0-9]*")), "nothing half-made is left"
        with pytest.raises(Unavailable, match="Make room"):  # then the weights at the end, or what is written beside them
            run(tmp_path, "epochs=2", "callbacks.checkpoint.on_full=skip", "model=mobilenet")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True, capture_output=True)
        assert "checkpoints_missed" not in run(tmp_path, "epochs=2").metrics
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, capture_output=True)


# ---------------------------------------------------------------- settings of the loop


def test_killed_in_mid_epoch_with_everything_on(tmp_path, capsys):
    """Averages, accumulation, clipping, mixing, class weights; SIGKILL between two checkpoints of one epoch: bit for bit the same end."""
    import torch

    version(tmp_path, n=120)
    from fullstack_ml.train import train

    options = ["epochs=2", "tracking=disabled", "batch_size=6", "accumulate=2", "augment=strong", "callbacks.ema.decay=0.9", "callbacks.clip.max_norm=1",
               "callbacks.checkpoint.every_batches=3", "callbacks.early_stop.patience=9", "labels.balance=weight", "speed.precision=bf16"]  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        killed = start(tmp_path, *options, slow=0.05)
        while not (line := killed.stdout.readline()).startswith("1 12"):
            assert line or killed.poll() is None, killed.stderr.read()[-2000:]
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        second = train(compose_cfg("train", [*OVERRIDES, *options], out=str(tmp_path)))
        assert "carries on in epoch 2, after batch 6, of 2" in capsys.readouterr().out
        first = train(compose_cfg("train", [*OVERRIDES, *options], out=str(tmp_path)))
    finally:
        torch.set_num_threads(threads)
    assert sha256(second.path("model.safetensors")) == sha256(first.path("model.safetensors"))
    clock = ("images_per_second",)
    assert [{k: v for k, v in r.items() if k not in clock} for r in log(second)] == [{k: v for k, v in r.items() if k not in clock} for r in log(first)]
    assert second.metrics["layout"] == first.metrics["layout"] and first.metrics["precision"] == "bf16"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(data):
    hashes = [sha256(run(data, f"seed={seed}").path("model.safetensors")) for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_two_small_batches_are_one_large_one(data):
    """Without batch statistics in the way the gradients are equal, so the losses are nearly so."""
    import numpy as np
    import torch

    from fullstack_ml.hardware import Alone

    class Linear:
        def step(self, model, batch):
            out = model(batch["x"])
            return {"loss": ((out - batch["target"]) ** 2).mean(), "output": out}

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("f"), rng.normal(size=(8, 1)).astype("f")
    grads = []
    for group in (1, 2, 4):
        torch.manual_seed(0)
        machine = Alone()
        model, step = machine.prepare(Linear(), torch.nn.Linear(3, 1))
        optim = torch.optim.SGD(model.parameters(), lr=0)
        for k in range(0, 8, 8 // min(group, 2)) if group < 4 else (0, 4):  # four are asked for, and two come
            size = 8 if group == 1 else 4
            machine.gradients(step, machine.tensors({"x": x[k : k + size], "target": y[k : k + size]}), group, last=k + size == 8)
        assert machine.due
        machine.update(optim, lambda: grads.append(model.weight.grad.clone()))
    assert torch.allclose(grads[0], grads[1], atol=1e-6) and torch.allclose(grads[0], grads[2], atol=1e-6)


def test_soft_labels_and_class_weights(tmp_path):
    import numpy as np

    from fullstack_ml.dataset import open_dataset
    from fullstack_ml.task import load_task
    from fullstack_ml.train import class_weights, soft_targets

    version(tmp_path, n=20, soft={1: '{"one": 0.25, "two": 0.5}', 2: '{"else": 1.0}'})
    cfg = compose_cfg("train", [*OVERRIDES, "task.labels=[one,two,three]"], out=str(tmp_path))
    task, data = load_task(cfg.task), open_dataset(list_artifacts(cfg, "dataset")[-1])
    soft = soft_targets(task, data)
    assert np.allclose(soft[0], [1 / 3, 2 / 3, 0]) and np.allclose(soft[1], [0, 0, 1]) and np.allclose(soft.sum(1), 1)
    labels = data.labels("train")
    weights, numbers = class_weights(task, labels), task.target(labels)
    assert np.allclose([weights[numbers == k].sum() for k in range(3)], len(labels) / 3)
    assert run(tmp_path, "labels.soft=true", "labels.balance=weight").metrics["accuracy"] >= 0


# ---------------------------------------------------------------- several processes

TOGETHER = """
import json, os, sys
import torch
from fullstack_ml import train
from fullstack_ml.core import compose_cfg
class Watch:
    def after_epoch(self, learner):
        seen = learner.machine.gather([int(n) for n in WATCHED])
        WATCHED.clear()
        if learner.machine.rank == 0:
            with open(os.environ["SEEN"], "a") as f: f.write(json.dumps([sorted(seen), len(learner.valid.items)]) + chr(10))
WATCHED = []
decode = train.validate
def validate(learner):
    task, was = learner.task, learner.task.decode
    def decode(output):
        WATCHED.extend(learner.valid.numbers.tolist())
        return was(output)
    task.decode = decode
    try: return original(learner)
    finally: task.decode = was
original, train.validate = train.validate, validate
train.Bar = Watch
torch.set_num_threads(1)
cfg = compose_cfg("train", sys.argv[2:], out=sys.argv[1])
made = train.train(cfg)
if os.environ.get("RANK", "0") == "0": print("MADE", made.id)
"""


def together(out, n, *overrides):
    script = out / "together.py"
    script.write_text(TOGETHER)
    seen = out / f"seen{n}.jsonl"
    seen.unlink(missing_ok=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "SEEN": str(seen), "FSML_HOME": str(out)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(n), "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"] if n > 1 else [sys.executable]
    done = subprocess.run([*launch, str(script), str(out), *OVERRIDES, *overrides], env=env, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL)
    return done, [json.loads(line) for line in seen.read_text().splitlines()] if seen.exists() else []


def test_two_processes_give_what_one_gives(tmp_path):
    """37 validation items in batches of 16 a process, 149 training items in batches of 8: both ends are uneven."""
    version(tmp_path, n=186)
    options = ["epochs=3", "tracking=disabled", "speed.precision=fp32", "speed.layout=channels_last", "callbacks.checkpoint.every_batches=5", "callbacks.ema.decay=0.9"]
    made = {}
    for n in (1, 2):
        done, seen = together(tmp_path, n, *options)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("MADE") == 1 and done.stdout.count("items of val") == 1, "only the first process speaks"
        for numbers, items in seen:
            assert numbers == list(range(items)), "each validation item once"
        assert len(seen) == 3
        made[n] = runs(tmp_path)[-1]
    assert len(runs(tmp_path)) == 2 and not list((tmp_path / "train").glob(".draft-*/*")), "only the first process writes"
    assert made[2].metrics["processes"] == 2
    one, two = log(made[1]), log(made[2])
    assert [r["step"] for r in one] == [r["step"] for r in two]
    assert abs(one[0]["train_loss"] - two[0]["train_loss"]) < 0.15
    assert abs(made[1].metrics["accuracy"] - made[2].metrics["accuracy"]) < 0.1


def test_an_error_in_one_of_two_processes_ends_both(tmp_path):
    version(tmp_path, n=60, damage=(13,))
    done, _ = together(tmp_path, 2, *PLAIN)
    assert done.returncode and "item13" in done.stderr and not runs(tmp_path)
    done, _ = together(tmp_path, 2, *PLAIN, "batch_size=9")
    assert done.returncode and "divided evenly" in done.stderr
