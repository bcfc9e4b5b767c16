"""Rules of transformers and recurrent networks: linear layers, attention, LSTM and GRU."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.random_graphs.arithmetic import activate, scalar
from tvm_sparse.testing.random_graphs.graph import Graph
from tvm_sparse.testing.random_graphs.reductions import layer_norm
from tvm_sparse.testing.random_graphs.run_nodes import Array, Unfit

_WIDTHS = (1, 5, 8, 16, 16, 24, 32, 33, 48)


def linear(graph: Graph, x: str, width: int) -> str:
    """Add a linear layer over the last axis, in one of the forms that exporters write."""
    shape = graph.shape(x)
    weight = graph.weight([shape[-1], width], shape[-1])
    form = graph.choice(["matmul", "matmul", "transposed", "gemm", "reshaped"])
    bias = graph.vector(width)
    if form == "gemm" and len(shape) == 2:
        transposed = graph.chance(0.5)
        operands = [weight.T.copy() if transposed else weight]
        if graph.chance(0.7):
            operands.append(bias)
        return graph.add("Gemm", x, *operands, transB=int(transposed))
    if form == "reshaped" and len(shape) > 2:
        flat = graph.add("Reshape", x, np.array([-1, shape[-1]], "int64"))
        flat = graph.add("Gemm", flat, weight.T.copy(), bias, transB=1)
        return graph.add("Reshape", flat, np.array([*shape[:-1], width], "int64"))
    if form == "transposed":
        product = graph.add("MatMul", x, graph.add("Transpose", weight.T.copy(), perm=[1, 0]))
    else:
        product = graph.add("MatMul", x, weight)
    if graph.chance(0.3):
        return product
    return graph.add("Add", *((bias, product) if graph.chance(0.3) else (product, bias)))


def linear_layer(graph: Graph) -> list[str]:
    """Add a linear layer, perhaps with an activation and a residual."""
    x = graph.pick(lambda a: a.ndim > 0)
    width = graph.shape(x)[-1] if graph.chance(0.3) else graph.choice(_WIDTHS)
    y = linear(graph, x, width)
    if graph.chance(0.5):
        y = activate(graph, y)
    if graph.shape(y) == graph.shape(x) and graph.chance(0.6):
        y = graph.add("Add", *((x, y) if graph.chance(0.5) else (y, x)))
    return [y]


def linear_or_same(graph: Graph, x: str) -> str:
    """Return a tensor of the same shape: what a linear layer gives, or a function of it."""
    width = graph.shape(x)[-1]
    return linear(graph, x, width) if graph.chance(0.7) else activate(graph, x)


def feed_forward(graph: Graph) -> list[str]:
    """Add the feed-forward part of a transformer, with a normalization before or after it."""
    x = graph.pick(lambda a: a.ndim > 1 and a.shape[-1] > 3)
    width = graph.shape(x)[-1]
    first = graph.chance(0.5)
    inner = layer_norm(graph, x, len(graph.shape(x)) - 1)[0] if first else x
    hidden = linear(graph, inner, graph.choice([width, 2 * width, 17]))
    hidden = activate(graph, hidden)
    if graph.chance(0.3):
        hidden = graph.add("Mul", hidden, linear(graph, inner, graph.shape(hidden)[-1]))
    total = graph.add("Add", x, linear(graph, hidden, width))
    return [total] if first else layer_norm(graph, total, len(graph.shape(x)) - 1)


def general_matmul(graph: Graph) -> list[str]:
    """Multiply two tensors, or a constant from the left, or stacks of matrices."""
    x = graph.pick(lambda a: a.ndim > 1)
    shape = graph.shape(x)
    kind = graph.choice(["left", "stack", "both", "gram", "gemm"])
    if kind == "left":
        return [graph.add("MatMul", graph.weight([graph.between(1, 20), shape[-2]], shape[-2]), x)]
    if kind == "stack":
        weight = graph.weight([*shape[:-2], shape[-1], graph.choice(_WIDTHS)], shape[-1])
        return [graph.add("MatMul", x, weight)]
    if kind == "both":
        other = graph.pick(lambda a: a.ndim > 1 and a.shape[-2] == shape[-1])
        return [graph.add("MatMul", x, other)]
    if kind == "gemm" and len(shape) == 2:
        weight = graph.weight([shape[0], graph.choice(_WIDTHS)], shape[0])
        factors = {"alpha": graph.choice([1.0, 0.7]), "beta": graph.choice([1.0, 0.5])}
        return [graph.add("Gemm", x, weight, graph.vector(weight.shape[1]), transA=1, **factors)]
    perm = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    return [graph.add("MatMul", x, graph.add("Transpose", x, perm=perm))]


def _heads(graph: Graph, x: str, heads: int, perm: list[int]) -> str:
    batch, tokens, width = graph.shape(x)
    shape = [0 if graph.chance(0.3) else batch, tokens, heads, width // heads]
    if graph.chance(0.3):
        shape[graph.between(1, 2)] = -1
    return graph.add("Transpose", graph.add("Reshape", x, np.array(shape, "int64")), perm=perm)


def _masked(graph: Graph, scores: str) -> str:
    """Hide some of the keys, by a constant or by an input."""
    batch, _, queries, keys = graph.shape(scores)
    kind = graph.choice(["none", "none", "causal", "added", "chosen", "input"])
    if kind == "none":
        return scores
    hidden = np.float32(graph.choice([-1e4, -1e9, np.finfo("float32").min]))
    if kind == "input":
        return graph.add("Add", scores, graph.input(graph.normal([batch, 1, 1, keys])))
    visible = np.tril(np.ones((1, 1, queries, keys), bool))
    if kind == "chosen":
        mask = graph.rng.random((batch, 1, 1, keys)) < 0.7
        mask[..., 0] = True
        chosen = graph.input(mask)
        if graph.chance(0.5):
            return graph.add("Where", chosen, scores, np.asarray(hidden))
        kept = graph.add("Cast", chosen, to=1)
        added = graph.add("Mul", graph.add("Sub", scalar(graph, 1.0), kept), np.asarray(hidden))
        return graph.add("Add", scores, added)
    if kind == "causal":
        return graph.add("Where", visible, scores, np.asarray(hidden))
    return graph.add("Add", scores, np.where(visible, 0, hidden).astype("float32"))


def attention(graph: Graph) -> list[str]:
    """Add attention of several heads, of a sequence to itself or to another one."""
    x = graph.pick(lambda a: a.ndim == 3 and a.shape[2] > 3)
    batch, tokens, width = graph.shape(x)
    other = x
    if graph.chance(0.3):
        other = graph.pick(lambda a: a.ndim == 3 and a.shape[0] == batch)
    heads = graph.choice([1, 2, 2, 3, 4])
    inner = heads * graph.choice([3, 4, 8, 8, 16])
    q, k, v = _queries_keys_values(graph, x, other, inner)
    q, v = (_heads(graph, tensor, heads, [0, 2, 1, 3]) for tensor in (q, v))
    if graph.chance(0.5):
        k = _heads(graph, k, heads, [0, 2, 3, 1])
    else:
        k = graph.add("Transpose", _heads(graph, k, heads, [0, 2, 1, 3]), perm=[0, 1, 3, 2])
    root = (inner / heads) ** 0.5
    place = graph.choice(["query", "scores", "both", "none"])
    if place == "query":
        q = graph.add("Mul", q, scalar(graph, 1 / root))
    if place == "both":
        q, k = (graph.add("Mul", t, scalar(graph, root**-0.5)) for t in (q, k))
    scores = graph.add("MatMul", q, k)
    if place == "scores":
        scores = graph.add("Div", scores, scalar(graph, root))
    shares = graph.add("Softmax", _masked(graph, scores), axis=graph.choice([-1, 3]))
    mixed = graph.add("Transpose", graph.add("MatMul", shares, v), perm=[0, 2, 1, 3])
    merged = graph.add("Reshape", mixed, np.array([batch, tokens, inner], "int64"))
    if graph.chance(0.3):
        return [merged]
    y = linear(graph, merged, width)
    return [graph.add("Add", x, y) if graph.chance(0.6) else y]


def _queries_keys_values(graph: Graph, x: str, other: str, inner: int) -> tuple[str, str, str]:
    if x == other and graph.chance(0.3):
        joint = linear(graph, x, 3 * inner)
        sizes = np.array([inner] * 3, "int64")
        q, k, v = graph.add_all("Split", joint, sizes, outputs=3, axis=-1)
        return q, k, v
    return linear(graph, x, inner), linear(graph, other, inner), linear(graph, other, inner)


def plain_attention(graph: Graph) -> list[str]:
    """Add attention of one head, without linear layers."""
    x = graph.pick(lambda a: a.ndim in (2, 3) and a.shape[-1] > 1)
    shape = graph.shape(x)
    y = graph.pick(
        lambda a: a.ndim == len(shape) and a.shape[-1] == shape[-1] and a.shape[:-2] == shape[:-2]
    )
    perm = [0, 2, 1] if len(shape) == 3 else [1, 0]
    scores = graph.add("MatMul", x, graph.add("Transpose", y, perm=perm))
    scores = graph.add("Mul", scores, scalar(graph, shape[-1] ** -0.5))
    return [graph.add("MatMul", graph.add("Softmax", scores, axis=-1), y)]


def attention_node(graph: Graph) -> list[str]:
    """Add the operator Attention."""
    if graph.opset < 23:
        raise Unfit("Attention came with opset 23")
    x = graph.pick(lambda a: a.ndim == 3 and a.shape[2] % 2 == 0)
    width = graph.shape(x)[2]
    q, k, v = _queries_keys_values(graph, x, x, width)
    flags = {"q_num_heads": 2, "kv_num_heads": 2, "is_causal": graph.between(0, 1)}
    return [graph.add("Attention", q, k, v, **flags)]


def recurrent(graph: Graph) -> list[str]:
    """Add an LSTM, a GRU or an RNN over the first axis, in one or both directions."""
    x = graph.pick(lambda a: a.ndim == 3 and a.shape[0] <= 12)
    steps, batch, width = graph.shape(x)
    op_type = graph.choice(["LSTM", "LSTM", "GRU", "GRU", "RNN"])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    direction = graph.choice(["forward", "reverse", "bidirectional"])
    ways, hidden = 1 + (direction == "bidirectional"), graph.choice([3, 8, 16, 17])
    w = graph.weight([ways, gates * hidden, width], width)
    r = graph.weight([ways, gates * hidden, hidden], hidden)
    b = 0.3 * graph.normal([ways, 2 * gates * hidden]) if graph.chance(0.8) else None
    flags = {"direction": direction, "hidden_size": hidden}
    if op_type == "GRU":
        flags["linear_before_reset"] = graph.between(0, 1)
    lengths: Array | None = None
    if graph.chance(0.2):
        lengths = graph.rng.integers(1, steps + 1, batch).astype("int32")
    state = graph.normal([ways, batch, hidden]) if graph.chance(0.3) else None
    count = 3 if op_type == "LSTM" else 2
    outputs = graph.add_all(op_type, x, w, r, b, lengths, state, outputs=count, **flags)
    if graph.chance(0.3):
        return outputs[1:]
    joined = graph.add("Transpose", outputs[0], perm=[0, 2, 1, 3])
    return [graph.add("Reshape", joined, np.array([steps, batch, ways * hidden], "int64"))]


RULES = (
    (4.0, linear_layer),
    (2.0, feed_forward),
    (1.0, general_matmul),
    (2.0, attention),
    (0.7, plain_attention),
    (0.3, attention_node),
    (0.4, recurrent),
)
