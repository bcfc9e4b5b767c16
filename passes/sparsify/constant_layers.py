"""Finds the layers with a constant weight in a network that does not work on panels yet.

They are ``matmul(x, w)`` on tokens, and convolutions. A convolution that sees one pixel at a time
is a linear layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import ACTIVATIONS, DType
from tvm_sparse.formats.density import density_of
from tvm_sparse.formats.quantization import QuantizedWeight
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators import Layout, RunTimeSteps
from tvm_sparse.passes.ir.rewriting import Emit, rewrite_layers
from tvm_sparse.passes.ir.shapes import extents_of, is_symbolic
from tvm_sparse.passes.sparsify.refusals import refusal
from tvm_sparse.passes.sparsify.token_lanes import token_lanes
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.tilings.families import leaves_lanes_idle
from tvm_sparse.tilings.int8_rows import INT8_ROW_FAMILY
from tvm_sparse.tilings.integers import word_density, word_form
from tvm_sparse.tilings.layer import Layer
from tvm_sparse.tilings.row_linear import most_rows, permutes_windows

_LAYERS = ("relax.matmul", "relax.nn.conv2d")

Compute: TypeAlias = Callable[[relax.Expr], relax.Call]
"""Returns the call that computes a layer from its operand, see `ConstantLayer.operand`."""


@dataclass(frozen=True)
class ConstantLayer:
    """A linear layer or a convolution of the graph.

    Attributes
    ----------
    layer : Layer
        The sizes and the density, on which the choice of a kernel depends.
    weight : numpy.ndarray
        float32, ``(out_channels, in_channels)`` for a linear layer, or that of the convolution; it
        may be a view of the constant.
    weight_shape : tuple of int
        The shape of the weight in the network, with the output channels first.
    panels : relax.Call
        The call that lays the layer's input out in panels.
    out_shape : tuple of int
        Shape of the layer's output.
    dense : ConstantLayer, optional
        The layer as dense kernels compute it, if that is another one: its panels have other lanes,
        or it is a convolution of images whose rows have idle lanes.
    quantized : QuantizedWeight, optional
        The integers of a quantized layer, whose `panels` are not rounded yet.
    steps : RunTimeSteps, optional
        What such a layer rounds its input to if only an inference knows it.
    """

    layer: Layer[Any]
    weight: NDArray[np.float32]
    weight_shape: tuple[int, ...]
    panels: relax.Call
    out_shape: tuple[int, ...]
    dense: ConstantLayer | None = None
    quantized: QuantizedWeight | None = None
    steps: RunTimeSteps | None = None

    def operand(self, emit: Emit, cpu: CpuProfile) -> relax.Expr:
        """Bind the panels that all kernels of the layer read: words if an inference rounds them.

        Layers that read the same tensor share them.
        """
        panels = emit(self.panels)
        if self.steps is None:
            return panels
        form, covers = word_form(cpu), self.steps.covers
        return emit(operators.quantize_words(panels, self.steps.value, form, covers=covers))

    def rounded(self, operand: relax.Expr, cpu: CpuProfile) -> relax.Expr:
        """Return the panels that a kernel of floats takes, for what `operand` returned."""
        if self.quantized is None:
            return operand
        if self.quantized.steps is not None:
            return operators.fake_quantize(operand, self.quantized.steps)
        assert self.steps is not None
        problem = self.layer.problem
        channels = problem.k if isinstance(problem, Linear) else problem.channels
        sizes = channels, problem.dtype
        return operators.dequantize_words(operand, self.steps.value, word_form(cpu), *sizes)

    def read(self, product: relax.Expr) -> relax.Call:
        """Return the layer's output from its panels."""
        if is_call_to(self.panels, operators.IMAGE_TO_PANELS.name):
            return operators.panels_to_image(product, self.out_shape)
        return operators.from_panels(product, self.out_shape)


