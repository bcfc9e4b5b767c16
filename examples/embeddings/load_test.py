"""Throughput and latency of server.py, with tvm-sparse and with ONNX Runtime, in turns.

    pip install tokenizers starlette uvicorn httpx
    python examples/embeddings/load_test.py encoder.onnx --clients 16 --seconds 10

Both services run at once, and one after the other gets requests. Each client sends a sentence of
random token ids, and the next one when the answer is there. Lengths are log-normal.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

import tvm_sparse

SPREAD = 0.7
"""The standard deviation of the logarithm of lengths."""


def sentences(count: int, mean: float, most: int, words: int, seed: int = 0) -> list[list[int]]:
    """Return sentences of random token ids."""
    rng = np.random.default_rng(seed)
    drawn = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, count)
    lengths = np.clip(drawn.round(), 3, most).astype(int)
    return [rng.integers(0, words, n).tolist() for n in lengths]


async def load(
    client: httpx.AsyncClient, given: Sequence[list[int]], clients: int, seconds: float
) -> list[float]:
    """Send requests by some clients at once; return the seconds that each took."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def send(first: int) -> None:
        number = first
        while (start := time.perf_counter()) < end:
            answer = await client.post("/v1/embeddings", json={"input": given[number % len(given)]})
            answer.raise_for_status()
            taken.append(time.perf_counter() - start)
            number += clients

    await asyncio.gather(*(send(i) for i in range(clients)))
    return taken


async def ready(client: httpx.AsyncClient) -> None:
    """Wait until a service answers."""
    for _ in range(600):
        try:
            (await client.post("/v1/embeddings", json={"input": [1, 2, 3]})).raise_for_status()
        except httpx.TransportError:
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit("a service does not answer")


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def compare(urls: dict[str, str], options: argparse.Namespace) -> None:
    """Print the table of both services, which get requests in turns."""
    given = sentences(512, options.mean, options.most, options.words)
    taken: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(options.rounds):
        for name, url in urls.items():
            limits = httpx.Limits(max_connections=options.clients)
            async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
                await ready(client)
                taken[name] += await load(client, given, options.clients, options.seconds)
    print("| service | sentences a second | latency, median ms | 99 of 100 below ms |")
    print("| --- | ---: | ---: | ---: |")
    for name, own in taken.items():
        rate = len(own) / (options.rounds * options.seconds)
        median, most = 1e3 * np.percentile(own, [50, 99])
        print(f"| {name} | {rate:.1f} | {median:.0f} | {most:.0f} |")


def main() -> None:
    """Compile, start both services, send requests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="ONNX file")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mean", type=float, default=60, help="mean length in tokens")
    parser.add_argument("--most", type=int, default=256, help="largest length in tokens")
    parser.add_argument("--words", type=int, default=1000, help="token ids are smaller")
    options = parser.parse_args()
    server = Path(__file__).with_name("server.py")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "encoder.so"
        hints = {"batch": options.clients, "sequence": int(options.mean)}
        compiled = {"padding": "drop", "streams": options.streams, "hints": hints}
        tvm_sparse.compile(options.model, **compiled).save(library)
        services = {
            "tvm-sparse, packed": [str(library)],
            "ONNX Runtime, padded": [str(options.model), "--engine", "onnxruntime"],
        }
        urls, running = {}, []
        try:
            for name, arguments in services.items():
                port = free_port()
                command = [sys.executable, str(server), *arguments, "--port", str(port)]
                running.append(subprocess.Popen([*command, "--streams", str(options.streams)]))
                urls[name] = f"http://127.0.0.1:{port}"
            asyncio.run(compare(urls, options))
        finally:
            for process in running:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
