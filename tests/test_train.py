"""Training: a run that is killed ends where an unbroken one does, and nothing ever asks for a login."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import BadConfig, compose_cfg, sha256, write_json
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
