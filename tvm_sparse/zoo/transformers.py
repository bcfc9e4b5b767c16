"""Pruned transformers as ONNX files, without PyTorch: the graphs that ``torch.onnx`` exports.

With `RandomWeights` only the linear layers of the encoder are pruned, as is done in practice;
embeddings, pooler and classifier stay dense.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from tvm_sparse.zoo.onnx_builder import Dim, GraphBuilder

Weights = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Returns the parameter with a Hugging Face name and a shape."""

Head = Callable[[GraphBuilder, str, str], Mapping[str, tuple[str, Sequence[Dim]]]]
"""Takes the graph, the last hidden state and the attention mask; returns the outputs to save."""


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a transformer encoder, by the words of a Hugging Face configuration."""

    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int = 30522
    positions: int = 512
    epsilon: float = 1e-12


BERT_BASE = TransformerConfig(layers=12, width=768, heads=12, intermediate=3072)
MINILM = TransformerConfig(layers=6, width=384, heads=12, intermediate=1536)
BERT_LARGE = TransformerConfig(layers=24, width=1024, heads=16, intermediate=4096)
BERT_TINY = TransformerConfig(
    layers=2, width=64, heads=4, intermediate=256, vocabulary=1000, positions=64
)

VIT_BASE = TransformerConfig(layers=12, width=768, heads=12, intermediate=3072)
VIT_TINY = TransformerConfig(layers=2, width=64, heads=4, intermediate=256)

OPSET = 13
"""The default opset, at which every engine is at its best.

