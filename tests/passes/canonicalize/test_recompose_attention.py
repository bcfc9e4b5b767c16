import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.canonicalize.sink_views import SinkViews

B, S, H, D = 2, 5, 4, 8
LOWEST = float(np.finfo(np.float32).min)


def function(inputs, body):
    """A module whose main returns `body(emit, *inputs)`."""
    builder = relax.BlockBuilder()
    params = [
        relax.Var(name, relax.TensorType(shape, dtype)) for name, (shape, dtype) in inputs.items()
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = body(builder.emit, *params)
            y = builder.emit_output(result)
        builder.emit_func_output(y)
    return builder.finalize()


def f(value):
    return relax.const(value, "float32")


def heads(emit, x, order=(0, 2, 1, 3)):
    return emit(relax.op.permute_dims(emit(relax.op.reshape(x, (B, S, H, D))), order))


def joined(emit, y):
    y = emit(relax.op.permute_dims(y, (0, 2, 1, 3)))
    return emit(relax.op.reshape(y, (B, S, H * D)))


QKV = {name: ((B, S, H * D), "float32") for name in "qkv"}


def written_out(change_scores=None, change_weights=None, axis=-1, extra=None, q_scale=None):
    """softmax(q kT) v in heads, with changes to the scores, the weights or q."""

    def body(emit, q, k, v, *masks):
        q4 = heads(emit, q)
        if q_scale is not None:
            q4 = emit(q4 * f(q_scale))
        scores = emit(relax.op.matmul(q4, heads(emit, k, (0, 2, 3, 1))))
        if change_scores is not None:
            scores = change_scores(emit, scores, *masks)
        weights = emit(relax.op.nn.softmax(scores, axis))
        if change_weights is not None:
            weights = change_weights(emit, weights)
        return joined(emit, emit(relax.op.matmul(weights, heads(emit, v))))

    return function({**QKV, **(extra or {})}, body)


def recomposed(scale=1.0, bias=None, after=None, extra=None):
    def body(emit, q, k, v, *masks):
        mask = None if bias is None else bias(emit, *masks)
        q, k, v = (emit(relax.op.reshape(x, (B, S, H, D))) for x in (q, k, v))
        y = emit(relax.op.nn.attention(q, k, v, mask, scale))
        if after is not None:
            y = after(emit, y)
        return emit(relax.op.reshape(y, (B, S, H * D)))

    return function({**QKV, **(extra or {})}, body)


def signature(mod):
    """Operators with the types of their operands; names and order do not matter."""
    calls = []

    def visit(value):
        if isinstance(value, relax.Call):
            scale = getattr(value.attrs, "scale", None) if "attention" in value.op.name else None
            shapes = [str(arg.ty) for arg in value.args if not isinstance(arg, relax.ShapeExpr)]
            calls.append((value.op.name, shapes, None if scale is None else float(scale)))

    relax.analysis.post_order_visit(mod["main"], visit)
    return sorted(calls, key=str)


def check(before, expected):
    actual = RecomposeAttention()(before)
    relax.analysis.well_formed(actual)
    assert signature(actual) == signature(expected)


def test_attention_of_bert():
    @I.ir_module
    class Before:
        @R.function
        def main(
            q: R.Tensor((2, 5, 32), "float32"),
            k: R.Tensor((2, 5, 32), "float32"),
            v: R.Tensor((2, 5, 32), "float32"),
            mask: R.Tensor((2, 1, 1, 5), "float32"),
        ):
            with R.dataflow():
                q4 = R.reshape(q, (2, 5, 4, 8))
                qh = R.permute_dims(q4, axes=[0, 2, 1, 3])
                k4 = R.reshape(k, (2, 5, 4, 8))
                kh = R.permute_dims(k4, axes=[0, 2, 3, 1])
                v4 = R.reshape(v, (2, 5, 4, 8))
                vh = R.permute_dims(v4, axes=[0, 2, 1, 3])
                products = R.matmul(qh, kh)
                scaled = R.divide(products, R.const(4.0, "float32"))
                masked = R.add(scaled, mask)
                weights = R.nn.softmax(masked, axis=-1)
                context = R.matmul(weights, vh)
                tokens = R.permute_dims(context, axes=[0, 2, 1, 3])
                y = R.reshape(tokens, (2, 5, 32))
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            q: R.Tensor((2, 5, 32), "float32"),
            k: R.Tensor((2, 5, 32), "float32"),
            v: R.Tensor((2, 5, 32), "float32"),
            mask: R.Tensor((2, 1, 1, 5), "float32"),
        ):
            with R.dataflow():
                q4 = R.reshape(q, (2, 5, 4, 8))
                k4 = R.reshape(k, (2, 5, 4, 8))
                v4 = R.reshape(v, (2, 5, 4, 8))
                tokens = R.nn.attention_bias(q4, k4, v4, mask, scale=T.float32(0.25))
                y = R.reshape(tokens, (2, 5, 32))
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(RecomposeAttention()(Before), Expected, map_free_vars=True)


@pytest.mark.parametrize(
    ("before", "scale"),
    [
        (written_out(), 1.0),
        (written_out(lambda emit, s: emit(s * f(0.25))), 0.25),
        (written_out(q_scale=0.5), 0.5),
        (written_out(lambda emit, s: emit(s / f(2.0)), q_scale=0.5), 0.25),
    ],
    ids=["none", "scores", "q", "both"],
)
def test_scale_anywhere(before, scale):
    check(before, recomposed(scale))


