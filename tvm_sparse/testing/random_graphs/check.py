"""Compiles a random graph, runs it, and compares it with ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import tvm_sparse
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.errors import ModelError
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.testing.random_graphs.case import Case
from tvm_sparse.tilings.families import Tiling, families_of
from tvm_sparse.tilings.integers import IntegerFamily
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.verification.comparison import Reference

RIGHT = "right"
REFUSED = "refused"


class RandomIntegers(RecordedPlans):
    """Records that have a kernel of integers for every layer that can have one."""

    def lookups_on(self, cpu: CpuProfile) -> Lookups:
        """Return one that tiles layers by what their sizes are."""

        def kernel_for(layer: Layer[Any]) -> Tiling | None:
            able = [f for f in families_of(layer, cpu) if isinstance(f, IntegerFamily)]
            if not able:
                return None
            family = random.Random(repr(layer)).choice(able)
            tiling: Tiling = family.default(layer, cpu)
            return tiling

        return Lookups(kernel_for=kernel_for)


TOLERANCE = 1e-4
"""The difference of an output that is allowed, as a share of its spread."""


def outcome(case: Case) -> str:
    """Return "right", or a kind of failure, a colon, and what differs or is raised.

    A model that is refused by a clear error is "refused"; whatever else is raised is named by its
    type. Outputs that differ, also those of a second run, are "wrong".
    """
    options = case.options
    with _without_warnings(), tempfile.TemporaryDirectory(prefix="tvm_sparse-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(case.model, path)
        try:
            engine = tvm_sparse.compile(
                path,
                target=options.target,
                threads=options.threads,
                columns=options.columns,
                records=RandomIntegers() if options.forces_integers else RecordedPlans(),
                fallback="off",
            )
            first, second = (engine.run(case.inputs) for _ in range(2))
        except ModelError as error:
            return f"{REFUSED}: {_first_line(error)}"
        # Whatever is raised is a fault.
        except Exception as error:
            return f"{type(error).__name__}: {_first_line(error)}"
    for name, array in first.items():
        if not np.array_equal(array, second[name], equal_nan=array.dtype.kind == "f"):
            return f"wrong: output {name} is another one in the second run"
    return _compared(case, first)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the warnings of dense layers, of which random graphs have many, to ourselves."""
    logger = logging.getLogger("tvm_sparse")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _compared(case: Case, outputs: dict[str, np.ndarray]) -> str:
    reference = Reference(case.model, Path())
    expected = reference.run(case.inputs)
    for found in reference.compare(case.inputs, outputs, TOLERANCE):
        if found.is_error:
            how = f"by {found.share:.1e} of its spread"
            if not np.isfinite(found.share):
                how = _unlike(expected[found.output], outputs[found.output])
            return f"wrong: output {found.output} differs {how}"
    return RIGHT


def _unlike(expected: np.ndarray, actual: np.ndarray) -> str:
    if (expected.shape, expected.dtype) != (actual.shape, actual.dtype):
        return (
            f"in its type: {actual.dtype}{list(actual.shape)}, expected "
            f"{expected.dtype}{list(expected.shape)}"
        )
    return "in where it is finite"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1 if "Traceback" in str(error) else 0]
