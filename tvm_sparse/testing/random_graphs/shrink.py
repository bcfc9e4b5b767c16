"""Makes a failing graph small: drops outputs, cuts off what comes before, and bypasses nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx import helper

from tvm_sparse.testing.random_graphs.case import Case, Options, values_of
from tvm_sparse.testing.random_graphs.run_nodes import Array

Fails = Callable[[Case], bool]


def shrink(case: Case, fails: Fails) -> Case:
    """Return a smaller case that fails, too.

    Parameters
    ----------
    case : Case
        A case that fails.
    fails : callable
        Whether a case fails in the same way.
    """
    case = _simpler_options(case, fails)
    case = _one_output(case, fails)
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for smaller in _smaller(case):
            if fails(smaller):
                case, is_smaller = smaller, True
                break
    return case


def _simpler_options(case: Case, fails: Fails) -> Case:
    simplest = Options()
    for field in dataclasses.fields(Options):
        value = getattr(simplest, field.name)
        options = dataclasses.replace(case.options, **{field.name: value})
        simpler = dataclasses.replace(case, options=options)
        if options != case.options and fails(simpler):
            case = simpler
    return case


def _one_output(case: Case, fails: Fails) -> Case:
    """Return a case with one output, or with as few as possible."""
    for output in case.model.graph.output:
        single = _with_outputs(case, [output.name])
        if fails(single):
            return single
    names = [output.name for output in case.model.graph.output]
    for name in list(names):
        rest = [other for other in names if other != name]
        if rest and fails(_with_outputs(case, rest)):
            names = rest
    return _with_outputs(case, names)


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases with fewer nodes, the smallest first."""
    nodes, names = case.model.graph.node, [output.name for output in case.model.graph.output]
    if len(names) == 1:  # an earlier tensor may be wrong already
        for node in nodes[:-1]:
            for name in filter(None, node.output):
                yield _with_outputs(case, [name])
    made = [name for node in nodes for name in node.output if name]
    values = values_of(case, made)
    read = {name for node in nodes for name in node.input}
    for name in reversed(made):
        if name in read and name not in names:
            yield _replaced(case, {}, {name: values[name]})
    for node in reversed(nodes):
        for source in node.input:
            array = values.get(source, case.inputs.get(source))
            result = values[node.output[0]]
            if array is None or node.output[0] in names:
                continue
            if (array.shape, array.dtype) == (result.shape, result.dtype):
                yield _replaced(case, {node.output[0]: source}, {})


def _with_outputs(case: Case, names: list[str]) -> Case:
    values = values_of(case, names)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[:]
    model.graph.output.extend(_info(name, values[name]) for name in names)
    return _pruned(dataclasses.replace(case, model=model))


def _replaced(case: Case, renamed: Mapping[str, str], new_inputs: Mapping[str, Array]) -> Case:
    """Return a case in which tensors are inputs, or are read in the place of others."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        for position, name in enumerate(node.output):
            if name in new_inputs:
                node.output[position] = f"{name}_unread"
    model.graph.input.extend(_info(name, array) for name, array in new_inputs.items())
    inputs = {**case.inputs, **new_inputs}
    return _pruned(dataclasses.replace(case, model=model, inputs=inputs))


def _pruned(case: Case) -> Case:
    """Return a case without nodes, weights and inputs that no output needs."""
    graph = case.model.graph
    needed, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    kept = [value for value in graph.input if value.name in needed]
    pruned = helper.make_graph(
        nodes[::-1],
        graph.name,
        kept,
        list(graph.output),
        [weight for weight in graph.initializer if weight.name in needed],
    )
    model = helper.make_model(
        pruned, opset_imports=case.model.opset_import, ir_version=case.model.ir_version
    )
    inputs = {value.name: case.inputs[value.name] for value in kept}
    return dataclasses.replace(case, model=model, inputs=inputs)


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, dtype, array.shape)
