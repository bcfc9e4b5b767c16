"""The attributes that all layers share: an epilogue, a tiling, and the name of the layer.

The epilogue is ``activation(y + bias + residual)``. `bias` ``[channels]`` comes before `residual`,
panels of y's shape, behind the operator's own operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.passes.ir.operators.operator import EPILOGUE_OPERANDS, PREFIX
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.tilings.family import Family


def epilogue_of(call: relax.Call) -> Epilogue:
    """Return the epilogue of a call."""
    attrs = call.attrs
    return Epilogue(bool(attrs["bias"]), bool(attrs["residual"]), str(attrs["activation"]) or None)


def with_epilogue(
    call: relax.Call,
    *,
    bias: relax.Expr | None = None,
    residual: relax.Expr | None = None,
    activation: str = "",
) -> relax.Call:
    """Return a call with one more step in its epilogue."""
    held = [name for name in EPILOGUE_OPERANDS if call.attrs[name]]
    own = call.args[: len(call.args) - len(held)]
    operands = dict(zip(held, call.args[len(own) :], strict=True))
    added = {"bias": bias, "residual": residual}
    operands |= {name: value for name, value in added.items() if value is not None}
    args = [*own, *(operands[name] for name in EPILOGUE_OPERANDS if name in operands)]
    attrs = dict(call.attrs.items()) | dict.fromkeys(operands, True)
    if activation:
        attrs["activation"] = activation
    return relax.Call(call.op, args, tvm.ir.DictAttrs(attrs))


def with_attributes(call: relax.Call, **attrs: Any) -> relax.Call:
    """Return a call of one of our operators with attributes added or replaced."""
    return relax.Call(call.op, list(call.args), tvm.ir.DictAttrs({**call.attrs, **attrs}))


def of_layer(call: relax.Call, layer: str) -> relax.Call:
    """Return a call that knows which layer of the model it computes."""
    return with_attributes(call, layer=layer)


def layer_of(call: relax.Expr) -> str | None:
    """Return the name that `of_layer` gave to a call, or None."""
    is_own = isinstance(call, relax.Call) and isinstance(call.op, tvm.ir.Op)
    if not is_own or not call.op.name.startswith(PREFIX) or not call.attrs:
        return None
    return str(call.attrs["layer"]) if "layer" in call.attrs else None


def tiling_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attribute that holds a tiling's fields; none if the cost model shall choose it."""
    return {"tiling": dict(fields)} if fields else {}


def tiling_for(call: relax.Call, family: Family[Any, Any]) -> Any:
    """Return the tiling of a call of a kernel family; None if the cost model shall choose it."""
    return family.from_fields(call.attrs["tiling"]) if "tiling" in call.attrs else None
