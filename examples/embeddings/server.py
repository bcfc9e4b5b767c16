"""A server with OpenAI's route for embeddings: sentences in, vectors out.

    pip install tokenizers starlette uvicorn
    tvm-sparse compile encoder.onnx -o encoder.so --padding drop --threads 1
    python examples/embeddings/server.py encoder.so --streams 2
    curl localhost:8000/v1/embeddings -H 'Content-Type: application/json' \
         -d '{"input": ["Good morning.", "Where is the station?"]}'

The model takes ``input_ids`` and ``attention_mask``, both ``(batch, sequence)``, and perhaps
``token_type_ids``; its first output ``(batch, features)`` is the vector. A ``tokenizer.json`` lies
beside it; without one, the input is lists of token ids. Sentences that come within a few
milliseconds are computed together, whatever their lengths: `Engine.run_packed` computes no padding.
Each stream computes a batch on its share of the cores.

With ``--engine onnxruntime`` and an ONNX file, ONNX Runtime computes padded batches instead, which
load_test.py compares.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import tvm_sparse
from tvm_sparse.cpu.this_machine import usable_cores
from tvm_sparse.errors import InputError

Vectors = Sequence[np.ndarray]
Embed = Callable[[Sequence[np.ndarray]], Vectors]
"""Returns the vectors of sentences, which are arrays of token ids."""


def packed(engine: tvm_sparse.Engine) -> Embed:
    """Return a function that runs a compiled model on sentences without padding."""
    output = next(spec.name for spec in engine.outputs if len(spec.shape) == 2)
    others = [spec.name for spec in engine.inputs if spec.name not in (IDS, engine.info.mask)]

    def embed(sentences: Sequence[np.ndarray]) -> Vectors:
        inputs = {IDS: sentences} | {name: [0 * ids for ids in sentences] for name in others}
        return [found[output] for found in engine.run_packed(inputs)]

    return embed


def padded(model: Path, threads: int) -> Embed:
    """Return a function that runs an ONNX file in ONNX Runtime on padded batches."""
    from tvm_sparse.onnx_runtime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    output = next(one.name for one in session.get_outputs() if len(one.shape) == 2)
    names = [one.name for one in session.get_inputs()]

    def embed(sentences: Sequence[np.ndarray]) -> Vectors:
        shape = (len(sentences), max(map(len, sentences)))
        inputs = {name: np.zeros(shape, np.int64) for name in names}
        for row, ids in enumerate(sentences):
            inputs[IDS][row, : len(ids)], inputs[MASK][row, : len(ids)] = ids, 1
        return list(session.run([output], inputs)[0])

    return embed


IDS, MASK = "input_ids", "attention_mask"


@dataclass
class Waiting:
    """A sentence, and the future of its vector."""

    ids: np.ndarray
    vector: asyncio.Future[np.ndarray]


@dataclass
class Batcher:
    """Computes together the sentences that come at about the same time.

    Attributes
    ----------
    embed : callable
        Computes vectors; `streams` threads call it.
    streams : int
        Batches that may be computed at once.
    wait : float
        Seconds that a sentence waits for others at most, when a stream is free.
    most : int
        Tokens from which on a batch waits no longer.
    sizes : list of int
        The sentences of each batch so far.
    """

    embed: Embed
    streams: int = 1
    wait: float = 0.003
    most: int = 2048
    sizes: list[int] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute what is submitted until the block ends."""
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self.collecting = asyncio.Lock()
        with ThreadPoolExecutor(self.streams, "embed") as threads:
            tasks = [asyncio.create_task(self._work(threads)) for _ in range(self.streams)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def vector(self, ids: np.ndarray) -> np.ndarray:
        """Return the vector of a sentence."""
        one = Waiting(ids, asyncio.get_running_loop().create_future())
        self.queue.put_nowait(one)
        return await one.vector

    async def _work(self, threads: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self.collecting:  # one stream collects a whole batch, then the next one
                batch = await self._batch()
            self.sizes.append(len(batch))
            try:
                found = await loop.run_in_executor(threads, self.embed, [one.ids for one in batch])
            except Exception as error:
                for one in batch:
                    if not one.vector.cancelled():
                        one.vector.set_exception(error)
            else:
                for one, vector in zip(batch, found, strict=True):
                    if not one.vector.cancelled():
                        one.vector.set_result(vector)

    async def _batch(self) -> list[Waiting]:
        """Return the sentences that come within `wait` seconds after the first one."""
        batch = [await self.queue.get()]
        loop = asyncio.get_running_loop()
        end = loop.time() + self.wait
        while sum(len(one.ids) for one in batch) < self.most:
            try:
                async with asyncio.timeout_at(end):
                    batch.append(await self.queue.get())
            except TimeoutError:
                break
        return batch


@dataclass
class Server:
    """Answers requests.

    Attributes
    ----------
    name : str
        The name of the model.
    batcher : Batcher
        Computes the vectors.
    encode : callable or None
        Returns the token ids of a text.
    most : int
        The most tokens of a sentence; others are refused.
    """

    name: str
    batcher: Batcher
    encode: Callable[[str], list[int]] | None = None
    most: int = 512

    def app(self) -> Starlette:
        """Return the application of the route."""
        return Starlette(
            routes=[Route("/v1/embeddings", self.embeddings, methods=["POST"])],
            lifespan=lambda _app: self.batcher.running(),
        )

    async def embeddings(self, request: Request) -> Response:
        """Return a vector for each sentence."""
        try:
            sentences = self._sentences(json.loads(await request.body())["input"])
            found = await asyncio.gather(*(self.batcher.vector(ids) for ids in sentences))
        except (KeyError, TypeError, ValueError, InputError) as error:
            said = {"message": f"{type(error).__name__}: {error}", "type": "invalid_request_error"}
            return JSONResponse({"error": said}, 400)
        data = [
            {"object": "embedding", "index": i, "embedding": vector.tolist()}
            for i, vector in enumerate(found)
        ]
        count = sum(map(len, sentences))
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": self.name, "usage": usage})

    def _sentences(self, given: Any) -> list[np.ndarray]:
        """Return the token ids of a text, of several, of a list of ids, or of several."""
        is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        sentences = []
        for one in [given] if is_one else given:
            if isinstance(one, str) and self.encode is None:
                raise InputError("there is no tokenizer.json beside the model: send token ids")
            ids = np.array(self.encode(one) if isinstance(one, str) and self.encode else one)
            if ids.ndim != 1 or not 0 < len(ids) <= self.most or ids.dtype.kind != "i":
                raise InputError(f"a sentence has from 1 to {self.most} tokens")
            sentences.append(ids.astype(np.int64))
        return sentences


def encoder_beside(model: Path) -> Callable[[str], list[int]] | None:
    """Return a function that makes token ids of a text, if there is a tokenizer beside a model."""
    path = model.parent / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    return lambda text: list(tokenizer.encode(text).ids)


def main() -> None:
    """Parse the command line and serve."""
    import uvicorn

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", choices=("tvm_sparse", "onnxruntime"), default="tvm_sparse")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--wait", type=float, default=0.003, help="seconds")
    parser.add_argument("--most", type=int, default=2048, help="tokens of a batch that waits")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    if given.engine == "onnxruntime":
        embed = padded(given.model, max(1, usable_cores() // given.streams))
    elif given.model.suffix == ".so":
        embed = packed(tvm_sparse.load(given.model, streams=given.streams))
    else:
        embed = packed(tvm_sparse.compile(given.model, padding="drop", streams=given.streams))
    batcher = Batcher(embed, given.streams, given.wait, given.most)
    server = Server(given.model.name, batcher, encoder_beside(given.model))
    uvicorn.run(server.app(), host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
