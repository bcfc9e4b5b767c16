"""Constants of compiled functions => parameters, so that weights can lie in a mapped file.

A library of TVM holds its constants as a serialized blob: loading one copies it several times. What
is a parameter is read where it lies.
"""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import relax

LEAST_BYTES = 4096
"""Constants below this size, the page of a system, stay where they are."""


def lift_weights(
    mod: tvm.IRModule,
) -> tuple[tvm.IRModule, list[tvm.runtime.Tensor], dict[str, tuple[int, ...]]]:
    """Return a module whose large constants are parameters behind those that functions have.

    Parameters
    ----------
    mod : IRModule
        Lowered Relax functions, that no Relax function calls; equal constants are one object.

    Returns
    -------
    tuple
        The module; the constants; and for each function that reads some, by name, their numbers
        in the order of its new parameters.
    """
    lifter = _Lifter()
    functions = {
        gvar: lifter.lift(gvar.name_hint, func) if isinstance(func, relax.Function) else func
        for gvar, func in mod.functions_items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs), lifter.weights, lifter.read_by


class _Lifter:
    def __init__(self) -> None:
        self.weights: list[tvm.runtime.Tensor] = []
        self.read_by: dict[str, tuple[int, ...]] = {}
        self._numbers: dict[tvm.ir.GenericConst, int] = {}

    def lift(self, name: str, func: relax.Function) -> relax.Function:
        """Return a function with a parameter for each of its large constants."""
        parameters: dict[int, relax.Var] = {}

        def parameter(constant: tvm.ir.GenericConst) -> relax.Expr:
            value = constant.value
            if not isinstance(value, tvm.runtime.Tensor) or value.numpy().nbytes < LEAST_BYTES:
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
            self._numbers[constant] = len(self.weights)
            self.weights.append(constant.value)
        return self._numbers[constant]
