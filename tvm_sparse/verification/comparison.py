"""How far the outputs of a compiled model are from those of ONNX Runtime, and how far they may be.

The difference of an output is the largest difference of two values as a share of the spread of the
output: from its smallest to its largest value, or a tenth of its largest magnitude if that is more.
Rounding of float32 makes it about 1e-6. For a model that is computed in float16 it is a share of
the largest magnitude, and the root mean square of all differences counts, too.

Some outputs depend on the last bits of what was computed before, such as indices of equal values,
or numbers that are rounded to eight bits. So before a difference counts as an error, ONNX Runtime's
own outputs are compared with one another: with and without its optimizations, on one thread, and
with inputs and weights that differ in the last bits.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from tvm_sparse.dtypes import DType
from tvm_sparse.frontends.canonical.light import without_weights
from tvm_sparse.frontends.untouched_weights import untouched_weights
from tvm_sparse.onnx_runtime import exact_options, onnxruntime
from tvm_sparse.verification.unsigned_weights import with_unsigned_weights

TOLERANCE = 1e-3
"""The difference that is allowed, as a share of an output's spread."""
HALF_TOLERANCE = 1e-2
"""The same for outputs of 16 bits."""
RMS_TOLERANCE = 5e-3
"""The root mean square of the differences that is allowed for a model that is computed in float16,
as a share of that of the output."""
OWN_FACTOR = 4.0
"""A difference may be this many times as large as those of ONNX Runtime's own outputs."""
NOISE = {DType.FLOAT32: 1e-6, DType.FLOAT16: 1e-3}
"""The change of inputs and weights, as a share of their magnitude, that shows own differences; for
float16 it is what one layer adds by its rounding, in RMS. Random weights may make fifty times as
much of it: the output of such a MobileNetV1 changes by 5e-2 of its largest value where every weight
and result is rounded to float16, and by 0.26 where they are rounded to bfloat16."""

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Difference:
    """How far one output is from the reference.

    Attributes
    ----------
    output : str
        The name of the output.
    share : float
        The difference as a share of the output's spread, or for float16 of its largest magnitude;
        infinite if the shape, the dtype, or the places of NaN and infinities differ.
    allowed : float
        The share that is allowed.
    rms, allowed_rms : float
        The root mean square of the differences as a share of that of the output, and what is
        allowed.
    """

    output: str
    share: float
    allowed: float
    rms: float = 0.0
    allowed_rms: float = np.inf

    @property
    def is_error(self) -> bool:
        """Whether the difference is larger than allowed."""
        return not (self.share <= self.allowed and self.rms <= self.allowed_rms)


class Refused(Exception):
    """ONNX Runtime cannot run a model; the text is its reason."""


