"""Which converter makes Relax of which operator of ONNX.

`OURS` are the operators that we convert, wholly or around TVM's converter, which converts the
others. Whoever converts a node must have asked for all that the file says about it: an attribute
whose value is not the default, an input, or an output that the converter does not know is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_sparse.frontends.converters import (
    cached,
    classical,
    elementwise,
    experts,
    fused,
    microsoft,
    normalization,
    quantized,
    quantized_recurrent,
    reductions,
    resize,
    rotary,
    shapes,
    windows,
)
from tvm_sparse.frontends.converters.node import Attributes, Inputs, Node
from tvm_sparse.frontends.onnx_attention import write_out_attention


def _attention(node: Node) -> Any:
    if node.dtype(0) == "bfloat16" and node.inputs[3] is not None:
        raise NotImplementedError("its input 'attn_mask' is not supported for bfloat16")
    for of_other_ranks in ("q_num_heads", "kv_num_heads"):
        node.attributes.get(of_other_ranks)
    if node.dtype(0) != "float16":
        return write_out_attention(node.builder, node.inputs, node.attributes)
    # Scores of half precision lose what the softmax needs.
    wide = [
        node.emit(relax.op.astype(value, "float32"))
        if value is not None and str(value.ty.dtype) == "float16"
        else value
        for value in node.inputs
    ]
    result = write_out_attention(node.builder, wide, node.attributes)
    return relax.op.astype(node.emit(result), "float16")


OURS: dict[str, Callable[[Node], Any]] = {
    "Attention": _attention,
    "AveragePool": windows.pooling,
    "BatchNormalization": normalization.batch_normalization,
    "BitShift": elementwise.bit_shift,
    "Conv": windows.convolution,
    "ConvInteger": quantized.conv_integer,
    "ConvTranspose": windows.transposed_convolution,
    "DequantizeLinear": quantized.dequantize_linear,
    "Dropout": normalization.dropout,
    "DynamicQuantizeLinear": quantized.dynamic_quantize_linear,
    "Expand": shapes.expand,
    "IsInf": elementwise.is_infinite,
    "LayerNormalization": normalization.layer_normalization,
    "LpPool": windows.pooling,
    "MatMulInteger": quantized.matmul_integer,
    "Max": elementwise.variadic,
    "MaxPool": windows.pooling,
    "MaxRoiPool": shapes.max_roi_pool,
    "MaxUnpool": shapes.max_unpool,
    "Mod": elementwise.modulo,
    "MeanVarianceNormalization": normalization.mean_variance_normalization,
    "Min": elementwise.variadic,
    "NonMaxSuppression": shapes.non_max_suppression,
    "Pad": shapes.pad,
    "Pow": elementwise.power,
    "QLinearConv": quantized.qlinear_conv,
    "QLinearMatMul": quantized.qlinear_matmul,
    "QuantizeLinear": quantized.quantize_linear,
    "RMSNormalization": normalization.rms_normalization,
    "Range": shapes.numbers,
    "ReduceLogSumExp": reductions.log_sum_exp,
    "ReduceMax": reductions.extreme,
    "ReduceMean": reductions.mean,
    "ReduceMin": reductions.extreme,
    "Resize": resize.resize,
    "RoiAlign": shapes.roi_align,
    "RotaryEmbedding": rotary.rotary_embedding,
    "SimplifiedLayerNormalization": normalization.simplified_layer_normalization,
    "Slice": shapes.slicing,
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Sign": elementwise.sign,
    "Sum": elementwise.variadic,
    "ThresholdedRelu": elementwise.thresholded_relu,
    "Tile": shapes.tile,
    "TopK": shapes.top_k,
}

OURS |= {
    f"com.microsoft.{name}": convert
    for name, convert in (
        *microsoft.QUANTIZED.items(),
        *fused.FUSED.items(),
        ("DequantizeLinear", quantized.dequantize_linear),
        ("DynamicQuantizeLSTM", quantized_recurrent.dynamic_quantize_lstm),
        ("MoE", experts.mixture_of_experts),
        ("QMoE", experts.quantized_mixture_of_experts),
        ("QuantizeLinear", quantized.quantize_linear),
        ("RotaryEmbedding", rotary.microsoft_rotary_embedding),
        (
            "SkipSimplifiedLayerNormalization",
            normalization.skip_simplified_layer_normalization,
        ),
    )
}

OURS |= {f"ai.onnx.ml.{name}": convert for name, convert in classical.CLASSICAL.items()}

INNER: dict[str, Callable[[Node], Any]] = {cached.NAME: cached.cached_attention}
"""Operators that no file has: this package writes them into graphs."""

_NOT_A_TENSOR = {"Optional", "OptionalGetElement", "SequenceConstruct", "SequenceEmpty"}
_NOT_A_TENSOR |= {"SequenceErase", "SequenceInsert", "SplitToSequence"}
"""The operators with one result, which TVM holds as a tuple."""


def operator_name(node: onnx.NodeProto) -> str:
    """Return the operator of a node; its domain precedes it if that is not the one of ONNX."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def convert_node(
    builder: relax.BlockBuilder,
    op_type: str,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any],
    opset: int,
    scope: list[Any],
    bind: Callable[[Any], Any],
) -> Any:
    """Convert one node of a graph.

    Parameters
    ----------
    builder : relax.BlockBuilder
        The builder that gets the operators.
    op_type : str
        The operator, as `operator_name` gives it.
    inputs : sequence of relax.Expr or None
        What the node reads.
    attributes : mapping of str to object
        Its attributes, and in ``tvm_custom`` what TVM's converters know about the node.
    opset : int
        The version of the operators.
    scope : list
        What TVM's converters get as their last argument.
    bind : callable
        Binds a result to variables, whose types are known.

    Returns
    -------
    relax.Expr
        The result, or a tuple of as many results as the graph names.

    Raises
    ------
    NotImplementedError
        If the converter does not do all that the node says.
    Exception
        Whatever a converter of TVM raises.
    """
    converters = OURS | INNER

    def made(op_type: str, inputs: Inputs, attributes: Attributes) -> Node:
        def by_tvm(inputs: list[Any], attributes: dict[str, Any]) -> Any:
            _refuse_infinities(attributes)
            converter = onnx_frontend._get_convert_map()[op_type].get_converter(opset)
            return converter(builder, inputs, attributes, scope)

        outputs = attributes["tvm_custom"]["num_outputs"]
        return Node(builder, op_type, opset, inputs, attributes, outputs, by_tvm, standard)

    def standard(op_type: str, inputs: list[Any], attributes: Attributes) -> Any:
        return converters.get(op_type, Node.by_tvm)(made(op_type, Inputs(inputs), attributes))

    given = {name: value for name, value in attributes.items() if name != "tvm_custom"}
    node = made(op_type, Inputs(inputs), Attributes(attributes))
    result = converters.get(op_type, Node.by_tvm)(node)
    _refuse_ignored_attributes(node, given)
    ignored = [
        i for i, value in enumerate(inputs) if value is not None and i not in node.inputs.read
    ]
    if ignored:
        raise NotImplementedError(f"its input {_input_name(node, ignored[0])!r} is not supported")
    if isinstance(result, relax.Tuple) and node.op_type not in _NOT_A_TENSOR:
        result = (
            relax.Tuple(result.fields[: node.outputs]) if node.outputs > 1 else result.fields[0]
        )
    bound = bind(result)
    _refuse_missing_outputs(node, bound)
    return bound


