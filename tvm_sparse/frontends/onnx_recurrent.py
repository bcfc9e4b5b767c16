"""The ONNX operators LSTM, GRU and RNN in Relax; TVM has no converters for them.

The product of the inputs with their weights, for all steps and directions, is one matrix product
that the passes treat like any other. What remains, the steps, is the operator `recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.passes.canonicalize.check_indices import checked
from tvm_sparse.passes.ir import operators
from tvm_sparse.schedules.operators.checked_copy import within
from tvm_sparse.sizes.recurrent import Recurrent

Emit = Callable[..., relax.Expr]
"""Binds an expression to a variable whose name has the given suffix, and returns the variable."""

_OPERANDS = {
    "LSTM": ("x", "w", "r", "bias", "lengths", "initial_h", "initial_c", "peepholes"),
    "GRU": ("x", "w", "r", "bias", "lengths", "initial_h"),
    "RNN": ("x", "w", "r", "bias", "lengths", "initial_h"),
}
RECURRENT = frozenset(_OPERANDS)
"""The operators that `convert_recurrent` converts."""

_ACTIVATIONS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
"""The activations of a direction that the standard prescribes where a node has none."""

# Our names, and the values of alpha and beta where a node gives none. The standard prescribes
# those of LeakyRelu, ThresholdedRelu, HardSigmoid and Elu; ONNX Runtime chose the other ones.
_FUNCTIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "affine": ("affine", (1.0, 0.0)),
    "elu": ("elu", (1.0,)),
    "hardsigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "leakyrelu": ("leaky_relu", (0.01,)),
    "relu": ("relu", ()),
    "scaledtanh": ("scaled_tanh", (1.0, 1.0)),
    "sigmoid": ("sigmoid", ()),
    "softplus": ("softplus", ()),
    "softsign": ("softsign", ()),
    "tanh": ("tanh", ()),
    "thresholdedrelu": ("thresholded_relu", (1.0,)),
}


def convert_recurrent(
    builder: relax.BlockBuilder,
    op_type: str,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any],
    name: str,
) -> relax.Tuple:
    """Convert one node.

    Parameters
    ----------
    builder : relax.BlockBuilder
        The builder that gets the operators.
    op_type : str
        ``LSTM``, ``GRU`` or ``RNN``.
    inputs : sequence of relax.Expr or None
        The inputs of the node, in the order of the standard.
    attributes : mapping of str to object
        The attributes of the node.
    name : str
        The name that reports have for the layer.

    Returns
    -------
    relax.Tuple
        All states, the last ones and, of an LSTM, the last cell states.

    Raises
    ------
    NotImplementedError
        If an activation or a type of elements is not supported.
    """
    given = {
        operand: value
        for operand, value in zip(_OPERANDS[op_type], inputs, strict=False)
        if value is not None
    }

    def emit(expr: relax.Expr, suffix: str = "_part") -> relax.Expr:
        return builder.emit(builder.normalize(expr), name + suffix)

    if "lengths" in given and not isinstance(given["lengths"], tvm.ir.GenericConst):
        steps = _shape(given["x"])[1 if attributes.get("layout", 0) else 0]
        text = f"a length of a sequence in {name} is not from 0 to {steps}"
        given["lengths"] = checked(builder, given["lengths"], within([steps + 1]), text)
    return RecurrentNode(emit, op_type, given, attributes).convert()


class RecurrentNode:
    """A node with its operands by name, which become those of the operator `recurrent`."""

    def __init__(
        self, emit: Emit, op_type: str, given: dict[str, Any], attributes: Mapping[str, Any]
    ) -> None:
        self.emit, self.op_type, self.attributes = emit, op_type, attributes
        self.dtype = str(given["x"].ty.dtype)
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise NotImplementedError(f"elements of type {self.dtype} are not supported")
        self.given = {
            name: value if name == "lengths" else self._cast(value, "float32")
            for name, value in given.items()
        }
        self.batch_first = bool(attributes.get("layout", 0))
        self.direction = _text(attributes.get("direction", "forward")).lower()
        self.directions, rows, self.hidden = _shape(self.given["r"])
        self.gates = rows // self.hidden

    def convert(self) -> relax.Tuple:
        """Return the results of the node."""
        problem, operands = self._problem(), self._operands()
        activations = self._activations()
        if len(set(activations)) == 1:
            results = self._call(problem, activations[0], operands)
        else:
            results = self._one_by_one(problem, activations, operands)
        for i, result in enumerate(results):
            moved = self._batch_first(result) if self.batch_first else result
            results[i] = self._cast(moved, self.dtype)
        return relax.Tuple(results)

    def _problem(self) -> dict[str, Any]:
        steps, batch, _ = _shape(self.given["x"])
        if self.batch_first:
            steps, batch = batch, steps
        flags = ("input_forget", "linear_before_reset")
        return {
            "cell": self.op_type.lower(),
            "steps": steps,
            "batch": batch,
            "hidden": self.hidden,
            "directions": self.directions,
            "reverse": self.direction == "reverse",
            "clip": float(self.attributes.get("clip", 0.0)),
            **{flag: bool(self.attributes.get(flag, 0)) for flag in flags},
        }

    def _operands(self) -> dict[str, relax.Expr]:
        operands = {"xw": self._product(), "r": self.given["r"]}
        if self._keeps_bias_apart():
            last = self.given["bias"].ty.shape[1]
            operands["bias"] = self._slice(self.given["bias"], int(last) - self.hidden, int(last))
        if "peepholes" in self.given:
            operands["peepholes"] = self.given["peepholes"]
        if "lengths" in self.given:
            operands["lengths"] = self._cast(self.given["lengths"], "int32")
        for state in ("initial_h", "initial_c"):
            if state in self.given:
                value = self.given[state]
                operands[state] = self._move(value, [1, 0, 2]) if self.batch_first else value
        return operands

    def _keeps_bias_apart(self) -> bool:
        is_gru = self.op_type == "GRU"
        return is_gru and "bias" in self.given and bool(self.attributes.get("linear_before_reset"))

    def _product(self) -> relax.Expr:
        """Return the product of the inputs of all steps with the weights of all directions."""
        x = self.given["x"]
        if self.batch_first:
            x = self._move(x, [1, 0, 2])
        steps, batch, width = _shape(x)
        rows = self.directions * self.gates * self.hidden
        product = self._multiplied(self.emit(relax.op.reshape(x, (steps * batch, width))))
        if "bias" in self.given:
            bias = self.emit(relax.op.reshape(self._bias(), (rows,)))
            product = self.emit(relax.op.add(product, bias))
        return self.emit(relax.op.reshape(product, (steps, batch, rows)))

    def _multiplied(self, x: relax.Expr) -> relax.Expr:
        """Return the product of rows with the weights of all directions."""
        directions, rows, width = _shape(self.given["w"])
        weight = self.emit(relax.op.reshape(self.given["w"], (directions * rows, width)))
        return self.emit(relax.op.matmul(x, self._move(weight, [1, 0])), "")

    def _bias(self) -> relax.Expr:
        """Return the biases of a step that do not depend on anything, for each direction."""
        bias, rows = self.given["bias"], self.gates * self.hidden
        of_inputs, of_states = self._slice(bias, 0, rows), self._slice(bias, rows, 2 * rows)
        if not self._keeps_bias_apart():
            return self.emit(relax.op.add(of_inputs, of_states))
        kept = rows - self.hidden
        both = relax.op.add(self._slice(of_inputs, 0, kept), self._slice(of_states, 0, kept))
        return self.emit(relax.op.concat([self.emit(both), self._slice(of_inputs, kept, rows)], 1))

    def _activations(self) -> list[str]:
        """Return the activations of each direction as our operator names them."""
        names = [_text(name) for name in self.attributes.get("activations", ())]
        each = len(_ACTIVATIONS[self.op_type])
        names = names or list(_ACTIVATIONS[self.op_type]) * self.directions
        if len(names) != each * self.directions:
            raise NotImplementedError(f"{len(names)} activations do not fit {self.op_type}")
        alphas, betas = (
            [float(value) for value in self.attributes.get(f"activation_{which}", ())]
            for which in ("alpha", "beta")
        )
        functions = []
        for name in names:
            if name.lower() not in _FUNCTIONS:
                raise NotImplementedError(f"the activation {name} is not supported")
            function, defaults = _FUNCTIONS[name.lower()]
            values = [
                values.pop(0) if values else default
                for values, default in zip((alphas, betas), defaults, strict=False)
            ]
            functions.append(function + (f"({','.join(map(repr, values))})" if values else ""))
        return [" ".join(functions[i : i + each]) for i in range(0, len(functions), each)]

    def _call(
        self, problem: Mapping[str, Any], activations: str, operands: Mapping[str, relax.Expr]
    ) -> list[relax.Expr]:
        layer = Recurrent(**problem, activations=activations)
        results = self.emit(operators.recurrent(layer, operands), "")
        return [self.emit(relax.TupleGetItem(results, i)) for i in range(len(layer.results()))]

    def _one_by_one(
        self,
        problem: Mapping[str, Any],
        activations: Sequence[str],
        operands: Mapping[str, relax.Expr],
    ) -> list[relax.Expr]:
        """Compute the two directions by themselves, because their activations differ."""
        results = []
        for direction, of_direction in enumerate(activations):
            parts = {
                name: value if name == "lengths" else self._part(name, value, direction)
                for name, value in operands.items()
            }
            alone = {**problem, "directions": 1, "reverse": direction == 1}
            results.append(self._call(alone, of_direction, parts))
        axes = [1] + [0] * (len(results[0]) - 1)
        return [
            self.emit(relax.op.concat(list(both), axis))
            for both, axis in zip(zip(*results, strict=True), axes, strict=True)
        ]

    def _part(self, name: str, value: relax.Expr, direction: int) -> relax.Expr:
        """Return what belongs to a direction."""
        axis = 2 if name == "xw" else 0
        extent = _shape(value)[axis] // self.directions
        first = direction * extent
        return self.emit(relax.op.strided_slice(value, [axis], [first], [first + extent]))

    def _slice(self, value: relax.Expr, first: int, end: int) -> relax.Expr:
        return self.emit(relax.op.strided_slice(value, [1], [first], [end]))

    def _move(self, value: relax.Expr, axes: list[int]) -> relax.Expr:
        return self.emit(relax.op.permute_dims(value, axes))

    def _batch_first(self, result: relax.Expr) -> relax.Expr:
        return self._move(result, [2, 0, 1, 3] if len(result.ty.shape) == 4 else [1, 0, 2])

    def _cast(self, value: relax.Expr, dtype: str) -> relax.Expr:
        is_same = str(value.ty.dtype) == dtype
        return value if is_same else self.emit(relax.op.astype(value, dtype))


def _shape(value: relax.Expr) -> tuple[int, ...]:
    return tuple(int(extent) for extent in value.ty.shape)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
