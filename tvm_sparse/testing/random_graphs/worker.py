"""The process that compiles and runs random graphs: a wrong kernel may crash it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tvm_sparse.runtime.isolated import serve
from tvm_sparse.testing.random_graphs.case import Case, Options, random_case
from tvm_sparse.testing.random_graphs.check import outcome


class Worker:
    """What the process can be asked for."""

    def graph(self, seed: int, nodes: int, integers: bool) -> dict[str, str]:
        """Return the outcome of a random graph."""
        return {"outcome": outcome(random_case(seed, nodes, integers))}

    def file(self, folder: str, **options: Any) -> dict[str, str]:
        """Return the outcome of a graph in a file, with its inputs beside it."""
        return {"outcome": outcome(read_case(Path(folder), Options(**options)))}


def write_case(case: Case, folder: Path) -> None:
    """Write a model and its inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(case.model, folder / "model.onnx")
    np.savez(folder / "inputs.npz", **case.inputs)  # type: ignore[arg-type]


def read_case(folder: Path, options: Options) -> Case:
    """Read what `write_case` wrote."""
    with np.load(folder / "inputs.npz") as inputs:
        return Case(onnx.load(folder / "model.onnx"), dict(inputs), options)


if __name__ == "__main__":
    serve(Worker())
