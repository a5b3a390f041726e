"""What a notebook costs beside its bare stage, and what two trials at once gain.

    python benchmarks/rerun.py [--rounds 5] [--only cost|sweep] [--values 1e-3,3e-3] [--folder KEPT]

A dataset version of the sample site at `profile=smoke` is made first. Then, round after round, `fsml train` and
`fsml rerun train` train the same two epochs on it, each in a process of its own; wall seconds and CPU seconds (of the
process and its children) are those of the whole command, and the cost of the notebook is the median of the
differences within a round, so that a busy minute counts on both sides. The same for `problem`, a stage that imports
nothing heavy. Last, one sweep of trainings, by default four, with one trial at a time and with two: the time until all trials
stand, the sweep's own notebook included.
"""
import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FSML = [sys.executable, "-m", "fullstack_ml.cli"]


def timed(*words: str) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([*FSML, *words], capture_output=True, text=True)
    took, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"fsml {' '.join(words)} ended with {done.returncode}\n{done.stderr}")
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(stage: str, rounds: int) -> None:
    """A bare stage beside its notebook."""
    pairs = [(timed(stage, "profile=smoke"), timed("rerun", stage, "profile=smoke")) for _ in range(rounds)]
    for name, i in (("wall", 0), ("CPU", 1)):
        bare, notebook = ([pair[k][i] for pair in pairs] for k in (0, 1))
        more = [b - a for a, b in zip(bare, notebook)]
        print(
            f"{stage:<9}{name:<5} bare {statistics.median(bare):6.2f} s   notebook {statistics.median(notebook):6.2f} s   "
            f"more {statistics.median(more):5.2f} s ({min(more):.2f} to {max(more):.2f})", flush=True,
        )  # fmt: skip


def sweeps(home: Path, values: str) -> None:
    """The same trainings one at a time and two at once."""
    took = {}
    for jobs in (1, 2):
        shutil.rmtree(home / "smoke" / "train", ignore_errors=True)
        shutil.rmtree(home / "smoke" / "sweep", ignore_errors=True)
        took[jobs] = timed("rerun", "train", "profile=smoke", "tracking=disabled", f"optim.lr={values}", "-m", "--jobs", str(jobs))
        print(f"sweep    {len(values.split(','))} trials, {jobs} at once: {took[jobs][0]:6.1f} s wall, {took[jobs][1]:6.1f} s CPU", flush=True)
    print(f"sweep    two at once take {took[2][0] / took[1][0]:.2f} of the time of one after the other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["cost", "sweep"], help="one of the two halves")
    parser.add_argument("--values", default="1e-3,2e-3,3e-3,4e-3", help="learning rates of the sweep")
    parser.add_argument("--folder", type=Path, help="where the artefacts go; by default a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = (args.folder or Path(folder)).resolve()
        os.environ |= {"FSML_ARTIFACTS": str(home), "OMP_WAIT_POLICY": "PASSIVE"}
        for words in (["problem"], ["crawl", "source.host.port=0"], ["annotate"], ["dataset"]):
            timed(*words, "profile=smoke")
        if args.only != "sweep":
            timed("rerun", "train", "profile=smoke")  # files come into memory
        print(f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        for stage in () if args.only == "sweep" else ("train", "problem"):
            compare(stage, args.rounds)
        if args.only != "cost":
            sweeps(home, args.values)


if __name__ == "__main__":
    main()
