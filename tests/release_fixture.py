"""A small release and the artefacts before it, made without the loop: a tiny network that has memorised pictures of bars."""
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import compose_cfg, write_json
from fullstack_ml.records import Item, Label, Manifest, draft, label_to_dict
from fullstack_ml.release import sample_release
from fullstack_ml.task import Task, load_task

CLASSES = ["one", "two", "three"]
TASK = {"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES, "size": 32, "channels": 1}
MODEL = {"_target_": "fullstack_ml.models.backbone.backbone", "name": "test_resnet"}
GATES = {"accuracy": 0.9, "max_drop": 0.01, "latency_p95_ms": 20, "size_mb": 5, "licences": ["CC-BY-4.0"]}
NUMBERS = {"accuracy": 0.96, "latency_ms_p50": 0.8, "latency_ms_p95": 1.1, "images_per_second": 1200.0, "parent": {"accuracy": 0.965}}


@dataclass
class ReleaseFixture:
    """A storage root with every parent of a release."""

    cfg: DictConfig  # of the stage `release`
    task: Task
    pairs: list[tuple[Item, Label]]  # items of the dataset, with their bytes
    sample: Path  # a sealed sample release, with the service's code
    parents: dict[str, Manifest]

    def write(self, kind: str, parents: dict[str, Manifest], **files) -> Manifest:
        """An artefact as its stage would leave it: JSON values, Parquet rows, files to copy."""
        base = OmegaConf.create({"storage": dict(self.cfg.storage), "task": TASK, "model": MODEL})
        with draft(kind, base, parents) as d:
            for name, value in files.items():
                if name == "items":
                    pq.write_table(pa.Table.from_pylist(value), d.dir / "items.parquet")
                elif isinstance(value, Path):
                    shutil.copy(value, d.dir / f"{name}.onnx")
                else:
                    write_json(d.dir / f"{name}.json", value)
        return d.manifest

    def write_problem(self, **gates) -> Manifest:
        """Another problem with these gates changed."""
        told = {"requirement": "Count the bars in a small picture.", "task": "image_cls", "classes": CLASSES, "gates": {**GATES, **gates}}
        return self.write("problem", {}, problem=told)


def make_release_fixture(root: Path, overrides: list[str] = []) -> ReleaseFixture:
    """All parents of a release below `root`, around one trained graph under two names."""
    task = load_task(TASK)
    pairs = task.sample(24, seed=1)
    pairs = [(replace(i, url=f"http://gallery.example/{n}.png", source="bars", author=f"author {n % 3}", licence="CC-BY-4.0", id=""), l) for n, (i, l) in enumerate(pairs)]
    sample = sample_release(root / "sample", TASK, MODEL, pack=["fullstack_ml.serve"])
    f = ReleaseFixture(compose_cfg("release", ["golden=3", *overrides], out=str(root)), task, pairs, sample, {})
    store = BlobStore(f.cfg.storage.blobs)
    for item, _ in pairs:
        store.put(item.data)
    columns = ("id", "url", "sha256", "source", "mime", "author", "licence")
    rows = [{k: getattr(i, k) for k in columns} | {"label": json.dumps(label_to_dict(l)), "annotators": '["caption"]', "split": "train" if n % 4 else "test"} for n, (i, l) in enumerate(pairs)]
    p = f.parents
    p["problem"] = f.write_problem()
    p["dataset"] = f.write("dataset", {}, items=rows)
    p["train"] = f.write("train", {"dataset": p["dataset"]}, model={"task": TASK})
    graph = root / "sample" / "check.onnx"
    variants = [{"name": "float", "files": {"model": "float.onnx"}, "size_mb": 1.6, **NUMBERS}, {"name": "int8", "files": {"model": "int8.onnx"}, "size_mb": 0.5, **NUMBERS}]
    p["compress"] = f.write("compress", {"train": p["train"]}, float=graph, int8=graph, variants=variants)
    figures = [{"split": "test", "who": "checked labels", "n": 8, "score": {"accuracy": 0.97, "f1_macro": 0.97}}]
    p["evaluate"] = f.write("evaluate", {"train": p["train"], "dataset": p["dataset"]}, metrics={"figures": figures, "slices": {}})
    return f
