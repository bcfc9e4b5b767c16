"""Sentences that are packed, against the padded execution of the same model."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.specs import TensorSpec
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import pruned

CHANNELS, HEADS, WORDS, MOST = 32, 2, 50, 300
LOWEST = float(np.finfo("float32").min)


def encoder(channels: int = CHANNELS, hidden: float = LOWEST) -> tvm.IRModule:
    """Return a layer of a transformer, and of its result: the tokens, their mean, the first one."""
    rng, builder = np.random.default_rng(0), relax.BlockBuilder()
    batch, tokens = (tirx.Var(name, "int64") for name in ("batch", "tokens"))
    op, emit, const = relax.op, builder.emit, relax.const
    ids, kinds, mask = (
        relax.Var(name, relax.TensorType((batch, tokens), "int64"))
        for name in ("ids", "kinds", "mask")
    )
    ones, zeros = const(np.ones(channels, "float32")), const(np.zeros(channels, "float32"))

    def linear(x, k, n):
        weight = const(pruned(rng, (k, n), 0.2) / np.float32(np.sqrt(0.2 * k)))
        return emit(op.add(emit(op.matmul(x, weight)), const(np.full(n, 0.1, "float32"))))

    def table(count, ids):
        rows = const(rng.standard_normal((count, channels)).astype("float32"))
        return emit(op.take(rows, ids, axis=0, mode="clip"))

    def norm(x):
        return emit(op.nn.layer_norm(x, ones, zeros, axes=[-1], epsilon=1e-5))

    def heads(x):
        return emit(op.reshape(x, (batch, tokens, HEADS, channels // HEADS)))

    with builder.function("main", [ids, kinds, mask]):
        with builder.dataflow():
            x = emit(op.add(table(WORDS, ids), table(2, kinds)))
            positions = emit(op.arange(0, tokens, 1, "int64"))
            x = norm(emit(op.add(x, table(MOST, positions))))
            seen = emit(op.astype(mask, "float32"))
            away = emit(op.subtract(const(1, "float32"), emit(op.expand_dims(seen, [1, 2]))))
            bias = emit(op.multiply(away, const(hidden, "float32")))
            q, k, v = (heads(linear(x, channels, channels)) for _ in range(3))
            mixed = emit(op.nn.attention(q, k, v, bias, 0.25))
            mixed = emit(op.reshape(mixed, (batch, tokens, channels)))
            x = norm(emit(op.add(x, linear(mixed, channels, channels))))
            wide = emit(op.nn.gelu(linear(x, channels, 2 * channels)))
            x = norm(emit(op.add(x, linear(wide, 2 * channels, channels))))
            counted = emit(op.maximum(emit(op.sum(seen, 1, True)), const(1e-9, "float32")))
            product = emit(op.multiply(x, emit(op.expand_dims(seen, [2]))))
            mean = emit(op.divide(emit(op.sum(product, 1)), counted))
            first = emit(op.take(x, const(0, "int64"), axis=1))
            out = builder.emit_output(relax.Tuple([x, mean, emit(op.tanh(first))]))
        builder.emit_func_output(out)
    return relax.transform.CanonicalizeBindings()(builder.get())


NAMES = TOKENS, MEAN, FIRST = ("output0", "output1", "output2")


@pytest.fixture(scope="module")
def dropped():
    return tvm_sparse.compile(encoder(), padding="drop", bounds={"tokens": MOST})


@pytest.fixture(scope="module")
def kept():
    return tvm_sparse.compile(encoder(), padding="auto", bounds={"tokens": MOST})


def masks(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> np.ndarray:
    place, lengths = np.arange(shape[1]), rng.integers(1, shape[1] + 1, (shape[0], 1))
    return {
        "full": np.ones(shape, bool),
        "right": place < lengths,
        "left": place >= shape[1] - lengths,
        "holes": rng.random(shape) < 0.5,
        "some empty": (place < lengths) & (np.arange(shape[0])[:, None] % 2 == 1),
        "empty": np.zeros(shape, bool),
    }[kind].astype("int64")


def arrays(rng: np.random.Generator, mask: np.ndarray) -> dict[str, np.ndarray]:
    ids, kinds = (rng.integers(0, most, mask.shape) for most in (WORDS, 2))
    return {"ids": ids, "kinds": kinds, "mask": mask}


@pytest.mark.parametrize("kind", ["full", "right", "left", "holes", "some empty", "empty"])
def test_valid_tokens_have_the_bits_of_the_padded_execution(dropped, kept, kind):
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 16), (3, 17), (2, 40), (7, 33)):
        given = arrays(rng, masks(rng, shape, kind))
        got, want = (list(engine.run(given).values()) for engine in (dropped, kept))
        valid = given["mask"].astype(bool)
        np.testing.assert_array_equal(got[0][valid], want[0][valid])
        assert not got[0][~valid].any()
        np.testing.assert_array_equal(got[1], want[1])
        some = valid.any(1)
        np.testing.assert_array_equal(got[2][some], want[2][some])
        assert not got[2][~some].any()


def test_masks_of_older_exporters_are_dropped_on_demand():
    dropped = tvm_sparse.compile(encoder(hidden=-1e4), padding="drop")
    kept = tvm_sparse.compile(encoder(hidden=-1e4), padding="keep")
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 17), (7, 33)):
        given = arrays(rng, masks(rng, shape, "right"))
        got, want = (list(engine.run(given).values()) for engine in (dropped, kept))
        valid = given["mask"].astype(bool)
        np.testing.assert_array_equal(got[0][valid], want[0][valid])
        np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
@pytest.mark.parametrize("channels", [32, 64])  # heads of 32 channels fit the tiles of AMX
def test_sentences_in_float16(channels):
    half, whole = (
        tvm_sparse.compile(encoder(channels), padding=padding, precision=precision)
        for padding, precision in (("drop", "float16"), ("keep", "float32"))
    )
    rng = np.random.default_rng(0)
    for kind in ("full", "right", "left", "holes"):
        for shape in ((1, 1), (3, 17), (7, 70)):
            given = arrays(rng, masks(rng, shape, kind) | (np.arange(shape[1]) == 0))
            (got, *means), (want, *others) = (e.run(given).values() for e in (half, whole))
            valid = given["mask"].astype(bool)
            assert relative_rms(got[valid], want[valid]) < 5e-3
            assert not got[~valid].any()
            for mean, other in zip(means, others, strict=True):
                assert relative_rms(mean, other) < 5e-3


def test_sentences_of_any_length(dropped):
    rng = np.random.default_rng(1)
    for lengths in ([1], [40], [16, 32], [0, 5], [0], [3, 100, 1, 17, 33, 0, 64, 2]):
        sentences = [arrays(rng, np.ones(n, "int64")) for n in lengths]
        names = list(sentences[0])
        columns = {name: [one[name] for one in sentences] for name in names}
        without = [{k: v for k, v in one.items() if k != "mask"} for one in sentences]
        got = dropped.run_packed(sentences)
        for form in (columns, without):
            for one, other in zip(got, dropped.run_packed(form), strict=True):
                assert all(np.array_equal(one[name], other[name]) for name in one)
        for n, given, one in zip(lengths, sentences, got, strict=True):
            tokens, mean, first = one.values()
            assert tokens.shape == (n, CHANNELS)
            assert mean.shape == first.shape == (CHANNELS,)
            if not n:
                assert not mean.any() and not first.any()
                continue
            alone = dropped.run({name: values[None] for name, values in given.items()})
            for a, b in zip(one.values(), alone.values(), strict=True):
                np.testing.assert_array_equal(a, b[0])
    assert dropped.run_packed([]) == []


def test_masks_of_packed_sentences_may_have_holes(dropped):
    rng = np.random.default_rng(2)
    mask = np.array([1, 0, 1, 1, 0])
    given = arrays(rng, mask)
    (one,) = dropped.run_packed([given])
    alone = dropped.run({name: values[None] for name, values in given.items()})
    for a, b in zip(one.values(), alone.values(), strict=True):
        np.testing.assert_array_equal(a, b[0])


IDS = np.zeros(3, "int64")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([IDS], r"a sentence has 2 inputs \(ids, kinds\): give a dict"),
        ([{"ids": IDS}], "sentence 0: missing input 'kinds'"),
        ([{"ids": IDS, "kinds": IDS, "word": IDS}], "unknown input 'word'"),
        (
            [{"ids": IDS, "kinds": IDS[:2]}],
            "sentence 0 has different numbers of tokens: 3 in 'ids'",
        ),
        ({"ids": [IDS], "kinds": [IDS, IDS]}, "different numbers of sentences: 1 for 'ids', 2 for"),
        ([{"ids": IDS[None], "kinds": IDS}], r"sentence 0, input 'ids': expected one axis"),
        ([{"ids": IDS / 2, "kinds": IDS}], r"input 'ids': expected dtype int64, got float64"),
        ([{"ids": [0] * 301, "kinds": [0] * 301}], "'tokens' is 301, and the library was compiled"),
        (IDS, "sentences must be a list of arrays or of dicts"),
    ],
)
def test_sentences_are_checked(dropped, sentences, message):
    with pytest.raises(InputError, match=message):
        dropped.run_packed(sentences)


def test_numbers_beside_0_and_1_are_no_mask(dropped):
    with pytest.raises(InputError, match="input 'mask' holds other numbers than 0 and 1"):
        dropped.run([IDS[None], IDS[None], IDS[None] + 2])


def test_what_was_decided_is_said_and_saved(dropped, kept, tmp_path):
    assert dropped.report.padding == "padding dropped (mask)"
    assert "padding dropped (mask)" in str(dropped.report)
    assert "padding kept: output" in str(kept.report)
    assert not kept.info.mask
    with pytest.raises(InputError, match="the library computes padded tokens"):
        kept.run_packed([IDS])
    dropped.save(tmp_path / "model.so")
    loaded = tvm_sparse.load(tmp_path / "model.so")
    assert loaded.info.mask == "mask"
    one = {"ids": IDS, "kinds": IDS}
    (a,), (b,) = dropped.run_packed([one]), loaded.run_packed([one])
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_what_cannot_be_dropped_is_an_error():
    x = relax.Var("x", relax.TensorType((tirx.Var("batch", "int64"), 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(out)
    with pytest.raises(ModelError, match="is for models with a mask of tokens"):
        tvm_sparse.compile(builder.get(), padding="drop")
    with pytest.raises(InputError, match="padding must be one of 'keep', 'drop', 'auto'"):
        tvm_sparse.compile(builder.get(), padding="remove")


def test_dimensions_may_be_fixed(dropped):
    fixed = encoder()
    main = fixed["main"].bind_symbolic_vars({"batch": 3, "tokens": 20})
    fixed.update_func(fixed.get_global_var("main"), main)
    engine = tvm_sparse.compile(fixed, padding="drop")
    assert engine.inputs[0] == TensorSpec("ids", (3, 20), "int64")
    rng = np.random.default_rng(0)
    given = arrays(rng, masks(rng, (3, 20), "right"))
    for a, b in zip(engine.run(given).values(), dropped.run(given).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="sentence 1 has 21 tokens, and the library takes 20"):
        one, long = ({"ids": [0] * n, "kinds": [0] * n} for n in (1, 21))
        engine.run_packed([one, long, one])
