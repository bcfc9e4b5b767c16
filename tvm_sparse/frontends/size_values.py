"""Values that a model computes from the sizes of its inputs alone, for ONNX Runtime to compute.

An import at known sizes folds them to constants. One that follows the sizes in an unknown way, such
as a table of positions that is enlarged to the image, is looked for among the values of the file.
The nodes that compute it become a part for ONNX Runtime, whose operands are shapes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tvm_sparse.frontends.input_shapes import bind_shapes
from tvm_sparse.frontends.named_shapes import Shape
from tvm_sparse.frontends.nodes import needed, qualified, reads
from tvm_sparse.frontends.onnx_file import external_tensors, read_model, tensor_array
from tvm_sparse.frontends.probes import Sizes
from tvm_sparse.frontends.value_types import ValueType, value_types
from tvm_sparse.onnx_runtime import exact_options, onnxruntime
from tvm_sparse.specs import Fallback

Array = NDArray[Any]

_SHAPES = ("Shape", "Size")
_RANDOM = ("RandomNormal", "RandomUniform", "Multinomial", "Bernoulli")

REASON = "it follows the sizes of the inputs in a way that is not compiled"
"""Why ONNX Runtime computes such a value."""

MOST_ELEMENTS = 1 << 24
"""The most elements of a constant that is looked for."""


@dataclass(frozen=True, eq=False)
class SizeValue:
    """A value that depends on sizes only.

    Attributes
    ----------
    key : str
        A hash of `content`.
    content : bytes
        The nodes that compute it, as an ONNX model.
    results : sequence of array
        The value at every probe.
    nodes : tuple of NodeProto
        These nodes.
    operands : tuple of sequence of array
        The operands at every probe: shapes of values of the model.
    """

    key: str
    content: bytes
    results: Sequence[Array]
    nodes: tuple[onnx.NodeProto, ...]
    operands: tuple[Sequence[Array], ...]


class SizeValues:
    """The values of a file that depend on the sizes of its inputs only.

    Parameters
    ----------
    path : str or PathLike
        The ONNX file.
    shapes : mapping of str to shape
        The shapes of its inputs, in which sizes have names.
    at : sequence of Sizes
        The sizes at every probe.
    """

    def __init__(
        self, path: str | os.PathLike[str], shapes: Mapping[str, Shape], at: Sequence[Sizes]
    ) -> None:
        self._model, self._folder = read_model(path)
        graph = self._model.graph
        fixed = {tensor.name for tensor in graph.initializer}
        sources, sized = set[str](), set[str]()
        self._nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type in _SHAPES and not fixed.issuperset(node.input):
                sources.update(node.output)
            elif not node.op_type.startswith(_RANDOM) and not _has_graph(node):
                read = set(reads(node))
                if read <= fixed | sources | sized:
                    (sized if read & (sources | sized) else fixed).update(node.output)
                    self._nodes.append(node)
        self._sized = sized
        self._sources = [n for n in graph.node if n.output and n.output[0] in sources]
        self._given = self._shapes(shapes, at)
        self._found: list[dict[str, Array]] | None = None

    def find(self, arrays: Sequence[Array]) -> SizeValue | None:
        """Return a value that has the elements of `arrays` at the probes, in whatever shape."""
        if arrays[0].size > MOST_ELEMENTS:
            return None
        for name in sorted(self._sized):
            if all(
                name in values and _same_elements(values[name], array)
                for values, array in zip(self._values, arrays, strict=True)
            ):
                return self._part(name)
        return None

    def _shapes(self, shapes: Mapping[str, Shape], at: Sequence[Sizes]) -> dict[str, list[Array]]:
        """Return the results of the nodes that ask for shapes at every probe, where known."""
        given: dict[str, list[Array]] = {}
        for sizes in at:
            model = onnx.ModelProto()
            model.CopyFrom(self._model)
            bound = {
                name: [sizes[s] if isinstance(s, str) else s for s in shape]
                for name, shape in shapes.items()
            }
            bind_shapes(model, bound)
            types = value_types(model, self._folder)
            for node in self._sources:
                result = _result(node, types)
                if result is not None:
                    given.setdefault(node.output[0], []).append(result)
        return {name: results for name, results in given.items() if len(results) == len(at)}

    @property
    def _values(self) -> list[dict[str, Array]]:
        """The values at every probe, by name."""
        if self._found is None:
            names, nodes = set(self._given), []
            for node in self._nodes:
                if all(name in names or name not in self._every_sized for name in reads(node)):
                    names.update(node.output)
                    nodes.append(node)
            results = sorted({name for node in nodes for name in node.output if name} & self._sized)
            self._found = list(self._run(nodes, results))
        return self._found

    @property
    def _every_sized(self) -> set[str]:
        return self._sized | {node.output[0] for node in self._sources}

    def _run(
        self, nodes: Sequence[onnx.NodeProto], results: Sequence[str]
    ) -> Iterator[dict[str, Array]]:
        if not results:
            yield from ({} for _ in next(iter(self._given.values()), []))
            return
        session = _session(self._model_of(nodes, results, self._given))
        for probe in range(len(next(iter(self._given.values())))):
            feed = {name: arrays[probe] for name, arrays in self._given.items()}
            yield dict(zip(results, session.run(None, feed), strict=True))

    def _part(self, name: str) -> SizeValue:
        nodes = needed(self._nodes, [name], self._given)
        read = {r for node in nodes for r in reads(node)}
        given = {source: arrays for source, arrays in self._given.items() if source in read}
        content = self._model_of(nodes, [name], given).SerializeToString(deterministic=True)
        key = hashlib.sha256(content).hexdigest()
        results = [values[name] for values in self._values]
        return SizeValue(key, content, results, tuple(nodes), tuple(given.values()))

    def _model_of(
        self,
        nodes: Sequence[onnx.NodeProto],
        results: Sequence[str],
        given: Mapping[str, Sequence[Array]],
    ) -> onnx.ModelProto:
        """Return some nodes as a model; its inputs are shapes."""
        read = {name for node in nodes for name in reads(node)}
        inputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.INT64, list(arrays[0].shape))
            for name, arrays in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in results]
        weights = [tensor for tensor in self._model.graph.initializer if tensor.name in read]
        graph = helper.make_graph(nodes, "sizes", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=self._model.opset_import)
        model.ir_version = self._model.ir_version
        model.functions.extend(self._model.functions)
        for tensor in external_tensors(model):
            values = np.ascontiguousarray(tensor_array(tensor, self._folder))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        return model


def fallback_of(part: SizeValue) -> Fallback:
    """Return what a library says about a part."""
    kinds = ", ".join(dict.fromkeys(map(qualified, part.nodes)))
    return Fallback(tuple(node.name for node in part.nodes), kinds, REASON)


def _result(node: onnx.NodeProto, types: Mapping[str, ValueType]) -> Array | None:
    """Return what a node that asks for a shape gives, if the shape is known."""
    found = types.get(node.input[0])
    if found is None or not found.is_static or found.shape is None:
        return None
    if node.op_type == "Size":
        return np.array(np.prod(found.shape, dtype="int64"))
    bounds = {a.name: a.i for a in node.attribute}
    return np.array(found.shape[bounds.get("start", 0) : bounds.get("end")], "int64")


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(a.HasField("g") or a.graphs for a in node.attribute)


def _same_elements(a: Any, b: Array) -> bool:
    if not isinstance(a, np.ndarray) or a.dtype != b.dtype or a.size != b.size:
        return False
    return a.tobytes() == b.tobytes()


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = exact_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
