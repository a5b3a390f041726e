"""SASRec beside popularity and item-kNN on Amazon's video games, through the house's own stages.

    python benchmarks/seqrec.py --data FOLDER [--out FOLDER] [override ...]

FOLDER holds Video.txt.gz, the "Games" set of SASRec's authors: lines `user item` in time order (31,013 users, 23,715 items,
287,107 actions). The set becomes a dataset version by leave-one-out, `experiment=seqrec_games` trains on it, `evaluate` judges,
and the two baselines answer the same questions: all of them rank the whole catalogue, without what the user has already taken.

Beside that, the protocol of the paper: the true thing among 100 drawn at random from those that the user has not taken. There
Kang and McAuley 2018 report HR@10 0.7410 and NDCG@10 0.5360 for SASRec on Games. Comparable: the same file, the same split, the
same protocol; but all users instead of 10,000 of them, the 100 come from the things that training has seen, and 1,167 answers
that it never saw count as missed. No full-ranking figure for this very file was found to be quoted.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from fullstack_ml.blobs import BlobStore
from fullstack_ml.core import compose_cfg
from fullstack_ml.dataset import open_dataset
from fullstack_ml.evaluate import evaluate
from fullstack_ml.problem import problem
from fullstack_ml.records import find_artifact
from fullstack_ml.task import load_model, load_task, task_config, torch_sessions
from fullstack_ml.tasks.seqrec import item_knn, knn_scores, popularity, ranking_metrics, read_interactions, sampled_ranks, top_items, without, write_questions
from fullstack_ml.train import train
from fullstack_ml.versions import import_version


def numbered(data, store, task, split, most=None):
    """Histories and answers of a split as numbers of things; every history whole."""
    items, labels = data.items(split)[:most], data.labels(split)[:most]
    asked = [json.loads(store.get(i.sha256))["items"] for i in items]
    return [[task.numbers.get(i, 0) for i in h] for h in asked], np.array([task.numbers.get(l.items[0], 0) for l in labels])


def filled(histories, at_least=1):
    """Histories as int [n, longest], the newest last, zeros before the first."""
    out = np.zeros((len(histories), max(at_least, max(map(len, histories)))), np.int64)
    for row, h in zip(out, histories):
        row[len(row) - len(h) :] = h
    return out


def judge(score, histories, true, labels, rng=None, step=500):
    """Metrics by full ranking, and where `rng` is given by 100 drawn at random."""
    lists, ranks = [], []
    for k in range(0, len(histories), step):
        known, answer = filled(histories[k : k + step]), true[k : k + step]
        scores = without(score(known), known)
        lists += [[labels[i] for i in best] for best in top_items(scores, 10)]
        if rng is not None:
            ranks.append(sampled_ranks(scores, answer, known, rng))
    found = ranking_metrics(lists, [[labels[t - 1]] if t else [None] for t in true], 10, len(labels))
    if rng is not None:
        hit = (rank := np.concatenate(ranks)) < 10
        found |= {"sampled_hr": hit.mean(), "sampled_ndcg": (hit / np.log2(rank + 2)).mean()}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with Video.txt.gz")
    parser.add_argument("--out", type=Path, help="folder of the artefacts; none: one that vanishes")
    parser.add_argument("--run", help="id of a run to judge instead of training one")
    parser.add_argument("overrides", nargs="*", help="of fsml train: epochs=5")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seqrec-") as folder:
        out = str((args.out or Path(folder)).resolve())
        own = [f"storage.url=sqlite:///{out}/fsml.db", f"storage.blobs={out}/blobs"]
        cfg = lambda stage, *more: compose_cfg(stage, [*own, *more], out=out)
        if not args.run:
            started, cpu = time.perf_counter(), time.process_time()
            problem(cfg("problem", "problem=games"))
            counts = write_questions(read_interactions(args.data / "Video.txt.gz"), Path(folder) / "questions")
            import_version(cfg("dataset", "problem=games", "name=games"), Path(folder) / "questions", "webdataset", "Apache-2.0")
            print(f"{sum(counts.values()):,} questions written and imported in {time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} s of CPU: {counts}", flush=True)
        wanted = cfg("train", "experiment=seqrec_games", *args.overrides)
        started, cpu = time.perf_counter(), time.process_time()
        run = find_artifact(wanted, "train", args.run) if args.run else train(wanted)
        print(f"trained in {time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} s of CPU", flush=True)
        told = evaluate(cfg("evaluate", "problem=games", f"parents.train={run.id}"))
        print({k: round(v, 4) for k, v in told.read_json("metrics.json")["figures"][-1]["score"].items()}, flush=True)
        compare(cfg("train"), run)


def compare(cfg, run):
    """The table of all three."""
    task, data, store = load_task(task_config(run)), open_dataset(find_artifact(cfg, "dataset", run.parents["dataset"])), BlobStore(cfg.storage.blobs)
    past, last = numbered(data, store, task, "train")
    past = [[*h, t] for h, t in zip(past, last)]
    val, test = (numbered(data, store, task, s) for s in ("val", "test"))
    session, n = torch_sessions(load_model(task, run.config["model"], run.path("model.safetensors")), task)["model"], len(task.labels)
    often = popularity(past, n)
    tried = {}
    for shrink in (0, 1, 5):
        alike = item_knn(past, n, shrink)
        tried |= {(shrink, decay): judge(lambda known: knn_scores(alike, known, decay), val[0][:5000], val[1][:5000], task.labels)["ndcg_at_10"] for decay in (1.0, 0.7, 0.4)}
    shrink, decay = max(tried, key=tried.get)
    alike = item_knn(past, n, shrink)
    ways = {
        "popularity": lambda known: np.tile(often, (len(known), 1)),
        f"item-kNN, shrink {shrink}, decay {decay}": lambda known: knn_scores(alike, known, decay),
        "SASRec": lambda known: session({"items": filled([[i for i in h if i][-task.length :] for h in known], task.length)})["output"],
    }
    print(f"\n{'test, ' + format(len(test[1]), ',') + ' users, ' + format(n, ',') + ' things':<44}{'HR@10':>8}{'NDCG@10':>9}{'MRR@10':>8}{'coverage':>10}   of 100 drawn: {'HR@10':>7}{'NDCG@10':>9}")
    for name, score in ways.items():
        m = judge(score, *test, task.labels, np.random.default_rng(0))
        print(f"{name:<44}{m['hr_at_10']:>8.4f}{m['ndcg_at_10']:>9.4f}{m['mrr_at_10']:>8.4f}{m['coverage']:>10.3f}   {m['sampled_hr']:>21.4f}{m['sampled_ndcg']:>9.4f}", flush=True)
    print(f"{'SASRec, as Kang and McAuley 2018 report it':<44}{'':>35}   {0.7410:>21.4f}{0.5360:>9.4f}")


if __name__ == "__main__":
    main()
