"""A small storage with evaluations for tests, made without training: dataset versions, reports of two models, people with known passwords."""
import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from annotate_fixture import PASSWORD, PEOPLE, csrf_of, picture, sign_in
from omegaconf import OmegaConf

from fullstack_ml.accounts import accept, invite
from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import write_atomic, write_json
from fullstack_ml.records import Annotation, Choice, Database, Item, Label, Manifest, Source, Text, draft, label_to_dict, open_database

__all__ = ["CLASSES", "PASSWORD", "Stage", "csrf_of", "make_stage", "sign_in"]
CLASSES = ["one", "two", "three"]
WORDS = ["ein Wort", "zwei <b>Worte</b>", "drei"]


@dataclass
class Stage:
    """What was made."""

    cfg: dict  # for `make_site`
    db: Database
    store: BlobStore
    items: list[Item]
    labels: list[Label]  # as the dataset has them
    dataset: Manifest
    reports: list[Manifest]

    @property
    def storage(self):
        return OmegaConf.create({"storage": self.cfg["storage"]})

    def write_dataset(self, labels: list[Label], name: str = "numbers", version: str = "0.0.1", items: list[Item] | None = None) -> Manifest:
        """A version whose items have these labels; every third is a test item."""
        items = self.items if items is None else items
        rows = [
            {"id": i.id, "url": i.url, "sha256": i.sha256, "source": i.source, "mime": i.mime, "page_url": i.page_url, "caption": i.caption, "author": i.author,
             "licence": i.licence, "width": i.width, "height": i.height, "meta": json.dumps(i.meta), "label": json.dumps(label_to_dict(l)), "truth": None,
             "annotators": '["caption"]', "agreement": 1.0, "n_answers": 1, "split": "train" if n % 3 else "test", "group": n // 2}
            for n, (i, l) in enumerate(zip(items, labels))
        ]  # fmt: skip
        table = pa.Table.from_pylist(sorted(rows, key=lambda r: r["id"])) if rows else pa.table({"id": pa.array([], pa.string()), "label": pa.array([], pa.string())})
        with draft("dataset", self.storage, {}) as d:
            pq.write_table(table, d.dir / "items.parquet")
            write_json(d.dir / "classes.json", CLASSES)
            d.metrics |= {"name": name, "version": version, "items": len(rows)}
        return d.manifest

    def write_report(self, dataset: Manifest, labels: list[Label], predicted: list[Label | None], kind: str = "choice", items: list[Item] | None = None, **more) -> Manifest:
        """An evaluation as its stage would leave it."""
        items = self.items if items is None else items
        rows = []
        for n, (i, l, p) in enumerate(zip(items, labels, predicted)):
            sure = 0.5 + 0.49 * (n % 7) / 7
            rows.append({
                "item_id": i.id, "split": "train" if n % 3 else "test", "label": str(l), "truth": None, "predicted": p and str(p), "confidence": sure if p else None,
                "scores": json.dumps({str(p): sure, "other": 1 - sure}) if p else None, "suspicion": 0.9 if p and p != l else 0.1, "suggested": p and str(p),
                "error": "" if p else "This picture is cut short or broken.", "right": p == l if p else None,
            })  # fmt: skip
        types = {"confidence": pa.float64(), "suspicion": pa.float64(), "right": pa.bool_()}
        columns = ("item_id", "split", "label", "truth", "predicted", "confidence", "scores", "suspicion", "suggested", "error", "right")
        right = [r["right"] for r in rows if r["right"] is not None]
        share = sum(right) / len(right) if right else None
        metrics = {"format": 2, "task": "Numbers", "label_kind": kind, "main_metric": "accuracy", "figures": [], "calibration": [], "n_items": len(rows), **more}
        with draft("evaluate", self.storage, {"dataset": dataset}) as d:
            pq.write_table(pa.table({c: pa.array([r[c] for r in rows], types.get(c, pa.string())) for c in columns}), d.dir / "predictions.parquet")
            write_json(d.dir / "metrics.json", metrics)
            write_atomic(d.dir / "report.html", "<!doctype html><title>A report</title><p>It has one page.</p>")
            d.metrics |= {"exact": share, "accuracy": share, "accuracy_low": 0.1, "accuracy_high": 0.9, "n_test": len(rows) // 3, "n_items": len(rows), "accuracy_split": "test"}
        return d.manifest


def make_stage(folder: Path, url: str = "", n: int = 24, kind: str = "choice", app: dict | None = None) -> Stage:
    """A storage with one dataset version, and two reports on it of which the second is better by two items."""
    url = url or f"sqlite:///{folder}/fsml.db"
    db, store = open_database(url), BlobStore(folder / "blobs")
    cfg = {"storage": {"url": url, "blobs": str(folder / "blobs"), "root": str(folder)}, "app": {"per_second": 10_000, "sign_in_per_minute": 10_000, "session_seconds": 0.0, **(app or {})}}
    items = [Item(f"https://example.org/{k}.png", store.put(picture(k)), "gallery", "image/png", f"https://example.org/page/{k}", f'A <i>caption</i> & "more" {k}', "Ada",
                  "CC0-1.0", width=64, height=48, meta={"pen": "thin" if k % 2 else "thick"}) for k in range(n)]  # fmt: skip
    made = (lambda k: Choice((CLASSES[k % 3],))) if kind == "choice" else (lambda k: Text(WORDS[k % 3]))
    labels = [made(k) for k in range(n)]
    db.add([Source("gallery", "https://example.org"), *items, *(Annotation(i.id, "caption", l, created="2026-01-01") for i, l in zip(items, labels))])
    stage = Stage(cfg, db, store, items, labels, None, [])
    stage.dataset = stage.write_dataset(labels)
    worse = [None if k == 7 else made(k + 1) if k % 5 == 0 else l for k, l in enumerate(labels)]
    better = [made(k + 1) if k % 5 == 0 and k > 5 or k == 1 else l for k, l in enumerate(labels)]
    stage.reports = [stage.write_report(stage.dataset, labels, p, kind) for p in (worse, better)]
    for name, role in PEOPLE.items():
        accept(db, invite(db, role, "fsml"), name, PASSWORD)
    return stage