def match_layer(call: relax.Expr, cpu: CpuProfile) -> ConstantLayer | None:
    """Return the layer with a constant weight that `call` is, or None.

    Its panels have the type `cpu.activations`, unless that does not hold its weight. Products of a
    few rows, which wait for their weight, are float32 and only store it in that type.
    """
    if is_call_to(call, *operators.QUANTIZED):
        return _match_quantized(call, cpu)
    if _exceeds(call, cpu.activations):
        cpu = dataclasses.replace(cpu, activations=ACTIVATIONS)
    conv = match_conv2d(call, cpu)
    return _match_matmul(call, cpu) if conv is None else _convolution(call, conv, cpu)


def _match_quantized(call: relax.Call, cpu: CpuProfile) -> ConstantLayer | None:
    """Return a quantized layer as one of floats whose panels are rounded, or None."""
    found, (_, values, scale) = match_layer(operators.in_floats(call), cpu), call.args[:3]
    if found is None:
        return None
    array = values.value.numpy()
    array = array.T if is_call_to(call, operators.QUANTIZED_MATMUL.name) else array
    given = operators.run_time_steps_of(call)
    constant = None if given else operators.steps_of(call)

    def with_integers(layer: ConstantLayer) -> ConstantLayer:
        known, words = layer.layer, word_density(layer.layer.problem, array, cpu)
        steps = given
        is_wide = array.dtype != np.int8
        if constant is not None and INT8_ROW_FAMILY.takes(known.problem, cpu, is_wide=is_wide):
            # Its kernel takes words, which are made apart from it: channels become lanes.
            above = constant.zero_point - constant.low
            numbers = relax.const(np.array([constant.scale, above], ACTIVATIONS))
            steps = RunTimeSteps(numbers, covers=False)
        known = dataclasses.replace(
            known,
            is_quantized=True,
            word_density=words,
            is_dynamic=steps is not None,
            is_wide=is_wide,
        )
        of_integers = constant if steps is None else None
        quantized = QuantizedWeight(array, scale.value.numpy(), of_integers)
        is_linear = layer.dense is not None and isinstance(layer.dense.layer.problem, Linear)
        dense = with_integers(layer.dense) if layer.dense and is_linear else None
        return dataclasses.replace(
            layer, layer=known, dense=dense, quantized=quantized, steps=steps
        )

    return with_integers(found)


def constant_layers(
    mod: tvm.IRModule, cpu: CpuProfile, keep_float32: Collection[str] = ()
) -> Iterator[ConstantLayer]:
    """Yield every layer with a constant weight of a module, in the order of execution.

    Those with names in `keep_float32` are on panels of float32 whatever `cpu.activations` are.
    """
    for func in mod.functions.values():
        if not isinstance(func, relax.Function):
            continue
        for binding in (b for block in func.body.blocks for b in block.bindings):
            found = match_layer(binding.value, _on(cpu, binding.var.name, keep_float32))
            if found is not None:
                yield found


def _on(cpu: CpuProfile, layer: str, keep_float32: Collection[str]) -> CpuProfile:
    """Return a processor with the type of the panels of a layer."""
    return dataclasses.replace(cpu, activations=ACTIVATIONS) if layer in keep_float32 else cpu


def rewrite_constant_layers(
    mod: tvm.IRModule,
    cpu: CpuProfile,
    choose: Callable[[ConstantLayer, str], Compute | None],
    *,
    keep_float32: Collection[str] = (),
    computed_as: Callable[[ConstantLayer], ConstantLayer] = lambda found: found,
) -> tvm.IRModule:
    """Return `mod` with layers computed on panels: ``layer(x) => read(compute(panels(x)))``.

    Parameters
    ----------
    mod : IRModule
        Stays as it is.
    cpu : CpuProfile
        Gives the lanes of the panels.
    choose : callable
        Takes a layer and its name, and returns how to compute it; None leaves it as it is.
    keep_float32 : collection of str
        The names of layers whose panels are float32 whatever `cpu.activations` are.
    computed_as : callable
        Returns the layer to compute in place of one, such as its `dense` one.
    """

    def rewrite(call: relax.Call, name: str, emit: Emit) -> relax.Expr | None:
        found = match_layer(call, _on(cpu, name, keep_float32))
        found = None if found is None else computed_as(found)
        compute = None if found is None else choose(found, name)
        if found is None or compute is None:
            return None
        product = operators.of_height(compute(found.operand(emit, cpu)), found.panels)
        return found.read(emit(operators.of_layer(product, name)))

    return rewrite_layers(mod, rewrite)