def _refuse_infinities(attributes: Mapping[str, Any]) -> None:
    """Leave numbers that are not finite to ONNX Runtime: TVM's converters multiply them by zero."""
    for name, value in attributes.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise NotImplementedError(f"its attribute {name!r} is {value}")


def _refuse_ignored_attributes(node: Node, given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in node.attributes.read and not _is_default(node, name, given[name]):
            value = given[name].decode() if isinstance(given[name], bytes) else given[name]
            raise NotImplementedError(
                f"its attribute {name!r} with value {value!r} is not supported"
            )


def _is_default(node: Node, name: str, value: Any) -> bool:
    schema = _schema(node.op_type, node.opset)
    if schema is None or name not in schema.attributes:
        return False
    default = schema.attributes[name].default_value
    return default.name != "" and onnx.helper.get_attribute_value(default) == value


def _schema(op_type: str, opset: int) -> Any:
    try:
        return onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return None


def _input_name(node: Node, position: int) -> str:
    schema = _schema(node.op_type, node.opset)
    if schema is None or position >= len(schema.inputs):
        return str(position)
    return str(schema.inputs[position].name)


def _refuse_missing_outputs(node: Node, result: Any) -> None:
    if node.op_type in _NOT_A_TENSOR or not isinstance(result, relax.Expr):
        return
    results = len(result.ty.fields) if isinstance(result.ty, relax.TupleType) else 1
    if results < node.outputs:
        schema = _schema(node.op_type, node.opset)
        name = schema.outputs[results].name if schema else str(results)
        raise NotImplementedError(f"its output {name!r} is not supported")
