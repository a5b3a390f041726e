"""Reads the lines of typed documents that training has not seen, with ours and with Tesseract, on the same pictures in one run.

    python benchmarks/ocr.py --data FOLDER             # lines.tar and lines.jsonl: makes a version, trains, evaluates, compares
    python benchmarks/ocr.py --data FOLDER --run latest   # compares with a run that is there

FOLDER holds pictures of lines in lines.tar, and in lines.jsonl for each its id, text and page, whose second part names the document. Whole documents
are held out: a line of a test document, or of its typewriter, never trains. Rendered lines of the training documents' words join the training split;
others, of fonts that training does not see, make a second test. Tesseract is Debian's, with its French model; jiwer counts for both.
"""
import argparse
import csv
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


def make_version(data: Path, folder: Path, n: int, words: list[str], overrides: list[str], seed: int = 1):
    """Real lines and rendered ones as one version."""
    from fullstack_ml.versions import import_version

    lines = read_lines(data)
    fonts, texts = fonts_like(FONTS), [r["text"] for r in lines if r["split"] == "train"]
    print(f"{len(lines)} lines with text, {Counter(r['split'] for r in lines)}; {n} rendered in {len(fonts)} fonts", flush=True)
    write_folder(lines + rendered(texts, n, fonts, words, seed), folder)
    cfg = compose_cfg("dataset", ["problem=lines", "name=lines", "report=null", *overrides])
    return import_version(cfg, folder, "csv", licence="CC-BY-4.0")


def tesseract(image: np.ndarray, scale: float, border: int) -> str:
    """One line by Tesseract 5 (LSTM, French); "" where it finds nothing."""
    if scale != 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    paper = int(np.percentile(image, 70))
    image = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_CONSTANT, value=paper)
    words = ["tesseract", "stdin", "stdout", "-l", "fra", "--psm", "7"]
    done = subprocess.run(words, input=cv2.imencode(".png", image)[1].tobytes(), capture_output=True, timeout=120, env={**os.environ, "OMP_THREAD_LIMIT": "1"}, check=True)
    return " ".join(done.stdout.decode().split())


SETTINGS = [(1, 0), (1, 10), (1.5, 0)]  # scale and border; the best on val is used on test


def peer(lines: list[dict], scale: float, border: int, jobs: int) -> tuple[list[str], float]:
    """What Tesseract reads, and its seconds a line, start of the process included."""
    started = time.monotonic()
    images = [cv2.imdecode(np.frombuffer(r["data"], np.uint8), cv2.IMREAD_GRAYSCALE) for r in lines]
    with ThreadPoolExecutor(jobs) as pool:
        said = list(pool.map(lambda image: tesseract(image, scale, border), images))
    return said, (time.monotonic() - started) * jobs / max(1, len(lines))


def ours(task, sessions: dict, lines: list[dict], batch: int = 32) -> tuple[list, float]:
    """Our predictions, and seconds a line."""
    from fullstack_ml.task import predict

    items = [task.parse(r["data"], "image/jpeg") for r in lines]
    order, found, started = np.argsort([i.width / i.height for i in items]), {}, time.monotonic()
    for k in range(0, len(order), batch):
        some = order[k : k + batch]
        found |= dict(zip(some.tolist(), predict(task, sessions, [items[i] for i in some])))
    return [found[i] for i in range(len(items))], (time.monotonic() - started) / max(1, len(items))


def row(name: str, lines: list[dict], said: list[str], seconds: float) -> dict:
    from fullstack_ml.tasks.ocr import reading_scores

    score = reading_scores([alike(r["text"]) for r in lines], [alike(s) for s in said])
    return {"reader": name, "n": len(lines), "exact": score["exact_match"], "cer": score["cer"], "wer": score["wer"], "ms": 1000 * seconds}


def show(title: str, rows: list[dict]) -> None:
    print(f"\n{title}\n\n| reader | lines | exact match | CER | WER | ms a line |\n|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['reader']} | {r['n']} | {r['exact']:.1%} | {r['cer']:.2%} | {r['wer']:.2%} | {r['ms']:.0f} |", flush=True)


