"""Tensors on the tokens of a padded batch, padded or packed, and the changes between both forms.

Packed, the tokens of each sentence lie one after another, in rows of `lanes` tokens of which the
last one of a sentence may be partly empty: ``(batch, tokens, ...)`` becomes ``(rows, lanes, ...)``,
and ``(batch * tokens, ...)`` becomes ``(rows * lanes, ...)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import relax, tirx

from tvm_sparse.passes.ir.shapes import broadcast, extents_of, known_extents, known_size, reshaped

ROWS = "packed_rows"
"""The name of the size that counts the rows of all sentences."""


@dataclass(frozen=True)
class PaddingMap:
    """Where the tokens of a padded batch are packed: inputs that `MapPadding` computes of the mask.

    Attributes
    ----------
    mask : relax.Var
        The mask ``(batch, tokens)``.
    source : relax.Var
        ``(rows, lanes)``: the place of each packed token in the padded batch.
    first, count : relax.Var
        ``(rows,)``: the first row of the sentence of each row, and the keys of that sentence.
    place : relax.Var
        ``(batch, tokens)``: the place of each token among the packed ones, or a negative number.
    """

    mask: relax.Var
    source: relax.Var
    first: relax.Var
    count: relax.Var
    place: relax.Var

    @staticmethod
    def of(mask: relax.Var, lanes: int) -> PaddingMap:
        """Return the inputs for a mask."""
        rows = tirx.Var(ROWS, "int64")
        shapes = {"source": (rows, lanes), "first": (rows,), "count": (rows,)}
        source, first, count = (
            relax.Var(name, relax.TensorType(shape, "int32")) for name, shape in shapes.items()
        )
        place = relax.Var("place", relax.TensorType(mask.ty.shape, "int32"))
        return PaddingMap(mask, source, first, count, place)

    @property
    def inputs(self) -> list[relax.Var]:
        """The inputs that are computed of the mask, in their order."""
        return [self.source, self.first, self.count, self.place]

    @property
    def padded(self) -> tuple[int, int]:
        """Sentences, and tokens of each with padding."""
        batch, tokens = known_extents(self.mask)
        return batch, tokens

    @property
    def packed(self) -> tuple[int, int]:
        """Rows, and tokens of each."""
        rows, lanes = known_extents(self.source)
        return rows, lanes


@dataclass(frozen=True)
class Tokens:
    """Changes tensors between both forms.

    Attributes
    ----------
    map : PaddingMap
        Where tokens are packed.
    emit : callable
        Binds an expression to a variable.
    """

    map: PaddingMap
    emit: Callable[[relax.Expr], relax.Expr]

    def leading(self, shape: Sequence[int] | None) -> int:
        """Return how many axes of a shape are the tokens: 2, 1 where they are merged, or 0."""
        batch, tokens = self.map.padded
        if shape is None:
            return 0
        if tuple(shape[:2]) == (batch, tokens):
            return 2
        return 1 if len(shape) and shape[0] == batch * tokens else 0

    def packed_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the packed shape of a tensor that has a padded shape."""
        axes, (rows, lanes) = self.leading(shape), self.map.packed
        return (*((rows, lanes) if axes == 2 else (rows * lanes,)), *shape[axes:])

    def pack(self, value: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """Return a padded tensor, as it is broadcast to a shape on tokens, in packed form."""
        if extents_of(value) != tuple(shape):
            value = self.emit(broadcast(value, shape))
        batch, tokens = self.map.padded
        rest = shape[self.leading(shape) :]
        flat = self.emit(reshaped(value, (batch * tokens, *rest)))
        taken = self.emit(relax.op.take(flat, self.map.source, axis=0, mode="clip"))
        return self._in_shape(taken, self.packed_shape(shape))

    def unpack(self, value: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        """Return a packed tensor in its padded shape, with zeros where the mask is 0."""
        batch, tokens = self.map.padded
        rest = shape[self.leading(shape) :]
        mask = self.map.mask
        if str(mask.ty.dtype) != "bool":
            zero = relax.const(0, str(mask.ty.dtype))
            mask = self.emit(relax.op.not_equal(mask, zero))
        found = self._gathered(value, self.map.place, mask, (batch, tokens), rest)
        return self._in_shape(found, shape)

    def first_tokens(self, value: relax.Expr, rest: Sequence[int]) -> relax.Expr:
        """Return the first token of each sentence ``(batch, 1, ...)``; 0 if it has no tokens."""
        batch, _ = self.map.padded
        place = self.emit(relax.op.strided_slice(self.map.place, [1], [0], [1]))
        is_packed = self.emit(relax.op.greater_equal(place, relax.const(0, "int32")))
        return self._gathered(value, place, is_packed, (batch, 1), rest)

    def _gathered(
        self,
        value: relax.Expr,
        place: relax.Expr,
        is_there: relax.Expr,
        padded: tuple[int, int],
        rest: Sequence[int],
    ) -> relax.Expr:
        rows, lanes = self.map.packed
        flat = self._in_shape(value, (rows * lanes, *rest))
        taken = self.emit(relax.op.take(flat, place, axis=0, mode="clip"))
        condition = self.emit(reshaped(is_there, (*padded, *[1] * len(rest))))
        return self.emit(relax.op.where(condition, taken, relax.const(0, str(value.ty.dtype))))

    def _in_shape(self, value: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        same = extents_of(value) == tuple(shape)
        return value if same else self.emit(reshaped(value, shape))


def most_tokens(padding: PaddingMap) -> int:
    """Return the most tokens of a sentence."""
    return known_size(padding.mask.ty.shape.values[1])