def _exceeds(call: relax.Expr, dtype: DType) -> bool:
    """Return whether a layer has a constant weight with larger numbers than a type has."""
    if dtype == ACTIVATIONS or not any(_is_computed(call, name) for name in _LAYERS):
        return False
    weight, largest = call.args[1].value.numpy(), np.finfo(dtype).max
    return bool(weight.size) and not (-largest <= weight.min() and weight.max() <= largest)


def _is_computed(call: relax.Expr, operator: str) -> bool:
    """Return whether a call of an operator has a constant weight and a kernel of ours."""
    is_constant = is_call_to(call, operator) and isinstance(call.args[1], tvm.ir.GenericConst)
    return is_constant and not refusal(call)


def _match_matmul(call: relax.Expr, cpu: CpuProfile) -> ConstantLayer | None:
    if not _is_computed(call, "relax.matmul"):
        return None
    x, weight, shape = call.args[0], call.args[1].value.numpy(), extents_of(call)
    x_shape = extents_of(x)
    assert shape is not None and x_shape is not None
    density, rows = density_of(weight), math.prod(x_shape[:-1])
    k, n = weight.shape
    weight = weight.T  # no copy yet: layers are looked at several times, and packed once

    def on_lanes(
        lanes: int, dense: ConstantLayer | None = None, dtype: DType = ACTIVATIONS
    ) -> ConstantLayer:
        stored = cpu.activations if lanes == 1 and dtype != cpu.activations else None
        rows = int(Layout.of(x_shape, lanes).rows)
        problem = Linear(rows, lanes, n, k, dtype, stored)
        panels = operators.to_panels(x, lanes, dtype)
        return ConstantLayer(Layer(problem, density), weight, weight.shape, panels, shape, dense)

    tokens = x_shape[-2] if len(x_shape) > 1 else 1
    if rows > most_rows(cpu) or is_symbolic(x_shape):
        lanes = token_lanes(cpu, cpu.activations, tokens)
        return on_lanes(lanes, dtype=cpu.activations)
    one = on_lanes(1)
    return one if permutes_windows(cpu) else on_lanes(cpu.panel_lanes(tokens), one)


def _convolution(call: relax.Call, conv: Conv2d, cpu: CpuProfile) -> ConstantLayer:
    weight = call.args[1].value.numpy()
    panels = operators.image_to_panels(call.args[0], conv.lanes_in, conv.dtype)
    shape = (conv.batch, conv.out_channels, conv.out_height, conv.out_width)
    layer: Layer[Any] = Layer(conv.planned, density_of(weight))
    found = ConstantLayer(layer, weight, weight.shape, panels, shape)
    if not conv.is_linear:
        return found
    rows = int(conv.batch * conv.height)
    problem = Linear(rows, conv.lanes_in, conv.out_channels, conv.channels, conv.dtype)
    linear = Layer(problem, layer.density)
    return dataclasses.replace(
        found,
        layer=linear,
        weight=weight.reshape(conv.out_channels, conv.channels),
        dense=found if leaves_lanes_idle(linear, layer, cpu) else None,
    )


def match_conv2d(call: relax.Expr, cpu: CpuProfile) -> Conv2d | None:
    """Return the sizes of a convolution of images by a constant weight, or None."""
    if not _is_computed(call, "relax.nn.conv2d"):
        return None
    attrs = call.attrs
    shape, weight_shape, out_shape = map(extents_of, (*call.args, call))
    assert shape is not None and weight_shape is not None and out_shape is not None
    batch, channels, height, width = shape
    top, left, bottom, right = (int(p) for p in attrs["padding"])
    strides = tuple(int(s) for s in attrs["strides"])
    dilation = tuple(int(d) for d in attrs["dilation"])
    return Conv2d(
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_channels=weight_shape[0],
        kernel=(weight_shape[2], weight_shape[3]),
        stride=(strides[0], strides[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        groups=int(attrs["groups"]),
        lanes_in=cpu.image_lanes(width, cpu.activations),
        lanes_out=cpu.image_lanes(out_shape[3], cpu.activations),
        dtype=cpu.activations,
    )
