"""Whether a file that protobuf accepts holds a whole model: names, sizes, and who reads what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx

from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.checks.bodies import check_bodies
from tvm_sparse.frontends.checks.equations import check_equations
from tvm_sparse.frontends.checks.functions import check_functions
from tvm_sparse.frontends.checks.operands import check_operands

LARGEST_TENSOR = 2**31 - 1
"""Elements of a tensor; compiled code counts them in 32 bits."""
MOST_AXES = 64
"""Axes of a tensor, as in NumPy."""


def check_file(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a file that holds no whole model.

    Raises
    ------
    ModelError
        If it does not; the message says what is wrong.
    """
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one")
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            continue
        if opset.version < 1:
            raise ModelError(f"{path}: there is no opset {opset.version}; the file is damaged")
        if opset.version > newest:
            raise ModelError(
                f"{path}: opset {opset.version} is newer than {newest}, the newest that the "
                f"installed onnx {onnx.__version__} knows; export the model with opset {newest}"
            )
    check_functions(model)
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    for part in (model.graph, *model.functions):
        check_equations(part)
        check_operands(part, opset)
    _check_graph(model.graph, path, set(), opset)


def fits(shape: Sequence[int]) -> bool:
    """Whether a tensor of a shape is one that can be compiled."""
    return (
        len(shape) <= MOST_AXES
        and math.prod(shape) <= LARGEST_TENSOR
        and min(shape, default=0) >= 0
    )


def limits() -> str:
    """Return the limits of a shape, as the end of a message."""
    return (
        f"a tensor has at most {MOST_AXES} axes and {LARGEST_TENSOR} elements, and no size below 0"
    )


def _check_graph(graph: onnx.GraphProto, path: Path, outer: set[str], opset: int) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor.name, tensor.dims, path)
        _check_type(tensor, path)
    for sparse in graph.sparse_initializer:
        _check_tensor(sparse.values.name, sparse.dims, path)
        _check_type(sparse.values, path)
    for value in graph.input:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
        _check_tensor(value.name, [max(size, 1) for size in sizes], path)
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    sparse_names = {tensor.values.name for tensor in graph.sparse_initializer}
    known = outer | made | sparse_names | {""}
    for position, node in enumerate(graph.node):
        what = f"{path}: node {node.name or position!r} ({node.op_type})"
        missing = next((name for name in node.input if name not in known), None)
        if missing is not None:
            raise ModelError(
                f"{what} reads {missing!r}, which nothing before it produces; the file is "
                "truncated or its export went wrong"
            )
        if not any(node.output):
            raise ModelError(
                f"{what} has no output; the file is truncated or its export went wrong"
            )
        twice = next((name for name in node.output if name and name in made), None)
        if twice is not None:
            raise ModelError(
                f"{what} makes {twice!r}, which is there already; give it another name"
            )
        names = [attribute.name for attribute in node.attribute]
        if len(set(names)) < len(names):
            raise ModelError(f"{what} has an attribute twice; the file is damaged")
        for attribute in node.attribute:
            for dims in _dims(attribute):
                _check_tensor(node.name, dims, path)
            if attribute.HasField("t"):
                _check_type(attribute.t, path)
            for inner in _graphs(attribute):
                _check_graph(inner, path, known, opset)
        check_bodies(node, what, opset)
        made.update(filter(None, node.output))
        known.update(node.output)
    missing = next((v.name for v in graph.output if v.name not in made | sparse_names), None)
    if missing in outer:
        raise ModelError(
            f"{path}: an inner graph gives {missing!r}, which is of the graph around it; an "
            "Identity must stand between"
        )
    if missing is not None:
        raise ModelError(f"{path}: no node produces output {missing!r}; the file is truncated")


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _dims(attribute: onnx.AttributeProto) -> Iterator[Iterable[int]]:
    for field in ("t", "sparse_tensor"):
        if attribute.HasField(field):
            yield getattr(attribute, field).dims
    yield from (tensor.dims for tensor in (*attribute.tensors, *attribute.sparse_tensors))


def _check_type(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a type that there is not; later, it would be an error without a name."""
    known = onnx.TensorProto.DataType.values()
    if tensor.data_type not in known or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise ModelError(
            f"{path}: tensor {tensor.name!r} has the type {tensor.data_type}, which the installed "
            f"onnx {onnx.__version__} does not know"
        )


def _check_tensor(name: str, dims: Iterable[int], path: Path) -> None:
    shape = list(dims)
    if not fits(shape):
        raise ModelError(f"{path}: tensor {name!r} has shape {shape}; {limits()}")
