"""Verify a compiled model: its outputs are compared with those of ONNX Runtime.

If an output differs, bisection over the tensors of the graph finds the first node whose result
differs though all that it reads is right. A part of the model, up to a tensor, is compiled anew for
each step.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx

from tvm_sparse.dtypes import DType
from tvm_sparse.errors import PLEASE_REPORT, InputError, TvmSparseError, VerificationError
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.specs import TensorSpec
from tvm_sparse.verification.bisection import Bisection, Compile
from tvm_sparse.verification.comparison import Difference, Reference, Refused
from tvm_sparse.verification.inputs import UnknownInput, example_inputs

if TYPE_CHECKING:
    from tvm_sparse.cpu.precision import PrecisionOption

# What needs TVM's compiler is imported late: a library is verified with the runtime alone.

MOST_DISTRUSTED = 5
"""The most nodes that ONNX Runtime runs since their results differ."""

_log = logging.getLogger("tvm_sparse")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Verification:
    """What a verification found, if no output differs too much.

    Attributes
    ----------
    differences : tuple of Difference
        How far each output is from ONNX Runtime's; empty if `refusal` says why none was compared.
    refusal : str
        Why nothing was compared: ONNX Runtime cannot run the model, or no inputs are known to fit.
    """

    differences: tuple[Difference, ...] = ()
    refusal: str = ""

    def __str__(self) -> str:
        """Return the largest difference in one line."""
        if self.refusal:
            return f"not verified: {self.refusal}"
        runtime = f"ONNX Runtime {onnxruntime.__version__}"
        worst = max(self.differences, key=lambda one: one.share)
        if np.isfinite(worst.allowed_rms):  # computed in float16
            rms = max(one.rms for one in self.differences)
            return (
                f"verified against {runtime}: outputs of float16 differ by at most "
                f"{worst.share:.1e} of their largest value ({worst.output}; {worst.allowed:.0e} is "
                f"allowed) and by {rms:.1e} in RMS ({worst.allowed_rms:.0e} is allowed)"
            )
        return (
            f"verified against {runtime}: outputs differ by at most {worst.share:.1e} of their "
            f"spread ({worst.output})"
        )


VERIFIED_SIZES = (1, 3, 37)
"""Values of named dimensions at which a library is verified: one, few, and several blocks."""


def verify(
    model: str | os.PathLike[str],
    engine: Engine,
    compile_part: Compile,
    inputs: Mapping[str, Any] | None = None,
) -> Verification:
    """Compare a compiled model with ONNX Runtime without optimizations.

    Parameters
    ----------
    model : str or PathLike
        The ONNX file that `engine` was compiled from.
    engine : Engine
        The compiled model.
    compile_part : callable
        Compiles a part of the model, if the outputs differ, to find the node that is wrong.
    inputs : mapping of str to array, optional
        Every input by name. By default, inputs are made that fit the graph.

    Returns
    -------
    Verification

    Raises
    ------
    VerificationError
        If an output differs by more than rounding; the message names the node.
    InputError
        If `inputs` or the inputs of the engine do not fit the model.
    ModelError
        If the model cannot be read.
    TargetError
        If the engine was compiled for another machine.
    """
    if engine.is_decoder:
        return _decoder(model, engine)
    if engine.info.has_sizes:
        return _at_sizes(model, engine, compile_part, inputs)
    return _at_shapes(model, engine, engine.inputs, compile_part, inputs)


def _decoder(model: str | os.PathLike[str], engine: Engine) -> Verification:
    """Verify a decoder by the logits of some tokens."""
    from tvm_sparse.verification.decoder import compare_decoder

    _check_names(read_model(model)[0], engine)
    try:
        found = compare_decoder(model, engine)
    except TvmSparseError:
        raise
    # ONNX Runtime's errors share no base class below Exception.
    except Exception as error:
        why = str(error).strip().splitlines()[0]
        return Verification(
            refusal=f"ONNX Runtime {onnxruntime.__version__} cannot run the model: {why}"
        )
    if found.is_error:
        raise VerificationError(f"{_described([found])}. {PLEASE_REPORT}")
    return Verification((found,))


def _at_sizes(
    model: str | os.PathLike[str],
    engine: Engine,
    compile_part: Compile,
    inputs: Mapping[str, Any] | None,
) -> Verification:
    """Verify at a few sizes of the named dimensions, or at those of given inputs."""
    names = {size for spec in engine.inputs for size in spec.shape if isinstance(size, str)}
    bounds, multiples = engine.info.bounds, engine.info.multiples
    tried = []
    for count in VERIFIED_SIZES:
        sizes = {name: count * multiples.get(name, 1) for name in sorted(names)}
        tried.append({name: min(size, bounds.get(name, size)) for name, size in sizes.items()})
    if inputs is not None:
        shapes = {name: np.shape(value) for name, value in inputs.items()}
        tried = [
            {
                size: shapes[spec.name][axis]
                for spec in engine.inputs
                for axis, size in enumerate(spec.shape)
                if isinstance(size, str) and axis < len(shapes.get(spec.name, ()))
            }
        ]
    found: list[Difference] = []
    for sizes in tried:
        specs = [spec.at(sizes) for spec in engine.inputs]
        verification = _at_shapes(model, engine, specs, compile_part, inputs)
        if verification.refusal:
            return verification
        found += verification.differences
    return Verification(tuple(found))


def _at_shapes(
    model: str | os.PathLike[str],
    engine: Engine,
    specs: Sequence[TensorSpec],
    compile_part: Compile,
    inputs: Mapping[str, Any] | None,
) -> Verification:
    """Verify with inputs of fixed shapes."""
    proto, folder = read_model(model)
    bind_shapes(proto, {spec.name: spec.static_shape for spec in specs})
    _check_names(proto, engine)
    try:
        inputs = example_inputs(proto, specs) if inputs is None else inputs
    except UnknownInput as unknown:
        return Verification(refusal=f"{unknown}; give inputs, such as by --calibration")
    arrays = _without_padding(engine, {name: np.asarray(v) for name, v in inputs.items()})
    outputs = engine.run(arrays)
    try:
        precision = engine.info.precision
        found = Reference(proto, folder).compare(arrays, outputs, precision=precision)
    except Refused as refusal:
        why = f"ONNX Runtime {onnxruntime.__version__} cannot run the model: {refusal}"
        return Verification(refusal=why)
    if wrong := [one for one in found if one.is_error]:
        if precision is DType.FLOAT16:  # the sum of many roundings is no node's fault
            remedy = "compile the model in float32, or give --calibration inputs"
            raise VerificationError(f"{_described(wrong)}; {remedy}", is_rounding=True)
        blame, node = Bisection(proto, folder, arrays, compile_part).blame(wrong[0].output)
        raise VerificationError(f"{_described(wrong)}; {blame}. {PLEASE_REPORT}", node)
    return Verification(tuple(found))


def _without_padding(engine: Engine, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Return inputs without padded tokens, if an output would be 0 for them on purpose."""
    masks = [spec for spec in engine.inputs if spec.name == engine.info.mask]
    if not any(out.shape[:2] == mask.shape for mask in masks for out in engine.outputs):
        return inputs
    return {**inputs, engine.info.mask: np.ones_like(inputs[engine.info.mask])}


