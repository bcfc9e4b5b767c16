"""Recurrent layers: all steps of an LSTM, a GRU or an RNN whose input product is computed before.

A call has the operands that its attribute `operands` names, in that order. They are those of
`tvm_sparse.sizes.recurrent.Recurrent.operands`, and the recurrent weight: ``r`` as ONNX stores it,
``(directions, gates * hidden, hidden)``, until `PackRecurrentWeights` replaces it by ``weight0``,
... for each section. The results are a tuple.

The steps are those of the operand ``xw``, of which an inference may bring any number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tvm
from tvm import relax

from tvm_sparse import schedules
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir.operators.operator import PREFIX, Operator, tensor_type
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.sizes.recurrent import Recurrent
from tvm_sparse.tilings.recurrent import RecurrentTiling


def recurrent(
    problem: Recurrent,
    operands: Mapping[str, relax.Expr],
    tiling: RecurrentTiling | None = None,
) -> relax.Call:
    """Compute all steps of a layer.

    Parameters
    ----------
    problem : Recurrent
        The layer.
    operands : mapping of str to relax.Expr
        The operands that the layer has, by name.
    tiling : RecurrentTiling, optional
        The tiling that the recurrent weight was packed for; None if it is not packed.

    Returns
    -------
    relax.Call
        The tuple of `Recurrent.results`, in that order.
    """
    attrs = {**dataclasses.asdict(problem), "clip": repr(problem.clip)}
    del attrs["steps"]
    tiled = {} if tiling is None else {"tiling": dataclasses.asdict(tiling)}
    return RECURRENT.call(*operands.values(), operands=list(operands), **attrs, **tiled)


def recurrent_of(call: relax.Call) -> Recurrent:
    """Return the layer that a call computes."""
    kinds: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float}
    steps = known_extents(recurrent_operands(call)["xw"])[0]
    return Recurrent(
        steps=steps,
        **{
            field.name: kinds[str(field.type)](call.attrs[field.name])
            for field in dataclasses.fields(Recurrent)
            if field.name != "steps"
        },
    )


def recurrent_operands(call: relax.Call) -> dict[str, relax.Expr]:
    """Return the operands of a call by name."""
    return dict(zip((str(name) for name in call.attrs["operands"]), call.args, strict=True))


def _infer(call: relax.Call, _builder: relax.BlockBuilder) -> relax.Type:
    shapes = recurrent_of(call).results().values()
    return relax.TupleType([tensor_type(*shape) for shape in shapes])


def _kernel(call: relax.Call, cpu: CpuProfile) -> tvm.tirx.PrimFunc:
    fields = call.attrs["tiling"]
    tiling = RecurrentTiling(
        int(fields["width"]),
        tuple(int(v) for v in fields["vectors"]),
        int(fields["jobs"]),
        int(fields["groups"]),
    )
    operands = {
        name: (known_extents(operand), str(operand.ty.dtype))
        for name, operand in recurrent_operands(call).items()
    }
    return schedules.recurrent(recurrent_of(call), tiling, operands, cpu)


RECURRENT = Operator(
    PREFIX + "recurrent",
    infer=_infer,
    kernel=_kernel,
    sizes=lambda call: [recurrent_of(call).steps],
    takes_sizes=True,
)