def compare(run, data: Path, words: list[str], beam: int, jobs: int, n_rendered: int, more: dict) -> None:
    """All tables."""
    import tempfile

    from fullstack_ml.task import export_onnx, load_model, load_task, onnx_sessions, task_config, torch_sessions
    from fullstack_ml.tasks.ocr import accuracy_by_length, confused_characters

    told = {**task_config(run), **more}
    greedy, wide = load_task({**told, "beam": 1}), load_task({**told, "beam": beam})
    model = load_model(greedy, run.config["model"], run.path("model.safetensors"))
    with tempfile.TemporaryDirectory() as folder:
        torch, onnx = torch_sessions(model, greedy), onnx_sessions(export_onnx(greedy, model, Path(folder)), threads=1)
    lines = read_lines(data)
    val, test = ([r for r in lines if r["split"] == s] for s in ("val", "test"))
    tried = {s: row("", val, peer(val, *s, jobs)[0], 0)["cer"] for s in SETTINGS}
    best = min(tried, key=tried.get)
    print("Tesseract on val, CER by scale and border:", {str(k): round(v, 4) for k, v in tried.items()}, "->", best)
    fonts = fonts_like(FONTS_HELD_OUT)
    print_lines = rendered([r["text"] for r in test], n_rendered, fonts, words, seed=2)
    for title, some in [("Documents held out whole", test), (f"Rendered in {len(fonts)} fonts that training has not seen", print_lines)]:
        said, s = peer(some, *best, jobs)
        g, g_s = ours(greedy, onnx, some)
        b, b_s = ours(wide, onnx, some)
        texts = [[p.label.text for p in x] for x in (g, b)]
        rows = [row(f"Tesseract, scale {best[0]}", some, said, s), row("ours, greedy", some, texts[0], g_s), row(f"ours, beam {beam}", some, texts[1], b_s)]
        show(title, rows)
        if some is test:
            for document in dict.fromkeys(r["document"] for r in test):
                at = [k for k, r in enumerate(test) if r["document"] == document]
                of = [test[k] for k in at]
                show(document, [row(n, of, [x[k] for k in at], 0) for n, x in (("Tesseract", said), ("ours, greedy", texts[0]), (f"ours, beam {beam}", texts[1]))])
            for name, task, known in (("greedy", greedy, g), (f"beam {beam}", wide, b)):
                same = sum(p.label == q.label for p, q in zip(ours(task, torch, some)[0], known))
                print(f"\n{name}: torch and ONNX give the same text for {same} of {len(some)} lines")
            truth = [alike(r["text"]) for r in test]
            print("\nby length:", accuracy_by_length(truth, [alike(t) for t in texts[1]]))
            print("confused most:", confused_characters(truth, [alike(t) for t in texts[1]]).most_common(15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with lines.tar and lines.jsonl")
    parser.add_argument("--folder", type=Path, help="where the csv folder is written; by default beside the artefacts")
    parser.add_argument("--rendered", type=int, default=4000, help="rendered lines that join the training split")
    parser.add_argument("--seed", type=int, default=1, help="of the rendered lines that train; 2 is that of the test")
    parser.add_argument("--words", type=Path, default=Path("/usr/share/dict/french"), help="a list of words to strew into rendered lines (Debian's wfrench), if it is there")
    parser.add_argument("--run", help="compare with this run instead of training one")
    parser.add_argument("--only-version", action="store_true", help="make the version and stop")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--weight", type=float, help="of CTC in the search, if not the run's own")
    parser.add_argument("--jobs", type=int, default=2, help="Tesseracts at a time")
    parser.add_argument("--test-rendered", type=int, default=300)
    parser.add_argument("overrides", nargs="*", help="of fsml train, such as epochs=12")
    args = parser.parse_args()
    words = args.words.read_text(encoding="utf8").split() if args.words.is_file() else []
    cfg = compose_cfg("train", ["experiment=ocr_lines", *args.overrides])
    if args.run:
        from fullstack_ml.records import find_artifact

        run = find_artifact(cfg, "train", args.run)
    else:
        folder = args.folder or Path(cfg.storage.root) / "ocr_lines"
        version = make_version(args.data, folder, args.rendered, words, [], args.seed)
        if args.only_version:
            return
        from fullstack_ml.train import train

        run = train(compose_cfg("train", ["experiment=ocr_lines", f"parents.dataset={version.id}", *args.overrides]))
    compare(run, args.data, words, args.beam, args.jobs, args.test_rendered, {} if args.weight is None else {"weight": args.weight})


if __name__ == "__main__":
    sys.exit(main())