KEYS = {"mask": ((B, 1, 1, S), "bool")}


def fill(emit, mask, value=LOWEST):
    return emit(relax.op.where(mask, f(0.0), f(value)))


@pytest.mark.parametrize(
    "masked",
    [
        lambda emit, s, m: emit(s + fill(emit, m)),
        lambda emit, s, m: emit(fill(emit, m) + s),
        lambda emit, s, m: emit(relax.op.where(m, s, f(LOWEST))),
        lambda emit, s, m: emit(s + emit(relax.op.broadcast_to(fill(emit, m), (B, 1, S, S)))),
        lambda emit, s, m: emit(s + fill(emit, emit(relax.op.broadcast_to(m, (B, H, S, S))))),
    ],
    ids=["added", "added first", "selected", "expanded", "expanded condition"],
)
def test_a_mask_over_keys_stays_narrow(masked):
    check(written_out(masked, extra=KEYS), recomposed(bias=fill, extra=KEYS))


def test_a_true_constant_in_the_mask_disappears():
    def masked(emit, scores, mask):
        every = relax.const(np.ones((B, 1, S, 1), bool))
        return emit(scores + fill(emit, emit(relax.op.logical_and(every, mask))))

    check(written_out(masked, extra=KEYS), recomposed(bias=fill, extra=KEYS))


def test_a_mask_of_zeros_disappears():
    check(
        written_out(lambda emit, s: emit(s + relax.const(np.zeros((B, 1, S, S)), "float32"))),
        recomposed(),
    )


def nan_to_zero(emit, x):
    return emit(relax.op.where(emit(relax.op.isnan(x)), f(0.0), x))


def test_the_guard_against_nan_is_dropped_with_a_finite_mask():
    before = written_out(lambda emit, s, m: emit(s + fill(emit, m)), nan_to_zero, extra=KEYS)
    check(before, recomposed(bias=fill, extra=KEYS))


def test_the_guard_against_nan_is_kept_with_an_infinite_mask():
    def infinite(emit, mask):
        return fill(emit, mask, -np.inf)

    before = written_out(lambda emit, s, m: emit(s + infinite(emit, m)), nan_to_zero, extra=KEYS)

    def guarded(emit, y):
        tokens = nan_to_zero(emit, emit(relax.op.reshape(y, (B, S, H * D))))
        return emit(relax.op.reshape(tokens, (B, S, H, D)))

    expected = recomposed(bias=infinite, after=guarded, extra=KEYS)
    check(before, SinkViews()(expected))


def test_heads_in_the_batch_axis():
    def body(emit, q, k, v):
        q3, k3, v3 = (emit(relax.op.reshape(heads(emit, x), (B * H, S, D))) for x in (q, k, v))
        scores = emit(relax.op.matmul(q3, emit(relax.op.permute_dims(k3, (0, 2, 1)))))
        weights = emit(relax.op.nn.softmax(scores, -1))
        context = emit(relax.op.matmul(weights, v3))
        return joined(emit, emit(relax.op.reshape(context, (B, H, S, D))))

    check(function(QKV, body), recomposed())


def test_one_layer_for_q_k_and_v():
    def body(emit, x):
        parts = emit(relax.op.reshape(x, (B, S, 3, H, D)))
        parts = emit(relax.op.permute_dims(parts, (2, 0, 3, 1, 4)))
        q, k, v = (emit(relax.op.take(parts, relax.const(i, "int64"), 0)) for i in range(3))
        scores = emit(relax.op.matmul(q, emit(relax.op.permute_dims(k, (0, 1, 3, 2)))))
        weights = emit(relax.op.nn.softmax(scores, -1))
        return joined(emit, emit(relax.op.matmul(weights, v)))

    def expected(emit, x):
        q, k, v = (
            emit(
                relax.op.reshape(
                    emit(relax.op.strided_slice(x, [2], [i * H * D], [(i + 1) * H * D])),
                    (B, S, H, D),
                )
            )
            for i in range(3)
        )
        return emit(
            relax.op.reshape(emit(relax.op.nn.attention(q, k, v, None, 1.0)), (B, S, H * D))
        )

    x = {"x": ((B, S, 3 * H * D), "float32")}
    check(function(x, body), function(x, expected))


@pytest.mark.parametrize(
    "before",
    [
        written_out(axis=-2),
        written_out(lambda emit, s: emit(relax.op.tanh(s))),
        # At -100 the score still counts where every key is masked.
        written_out(lambda emit, s, m: emit(relax.op.where(m, s, f(-100.0))), extra=KEYS),
        written_out(change_weights=lambda emit, w: emit(w * f(2.0))),
    ],
    ids=["axis", "capped scores", "small fill", "changed weights"],
)
def test_anything_else_stays(before):
    tvm.ir.assert_structural_equal(RecomposeAttention()(before), before)


def test_weights_with_another_reader_stay():
    def body(emit, q, k, v):
        scores = emit(relax.op.matmul(heads(emit, q), heads(emit, k, (0, 2, 3, 1))))
        weights = emit(relax.op.nn.softmax(scores, -1))
        context = joined(emit, emit(relax.op.matmul(weights, heads(emit, v))))
        return emit(relax.op.concat([emit(relax.op.flatten(y)) for y in (context, weights)], 0))

    names = [name for name, *_ in signature(RecomposeAttention()(function(QKV, body)))]
    assert names.count("relax.nn.softmax") == 1
    assert "relax.nn.attention" not in names
