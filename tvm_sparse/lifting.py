"""Constants of compiled functions => parameters, so that weights can lie in a mapped file.

A library of TVM holds its constants as a serialized blob: loading one copies it several times. What
is a parameter is read where it lies. A function that others call keeps its constants, since its
callers pass none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax

LEAST_BYTES = 4096
"""Constants below this size, the page of a system, stay where they are, but for those of no bytes:
TVM writes a blob with such a constant that it refuses to read."""


def lift_weights(
    mod: tvm.IRModule,
) -> tuple[tvm.IRModule, list[tvm.runtime.Tensor], dict[str, tuple[int, ...]]]:
    """Return a module whose large constants are parameters behind those that functions have.

    Parameters
    ----------
    mod : IRModule
        Lowered Relax functions.

    Returns
    -------
    tuple
        The module; the constants, equal ones once; and for each function that reads some, by name,
        their numbers in the order of its new parameters.
    """
    lifter, called = _Lifter(), _called(mod)
    functions = {
        gvar: lifter.lift(gvar.name_hint, func)
        if isinstance(func, relax.Function) and gvar not in called
        else func
        for gvar, func in mod.functions_items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs), lifter.weights, lifter.read_by


def _called(mod: tvm.IRModule) -> set[tvm.ir.GlobalVar]:
    """Return the functions that Relax functions refer to, kernels among them."""
    called: set[tvm.ir.GlobalVar] = set()

    def note(expr: relax.Expr) -> None:
        if isinstance(expr, tvm.ir.GlobalVar):
            called.add(expr)

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            relax.analysis.post_order_visit(func.body, note)
    return called


class _Lifter:
    def __init__(self) -> None:
        self.weights: list[tvm.runtime.Tensor] = []
        self.read_by: dict[str, tuple[int, ...]] = {}
        self._numbers: dict[tvm.ir.GenericConst, int] = {}
        self._alike: dict[tuple[str, tuple[int, ...], bytes], list[int]] = {}

    def lift(self, name: str, func: relax.Function) -> relax.Function:
        """Return a function with a parameter for each of its large constants."""
        parameters: dict[int, relax.Var] = {}

        def parameter(constant: tvm.ir.GenericConst) -> relax.Expr:
            value = constant.value
            if not isinstance(value, tvm.runtime.Tensor) or not _can_be_mapped(value):
                return constant
            number = self._number(constant)
            if number not in parameters:
                ty = relax.TensorType(tuple(value.shape), str(value.dtype))
                parameters[number] = relax.Var(f"weight{number}", ty)
            return parameters[number]

        body = tvm_ffi.structural_map(func.body, [(tvm.ir.GenericConst, parameter)])
        if not parameters:
            return func
        self.read_by[name] = tuple(parameters)
        params = [*func.params, *parameters.values()]
        return relax.Function(params, body, func.ret_ty, func.is_pure, func.attrs)

    def _number(self, constant: tvm.ir.GenericConst) -> int:
        if constant not in self._numbers:
            self._numbers[constant] = self._number_of_equal(constant.value)
        return self._numbers[constant]

    def _number_of_equal(self, tensor: tvm.runtime.Tensor) -> int:
        """Return the number of the weight that has these bytes, which may be a new one."""
        content = _bytes_of(tensor)
        key = str(tensor.dtype), tuple(map(int, tensor.shape)), content[:LEAST_BYTES].tobytes()
        alike = self._alike.setdefault(key, [])
        for number in alike:
            if np.array_equal(_bytes_of(self.weights[number]), content):
                return number
        alike.append(len(self.weights))
        self.weights.append(tensor)
        return alike[-1]


def _can_be_mapped(tensor: tvm.runtime.Tensor) -> bool:
    # NumPy has other types, such as bfloat16, from ml_dtypes; DLPack refuses them.
    array = tensor.numpy()
    return array.dtype.kind in "biuf" and (array.nbytes >= LEAST_BYTES or not array.nbytes)


def _bytes_of(tensor: tvm.runtime.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
