"""Requests a second of the served release, beside ONNX Runtime in this process as the limit, in the same run.

    python benchmarks/serve.py [--release RELEASE.zip] [--seconds 6]

The clients share the machine with the service. Each posts one picture after another over a connection of its own.
"""
import argparse
import asyncio
import time
from pathlib import Path

import aiohttp
import numpy as np

from fullstack_ml.core import compose_cfg
from fullstack_ml.records import find_artifact
from fullstack_ml.release import open_release
from fullstack_ml.serve import Settings, serving


async def load(url: str, bodies: list[tuple[bytes, str]], clients: int, seconds: float) -> np.ndarray:  # latencies, seconds
    """Post pictures for some seconds; any answer but 200 ends the benchmark."""
    latencies, until = [], time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, n: int) -> None:
        while time.perf_counter() < until:
            body, mime = bodies[n % len(bodies)]
            started = time.perf_counter()
            async with session.post(f"{url}/predict", data=body, headers={"content-type": mime}) as answer:
                await answer.read()
                answer.raise_for_status()
            latencies.append(time.perf_counter() - started)
            n += clients

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:
        await asyncio.gather(*(client(session, n) for n in range(clients)))
    return np.array(latencies)


def in_process(release, items: list, seconds: float) -> float:  # pictures a second
    """Decode and predict one picture after another without any service: what there is to lose."""
    n, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        release.predict([items[n % len(items)]])
        n += 1
    return n / seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, help="a release.zip; without it the newest one")
    parser.add_argument("--seconds", type=float, default=6)
    args = parser.parse_args()
    path = args.release or find_artifact(compose_cfg("serve"), "release").path("release.zip")
    release = open_release(path, threads=1)
    items = [item for item, _ in release.task.sample(64)]
    bodies = [(item.data, item.mime) for item in items]
    limit = in_process(release, items, args.seconds)
    print(f"{release.id}, variant {release.variant}; ONNX Runtime in this process, one picture at a time, one thread: {limit:.0f}/s\n")
    print("| workers | clients | requests/s | share of the limit | p50 ms | p99 ms |\n|---|---|---|---|---|---|")
    for workers in (1, 2):
        with serving(path, settings=Settings(workers=workers)) as url:
            asyncio.run(load(url, bodies, 8, 1))
            for clients in (1, 8, 32):
                t = asyncio.run(load(url, bodies, clients, args.seconds))
                rate = len(t) / args.seconds
                print(f"| {workers} | {clients} | {rate:.0f} | {rate / limit:.2f} | {1e3 * np.median(t):.1f} | {1e3 * np.percentile(t, 99):.1f} |", flush=True)


if __name__ == "__main__":
    main()