DeepSparse compiles LayerNorm only in the form into which opsets before 17 decompose it; ONNX
Runtime fuses either form.
"""


def bert(
    path: Path,
    config: TransformerConfig,
    weights: Weights,
    *,
    opset: int = OPSET,
    shape: tuple[int, int] | None = None,
    head: Head | None = None,
) -> Path:
    """Write Hugging Face's ``BertModel`` as ``torch.onnx`` exports it.

    Parameters
    ----------
    path : Path
        ONNX file to write.
    config : TransformerConfig
        Sizes.
    weights : callable
        Parameters by Hugging Face name.
    opset : int
        11 to 17; LayerNorm is a single node from 17 on, nine nodes before.
    shape : tuple of int, optional
        Batch and tokens; by default dynamic dimensions called "batch" and "sequence".
    head : callable, optional
        Makes the outputs; by default they are the last hidden state and the pooler's output.
    """
    graph = GraphBuilder(opset)
    hidden = _bert_embeddings(graph, config, weights)
    mask = graph.unsqueeze(graph.unsqueeze("attention_mask", 1), 2)
    inverted = graph.op("Sub", graph.constant(1.0), graph.op("Cast", mask, to=1))
    bias = graph.op("Mul", inverted, graph.constant(np.finfo(np.float32).min))
    for layer in range(config.layers):
        name = f"encoder.layer.{layer}"
        context = _attention(graph, hidden, bias, f"{name}.attention.self", config, weights)
        dense = _linear(graph, context, f"{name}.attention.output.dense", weights,
                        config.width, config.width)  # fmt: skip
        hidden = _layer_norm(graph, graph.op("Add", dense, hidden, at=_path(f"{name}.attention")),
                             f"{name}.attention.output.LayerNorm", config, weights)  # fmt: skip
        output = _feed_forward(graph, hidden, name, config, weights)
        hidden = _layer_norm(graph, graph.op("Add", output, hidden, at=_path(name)),
                             f"{name}.output.LayerNorm", config, weights)  # fmt: skip
    ids: list[Dim] = [*(shape or ("batch", "sequence"))]
    outputs: Mapping[str, tuple[str, Sequence[Dim]]]
    if head is not None:
        outputs = head(graph, hidden, "attention_mask")
    else:
        first = graph.op("Gather", hidden, graph.constant(0, "int64"), at="pooler", axis=1)
        dense = graph.gemm(
            first, weights("pooler.dense.weight", (config.width, config.width)),
            weights("pooler.dense.bias", (config.width,)), "pooler/dense",
        )  # fmt: skip
        outputs = {
            "last_hidden_state": (hidden, [*ids, config.width]),
            "pooler_output": (graph.op("Tanh", dense, at="pooler"), [ids[0], config.width]),
        }
    names = ("input_ids", "attention_mask", "token_type_ids")
    graph.save(path, {name: ("int64", ids) for name in names}, outputs)
    return path


def vit(
    path: Path,
    config: TransformerConfig,
    weights: Weights,
    *,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
    opset: int = OPSET,
    batch: int | None = None,
) -> Path:
    """Write Hugging Face's ``ViTForImageClassification`` as ``torch.onnx`` exports it.

    Input ``pixel_values`` (batch, 3, image, image) float32, output ``logits`` (batch, classes);
    the batch is a dynamic dimension unless given. The other parameters are those of `bert`.
    """
    graph = GraphBuilder(opset)
    hidden = _vit_embeddings(graph, config, weights, (image // patch) ** 2, patch)
    for layer in range(config.layers):
        name = f"encoder.layer.{layer}"
        normal = _layer_norm(graph, hidden, f"{name}.layernorm_before", config, weights)
        context = _attention(graph, normal, None, f"{name}.attention.attention", config, weights)
        dense = _linear(graph, context, f"{name}.attention.output.dense", weights,
                        config.width, config.width)  # fmt: skip
        hidden = graph.op("Add", dense, hidden, at=_path(name))
        normal = _layer_norm(graph, hidden, f"{name}.layernorm_after", config, weights)
        output = _feed_forward(graph, normal, name, config, weights)
        hidden = graph.op("Add", output, hidden, at=_path(f"{name}.output"))
    hidden = _layer_norm(graph, hidden, "layernorm", config, weights)
    first = graph.op("Gather", hidden, graph.constant(0, "int64"), axis=1)
    logits = graph.gemm(
        first, weights("classifier.weight", (classes, config.width)),
        weights("classifier.bias", (classes,)), "classifier",
    )  # fmt: skip
    size = batch or "batch"
    graph.save(
        path,
        {"pixel_values": ("float32", [size, 3, image, image])},
        {"logits": (logits, [size, classes])},
    )
    return path


def linear_chain(path: Path, widths: Sequence[int], weights: Weights, tokens: int = 128) -> Path:
    """Write a chain of linear layers with bias and ReLU, each with weights of its own.

    Input ``x`` is float32 ``(1, tokens, widths[0])``; output ``y`` ``(1, tokens, widths[-1])``.
    It shows what a linear kernel reaches in a network, where the weights of the last layer have
    pushed those of the next one out of the cache.
    """
    graph = GraphBuilder(opset=13)
    y = "x"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        name = f"encoder.layer.{i}"
        y = graph.op("Relu", _linear(graph, y, name, weights, inputs, outputs), at=_path(name))
    graph.save(
        path,
        {"x": ("float32", [1, tokens, widths[0]])},
        {"y": (y, [1, tokens, widths[-1]])},
    )
    return path


def _path(name: str) -> str:
    return name.replace(".", "/").replace("layer/", "layer.")


def _linear(
    graph: GraphBuilder, x: str, name: str, weights: Weights, inputs: int, outputs: int
) -> str:
    return graph.linear(
        x, weights(f"{name}.weight", (outputs, inputs)), weights(f"{name}.bias", (outputs,)),
        _path(name),
    )  # fmt: skip


def _layer_norm(
    graph: GraphBuilder, x: str, name: str, config: TransformerConfig, weights: Weights
) -> str:
    shape = (config.width,)
    return graph.layer_norm(
        x, weights(f"{name}.weight", shape), weights(f"{name}.bias", shape), config.epsilon,
        _path(name),
    )  # fmt: skip


def _attention(
    graph: GraphBuilder,
    x: str,
    mask: str | None,
    name: str,
    config: TransformerConfig,
    weights: Weights,
) -> str:
    """Append multi-head self-attention; `mask` is added to the scores."""
    at = _path(name)
    head_dim = config.width // config.heads

    def split(part: str, order: list[int]) -> str:
        projected = _linear(graph, x, f"{name}.{part}", weights, config.width, config.width)
        shape = graph.dims(projected, (0, 1), (config.heads, head_dim), at)
        return graph.op(
            "Transpose", graph.op("Reshape", projected, shape, at=at), at=at, perm=order
        )

    query = split("query", [0, 2, 1, 3])
    key = split("key", [0, 2, 3, 1])
    value = split("value", [0, 2, 1, 3])
    scores = graph.op("MatMul", query, key, at=at)
    scores = graph.op("Div", scores, graph.constant(np.sqrt(head_dim), at=at), at=at)
    if mask is not None:
        scores = graph.op("Add", scores, mask, at=at)
    context = graph.op("MatMul", graph.op("Softmax", scores, at=at, axis=-1), value, at=at)
    context = graph.op("Transpose", context, at=at, perm=[0, 2, 1, 3])
    return graph.op("Reshape", context, graph.dims(context, (0, 1), (config.width,), at), at=at)


def _feed_forward(
    graph: GraphBuilder, x: str, name: str, config: TransformerConfig, weights: Weights
) -> str:
    wide = _linear(
        graph, x, f"{name}.intermediate.dense", weights, config.width, config.intermediate
    )
    active = graph.gelu(wide, _path(f"{name}.intermediate.intermediate_act_fn"))
    return _linear(graph, active, f"{name}.output.dense", weights, config.intermediate,
                   config.width)  # fmt: skip


def _bert_embeddings(graph: GraphBuilder, config: TransformerConfig, weights: Weights) -> str:
    """Return the sum of word, token type and position embeddings, normalized."""
    at = "embeddings"

    def table(part: str, size: int) -> str:
        name = f"embeddings.{part}_embeddings.weight"
        return graph.weight(name, weights(name, (size, config.width)))

    words = graph.op("Gather", table("word", config.vocabulary), "input_ids", at=at)
    types = graph.op("Gather", table("token_type", 2), "token_type_ids", at=at)
    ids = graph.weight("embeddings.position_ids", np.arange(config.positions, dtype=np.int64)[None])
    tokens = graph.dims("input_ids", (1,), (), at)
    start, axis, step = (graph.constant([n], "int64", at) for n in (0, 1, 1))
    ids = graph.op("Slice", ids, start, tokens, axis, step, at=at)
    positions = graph.op("Gather", table("position", config.positions), ids, at=at)
    total = graph.op("Add", graph.op("Add", words, types, at=at), positions, at=at)
    return _layer_norm(graph, total, "embeddings.LayerNorm", config, weights)


def _vit_embeddings(
    graph: GraphBuilder, config: TransformerConfig, weights: Weights, patches: int, patch: int
) -> str:
    """Return the patches' projections behind a class token, plus position embeddings."""
    at = "embeddings"
    name = "embeddings.patch_embeddings.projection"
    kernel = graph.weight(f"{name}.weight", weights(f"{name}.weight",
                          (config.width, 3, patch, patch)))  # fmt: skip
    bias = graph.weight(f"{name}.bias", weights(f"{name}.bias", (config.width,)))
    maps = graph.op(
        "Conv", "pixel_values", kernel, bias, at=at, dilations=[1, 1], group=1,
        kernel_shape=[patch, patch], pads=[0, 0, 0, 0], strides=[patch, patch],
    )  # fmt: skip
    flat = graph.op("Reshape", maps, graph.dims(maps, (0, 1), (-1,), at), at=at)
    tokens = graph.op("Transpose", flat, at=at, perm=[0, 2, 1])
    token = graph.weight("cls_token", weights("embeddings.cls_token", (1, 1, config.width)))
    # `cls_token.expand(batch, -1, -1)`: the exporter turns each -1 into a 1 at run time.
    shape = graph.dims("pixel_values", (0,), (-1, -1), at)
    ones = graph.op("ConstantOfShape", graph.op("Shape", shape, at=at), at=at,
                    value=numpy_helper.from_array(np.array([1], np.int64)))  # fmt: skip
    minus = graph.op("Mul", ones, graph.constant(-1, "int64", at), at=at)
    full = graph.op("Where", graph.op("Equal", shape, minus, at=at), ones, shape, at=at)
    first = graph.op("Expand", token, full, at=at)
    joined = graph.op("Concat", first, tokens, at=at, axis=1)
    places = weights("embeddings.position_embeddings", (1, patches + 1, config.width))
    return graph.op("Add", joined, graph.weight("position_embeddings", places), at=at)
