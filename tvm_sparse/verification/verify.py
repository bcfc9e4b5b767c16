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
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import external_data_helper, helper

from tvm_sparse.dtypes import DType
from tvm_sparse.errors import PLEASE_REPORT, InputError, TvmSparseError, VerificationError
from tvm_sparse.files import scratch_folder
from tvm_sparse.frontends.failures import without_warnings
from tvm_sparse.frontends.onnx_file import bind_shapes, read_model
from tvm_sparse.onnx_runtime import onnxruntime
from tvm_sparse.runtime.engine import Engine
from tvm_sparse.verification.comparison import Arrays, Difference, Reference, Refused
from tvm_sparse.verification.inputs import UnknownInput, example_inputs

MOST_STEPS = 40
"""The most parts of a model that are compiled to find the node that differs."""

MOST_DISTRUSTED = 5
"""The most nodes that ONNX Runtime runs since their results differ."""

_log = logging.getLogger("tvm_sparse")

Result = TypeVar("Result")

Compile = Callable[[Path], Engine]
"""Compiles an ONNX file with static shapes, as the model that is verified was compiled."""


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
    proto, folder = read_model(model)
    bind_shapes(proto, {spec.name: spec.static_shape for spec in engine.inputs})
    _check_names(proto, engine)
    try:
        inputs = example_inputs(proto, engine.inputs) if inputs is None else inputs
    except UnknownInput as unknown:
        return Verification(refusal=f"{unknown}; give inputs, such as by --calibration")
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    outputs = engine.run(arrays)
    try:
        precision = engine.info.precision
        found = Reference(proto, folder).compare(arrays, outputs, precision=precision)
    except Refused as refusal:
        why = f"ONNX Runtime {onnxruntime.__version__} cannot run the model: {refusal}"
        return Verification(refusal=why)
    if wrong := [one for one in found if one.is_error]:
        bisection = _Bisection(proto, folder, arrays, compile_part, precision)
        blame, node = bisection.blame(wrong[0].output)
        if precision is DType.FLOAT16:  # the sum of many roundings is no node's fault
            node, blame = "", f"{blame}; compile the model in float32, or give --calibration inputs"
        raise VerificationError(f"{_described(wrong)}; {blame}. {PLEASE_REPORT}", node)
    return Verification(tuple(found))


def until_right(attempt: Callable[[Mapping[str, str]], Result], can_fall_back: bool) -> Result:
    """Compile and verify a model, with each node that differs run by ONNX Runtime instead.

    Parameters
    ----------
    attempt : callable
        Compiles and verifies the model, where ONNX Runtime runs the nodes that the mapping names.
    can_fall_back : bool
        Whether ONNX Runtime may run nodes.

    Raises
    ------
    VerificationError
        If outputs differ though ONNX Runtime runs the nodes.
    """
    distrusted: dict[str, str] = {}
    while True:
        try:
            return attempt(distrusted)
        except VerificationError as error:
            known = error.node in distrusted or len(distrusted) == MOST_DISTRUSTED
            if not error.node or known or not can_fall_back:
                raise
            _log.warning("%s. ONNX Runtime runs the node instead", error)
            distrusted = {**distrusted, error.node: "its result differs from ONNX Runtime's"}


def _check_names(model: onnx.ModelProto, engine: Engine) -> None:
    outputs = [value.name for value in model.graph.output]
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


class _Bisection:
    """Finds the first node of a model whose result differs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        inputs: Arrays,
        compile_part: Compile,
        precision: DType,
    ) -> None:
        self.model, self.inputs, self.compile_part = model, inputs, compile_part
        self.precision = precision
        self.folder = folder
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.differs: dict[str, bool] = {}

    def blame(self, output: str) -> tuple[str, str]:
        """Return a clause that names the node because of which an output differs, and its name."""
        try:
            external_data_helper.load_external_data_for_model(self.model, str(self.folder))
            order = self._order(output)
        except ValueError as error:  # weights do not fit into one message
            return f"the node is not known ({error})", ""
        self.differs[output] = True
        tensor = self._first_different(order)
        while True:  # a tensor of another branch may differ, too
            reads = [name for name in self._reads(self.makers[tensor]) if name in self.makers]
            other = next((name for name in reads if self._is_different(name)), None)
            if other is None:
                break
            tensor = other
        node = self.makers[tensor]
        return f"the first node that differs is {node.name!r} ({node.op_type})", node.name

    def _first_different(self, order: Sequence[str]) -> str:
        """Return a tensor that differs, whose predecessor in the order does not."""
        right, wrong = -1, len(order) - 1
        while wrong - right > 1:
            middle = (right + wrong) // 2
            if self._is_different(order[middle]):
                wrong = middle
            else:
                right = middle
        return order[wrong]

    def _order(self, output: str) -> list[str]:
        """Return the tensors that an output depends on and that depend on an input."""
        needed, varying = {output}, set(self.inputs)
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(self._reads(node))
        order = []
        for node in self.model.graph.node:
            if varying.intersection(self._reads(node)):
                varying.update(node.output)
                order += [name for name in node.output if name in needed]
        return order

    def _reads(self, node: onnx.NodeProto) -> list[str]:
        """Return the names of what a node reads, in its subgraphs too."""
        inner = [
            name
            for attribute in node.attribute
            for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs)
            for inside in graph.node
            for name in self._reads(inside)
        ]
        return [name for name in (*node.input, *inner) if name]

    def _is_different(self, tensor: str) -> bool:
        if tensor not in self.differs and len(self.differs) < MOST_STEPS:
            self.differs[tensor] = self._try(tensor)
        return self.differs.get(tensor, False)

    def _try(self, tensor: str) -> bool:
        """Compile the model up to a tensor; return whether the tensor differs."""
        part = self._part(tensor)
        inputs = {value.name: self.inputs[value.name] for value in part.graph.input}
        reference = Reference(part, self.folder)
        try:
            (value,) = reference.run(inputs).values()
            dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
            part.graph.output[0].CopyFrom(helper.make_tensor_value_info(tensor, dtype, value.shape))
            with scratch_folder() as scratch:
                path = scratch / "part.onnx"
                onnx.save(part, str(path))
                with without_warnings():
                    actual = self.compile_part(path).run(inputs)
            found = reference.compare(inputs, actual, precision=self.precision)
            return any(one.is_error for one in found)
        except (Refused, TvmSparseError, AttributeError, KeyError, ValueError):
            return False  # no tensor, or nothing that stands alone: another one tells

    def _part(self, tensor: str) -> onnx.ModelProto:
        """Return the model up to a tensor, which is its only output."""
        needed, nodes = {tensor}, []
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output):
                needed.update(self._reads(node))
                nodes.append(node)
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        graph = part.graph
        del graph.node[:], graph.output[:], graph.initializer[:], graph.input[:]
        graph.node.extend(reversed(nodes))
        graph.output.append(onnx.ValueInfoProto(name=tensor))
        graph.initializer.extend(t for t in self.model.graph.initializer if t.name in needed)
        graph.input.extend(v for v in self.model.graph.input if v.name in needed)
        return part
