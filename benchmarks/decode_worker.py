"""One engine of benchmarks/decode.py in a process of its own: python decode_worker.py ENGINE.

It reads a JSON object a line and answers with one: first {"model", "threads", "capacity"}, then
{"context", "tokens", "prompt"}, which fills a cache of `context` tokens, takes `tokens` steps of
one token, and takes a prompt of `prompt` tokens at once. The answer has the seconds of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tvm_sparse.onnx_runtime import onnxruntime


class Decoder(Protocol):
    """What an engine does."""

    def begin(self, position: int) -> None:
        """Go back to a position."""

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens; return the logits of the last one."""


class Ours:
    """A session of a compiled library."""

    def __init__(self, model: str, threads: int, capacity: int) -> None:
        import tvm_sparse

        self._session = tvm_sparse.load(Path(model), threads).session(tokens=capacity)

    def begin(self, position: int) -> None:
        """Go back to a position."""
        self._session.rewind(self._session.position - position)

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens; return the logits of the last one."""
        return self._session.step(ids, last_only=True)


class OnnxRuntime:
    """A session of ONNX Runtime whose past and present are one buffer, as in onnxruntime-genai."""

    def __init__(self, model: str, threads: int, capacity: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._binding = self._session.io_binding()
        self._position = 0
        self._vocabulary = self._session.get_outputs()[0].shape[2]
        for value in self._session.get_inputs():
            if value.name.startswith("past_key_values."):
                shape = (1, value.shape[1], capacity, value.shape[3])
                cache = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                self._binding.bind_ortvalue_input(value.name, cache)
                present = value.name.replace("past_key_values", "present")
                self._binding.bind_ortvalue_output(present, cache)

    def begin(self, position: int) -> None:
        """Go back to a position."""
        self._position = position

    def step(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens; return the logits of the last one."""
        self._position += len(ids)
        self._binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        self._binding.bind_cpu_input("attention_mask", np.ones((1, self._position), np.int64))
        shape = (1, len(ids), self._vocabulary)
        logits = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, "cpu")
        self._binding.bind_ortvalue_output("logits", logits)
        self._session.run_with_iobinding(self._binding)
        return logits.numpy()[0, -1]


ENGINES: dict[str, Callable[[str, int, int], Decoder]] = {
    "tvm-sparse": Ours,
    "onnxruntime": OnnxRuntime,
}


def measured(decoder: Decoder, context: int, tokens: int, prompt: int) -> dict[str, Any]:
    """Return the seconds of steps at a position, and of a prompt at the beginning."""
    ids = np.random.default_rng(0).integers(0, 256, max(context, prompt)).tolist()
    decoder.begin(0)
    decoder.step(ids[:context])
    steps, chosen = [], 1
    for _ in range(tokens):
        start = time.perf_counter()
        logits = decoder.step([chosen])
        steps.append(time.perf_counter() - start)
        chosen = int(np.argmax(logits))
    decoder.begin(0)
    start = time.perf_counter()
    decoder.step(ids[:prompt])
    return {"steps": steps, "prompt": time.perf_counter() - start}


def main() -> None:
    """Answer the lines of stdin."""
    setup = json.loads(sys.stdin.readline())
    decoder = ENGINES[sys.argv[1]](setup["model"], setup["threads"], setup["capacity"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(measured(decoder, **json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
