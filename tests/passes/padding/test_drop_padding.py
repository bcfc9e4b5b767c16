from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.padding.drop_padding import OUTPUTS, DropPadding, decision
from tvm_sparse.passes.padding.tokens import PaddingMap

OP, LANES, CHANNELS, HEADS = relax.op, 4, 6, 2
HIDDEN = np.finfo("float32").min


class Builder:
    """Builds a model of one attention, whose parts a test replaces."""

    def __init__(self, mask_dtype: str = "int64") -> None:
        rng = np.random.default_rng(0)
        self.builder = relax.BlockBuilder()
        self.batch, self.tokens = (tirx.Var(name, "int64") for name in ("batch", "tokens"))
        sizes = (self.batch, self.tokens)
        self.ids = relax.Var("ids", relax.TensorType(sizes, "int64"))
        self.mask = relax.Var("mask", relax.TensorType(sizes, mask_dtype))
        self.weight = relax.const(rng.standard_normal((CHANNELS, CHANNELS)).astype("float32"))
        self.table = relax.const(rng.standard_normal((9, CHANNELS)).astype("float32"))

    def emit(self, value, name=""):
        return self.builder.emit(value, name)

    def bias(self):
        m = self.emit(OP.astype(self.mask, "float32"))
        m = self.emit(OP.reshape(m, (self.batch, 1, 1, self.tokens)))
        away = self.emit(OP.subtract(relax.const(1, "float32"), m))
        return self.emit(OP.multiply(away, relax.const(HIDDEN, "float32")))

    def heads(self, x, *leading):
        return self.emit(OP.reshape(x, (*leading, HEADS, CHANNELS // HEADS)))

    def hidden(self, bias):
        x = self.emit(OP.take(self.table, self.ids, axis=0, mode="clip"), "words")
        q = self.heads(self.emit(OP.matmul(x, self.weight), "query"), self.batch, self.tokens)
        o = self.emit(OP.nn.attention(q, q, q, bias, 0.5), "attend")
        return self.emit(OP.reshape(o, (self.batch, self.tokens, CHANNELS)), "hidden")

    def mean(self, hidden):
        m = self.emit(OP.expand_dims(self.emit(OP.astype(self.mask, "float32")), 2))
        m = self.emit(OP.broadcast_to(m, (self.batch, self.tokens, CHANNELS)))
        return self.emit(OP.sum(self.emit(OP.multiply(hidden, m), "product"), 1), "pooled")

    def module(self, result) -> tvm.IRModule:
        """Return the model; an output has a name of its own, and no node's."""
        with self.builder.function("main", [self.ids, self.mask]):
            with self.builder.dataflow():
                out = self.builder.emit_output(result(self))
            self.builder.emit_func_output(out)
        return relax.transform.CanonicalizeBindings()(self.builder.get())


def embedding(mask_dtype="int64", bias=Builder.bias, pool=Builder.mean) -> tvm.IRModule:
    return Builder(mask_dtype).module(lambda b: pool(b, b.hidden(bias(b))))


def test_linear_layers_and_attention_work_on_packed_tokens():
    after = DropPadding("auto", LANES)(embedding())
    made = Builder()
    map_ = PaddingMap.of(made.mask, LANES)
    rows, batch, tokens = map_.source.ty.shape.values[0], made.batch, made.tokens
    emit = made.emit
    made.builder = relax.BlockBuilder()
    with made.builder.function("main", [made.ids, made.mask, *map_.inputs]):
        with made.builder.dataflow():

            def packed(value, shape):
                flat = emit(OP.reshape(value, (batch * tokens, *shape[2:])))
                return emit(OP.take(flat, map_.source, axis=0, mode="clip"))

            m = emit(OP.expand_dims(emit(OP.astype(made.mask, "float32")), 2))
            m = emit(OP.broadcast_to(m, (batch, tokens, CHANNELS)))
            x = emit(OP.take(made.table, packed(made.ids, (batch, tokens)), axis=0, mode="clip"))
            q = made.heads(emit(OP.matmul(x, made.weight)), rows, LANES)
            operands = [q, q, q, map_.first, map_.count]
            o = emit(operators.sentence_attention(operands, 0.5, tokens, None))
            hidden = emit(OP.reshape(o, (rows, LANES, CHANNELS)))
            product = emit(OP.multiply(hidden, packed(m, (batch, tokens, CHANNELS))))
            has_token = emit(OP.not_equal(made.mask, relax.const(0, "int64")))
            flat = emit(OP.reshape(product, (tirx.IntImm("int64", LANES) * rows, CHANNELS)))
            taken = emit(OP.take(flat, map_.place, axis=0, mode="clip"))
            has_token = emit(OP.reshape(has_token, (batch, tokens, 1)))
            padded = emit(OP.where(has_token, taken, relax.const(0, "float32")))
            out = made.builder.emit_output(OP.sum(padded, 1))
        made.builder.emit_func_output(out)
    expected = made.builder.get()
    names = [b.value.op.name for b in expected["main"].body.blocks[0].bindings]
    assert sorted(b.value.op.name for b in after["main"].body.blocks[0].bindings) == sorted(names)
    order = relax.transform.TopologicalSort("depth-first", "from-outputs")
    tvm.ir.assert_structural_equal(order(after)["main"], order(expected)["main"])
    assert decision(after)["mask"] == "mask"
    assert not decision(after)["keeps_first"]


def test_nothing_changes_if_padding_is_kept():
    before = embedding()
    tvm.ir.assert_structural_equal(DropPadding("keep", LANES)(before), before)


def where(b):
    seen = b.emit(OP.astype(b.mask, "bool"))
    seen = b.emit(OP.reshape(seen, (b.batch, 1, 1, b.tokens)))
    wide = b.emit(OP.broadcast_to(seen, (b.batch, 1, b.tokens, b.tokens)))
    nothing, hidden = (relax.const(n, "float32") for n in (0, -np.inf))
    return b.emit(OP.where(wide, nothing, hidden))


def gathered(b):
    """The mask at ``tokens * i + j``, as PyTorch exports it."""
    flat = b.emit(OP.reshape(b.emit(OP.astype(b.mask, "bool")), (b.batch * b.tokens, 1)))
    size = b.emit(OP.shape_to_tensor(b.emit(relax.ShapeExpr([b.tokens]))))
    i = b.emit(OP.multiply(b.emit(OP.arange(0, b.batch, 1, "int64")), size))
    i = b.emit(OP.reshape(i, (b.batch, 1, 1, 1)))
    j = b.emit(OP.reshape(b.emit(OP.arange(0, b.tokens, 1, "int64")), (1, 1, 1, b.tokens)))
    m = b.emit(OP.take(flat, b.emit(OP.add(i, j)), axis=0))
    m = b.emit(OP.reshape(m, (b.batch, 1, 1, b.tokens)))
    return b.emit(OP.where(m, relax.const(0.0, "float32"), relax.const(-3e38, "float32")))


def in_pairs(b):
    """The mask at ``(i, j)``, as the newer exporter writes it."""
    shape = (b.batch, 1, 1, b.tokens, 1)
    sizes = (b.batch, 1, 1, 1, 1), (1, 1, 1, b.tokens, 1)
    parts = [
        b.emit(OP.broadcast_to(b.emit(OP.reshape(b.emit(OP.arange(0, n, 1, "int64")), s)), shape))
        for n, s in zip((b.batch, b.tokens), sizes, strict=True)
    ]
    m = b.emit(OP.gather_nd(b.emit(OP.astype(b.mask, "bool")), b.emit(OP.concat(parts, 4))))
    return b.emit(OP.where(m, relax.const(0.0, "float32"), relax.const(-3e38, "float32")))


@pytest.mark.parametrize("mask_dtype", ["int64", "bool", "float32"])
@pytest.mark.parametrize("bias", [Builder.bias, where, gathered, in_pairs])
def test_masks_of_exporters_are_understood(mask_dtype, bias):
    after = DropPadding("auto", LANES)(embedding(mask_dtype, bias))
    assert decision(after).get("text") == "padding dropped (mask)"


def first(b, hidden):
    return b.emit(OP.take(hidden, relax.const(0, "int64"), axis=1), "cls")


def test_first_tokens_are_packed_even_if_the_mask_leaves_them_out():
    after = DropPadding("auto", LANES)(embedding(pool=first))
    assert decision(after)["keeps_first"]


def test_an_older_mask_is_no_proof_but_may_be_taken_for_one():
    def older(b):
        return b.emit(OP.maximum(Builder.bias(b), relax.const(-1e4, "float32")))

    before = embedding(bias=older)
    assert (
        "'attend' (attention) only adds -10000"
        in decision(DropPadding("auto", LANES)(before))["text"]
    )
    after = DropPadding("drop", LANES)(before)
    assert decision(after)["mask"] and not decision(after).get("refusal")


def weak(b):
    return b.emit(OP.multiply(Builder.bias(b), relax.const(1e-36, "float32")))


def of_queries(b):
    wide = b.emit(OP.expand_dims(b.emit(OP.astype(b.mask, "float32")), [1, 3]))
    return b.emit(OP.add(Builder.bias(b), wide))


def shifted(b):
    """The mask of another token."""
    m = b.emit(OP.astype(b.mask, "bool"))
    flat = b.emit(OP.reshape(m, (b.batch * b.tokens,)))
    j = b.emit(OP.reshape(b.emit(OP.arange(0, b.tokens, 1, "int64")), (1, 1, 1, b.tokens)))
    j = b.emit(OP.broadcast_to(j, (b.batch, 1, 1, b.tokens)))
    m = b.emit(OP.take(flat, j, axis=0))
    return b.emit(OP.where(m, relax.const(0.0, "float32"), relax.const(-3e38, "float32")))


@pytest.mark.parametrize("bias", [lambda b: None, weak, of_queries, shifted])
def test_attention_that_sees_padded_tokens_is_named(bias):
    before = embedding(bias=bias)
    assert decision(DropPadding("drop", LANES)(before))["refusal"].startswith(
        "padding cannot be dropped: 'attend' (attention) has no mask that gives each padded token"
    )
    after = DropPadding("auto", LANES)(before)
    assert decision(after)["text"].startswith("padding kept: 'attend'")
    tvm.ir.assert_structural_equal(after["main"], before["main"])


def test_of_fixed_sizes_nothing_is_said():
    sizes = {"batch": 2, "tokens": 5}
    fixed = relax.transform.BindSymbolicVars(sizes)(embedding(bias=lambda b: None))
    assert not decision(DropPadding("auto", LANES)(fixed))


@pytest.mark.parametrize(
    ("pool", "name"),
    [
        (lambda b, x: b.emit(OP.mean(x, 1), "average"), "'average' (mean)"),
        (lambda b, x: b.emit(OP.max(x, 1), "largest"), "'largest' (max)"),
        (lambda b, x: b.emit(OP.sum(x, 1), "total"), "'total' (sum)"),
        (lambda b, x: b.emit(OP.take(x, relax.const(1, "int64"), axis=1), "second"), "'second'"),
        (lambda b, x: b.emit(OP.cumsum(x, axis=1), "running"), "'running' (cumsum)"),
        (lambda b, x: b.emit(OP.nn.softmax(x, 1), "shares"), "'shares' (nn.softmax)"),
        (lambda b, x: b.emit(OP.permute_dims(x, [0, 2, 1]), "turned"), "'turned' (permute_dims)"),
    ],
)
def test_what_reads_padded_tokens_is_named(pool, name):
    before = embedding(pool=lambda b, hidden: b.emit(OP.nn.relu(pool(b, hidden))))
    refusal = decision(DropPadding("drop", LANES)(before))["refusal"]
    assert name in refusal
    assert "reads tokens that the mask leaves out" in refusal


def test_outputs_of_tokens_are_for_those_who_ask():
    before = embedding(pool=lambda b, hidden: hidden).with_attr(OUTPUTS, ["hidden"])
    after = DropPadding("auto", LANES)(before)
    assert "output 'hidden' has an axis of tokens" in decision(after)["text"]
    tvm.ir.assert_structural_equal(after["main"], before["main"])
    assert decision(DropPadding("drop", LANES)(before))["mask"] == "mask"


def test_models_without_a_mask_have_no_padding():
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(OP.nn.relu(x))
        builder.emit_func_output(out)
    assert not decision(DropPadding("auto", LANES)(builder.get()))
    refusal = decision(DropPadding("drop", LANES)(builder.get()))["refusal"]
    assert refusal == "padding='drop' is for models with a mask of tokens: it has no attention"
