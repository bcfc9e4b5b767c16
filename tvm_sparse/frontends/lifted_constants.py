"""Constants that follow the sizes of a model's inputs, as expressions of these sizes.

Three kinds are known, and repetitions of them along axes: numbers that grow by the same step along
each axis, the beginning of a table that the file holds, and sizes themselves. An axis may hold
several grids of such numbers, one behind another, see `tvm_sparse.frontends.grids`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_sparse.frontends.formulas import Formulas
from tvm_sparse.frontends.grids import grids_along
from tvm_sparse.frontends.probed_arrays import (
    Array,
    are_equal,
    are_whole,
    beginning,
    constant,
    first_along,
    int64,
    numbered_axes,
    step_along,
)
from tvm_sparse.frontends.size_values import SizeValue
from tvm_sparse.specs import RUN_SUBMODEL

Emit = Callable[[relax.Expr], relax.Expr]

MOST_SLICES = 8
"""The most positions along an axis that are looked at one by one."""


class Constants:
    """Lifts constants.

    Parameters
    ----------
    formulas : Formulas
        Finds the formulas of numbers.
    tables : callable
        Returns the arrays that the file holds.
    computed : callable
        Returns what of the file computes a constant from sizes, or None.

    Attributes
    ----------
    parts : list of SizeValue
        What ONNX Runtime computes of the constants.
    bounds : dict of str to int
        The largest sizes that the tables allow.
    """

    def __init__(
        self,
        formulas: Formulas,
        tables: Callable[[], Iterable[Array]],
        computed: Callable[[Sequence[Array]], SizeValue | None] = lambda arrays: None,
    ) -> None:
        self.formulas, self.tables, self.computed = formulas, tables, computed
        self.parts: list[SizeValue] = []
        self._computed: dict[str, relax.Expr] = {}
        self.bounds: dict[str, int] = {}

    def lifted(self, arrays: Sequence[Array], first: relax.Expr, emit: Emit) -> relax.Expr:
        """Return the expression of a constant.

        Parameters
        ----------
        arrays : sequence of array
            The constant at every probe.
        first : relax.Expr
            The constant at the first probe.
        emit : callable
            Binds an expression to a variable.

        Raises
        ------
        ValueError
            If no kind fits; the text says so.
        """
        if all(are_equal(arrays[0], array) for array in arrays[1:]):
            return first
        if len({array.ndim for array in arrays}) > 1 or len({a.dtype for a in arrays}) > 1:
            raise ValueError("a constant changes its rank or type with the sizes")
        if len({array.shape for array in arrays}) == 1 and all(map(are_whole, arrays)):
            found = self._sizes(arrays, emit)
            if found is not None:
                return found
        shape = [self._extent(axis, arrays) for axis in range(arrays[0].ndim)]
        try:
            return self._written_out(arrays, shape, emit)
        except ValueError:
            part = self.computed(arrays)
            if part is None:
                raise
            if part.key not in self._computed:
                self.parts.append(part)
                self._computed[part.key] = self._of_part(part, emit)
            return self._of_shape(self._computed[part.key], shape, emit)

    def _written_out(self, arrays: Sequence[Array], shape: Sequence[Any], emit: Emit) -> relax.Expr:
        """Return the expression of a constant of one of the kinds that are known."""
        varying = [axis for axis, extent in enumerate(shape) if not isinstance(extent, int)]
        repeats = [
            axis
            for axis in varying
            if all((array == array.take([0], axis)).all() for array in arrays)
        ]
        cores = [first_along(array, repeats) for array in arrays]
        core_shape = [1 if axis in repeats else extent for axis, extent in enumerate(shape)]
        if all(are_equal(cores[0], core) for core in cores[1:]):
            core: relax.Expr | None = constant(cores[0])
        else:
            core = self._steps(cores, core_shape, emit)
            core = self._grids(cores, core_shape, emit) if core is None else core
            core = self._table(cores, core_shape, emit) if core is None else core
        if core is None:
            raise ValueError(
                f"a constant of shape {arrays[0].shape} follows the sizes in an unknown way"
            )
        return emit(relax.op.broadcast_to(core, shape)) if repeats else core

    def _of_part(self, part: SizeValue, emit: Emit) -> relax.Expr:
        """Return what ONNX Runtime computes from shapes."""
        operands = []
        for values in part.operands:
            same = all(are_equal(values[0], value) for value in values[1:])
            operand = constant(values[0]) if same else self._sizes(values, emit)
            if operand is None:
                raise ValueError("a constant is computed from no formulas of the sizes")
            operands.append(operand)
        shape = [self._extent(axis, part.results) for axis in range(part.results[0].ndim)]
        call = relax.call_pure_packed(
            RUN_SUBMODEL,
            tvm.ir.StringImm(part.key),
            relax.const(np.frombuffer(part.content, "uint8")),
            *operands,
            ty_args=relax.TensorType(list(map(int64, shape)), str(part.results[0].dtype)),
        )
        return emit(call)

    def _extent(self, axis: int, arrays: Sequence[Array]) -> Any:
        found = self.formulas.of([array.shape[axis] for array in arrays])
        if found is None:
            raise ValueError("the shape of a constant is no formula of the sizes")
        return found

    def _sizes(self, arrays: Sequence[Array], emit: Emit) -> relax.Expr | None:
        """Return whole numbers that are sizes."""
        flat = zip(*(array.ravel() for array in arrays), strict=True)
        numbers = [self.formulas.of(values) for values in flat]
        if any(number is None for number in numbers):
            return None
        tensor = emit(relax.op.shape_to_tensor(emit(relax.ShapeExpr(numbers))))
        if arrays[0].dtype != np.int64:
            tensor = emit(relax.op.astype(tensor, str(arrays[0].dtype)))
        return emit(relax.op.reshape(tensor, arrays[0].shape))

    def _grids(
        self, arrays: Sequence[Array], shape: Sequence[Any], emit: Emit
    ) -> relax.Expr | None:
        """Return numbers of which an axis holds those of several grids, one behind another."""
        varying = [axis for axis, extent in enumerate(shape) if not isinstance(extent, int)]
        if len(varying) != 1:
            return None
        (axis,) = varying

        def known(grids: Sequence[Array]) -> relax.Expr | None:
            try:
                return self._known(grids, emit)
            except ValueError:
                return None

        parts = grids_along(arrays, axis, self.formulas.at, known)
        if parts is None:
            return None
        flat = []
        for part in parts:
            sizes = list(part.ty.shape.values)
            sizes[axis : axis + 2] = [int64(sizes[axis]) * int64(sizes[axis + 1])]
            flat.append(emit(relax.op.reshape(part, sizes)))
        return self._of_shape(emit(relax.op.concat(flat, axis)), shape, emit)

    def _known(self, arrays: Sequence[Array], emit: Emit) -> relax.Expr | None:
        """Return numbers that are the same everywhere, or grow by one step along each axis."""
        shape = [self._extent(axis, arrays) for axis in range(arrays[0].ndim)]
        if len({value for array in arrays for value in (array.min(), array.max())}) == 1:
            one = np.full([1] * len(shape), arrays[0].flat[0], arrays[0].dtype)
            return emit(relax.op.broadcast_to(constant(one), shape))
        return self._steps(arrays, shape, emit)

    def _steps(
        self, arrays: Sequence[Array], shape: Sequence[Any], emit: Emit
    ) -> relax.Expr | None:
        """Return numbers that grow by one step along each axis; a short axis may have several."""
        if arrays[0].dtype.kind not in "if":
            return None
        whole = self._ramp(arrays, shape, emit)
        if whole is not None:
            return whole
        for axis, count in enumerate(shape):
            if not isinstance(count, int) or not 1 < count <= MOST_SLICES:
                continue
            slices = [[array.take([i], axis) for array in arrays] for i in range(count)]
            own = [1 if a == axis else extent for a, extent in enumerate(shape)]
            parts = [self._ramp(part, own, emit) for part in slices]
            if all(part is not None for part in parts):
                return emit(relax.op.concat(parts, axis=axis))
        return None

    def _ramp(self, arrays: Sequence[Array], shape: Sequence[Any], emit: Emit) -> relax.Expr | None:
        origins = {array.flat[0] for array in arrays if array.size}
        steps = [[step_along(array, axis) for array in arrays] for axis in range(arrays[0].ndim)]
        if len(origins) != 1:
            return None
        dtype, (origin,) = arrays[0].dtype, origins
        for i, array in enumerate(arrays):
            wanted = np.full([1] * array.ndim, origin, dtype)
            for axis, step in enumerate(steps):
                places = np.arange(array.shape[axis]).astype(dtype) * dtype.type(step[i])
                wanted = wanted + places.reshape(
                    [-1 if a == axis else 1 for a in range(array.ndim)]
                )
            if not np.array_equal(np.broadcast_to(wanted, array.shape), array):
                return None
        total: relax.Expr = constant(np.full([1] * len(shape), origin, dtype))
        for axis, step in enumerate(steps):
            if not any(step):
                continue
            factor = self._factor(step, dtype, emit)
            if factor is None:
                return None
            count = shape[axis]
            counted = emit(relax.op.arange(0, int64(count), 1, "int64"))
            if dtype != np.int64:
                counted = emit(relax.op.astype(counted, str(dtype)))
            counted = emit(relax.op.multiply(counted, factor))
            own = [count if a == axis else 1 for a in range(len(shape))]
            total = emit(relax.op.add(total, emit(relax.op.reshape(counted, own))))
        return emit(relax.op.broadcast_to(total, list(shape)))

    def _factor(self, step: Sequence[Any], dtype: np.dtype[Any], emit: Emit) -> relax.Expr | None:
        """Return the step along an axis, which is a formula of the sizes if it is whole."""
        if dtype.kind == "f":
            return relax.const(step[0], str(dtype)) if len(set(step)) == 1 else None
        factor = self.formulas.of(step)
        return None if factor is None else self._scalar(factor, str(dtype), emit)

    def _scalar(self, factor: Any, dtype: str, emit: Emit) -> relax.Expr:
        if isinstance(factor, int):
            return relax.const(factor, dtype)
        tensor = emit(relax.op.shape_to_tensor(emit(relax.ShapeExpr([factor]))))
        return emit(relax.op.astype(tensor, dtype)) if dtype != "int64" else tensor

    def _table(
        self, arrays: Sequence[Array], shape: Sequence[Any], emit: Emit
    ) -> relax.Expr | None:
        """Return the beginning of a table along one axis."""
        varying = [axis for axis, extent in enumerate(shape) if not isinstance(extent, int)]
        if len(varying) != 1:
            return None
        (axis,) = varying
        longest = max(arrays, key=lambda array: array.shape[axis])
        if not all(are_equal(beginning(longest, axis, a.shape[axis]), a) for a in arrays):
            return None
        own = [n for a, n in enumerate(longest.shape) if n > 1 or a == axis]
        place = sum(1 for a in range(axis) if longest.shape[a] > 1)
        for table in self.tables():
            if table.dtype != longest.dtype or table.size < longest.size:
                continue
            flat = table.reshape([n for n in table.shape if n > 1])
            if flat.ndim != len(own) or flat.shape[place] < longest.shape[axis]:
                continue
            if [n for a, n in enumerate(flat.shape) if a != place] != [
                n for a, n in enumerate(own) if a != place
            ]:
                continue
            if not are_equal(beginning(flat, place, longest.shape[axis]), longest.reshape(own)):
                continue
            whole = flat.reshape(
                [flat.shape[place] if a == axis else n for a, n in numbered_axes(longest)]
            )
            self._limit(arrays, axis, flat.shape[place])
            end = int64(shape[axis])
            sliced = relax.op.strided_slice(
                constant(np.ascontiguousarray(whole)), [axis], [0], [end]
            )
            return self._of_shape(emit(sliced), shape, emit)
        raise ValueError(
            f"a constant of shape {longest.shape} is the beginning of a table that the file does "
            "not hold"
        )

    def _of_shape(self, value: relax.Expr, shape: Sequence[Any], emit: Emit) -> relax.Expr:
        """Return a slice with its shape in terms of the sizes, which the table holds."""
        return emit(relax.op.reshape(value, list(shape)))

    def _limit(self, arrays: Sequence[Array], axis: int, length: int) -> None:
        extents = [array.shape[axis] for array in arrays]
        for name in self.formulas.variables:
            ahead = {
                extent - sizes[name]
                for extent, sizes in zip(extents, self.formulas.at, strict=True)
            }
            if len(ahead) == 1:
                most = length - ahead.pop()
                self.bounds[name] = min(self.bounds.get(name, most), most)
                return
        raise ValueError("the length of a table's beginning is no size of the inputs")
