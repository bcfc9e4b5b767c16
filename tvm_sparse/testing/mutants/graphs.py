"""Changes of graphs: operators, edges, constants, shapes and types, which stay well-formed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_sparse.testing.mutants.fields import WIDE

_DTYPES = (
    "float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool"
)  # fmt: skip


def mutate(rng: random.Random, model: onnx.ModelProto) -> None:
    """Change the graph of a model, or one of those inside."""
    graphs = list(_graphs(model.graph))
    if not graphs:
        return
    graph = rng.choice(graphs)
    rng.choice(_CHANGES)(rng, model, graph)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    if graph.node:
        yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _operator(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Another operator, of as many inputs if there is one."""
    node = rng.choice(graph.node)
    schemas = onnx.defs.get_all_schemas()
    fits = [s.name for s in schemas if s.min_input <= len(node.input) <= s.max_input]
    node.op_type = rng.choice(sorted(fits))
    if rng.random() < 0.7:
        known = next(s.attributes for s in schemas if s.name == node.op_type)
        for attribute in list(node.attribute):
            if attribute.name not in known:
                node.attribute.remove(attribute)


def _edge(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Another value in place of one that a node reads; it may be made by a later node."""
    node = rng.choice(graph.node)
    values = _values(graph)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice((*values, ""))


def _more(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """One operand more or less, or one output more."""
    node = rng.choice(graph.node)
    what = rng.randrange(3)
    if what == 0:
        node.input.append(rng.choice(_values(graph)))
    elif what == 1 and node.input:
        del node.input[-1]
    else:
        node.output.append("one more")


def _nodes(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """One node less, one twice, or two of them in another order."""
    nodes = [_copied(node) for node in graph.node]
    at, other = rng.randrange(len(nodes)), rng.randrange(len(nodes))
    what = rng.randrange(3)
    if what == 0:
        del nodes[at]
    elif what == 1:
        nodes.append(_copied(nodes[at]))
    else:
        nodes[at], nodes[other] = nodes[other], nodes[at]
    del graph.node[:]
    graph.node.extend(nodes)


def _constant(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Other values, another shape or another type of a constant, whose bytes fit."""
    tensors = [t for t in graph.initializer if not t.external_data]
    if not tensors:
        return
    tensor = rng.choice(tensors)
    array = np.array(numpy_helper.to_array(tensor))
    what = rng.randrange(5)
    if what == 0 and array.size:
        with np.errstate(all="ignore"):
            array.flat[rng.randrange(array.size)] = np.int64(rng.choice(WIDE)).astype(array.dtype)
    elif what == 1:
        with np.errstate(all="ignore"):
            array = array.astype(rng.choice(_DTYPES))
    elif what == 2:
        array = array.reshape(rng.choice(((-1,), (1, *array.shape), array.shape[::-1])))
    elif what == 3 and array.ndim:
        array = array[: array.shape[0] // 2]
    else:
        array = np.concatenate(
            [array.reshape(-1)] * rng.choice((0, 2, 3)) or [array.reshape(-1)[:0]]
        )
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _input(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Another size, rank or type of what the model takes."""
    if not model.graph.input:
        return
    value = rng.choice(model.graph.input)
    kind = value.type.tensor_type
    shape = [d.dim_value for d in kind.shape.dim]
    what = rng.randrange(4)
    if what == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice((*WIDE, 1, 2, 3, 5, 100))
    elif what == 1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    elif what == 2 and shape:
        del shape[rng.randrange(len(shape))]
    else:
        kind.elem_type = rng.choice(list(TensorProto.DataType.values()))
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind.elem_type, shape))


def _opset(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Another version of all operators."""
    if not model.opset_import:
        return
    model.opset_import[0].version = rng.randrange(1, onnx.defs.onnx_opset_version() + 2)


def _output(rng: random.Random, model: onnx.ModelProto, graph: onnx.GraphProto) -> None:
    """Another value as a result; its type is left out."""
    if graph.output:
        del graph.output[rng.randrange(len(graph.output)) :]
    graph.output.append(onnx.ValueInfoProto(name=rng.choice(_values(graph))))


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _values(graph: onnx.GraphProto) -> list[str]:
    made = [name for node in graph.node for name in node.output]
    return [*(v.name for v in graph.input), *(t.name for t in graph.initializer), *made]


_CHANGES = (_operator, _operator, _edge, _more, _nodes, _constant, _input, _opset, _output)
