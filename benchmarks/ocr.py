"""Reads the lines of typed documents that training has not seen, with ours and with Tesseract, on the same pictures in one run.

    python benchmarks/ocr.py --data FOLDER             # lines.tar and lines.jsonl: makes a version, trains, evaluates, compares
    python benchmarks/ocr.py --data FOLDER --run latest   # compares with a run that is there

FOLDER holds pictures of lines in lines.tar, and in lines.jsonl for each its id, text and page, whose second part names the document. Whole documents
are held out: a line of a test document, or of its typewriter, never trains. Rendered lines of the training documents' words join the training split;
others, of fonts that training does not see, make a second test. Tesseract is Debian's, with its French model; jiwer counts for both.
"""
import argparse
import csv
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from fullstack_ml.core import compose_cfg, progress
from fullstack_ml.render import TextSampler, find_fonts, render_line

# Documents by the beginning of their names. The rest trains: a collection of many documents, and a catalogue.
TEST = ("12148-btv1b10583038c", "12148-btv1b53097347b", "12148-btv1b525062185", "AN-96AP")
VAL = ("12148-btv1b10581912k",)
FONTS = r"(?i)courier prime(?! sans)|nimbusmono|cmuntt|cmuntx|(dejavusans|free|liberation)mono|gnutypewriter|nimbusroman-|dejavuserif|c059-roman"
FONTS_HELD_OUT = r"(?i)inconsolata|cmunvtt|cmuntb|p052-roman|liberationserif-|freeserif"


def plain(text: str) -> str:
    """A transcript without its editors' marks: ~ stands for handwriting that was not read, _ for underlining, ⟦ ⟧ for what is struck out."""
    return " ".join(unicodedata.normalize("NFC", re.sub(r"[⟦⟧~]", "", text).replace("_", " ")).split())


def alike(text: str) -> str:
    """Quotes and dashes in one form, since transcribers and readers differ in them and nobody means anything by it."""
    for a, b in (("‘’`´ʼ", "'"), ("“”„«»", '"'), ("–—−", "-")):
        text = re.sub(f"[{a}]", b, text)
    return " ".join(text.replace("…", "...").split())


def split_of(page: str) -> str:
    document = page.split("/")[1]
    return "test" if document.startswith(TEST) else "val" if document.startswith(VAL) else "train"


def read_lines(folder: Path) -> list[dict]:
    """id, text, split, document and the bytes of each line that somebody could read."""
    about = [json.loads(line) for line in (folder / "lines.jsonl").read_text(encoding="utf8").splitlines()]
    with tarfile.open(folder / "lines.tar") as tar:
        bodies = {Path(m.name).stem: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    lines = [{**r, "text": plain(r["text"]), "split": split_of(r["page"]), "document": r["page"].split("/")[1], "data": bodies[r["id"]]} for r in about]
    return [r for r in lines if r["text"]]


def fonts_like(pattern: str) -> list[Path]:
    return [p for p in find_fonts() if re.search(pattern, p.name) and not re.search(r"(?i)italic|oblique", p.name)]


def rendered(lines: list[str], n: int, fonts: list[Path], words: list[str], seed: int) -> list[dict]:
    """Lines of the words of given lines."""
    draw, rng, found = TextSampler(lines, words), np.random.default_rng(seed), []
    for k in progress(range(n), "rendering"):
        text, beside = draw(rng, 60), [draw(rng, 60) if rng.random() < 0.3 else "" for _ in range(2)]
        image = render_line(text, fonts, seed=[seed, k], neighbours=beside)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        found.append({"id": f"r{seed}-{k:05}", "text": plain(text) or text, "split": "train", "document": "rendered", "data": data})
    return found


def write_folder(lines: list[dict], folder: Path) -> None:
    """The house's csv format: a table, and the pictures beside it."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with open(folder / "lines.csv", "w", newline="", encoding="utf8") as f:
        table = csv.DictWriter(f, ["file", "split", "json", "caption"])
        table.writeheader()
        for r in lines:
            (folder / "images" / f"{r['id']}.jpg").write_bytes(r["data"])
            label = json.dumps({"kind": "text", "text": r["text"]}, ensure_ascii=False)
            table.writerow({"file": f"images/{r['id']}.jpg", "split": r["split"], "json": label, "caption": r["document"]})


def make_version(data: Path, folder: Path, n: int, words: list[str], overrides: list[str]):
    """Real lines and rendered ones as one version."""
    from fullstack_ml.versions import import_version

    lines = read_lines(data)
    fonts, texts = fonts_like(FONTS), [r["text"] for r in lines if r["split"] == "train"]
    print(f"{len(lines)} lines with text, {Counter(r['split'] for r in lines)}; {n} rendered in {len(fonts)} fonts", flush=True)
    write_folder(lines + rendered(texts, n, fonts, words, seed=1), folder)
    cfg = compose_cfg("dataset", ["problem=lines", "name=lines", "report=null", *overrides])
    return import_version(cfg, folder, "csv", licence="CC-BY-4.0")
