"""Sentences of different lengths: packed, against padding in several ways and ONNX Runtime.

Batches of sentences whose lengths are log-normal run in turns

- packed: `Engine.run_packed` of a library whose padding is dropped,
- longest: padded to the longest one of the batch, by a library that keeps padding,
- buckets: sorted into those of up to 32, 64, 128 and 256 tokens, a padded call for each,
- onnxruntime: padded to the longest one, in ONNX Runtime.

The outputs of every sentence are compared first. Times are those of a batch; a ratio is the median
over all batches and rounds of the time of one mode beside that of packed in the same round.

    python benchmarks/packed.py --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sized_models import sized

import tvm_sparse
from tvm_sparse.dtypes import DType
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.testing.kernels import relative_rms

Ids = NDArray[np.int64]
Vectors = list[NDArray[np.float32]]
Run = Callable[[Mapping[str, Ids]], Mapping[str, NDArray[np.float32]]]

MODES = ("packed", "longest", "buckets", "onnxruntime")
BUCKETS = (32, 64, 128, 256)
SPREAD = 0.7
"""The standard deviation of the logarithm of lengths."""
VOCABULARY = 1000
"""Ids are smaller; they change no time."""
HALF_ERROR = 1e-2
"""The error of vectors of float16, as a share of the vectors, RMS."""
TOKENS, VECTOR = "last_hidden_state", "pooler_output"


def lengths(rng: np.random.Generator, count: int, mean: float, most: int) -> NDArray[np.int64]:
    """Return log-normal numbers of tokens, at least 3 and at most `most`."""
    drawn = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, count)
    return np.clip(drawn.round(), 3, most).astype(np.int64)


def padded(sentences: Sequence[Ids], tokens: int) -> dict[str, Ids]:
    """Return a batch of sentences padded to `tokens`, with its mask."""
    ids = np.zeros((len(sentences), tokens), np.int64)
    mask = np.zeros_like(ids)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def run_packed(engine: Engine, sentences: Sequence[Ids]) -> Vectors:
    """Return the vector of each sentence from one packed call."""
    batch = {"input_ids": list(sentences), "token_type_ids": [0 * one for one in sentences]}
    return [found[VECTOR] for found in engine.run_packed(batch)]


def run_longest(run: Run, sentences: Sequence[Ids]) -> Vectors:
    """Return the vector of each sentence from one call that is padded to the longest one."""
    return list(run(padded(sentences, max(map(len, sentences))))[VECTOR])


def run_buckets(run: Run, sentences: Sequence[Ids]) -> Vectors:
    """Return the vector of each sentence from a padded call for each bucket that has some."""
    vectors: Vectors = [np.empty(0, np.float32)] * len(sentences)
    shortest = 0
    for tokens in BUCKETS:
        own = [i for i, one in enumerate(sentences) if shortest < len(one) <= tokens]
        if own:
            found = run(padded([sentences[i] for i in own], tokens))[VECTOR]
            for i, vector in zip(own, found, strict=True):
                vectors[i] = vector
        shortest = tokens
    return vectors


def in_onnxruntime(path: Path, threads: int) -> Run:
    """Return a function that runs a model in ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def main() -> None:
    """Compile, compare the outputs, time, print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bert-base-95", help="as run.py takes it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=16, help="sentences of a batch")
    parser.add_argument("--mean", type=float, default=60, help="mean length in tokens")
    parser.add_argument("--most", type=int, default=BUCKETS[-1], help="largest length in tokens")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, metavar="MODE")
    parser.add_argument("--precision", default="float32", help="float32, float16 or auto")
    parser.add_argument("--cache", type=Path, default=Path(".cache/models"))
    arguments = parser.parse_args()

    path, _ = sized(arguments.model, arguments.cache)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    options = {
        "shapes": dict.fromkeys(inputs, ("batch", "sequence")),
        "threads": arguments.threads,
        "precision": arguments.precision,
        "hints": {"batch": arguments.sentences, "sequence": int(arguments.mean)},
    }
    packed = tvm_sparse.compile(path, padding="drop", **options)
    kept = tvm_sparse.compile(path, padding="keep", **options)
    needs_reference = "onnxruntime" in arguments.modes
    reference = in_onnxruntime(path, arguments.threads) if needs_reference else kept.run
    every: dict[str, Callable[[Sequence[Ids]], Vectors]] = {
        "packed": lambda batch: run_packed(packed, batch),
        "longest": lambda batch: run_longest(kept.run, batch),
        "buckets": lambda batch: run_buckets(kept.run, batch),
        "onnxruntime": lambda batch: run_longest(reference, batch),
    }
    modes = {name: mode for name, mode in every.items() if name in ("packed", *arguments.modes)}
    rng = np.random.default_rng(arguments.seed)
    batches = [
        [rng.integers(0, VOCABULARY, n) for n in lengths(
            rng, arguments.sentences, arguments.mean, arguments.most
        )]
        for _ in range(arguments.batches)
    ]  # fmt: skip
    for batch in batches:
        check(batch, modes, packed.info.precision)
        counts = [len(one) for one in batch]
        print(f"{len(batch)} sentences, {sum(counts)} tokens, the longest {max(counts)}")
    print(flush=True)
    report(timed(batches, modes, arguments.rounds))


def check(
    batch: Sequence[Ids],
    modes: Mapping[str, Callable[[Sequence[Ids]], Vectors]],
    precision: DType,
) -> None:
    """Raise unless all modes return the same vectors: our libraries of float32 bit by bit."""
    first, *others = (np.array(mode(batch)) for mode in modes.values())
    for name, found in zip(list(modes)[1:], others, strict=True):
        if precision is DType.FLOAT16:
            most = relative_rms(found, first)
            assert most < HALF_ERROR, f"{name}: {most:.1e} of the vectors"
            continue
        is_ours = name != "onnxruntime"
        tolerance = {"rtol": 0, "atol": 0} if is_ours else {"rtol": 1e-3, "atol": 1e-4}
        np.testing.assert_allclose(found, first, **tolerance, err_msg=name)


def timed(
    batches: Sequence[Sequence[Ids]],
    modes: Mapping[str, Callable[[Sequence[Ids]], Vectors]],
    rounds: int,
) -> dict[str, NDArray[np.float64]]:
    """Return the seconds of each mode, by round and batch, taken in turns."""
    seconds = {name: np.zeros((rounds, len(batches))) for name in modes}
    for i in range(rounds):
        for j, batch in enumerate(batches):
            for name, mode in modes.items():
                start = time.perf_counter()
                mode(batch)
                seconds[name][i, j] = time.perf_counter() - start
    return seconds


def report(seconds: Mapping[str, NDArray[np.float64]]) -> None:
    """Print the fastest time of a batch on average, the median, and the ratio to packed."""
    print("| mode | ms, fastest | ms, median | time beside packed |")
    print("| --- | ---: | ---: | ---: |")
    packed = seconds["packed"]
    for name, own in seconds.items():
        fastest, median = own.min(0).mean(), np.median(own, 0).mean()
        ratio = np.median(own / packed)
        print(f"| {name} | {1e3 * fastest:.1f} | {1e3 * median:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
