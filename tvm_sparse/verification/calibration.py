"""Layers whose values leave the range of float16, found by running a model in ONNX Runtime.

The model runs in float32 on calibration inputs, with the smallest and the largest value of its
tensors as outputs. float16 ends at 65,504. A tensor with larger values must be computed from panels
of float32, so that all layers from which it is computed without another layer in between stay in
float32, and so do the layers that read it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import tvm
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper

from tvm_sparse.compile_report import CompileReport
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import InputError
from tvm_sparse.frontends.canonical import canonical
from tvm_sparse.frontends.canonical.light import with_light_weights
from tvm_sparse.frontends.failures import without_warnings
from tvm_sparse.frontends.graph_importer import no_converter
from tvm_sparse.frontends.hinted import at_hints
from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.load import names_in
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.layer_report import LayersOf, explained
from tvm_sparse.specs import Hints, TensorSpec
from tvm_sparse.verification.comparison import Arrays, Reference, Refused
from tvm_sparse.verification.inputs import UnknownInput, example_inputs

MARGIN = 4
"""How many times as large values may be on other inputs as on those of the calibration."""

LARGEST = float(np.finfo(np.float16).max) / MARGIN
"""The largest magnitude of the values of a tensor that is computed in float16."""

_TABLES = ("Gather", "EmbedLayerNormalization")
"""Operators with weights that compute nothing by them."""


@dataclass(frozen=True)
class Calibration:
    """The layers of a model that stay in float32.

    Attributes
    ----------
    layers : mapping of str to str
        The names of their nodes, and why.
    refusal : str
        Why nothing was measured; empty if it was.
    """

    layers: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""

    @property
    def keep_float32(self) -> Collection[str]:
        """The layers, as the passes of a pipeline know them."""
        return LayersOf(self.layers)

    def explain(self, report: CompileReport) -> CompileReport:
        """Return the report of a compiled model with the reasons of this calibration."""
        precision = report.precision
        if self.refusal:
            precision += f", not calibrated ({self.refusal})"
        layers = explained(report.layers, self.layers)
        return replace(report, layers=layers, precision=precision)


def calibration_for(
    cpu: CpuProfile,
    model: str | os.PathLike[str] | tvm.IRModule,
    shapes: Any | None = None,
    hints: Hints | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Calibration:
    """Return the layers of a model that stay in float32 where it is computed in float16.

    Parameters
    ----------
    cpu : CpuProfile
        The processor, which says in what a model is computed; float32 needs no calibration.
    model, shapes, hints
        As `tvm_sparse.compile` takes them; nothing is known of a Relax module.
    inputs
        As `calibrate` takes them. Open dimensions have their sizes, or else those of `hints`.
    """
    if cpu.activations is DType.FLOAT32:
        return Calibration()
    if isinstance(model, tvm.IRModule):
        return Calibration(refusal="ONNX Runtime cannot run a Relax module")
    if names_in(model, shapes) is None:
        return calibrate(model, shapes, inputs)
    if inputs is None:
        return calibrate(model, at_hints(model, shapes, hints).shapes)
    return calibrate(model, {name: np.shape(value) for name, value in inputs.items()}, inputs)


def calibrate(
    model: str | os.PathLike[str],
    shapes: Mapping[str, Sequence[int]] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Calibration:
    """Return the layers of a model whose values leave the range of float16.

    Parameters
    ----------
    model, shapes
        The ONNX file and the shapes of its inputs, as `tvm_sparse.compile` takes them.
    inputs : mapping of str to array, optional
        Every input by name. By default, random inputs are made that fit the graph.

    Raises
    ------
    ModelError, InputError
        If the model cannot be read, or if `shapes` or `inputs` do not fit.
    """
    proto, folder = read_model(model)
    bind_shapes(proto, shapes)
    specs = [_spec(value) for value in proto.graph.input]
    if inputs is None:
        try:
            inputs = example_inputs(proto, specs)
        except UnknownInput as unknown:
            return Calibration(refusal=f"{unknown}; give inputs, such as by --calibration")
    arrays = _checked(inputs, specs)
    with without_warnings():
        proto = canonical(proto, folder, lambda node: not no_converter(node))
    layers = {layer.name for layer in file_layers(proto, folder) if layer.operator not in _TABLES}
    graph = _Graph(proto, layers)
    tensors = graph.measurable()
    try:
        limits = Reference(_measuring(proto, tensors), folder).run(arrays)
    except Refused as refusal:
        return Calibration(refusal=f"ONNX Runtime cannot run the model: {refusal}")
    found: dict[str, str] = {}
    for number, name in enumerate(tensors):
        low, high = float(limits[f"ReduceMin {number}"]), float(limits[f"ReduceMax {number}"])
        size = high if graph.is_only_in_softmax(name) else max(-low, high)
        if not size <= LARGEST:
            why = f"values reach {size:.2g}, and float16 is used up to {LARGEST:,.0f}"
            for layer in graph.layers_around(name):
                found.setdefault(layer, why)
    return Calibration(found)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    name = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, tuple(d.dim_value for d in tensor.shape.dim), name)


def _checked(inputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> Arrays:
    lacking = [spec.name for spec in specs if spec.name not in inputs]
    if lacking:
        raise InputError(f"calibration: no values of input {lacking[0]!r}")
    return {spec.name: spec.check(inputs[spec.name]) for spec in specs}


class _Graph:
    """The tensors of a model, the nodes that make and read them, and its layers."""

    def __init__(self, model: onnx.ModelProto, layers: Iterable[str]) -> None:
        self.model, self.layers = model, frozenset(layers)
        self.makers = {name: node for node in model.graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self.readers[name].append(node)

    def measurable(self) -> list[str]:
        """Return the tensors of float32 between layers whose values panels may hold.

        The squares and sums of a normalization are none, since their statistics are of float32.
        """
        kinds = _kinds(self.model)
        after: set[str] = set()
        for node in self.model.graph.node:
            if node.name in self.layers or after.intersection(node.input):
                after.update(name for name in node.output if name)
            if node.name in self.layers:
                after.update(name for name in node.input if name in self.makers)
        inputs = {value.name for value in self.model.graph.input}
        read = {name for name in inputs for node in self.readers[name] if node.name in self.layers}
        return [
            name
            for name in sorted(after | read)
            if name in kinds and not kinds[name] and not self._is_statistic(name)
        ]

    def _is_statistic(self, name: str) -> bool:
        readers = self.readers[name]
        return bool(readers) and all(node.op_type.startswith("Reduce") for node in readers)

    def is_only_in_softmax(self, name: str) -> bool:
        """Return whether very negative values do no harm: masked scores."""
        readers = self.readers[name]
        return bool(readers) and all(node.op_type == "Softmax" for node in readers)

    def layers_around(self, name: str) -> Iterator[str]:
        """Yield the layers that a tensor is computed from, and those that read it."""
        for node in self.readers[name]:
            if node.name in self.layers:
                yield node.name
        seen, queue = {name}, [name]
        while queue:
            node = self.makers.get(queue.pop())
            if node is None:
                continue
            if node.name in self.layers:
                yield node.name
                continue
            queue += [source for source in node.input if source not in seen]
            seen.update(node.input)


def _kinds(model: onnx.ModelProto) -> dict[str, bool]:
    """Return the tensors of float32, and whether each holds statistics: one value a row."""
    try:
        graph = with_light_weights(model, onnx.shape_inference.infer_shapes).graph
    except (EncodeError, ValueError, onnx.shape_inference.InferenceError):
        graph = model.graph
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.elem_type == TensorProto.FLOAT:
            dims = [d.dim_value for d in tensor.shape.dim]
            found[value.name] = len(dims) > 1 and dims[-1] == 1
    return found


def _measuring(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """Return the model with the smallest and the largest value of tensors as its outputs."""

    def change(light: onnx.ModelProto) -> onnx.ModelProto:
        del light.graph.output[:]
        for number, name in enumerate(tensors):
            for operator in ("ReduceMin", "ReduceMax"):
                output = f"{operator} {number}"
                light.graph.node.append(helper.make_node(operator, [name], [output], keepdims=0))
                value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ())
                light.graph.output.append(value)
        return light

    return with_light_weights(model, change)
