"""What the code of some calls depends on: all but the contents of weights, which are arguments.

Layers of one shape have one code. Their calls differ in constants, variables and names of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm_ffi import StructuralKey

from tvm_sparse.passes.ir.operators.table import operator_of


def structure_of(bindings: Sequence[relax.VarBinding], *others: Any) -> StructuralKey:
    """Return a key that is equal for calls of one code.

    Parameters
    ----------
    bindings : sequence of VarBinding
        Calls, and the variables they are bound to. Of tensor constants, the types count; other
        constants are part of the code, such as the bounds of a clip.
    others
        What the code depends on besides.
    """
    numbers: dict[relax.Expr, int] = {}

    def structure(value: relax.Expr) -> Any:
        if isinstance(value, relax.Tuple):
            return ["tuple", *map(structure, value.fields)]
        if isinstance(value, relax.Call):
            operator = operator_of(value)
            names = operator.operands if operator else ()
            any_length = operator.any_length if operator else ()
            args = [
                ["any length", str(arg.ty.dtype)] if name in any_length else structure(arg)
                for arg, name in itertools.zip_longest(value.args, names[: len(value.args)])
            ]
            return [value.op, _attributes(value), value.ty, *args]
        if not isinstance(value, relax.Var) and not _is_tensor(value):
            return value
        if value in numbers:
            return numbers[value]
        numbers[value] = len(numbers)
        return ["variable" if isinstance(value, relax.Var) else "constant", value.ty]

    calls = []
    for binding in bindings:
        calls.append(structure(binding.value))
        numbers[binding.var] = len(numbers)
    return StructuralKey([calls, *others])


def _is_tensor(value: relax.Expr) -> bool:
    return isinstance(value, tvm.ir.GenericConst) and isinstance(value.value, tvm.runtime.Tensor)


def _attributes(call: relax.Call) -> Any:
    """Return the attributes of a call without the name of its layer."""
    if not isinstance(call.attrs, tvm.ir.DictAttrs):
        return call.attrs
    return {name: value for name, value in call.attrs.items() if name != "layer"}
