"""A tiny mixture of experts as torch.onnx writes the loop of transformers over its experts."""

from __future__ import annotations

import numpy as np

from tvm_sparse.testing.tiny_decoders import GraphWriter


def write_mixture(out: GraphWriter, x: str, width: int, experts: int, layer: int) -> str:
    """Append a mixture that sends each token to two experts; return the name of its result.

    Parameters
    ----------
    out : GraphWriter
        The graph.
    x : str
        The tokens ``(1, tokens, width)``.
    width : int
        Their channels.
    experts : int
        The experts.
    layer : int
        A number for names.
    """
    own, inner = f"moe{layer}_", 2 * width

    def weight(name: str, *shape: int) -> str:
        return out.weight(own + name, out.random(*shape, scale=shape[0] ** -0.5))

    flat, last = (
        out.weight(own + n, np.array(v)) for n, v in (("flat", [-1, width]), ("last", [-1]))
    )
    rows = out.node("Reshape", [x, flat], f"{own}rows")
    logits = out.node("MatMul", [rows, weight("router", width, experts)], f"{own}logits")
    likely = out.node("Softmax", [logits], f"{own}likely", axis=1)
    out.node("TopK", [likely, out.weight(f"{own}k", np.array([2]))], f"{own}top", f"{own}chosen")
    shares = out.node("ReduceSum", [f"{own}top", last], f"{own}sum", keepdims=1)
    shares = out.node("Div", [f"{own}top", shares], f"{own}shares")
    depth, values = (
        out.weight(f"{own}depth", np.array(experts)),
        out.weight(f"{own}on", np.arange(2)),
    )
    one_hot = out.node("OneHot", [f"{own}chosen", depth, values], f"{own}one_hot", axis=-1)
    is_sent = out.node("Transpose", [one_hot], f"{own}is_sent", perm=[2, 1, 0])
    total = out.node("Sub", [rows, rows], f"{own}zeros")
    for number in range(experts):
        e = f"{own}{number}_"
        mine = out.node("Gather", [is_sent, out.weight(f"{e}n", np.array(number))], f"{e}mine")
        places = out.node("NonZero", [mine], f"{e}places")
        rank, token = (
            out.node("Gather", [places, out.weight(f"{e}i{i}", np.array(i))], f"{e}place{i}")
            for i in range(2)
        )
        read = out.node("Gather", [rows, token], f"{e}read")
        gate, up = (
            out.node("MatMul", [read, weight(f"{number}_w_{part}", width, inner)], f"{e}{part}")
            for part in ("gate", "up")
        )
        active = out.node("Mul", [gate, out.node("Sigmoid", [gate], f"{e}s")], f"{e}silu")
        hidden = out.node("Mul", [active, up], f"{e}hidden")
        result = out.node("MatMul", [hidden, weight(f"{number}_w_down", inner, width)], f"{e}down")
        both = [out.node("Unsqueeze", [part, last], f"{part}_column") for part in (token, rank)]
        share = out.node("GatherND", [shares, out.node("Concat", both, f"{e}at", axis=-1)], f"{e}w")
        part = out.node(
            "Mul", [result, out.node("Unsqueeze", [share, last], f"{e}w_column")], f"{e}part"
        )
        total = out.node("ScatterND", [total, both[0], part], f"{e}total", reduction="add")
    return out.node("Reshape", [total, out.node("Shape", [x], f"{own}shape")], f"{own}result")
