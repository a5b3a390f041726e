"""Likely wrong labels: MNIST with a share of its labels flipped by seed, `likely_wrong` beside cleanlab on the same features, in one run.

    python benchmarks/labels.py --mnist FOLDER [--items 20000] [--flipped 0.05] [--seed 0] [--network 1]

FOLDER holds the four idx files as they are published, packed or not. Ours and cleanlab get the same labels, the same features and the
same five folds. Cleanlab gets its probabilities as its own guides make them: out-of-sample, by cross-validation of a logistic
regression on the features, and of ten nearest neighbours, which is what its `Datalab` asks where it is given features alone. With --network N a small convolutional network learns the
flipped labels for N epochs first, and the features are what enters its last layer, beside the pixels; that is what an evaluation has.
All rankings are cut where as many labels are named as were flipped, so precision and recall are one figure; where cleanlab draws the
line itself (`find_label_issues`), both are told. The command ends with 1 if ours finds fewer than cleanlab's best.
"""
import argparse
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from fullstack_ml.arrays import read_idx
from fullstack_ml.evaluate import likely_wrong


def mnist(folder: Path, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # uint8 [n, 784], int [n]
    """A random part of the training half."""
    x, y = (read_idx(next(folder.glob(f"train-{what}-idx*"))) for what in ("images", "labels"))
    some = np.sort(np.random.default_rng(seed).permutation(len(y))[:n])
    return x.reshape(len(x), -1)[some], y[some].astype(int)


def flip(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share is another class, every other class as likely."""
    rng, given = np.random.default_rng(seed), y.copy()
    wrong = rng.choice(len(y), round(share * len(y)), replace=False)
    given[wrong] = (y[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return given


def learned(x: np.ndarray, given: np.ndarray, epochs: int, seed: int) -> np.ndarray:  # float32 [n, 64]
    """What enters the last layer of a small network that has learned the flipped labels."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    block = lambda i, o: (nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
    body = nn.Sequential(*block(1, 16), *block(16, 32), nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU())
    model, data, target = nn.Sequential(body, nn.Linear(64, 10)), torch.from_numpy(x.reshape(-1, 1, 28, 28) / np.float32(255)), torch.from_numpy(given)
    optim = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(epochs):
        for at in torch.randperm(len(data)).split(128):
            optim.zero_grad()
            nn.functional.cross_entropy(model(data[at]), target[at]).backward()
            optim.step()
    body.eval()
    with torch.inference_mode():
        return torch.cat([body(some) for some in data.split(1000)]).numpy()


class Table:
    """Prints a line for each way, and remembers its figure."""

    def __init__(self, wrong: np.ndarray):
        self.wrong, self.found = wrong, {}

    def ranked(self, name: str, suspicion: np.ndarray, seconds: float) -> None:
        first = np.argsort(-suspicion, kind="stable")[: self.wrong.sum()]
        self.found[name] = float(self.wrong[first].mean())
        print(f"{name:<58}{self.found[name]:>10.2%}{self.found[name]:>10.2%}{len(first):>9,}{seconds:>8.0f} s", flush=True)

    def chosen(self, name: str, at: np.ndarray) -> None:
        precision, recall = (float(self.wrong[at].mean()) if len(at) else 0.0), float(self.wrong[at].sum() / self.wrong.sum())
        print(f"{name:<58}{precision:>10.2%}{recall:>10.2%}{len(at):>9,}", flush=True)


def cleanlabs(table: Table, features: np.ndarray, given: np.ndarray, seed: int) -> None:
    """Cleanlab's own ways over one matrix of features."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ways = {"logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)), "nearest neighbours": KNeighborsClassifier(10, metric="cosine")}
    for name, model in ways.items():
        started = time.perf_counter()
        p = cross_val_predict(model, features, given, cv=StratifiedKFold(5, shuffle=True, random_state=seed), method="predict_proba")
        seconds = time.perf_counter() - started
        for score in ("self_confidence", "normalized_margin"):
            table.ranked(f"cleanlab, {name}, {score}", 1 - get_label_quality_scores(given, p, method=score), seconds)
        table.chosen("  its own line, find_label_issues", find_label_issues(given, p, return_indices_ranked_by="self_confidence", n_jobs=1))


def main() -> int:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", type=int, default=0)
    args = parser.parse_args()
    import cleanlab
    import sklearn

    warnings.simplefilter("ignore")
    x, y = mnist(args.mnist, args.items, args.seed)
    given = flip(y, args.flipped, args.seed)
    table = Table(given != y)
    print(f"{len(y):,} digits of MNIST, {table.wrong.sum():,} labels flipped, seed {args.seed}; cleanlab {cleanlab.__version__}, scikit-learn {sklearn.__version__}, {os.cpu_count()} cores")
    print(f"{'':<58}{'precision':>10}{'recall':>10}{'named':>9}{'':>9}")
    views = [x.astype(np.float32) / 255]
    if args.network:
        started = time.perf_counter()
        views.insert(0, learned(x, given, args.network, args.seed))
        print(f"a network has learned the flipped labels for {args.network} epochs in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    doubt = likely_wrong(given.astype(str), views, seed=args.seed)
    table.ranked("likely_wrong", doubt.suspicion, time.perf_counter() - started)
    print(f"{'  how many it thinks there are':<58}{'':>20}{doubt.n_estimated or 0:>9,}")
    cleanlabs(table, np.concatenate(views, 1), given, args.seed)
    best, name = max((v, k) for k, v in table.found.items() if k != "likely_wrong")
    print(f"ours {table.found['likely_wrong']:.2%}, cleanlab's best {best:.2%} ({name}): {table.found['likely_wrong'] / best:.3f} of it")
    return 0 if table.found["likely_wrong"] >= best else 1


if __name__ == "__main__":
    sys.exit(main())
