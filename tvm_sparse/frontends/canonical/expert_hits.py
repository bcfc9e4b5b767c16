"""Loops over the experts that were hit => loops over all experts.

Where a loop over ``NonZero(hits)`` was traced, a file has one iteration for each expert that the
example hit, and computes nothing for tokens that hit more or fewer of them::

    e0, e1 = Split(NonZero(hits))
    y = y0 + scattered(e0) + scattered(e1)

It becomes a loop over all experts, those without tokens included, which has the same result where
the file has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tvm_sparse.frontends.canonical.expert_router import Router
from tvm_sparse.frontends.canonical.graph_values import Array, GraphValues
from tvm_sparse.frontends.canonical.light import with_light_weights
from tvm_sparse.frontends.canonical.replaced_nodes import drop_unused, replace_node
from tvm_sparse.frontends.nodes import qualified

_TRIALS = 8
_NEXT = 16
"""Values behind all iterations that may be the result of the last one."""


def unroll_hits(values: GraphValues, router: Router, prefix: str) -> bool:
    """Let the loop over the experts that a router hits run over all; return whether there is one.

    Parameters
    ----------
    values : GraphValues
        The values of a model, which is changed in place.
    router : Router
        The router.
    prefix : str
        What names begin with.
    """
    dependent = router.dependent(values)
    for split in values.nodes:
        if split.op_type != "Split" or split.input[0] not in dependent:
            continue
        shape = _shape_of_hits(values, router, split)
        body = _body(values, list(split.output)) if shape is not None else None
        if shape is not None and body is not None:
            _unroll(values, router.experts, body, shape, prefix)
            _fold_sizes(values.model, values.folder)
            return True
    return False


def _shape_of_hits(
    values: GraphValues, router: Router, split: onnx.NodeProto
) -> tuple[int, ...] | None:
    """Return the shape of the number of one expert if a node takes apart the numbers of those hit.

    Whatever is chosen, they have to be the numbers of all chosen experts, in order.
    """
    if any(a.name == "axis" and a.i != 0 for a in split.attribute) or len(split.output) < 2:
        return None
    sizes = values.constant(split.input[1]) if len(split.input) > 1 else None
    if sizes is None or (sizes != 1).any():
        return None
    for shape in router.possible_shapes(values):
        found = _numbers(values, router, split.input[0], (*shape[:-1], router.chosen))
        if found is not None:
            return (1, *found.shape[1:])
    return None


def _numbers(
    values: GraphValues, router: Router, name: str, shape: tuple[int, ...]
) -> Array | None:
    """Return a value for a random choice, None if it has not always the numbers of those chosen."""
    random = np.random.default_rng(0)
    found: Array | None = None
    for trial in range(_TRIALS):
        # Many tokens hit all experts, so that they choose among some of them only.
        some = router.chosen + trial % (router.experts - router.chosen + 1)
        among = random.permutation(router.experts)[:some]
        ids = among[random.random((*shape[:-1], some)).argsort(-1)[..., : router.chosen]]
        result = values.computed([name], {router.ids: ids})
        if result is None or result[0].ndim == 0 or result[0].dtype != np.int64:
            return None
        (found,) = result
        if not np.array_equal(found.ravel(), np.unique(ids)):
            return None
    return found


class _Body:
    """The nodes of an iteration: of the number of an expert and a sum, the next sum."""

    def __init__(
        self, values: GraphValues, number: str, own: set[str], others: set[str], result: str
    ) -> None:
        self.number, self.result = number, result
        self.nodes = [n for n in values.needed([result]) if not own.isdisjoint(n.output)]
        made = {name for node in self.nodes for name in node.output}
        read = {name for node in self.nodes for name in node.input} - made - {number}
        self.sums = sorted(name for name in read if name in others)


def _body(values: GraphValues, numbers: Sequence[str]) -> tuple[_Body, str] | None:
    """Return the last iteration of a loop and the sum that the first one begins with."""
    dependents = [values.dependent([name]) - {name} for name in numbers]
    joined = set.intersection(*dependents)
    for result in sorted(joined, key=lambda name: values.places[name])[:_NEXT]:
        bodies = list(_bodies(values, numbers, dependents, result))
        if len(bodies) == len(numbers):
            last = bodies[0]
            first = [_first_sum(values, last, other) for other in bodies[1:]]
            expected = [*(body.result for body in bodies[2:]), first[-1]]
            if None not in first and first == expected and first[-1] is not None:
                return last, first[-1]
    return None


def _bodies(
    values: GraphValues, numbers: Sequence[str], dependents: Sequence[set[str]], result: str
) -> Iterator[_Body]:
    """Yield the iterations from the last to the first, as far as each adds to one sum."""
    for place in reversed(range(len(numbers))):
        others = set.union(*dependents[:place]) if place else set()
        body = _Body(values, numbers[place], dependents[place], others, result)
        if not body.nodes or len(body.sums) != (place > 0):
            return
        yield body
        result = body.sums[0] if body.sums else ""


def _first_sum(values: GraphValues, last: _Body, other: _Body) -> str | None:
    """Return what stands for the sum in another iteration, None if it has another form."""
    if len(last.nodes) != len(other.nodes):
        return None
    twins = {last.number: other.number}
    (carried,) = last.sums
    for node, twin in zip(last.nodes, other.nodes, strict=True):
        if _kind(node) != _kind(twin):
            return None
        for name, read in zip(node.input, twin.input, strict=True):
            if name == carried:
                twins.setdefault(name, read)
            if twins.get(name, name) != read and not _is_same(values, name, read):
                return None
        twins.update(zip(node.output, twin.output, strict=True))
    return twins.get(carried)


def _is_same(values: GraphValues, name: str, other: str) -> bool:
    """Return whether two values are equal constants, or computed in the same way."""
    waiting = [(name, other)]
    while waiting:
        name, other = waiting.pop()
        if name == other:
            continue
        if values.is_constant(name) and values.is_constant(other):
            if not np.array_equal(values.constant(name), values.constant(other)):  # type: ignore[arg-type]
                return False
            continue
        maker, twin = values.makers.get(name), values.makers.get(other)
        if maker is None or twin is None or _kind(maker) != _kind(twin):
            return False
        if list(maker.output).index(name) != list(twin.output).index(other):
            return False
        waiting.extend(zip(maker.input, twin.input, strict=True))
    return True


def _kind(node: onnx.NodeProto) -> tuple[object, ...]:
    attributes = {a.name: a.SerializeToString() for a in node.attribute}
    return qualified(node), len(node.input), len(node.output), sorted(attributes.items())


def _unroll(
    values: GraphValues,
    experts: int,
    loop: tuple[_Body, str],
    shape: tuple[int, ...],
    prefix: str,
) -> None:
    body, total = loop
    nodes, tensors = [], []
    for expert in range(experts):
        own = f"{prefix}{expert}_"
        names = {body.number: f"{own}number", body.sums[0]: total}
        names |= {name: own + name for node in body.nodes for name in node.output if name}
        if expert == experts - 1:
            names[body.result] = body.result
        tensors.append(numpy_helper.from_array(np.full(shape, expert), f"{own}number"))
        for node in body.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = own + next(filter(None, node.output))
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
            nodes.append(copy)
        total = names[body.result]
    replace_node(values.model, values.places[body.result], nodes, tensors)


def _fold_sizes(model: onnx.ModelProto, folder: Path) -> None:
    """Make sizes constants that are known, of values whose other sizes are not."""
    known: dict[str, list[int | None]] = {}

    def infer(light: onnx.ModelProto) -> onnx.ModelProto:
        for value in onnx.shape_inference.infer_shapes(light).graph.value_info:
            dims = value.type.tensor_type.shape.dim
            known[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
        return light

    try:
        with_light_weights(model, infer)
    except RuntimeError:  # a model that shape inference refuses
        return
    values = GraphValues(model, folder)
    for node in values.nodes:
        shape = values.makers.get(node.input[0]) if node.op_type == "Gather" else None
        if shape is None or shape.op_type != "Shape" or not values.is_constant(node.input[1]):
            continue
        places = values.constant(node.input[1])
        if places is None or any(a.name in ("start", "end") and a.i for a in shape.attribute):
            continue
        dims = known.get(shape.input[0], [])
        wanted: list[int] = places.astype(int).ravel().tolist()
        found = [dims[p] if -len(dims) <= p < len(dims) else None for p in wanted]
        sizes = [size for size in found if size is not None]
        if len(sizes) == len(found):
            value = numpy_helper.from_array(np.array(sizes, np.int64).reshape(places.shape))
            node.CopyFrom(helper.make_node("Constant", [], node.output, node.name, value=value))
    drop_unused(model)
