"""The process that mutates files, and forks a child for each mutant."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import onnx

# Children find everything imported.
import tvm_sparse.building
import tvm_sparse.cli.console
import tvm_sparse.columns.options
import tvm_sparse.compiler
import tvm_sparse.frontends.failures
import tvm_sparse.frontends.onnx_importer
import tvm_sparse.passes.pipeline
import tvm_sparse.report.measured
import tvm_sparse.verification.verify  # noqa: F401
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.runtime.isolated import serve
from tvm_sparse.testing.mutants import child
from tvm_sparse.testing.mutants.corpus import Corpus
from tvm_sparse.testing.mutants.kinds import KINDS
from tvm_sparse.testing.mutants.outcomes import INVALID, RIGHT, outcome


class Worker:
    """What the process can be asked for."""

    def corpus(self, folder: str, records: bool) -> None:
        """Write the seeds."""
        corpus = Corpus(Path(folder))
        corpus.write()
        if records:
            corpus.write_records()

    def mutant(self, kind: str, seed: int, corpus: str, folder: str) -> dict[str, str]:
        """Write a mutant, run it, and return its outcome and its seed's name."""
        what, seeds = KINDS[kind], Corpus(Path(corpus))
        rng = random.Random(f"{kind} {seed}")
        source = rng.choice(what.seeds(seeds))
        mutant = Path(folder) / f"mutant{source.suffix}"
        mutant.parent.mkdir(parents=True)
        content = what.mutate(rng, source.read_bytes())
        mutant.write_bytes(content)
        for beside in source.parent.glob(f"{source.stem}.data"):
            shutil.copy(beside, mutant.parent)
        ended = child.run(what.command(seeds, mutant, mutant.parent), mutant.parent)
        found = outcome(ended)
        if mutant.read_bytes() != content:
            found = "overwritten: the mutant was changed"
        elif kind == "models" and found.startswith(RIGHT):
            found = _unless_invalid(found, mutant)
        return {"outcome": found, "seed": source.name, "said": ended.out + ended.err}


def _unless_invalid(found: str, mutant: Path) -> str:
    """Return the outcome, or that ONNX's checker and ONNX Runtime both refuse the model."""
    status, out, _ = child.forked(lambda: _judged(mutant), mutant.parent)
    return f"{INVALID}: {out.strip()}" if status == 1 else found


def _judged(mutant: Path) -> int:
    model = onnx.load(mutant)
    try:
        onnx.checker.check_model(str(mutant))
        _forget_shapes(model.graph, [])
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    # It raises errors of many kinds, and so does ONNX Runtime.
    except Exception as error:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(mutant, options, providers=["CPUExecutionProvider"])
        except Exception as other:
            print(*(str(e).strip().splitlines()[0] for e in (error, other)), sep=" | ")
            return 1
    return 0


def _forget_shapes(graph: onnx.GraphProto, inputs: Sequence[onnx.ValueInfoProto]) -> None:
    """Forget what a file says of the shapes that nodes make: it is not needed, and often wrong."""
    del graph.value_info[:]
    for value in (*graph.output, *inputs):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_shapes(attribute.g, attribute.g.input)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(Worker())