def until_right(
    attempt: Callable[[Mapping[str, str], PrecisionOption], Result],
    can_fall_back: bool,
    precision: PrecisionOption,
) -> Result:
    """Compile and verify a model, with each node that differs run by ONNX Runtime instead.

    Parameters
    ----------
    attempt : callable
        Compiles and verifies the model in a precision, where ONNX Runtime runs the nodes that the
        mapping names.
    can_fall_back : bool
        Whether ONNX Runtime may run nodes.
    precision : str
        As `tvm_sparse.compile` takes it. What is not exact enough in float16 becomes float32 if it
        is ``"auto"``.

    Raises
    ------
    VerificationError
        If outputs differ though ONNX Runtime runs the nodes.
    """
    distrusted: dict[str, str] = {}
    while True:
        try:
            return attempt(distrusted, precision)
        except VerificationError as error:
            if error.is_rounding and precision == "auto":
                _log.warning("%s. It is compiled in float32 now", error)
                precision = "float32"
                continue
            known = error.node in distrusted or len(distrusted) == MOST_DISTRUSTED
            if not error.node or known or not can_fall_back:
                raise
            _log.warning("%s. ONNX Runtime runs the node instead", error)
            distrusted = {**distrusted, error.node: "its result differs from ONNX Runtime's"}


def _check_names(model: onnx.ModelProto, engine: Engine) -> None:
    outputs = [value.name for value in model.graph.output]
    if engine.is_decoder:  # its caches are no outputs
        outputs = [name for name in outputs if name == engine.outputs[0].name]
    if outputs != [spec.name for spec in engine.outputs]:
        raise InputError(
            f"the library was compiled from another model: its outputs are "
            f"{', '.join(spec.name for spec in engine.outputs)}, and those of the model are "
            f"{', '.join(outputs)}"
        )


def _described(wrong: Sequence[Difference]) -> str:
    first = wrong[0]
    more = f" (and {len(wrong) - 1} more outputs)" if len(wrong) > 1 else ""
    if first.share == float("inf"):
        how = "in its shape, its dtype, or in where it is NaN or infinite"
    elif first.allowed_rms < float("inf"):
        how = (
            f"by {first.share:.2g} of its largest value and {first.rms:.2g} in RMS; in float16 "
            f"{first.allowed:.2g} and {first.allowed_rms:.2g} are allowed"
        )
    else:
        how = f"by {first.share:.2g} of its spread; {first.allowed:.2g} is allowed"
    return (
        f"output {first.output!r}{more} differs from ONNX Runtime {onnxruntime.__version__} {how}"
    )
