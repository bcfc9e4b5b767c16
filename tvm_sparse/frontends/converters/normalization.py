"""Normalizations whose statistics are results too, or come from the batch."""

from __future__ import annotations

from typing import Any

from tvm import relax

from tvm_sparse.frontends.converters.node import Node

MVN_EPSILON = 1e-9
"""What the function body of MeanVarianceNormalization adds to a standard deviation."""


def layer_normalization(node: Node) -> Any:
    """Convert LayerNormalization; TVM's converter knows its first result only."""
    rank = len(node.shape(0))
    axis = int(node.attributes.get("axis", -1)) % rank
    node.attributes.get("stash_type", 1)  # statistics are float32 or wider
    if node.outputs == 1 and len(node.shape(1)) == rank - axis and node.dtype(0) == "float32":
        return node.by_tvm()[0]
    emit, dtype = node.emit, node.dtype(0)
    x = node.inputs[0]
    if dtype not in ("float32", "float64"):
        x = emit(relax.op.astype(x, "float32"))
    wide = str(x.ty.dtype)
    axes = list(range(axis, rank))
    mean = emit(relax.op.mean(x, axes, keepdims=True))
    centred = emit(relax.op.subtract(x, mean))
    variance = emit(relax.op.mean(emit(relax.op.multiply(centred, centred)), axes, keepdims=True))
    epsilon = relax.const(float(node.attributes.get("epsilon", 1e-5)), wide)
    deviation = emit(relax.op.sqrt(emit(relax.op.add(variance, epsilon))))
    inverse = emit(relax.op.divide(relax.const(1, wide), deviation))
    result = emit(relax.op.multiply(centred, inverse))
    if wide != dtype:
        result = emit(relax.op.astype(result, dtype))
    result = emit(relax.op.multiply(result, node.inputs[1]))
    if node.inputs[2] is not None:
        result = emit(relax.op.add(result, node.inputs[2]))
    return relax.Tuple([result, mean, inverse][: node.outputs]) if node.outputs > 1 else result


def batch_normalization(node: Node) -> Any:
    """Convert BatchNormalization, in training mode by the statistics of the batch."""
    training = int(node.attributes.get("training_mode", 0))
    if not training:
        if node.outputs > 1:
            raise NotImplementedError("it has the statistics of a training step as outputs")
        return node.by_tvm()[0]
    emit, rank = node.emit, len(node.shape(0))
    x, scale, bias, old_mean, old_variance = node.inputs[:5]
    dtype = node.dtype(0)
    if {node.dtype(i) for i in range(5)} != {dtype} or dtype not in ("float32", "float64"):
        raise NotImplementedError("its attribute 'training_mode' is supported for float32 only")
    momentum = float(node.attributes.get("momentum", 0.9))
    axes, channels = [0, *range(2, rank)], [1, -1, *[1] * (rank - 2)]
    mean = emit(relax.op.mean(x, axes))
    centred = emit(relax.op.subtract(x, emit(relax.op.reshape(mean, channels))))
    variance = emit(relax.op.mean(emit(relax.op.multiply(centred, centred)), axes))
    epsilon = relax.const(float(node.attributes.get("epsilon", 1e-5)), dtype)
    deviation = emit(relax.op.sqrt(emit(relax.op.add(variance, epsilon))))
    factor = emit(relax.op.reshape(emit(relax.op.divide(scale, deviation)), channels))
    shifted = emit(relax.op.multiply(centred, factor))
    result = emit(relax.op.add(shifted, emit(relax.op.reshape(bias, channels))))

    def running(old: relax.Expr, new: relax.Expr) -> relax.Var:
        kept = emit(relax.op.multiply(old, relax.const(momentum, dtype)))
        return emit(
            relax.op.add(kept, emit(relax.op.multiply(new, relax.const(1 - momentum, dtype))))
        )

    if node.outputs == 1:
        return result
    results = [result, running(old_mean, mean), running(old_variance, variance)]
    return relax.Tuple(results[: node.outputs])


