"""Finds what names a network in the tuning records, before the network works on panels."""

from __future__ import annotations

import math

import tvm

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.shapes import known_extents
from tvm_sparse.passes.sparsify.constant_layers import constant_layers
from tvm_sparse.records import keys
from tvm_sparse.records.lookups import TokenNetwork


def model_key(mod: tvm.IRModule, cpu: CpuProfile) -> str:
    """Return the key of a model by its layers with constant weights."""
    return keys.model_key(found.layer for found in constant_layers(mod, cpu))


def token_network(mod: tvm.IRModule, cpu: CpuProfile) -> TokenNetwork:
    """Return the linear layers on tokens of a model."""
    layers = []
    for found in constant_layers(mod, cpu):
        if is_call_to(found.panels, operators.TO_PANELS.name):
            shape = known_extents(operators.TO_PANELS.operand(found.panels, "x"))
            *batch, tokens, depth = shape if len(shape) > 1 else (1, *shape)
            sizes = int(math.prod(batch)), int(tokens), depth, found.weight.shape[0]
            layers.append((*sizes, found.layer.density))
    return TokenNetwork(tuple(layers))