class Reference:
    """A model as ONNX Runtime computes it without optimizations.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with static shapes of its inputs.
    folder : Path
        The folder that the locations of external weights are relative to.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        model = with_unsigned_weights(model, folder)
        # As inputs, most of the weights need not be written into a message and read again.
        names = untouched_weights(model)
        self._weights = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if tensor.name in names and tensor.data_type == onnx.TensorProto.FLOAT
        }
        light = without_weights(model, self._weights) if self._weights else model
        self._serialized = light.SerializeToString()
        self._folder = folder

    def run(
        self, inputs: Arrays, optimized: bool = False, threads: int = 0
    ) -> dict[str, NDArray[np.generic]]:
        """Return the outputs by name; 0 threads are all that ONNX Runtime takes by itself.

        Raises
        ------
        Refused
            If ONNX Runtime cannot load or run the model.
        """
        levels = onnxruntime.GraphOptimizationLevel
        options = exact_options()
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
        )
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._folder)
        )
        try:
            session = onnxruntime.InferenceSession(
                self._serialized, options, providers=["CPUExecutionProvider"]
            )
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, session.run(names, {**inputs, **self._weights}), strict=True))
        # ONNX Runtime's errors share no base class below Exception.
        except Exception as error:
            raise Refused(str(error).strip().splitlines()[0]) from None

    def compare(
        self,
        inputs: Arrays,
        actual: Arrays,
        tolerance: float = TOLERANCE,
        precision: DType = DType.FLOAT32,
    ) -> list[Difference]:
        """Return how far outputs are from those of the reference, in the order of the model.

        Parameters
        ----------
        inputs, actual : mapping of str to array
            The inputs, and the outputs that are compared.
        tolerance : float
            The difference that is allowed, as a share of an output's spread; outputs of 16 bits may
            differ by `HALF_TOLERANCE`.
        precision : DType
            What `actual` was computed in. Results of float16 may differ by `HALF_TOLERANCE` of the
            largest magnitude, and by `RMS_TOLERANCE`.
        """
        expected = self.run(inputs)
        if precision is DType.FLOAT16:
            found = [_of_half(name, array, actual[name]) for name, array in expected.items()]
        else:
            found = [
                Difference(name, difference(array, actual[name]), _tolerance(array, tolerance))
                for name, array in expected.items()
            ]
        if not any(one.is_error for one in found):
            return found
        # The results of some kernels that round to eight bits change with the number of threads.
        noise = NOISE[precision]
        others = [self.run(inputs, threads=1), self.run(_disturbed(inputs, noise))]
        others.append(self._with_disturbed_weights(noise).run(inputs))
        with contextlib.suppress(Refused):  # its optimizers refuse models that it can run
            others.append(self.run(inputs, optimized=True))
        return [
            replace(
                one,
                allowed=max(one.allowed, OWN_FACTOR * own),
                allowed_rms=max(one.allowed_rms, OWN_FACTOR * own_rms),
            )
            for one in found
            for own, own_rms in [_largest(expected[one.output], [o[one.output] for o in others])]
        ]

    def _with_disturbed_weights(self, noise: float) -> Reference:
        """Return the model with other last bits in the weights that are in the file itself."""
        model = onnx.load_from_string(self._serialized)
        weights = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in model.graph.initializer
            if not external_data_helper.uses_external_data(tensor)
        }
        disturbed = _disturbed(weights, noise)
        for tensor in model.graph.initializer:
            if tensor.name in weights and weights[tensor.name].dtype.kind == "f":
                tensor.CopyFrom(numpy_helper.from_array(disturbed[tensor.name], tensor.name))
        changed = copy.copy(self)
        changed._serialized, changed._weights = (
            model.SerializeToString(),
            _disturbed(self._weights, noise),
        )
        return changed


def difference(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    """Return the largest difference of two arrays as a share of the spread of `expected`.

    It is infinite if the shape, the dtype, or the places of NaN and infinities differ.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return np.inf
    if expected.dtype.kind in "OUS":
        return 0.0 if np.array_equal(expected, actual) else np.inf
    kind = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = expected.astype(kind), actual.astype(kind)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    a, b = a[finite], b[finite]
    if not np.isfinite(b).all():
        return np.inf
    if a.size == 0:
        return 0.0
    largest = float(np.abs(a).max())
    spread = max(float(np.abs(a - a.min()).max()), largest / 10) or 1.0
    return float(np.abs(a - b).max()) / spread


def relative_rms(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    """Return the root mean square of the differences as a share of that of `expected`.

    Values that are not finite are left out; it is 0 for arrays without numbers.
    """
    if expected.dtype.kind not in "fiu" or expected.shape != actual.shape:
        return 0.0
    a, b = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    size = float(np.square(a).sum())
    return float(np.sqrt(np.square(a - b).sum() / size)) if size else 0.0


def _of_half(name: str, expected: NDArray[np.generic], actual: NDArray[np.generic]) -> Difference:
    """Return how far an output is that was computed in float16."""
    share = difference(expected, actual)
    if np.isfinite(share) and expected.size and expected.dtype.kind == "f":
        finite = expected[np.isfinite(expected)].astype(np.float64)
        if finite.size:
            largest = float(np.abs(finite).max())
            spread = max(float(np.ptp(finite)), largest / 10) or 1.0
            share *= spread / (largest or 1.0)
    rms = relative_rms(expected, actual)
    return Difference(name, share, HALF_TOLERANCE, rms, RMS_TOLERANCE)


def _largest(
    expected: NDArray[np.generic], others: Sequence[NDArray[np.generic]]
) -> tuple[float, float]:
    """Return the largest differences of outputs of ONNX Runtime from one of them.

    Those that say nothing about rounding are left out.
    """
    shares = (difference(expected, other) for other in others)
    share = max((share for share in shares if np.isfinite(share)), default=0.0)
    return share, max(relative_rms(expected, other) for other in others)


def _tolerance(array: NDArray[np.generic], tolerance: float) -> float:
    is_half = array.dtype.itemsize == 2 and array.dtype.kind not in "iu"
    return HALF_TOLERANCE if is_half else tolerance


def _disturbed(arrays: Arrays, scale: float) -> dict[str, NDArray[np.generic]]:
    """Return arrays whose floating-point values differ in the last bits."""
    rng = np.random.default_rng(1)
    changed: dict[str, NDArray[np.generic]] = {}
    for name, array in arrays.items():
        changed[name] = array
        if array.dtype.kind == "f":
            noise = 1 + scale * rng.standard_normal(array.shape)
            changed[name] = np.multiply(array, noise).astype(array.dtype)
    return changed