def mean_variance_normalization(node: Node) -> Any:
    """Convert MeanVarianceNormalization; TVM's converter divides by zero for constant channels."""
    emit, x, dtype = node.emit, node.inputs[0], node.dtype(0)
    axes = node.ints("axes", (0, 2, 3))
    centred = emit(relax.op.subtract(x, emit(relax.op.mean(x, axes, keepdims=True))))
    variance = emit(relax.op.mean(emit(relax.op.multiply(centred, centred)), axes, keepdims=True))
    deviation = emit(relax.op.add(emit(relax.op.sqrt(variance)), relax.const(MVN_EPSILON, dtype)))
    return relax.op.divide(centred, deviation)


def dropout(node: Node) -> Any:
    """Convert Dropout outside of training: its input, and a mask that keeps everything."""
    node.attributes.get("ratio"), node.attributes.get("seed")
    training = node.constant(2, "training_mode")
    ratio = node.inputs[1] if training is None or not training else node.constant(1, "ratio")
    if training is not None and training and (ratio is None or ratio):
        raise NotImplementedError("its input 'training_mode' asks for random numbers")
    if node.outputs == 1:
        return node.inputs[0]
    mask = relax.op.full(node.shape(0), relax.const(True, "bool"), "bool")
    if node.opset < 10:
        mask = relax.op.ones(node.shape(0), node.dtype(0))
    return relax.Tuple([node.inputs[0], node.emit(mask)])


def rms_normalization(node: Node) -> Any:
    """Convert RMSNormalization; TVM's operator needs an axis that is not normalized."""
    rank = len(node.shape(0))
    if int(node.attributes.get("axis", -1)) % rank:
        return node.by_tvm()
    dtype, emit = node.dtype(0), node.emit
    if dtype not in ("float32", "float64"):
        raise NotImplementedError(f"it is not supported for {dtype} over all axes")
    node.attributes.get("stash_type")
    x, axes = node.inputs[0], list(range(rank))
    square = emit(relax.op.mean(emit(relax.op.multiply(x, x)), axes, keepdims=True))
    epsilon = relax.const(float(node.attributes.get("epsilon", 1e-5)), dtype)
    root = emit(relax.op.sqrt(emit(relax.op.add(square, epsilon))))
    return relax.op.multiply(emit(relax.op.divide(x, root)), node.inputs[1])


def simplified_layer_normalization(node: Node) -> Any:
    """Convert SimplifiedLayerNormalization of ONNX Runtime: RMSNormalization by another name."""
    if node.outputs > 1:
        raise NotImplementedError("the statistics of its normalization are not supported")
    rank = len(node.shape(0))
    axis = int(node.attributes.get("axis", -1)) % rank
    node.attributes.get("stash_type")
    return _by_root_mean_square(node, node.inputs[0], node.inputs[1], list(range(axis, rank)))


def skip_simplified_layer_normalization(node: Node) -> Any:
    """Convert SkipSimplifiedLayerNormalization: the normalization of a sum, and the sum."""
    x, skip, gamma, bias = (node.inputs[i] for i in range(4))
    if node.outputs in (2, 3):
        raise NotImplementedError("the statistics of its normalization are not supported")
    total = node.emit(relax.op.add(x, skip))
    if bias is not None:
        total = node.emit(relax.op.add(total, bias))
    result = _by_root_mean_square(node, total, gamma, [len(node.shape(0)) - 1])
    if node.outputs == 1:
        return result
    # Its statistics, which only training reads, have no values.
    return relax.Tuple([node.emit(result), total, total, total])


def _by_root_mean_square(
    node: Node, x: relax.Expr, gamma: relax.Expr, axes: list[int]
) -> relax.Expr:
    """Return a tensor divided by its root mean square over some axes, in float32 at least."""
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    dtype = str(x.ty.dtype)
    if dtype in ("float32", "float64"):
        return relax.op.nn.rms_norm(x, gamma, axes, epsilon)
    wide = [node.emit(relax.op.astype(value, "float32")) for value in (x, gamma)]
    return relax.op.astype(node.emit(relax.op.nn.rms_norm(*wide, axes, epsilon)), dtype)
