"""One library for many shapes: sizes that are variables of a Relax module."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import InputError
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import pruned

CHANNELS, HEADS, WIDE, WORDS = 32, 2, 64, 50


def plain(mod: tvm.IRModule):
    """Return ``main`` of a module that TVM compiles without our passes."""
    compiled = tvm.compile(mod, tvm.target.Target("llvm"))
    main = relax.VirtualMachine(compiled, tvm.cpu(), memory_cfg="naive")["main"]
    return lambda *arrays: main(*map(tvm.runtime.tensor, arrays)).numpy()


def transformer(bias: str = "keys", channels: int = CHANNELS) -> tvm.IRModule:
    """Return one layer of a transformer on ``ids, mask`` of any batch and sequence."""
    rng, builder = np.random.default_rng(0), relax.BlockBuilder()
    batch, sequence = (tirx.Var(name, "int64") for name in ("batch", "sequence"))
    op, emit, const = relax.op, builder.emit, relax.const
    ids = relax.Var("ids", relax.TensorType((batch, sequence), "int64"))
    mask = relax.Var("mask", relax.TensorType((batch, sequence), "float32"))
    ones, zeros = const(np.ones(channels, "float32")), const(np.zeros(channels, "float32"))

    def linear(x, k, n):
        weight = const(pruned(rng, (k, n), 0.2) / np.float32(np.sqrt(0.2 * k)))
        return emit(op.add(emit(op.matmul(x, weight)), const(np.full(n, 0.1, "float32"))))

    def norm(x):
        return emit(op.nn.layer_norm(x, ones, zeros, axes=[-1], epsilon=1e-5))

    def heads(x):
        split = emit(op.reshape(x, (batch, sequence, HEADS, channels // HEADS)))
        return emit(op.permute_dims(split, [0, 2, 1, 3]))

    with builder.function("main", [ids, mask]):
        with builder.dataflow():
            table = const(rng.standard_normal((WORDS, channels)).astype("float32"))
            x = norm(emit(op.take(table, ids, axis=0, mode="clip")))
            away = emit(op.multiply(emit(op.subtract(const(np.float32(1)), mask)), const(-3e38)))
            away = emit(op.expand_dims(away, [1, 2]))
            if bias == "queries":
                rows = emit(op.expand_dims(mask, [1, 3]))
                away = emit(op.add(away, rows))
            q, k, v = (linear(x, channels, channels) for _ in range(3))
            turned = emit(op.permute_dims(heads(k), [0, 1, 3, 2]))
            scores = emit(op.multiply(emit(op.matmul(heads(q), turned)), const(np.float32(0.25))))
            shares = emit(op.nn.softmax(emit(op.add(scores, away)), axis=-1))
            mixed = emit(op.permute_dims(emit(op.matmul(shares, heads(v))), [0, 2, 1, 3]))
            mixed = emit(op.reshape(mixed, (batch, sequence, channels)))
            x = norm(emit(op.add(x, linear(mixed, channels, channels))))
            wide = emit(op.nn.gelu(linear(x, channels, WIDE)))
            out = builder.emit_output(norm(emit(op.add(x, linear(wide, WIDE, channels)))))
        builder.emit_func_output(out)
    return builder.get()


def arrays(rng: np.random.Generator, batch: int, sequence: int) -> list[np.ndarray]:
    lengths = rng.integers(1, sequence + 1, (batch, 1))
    mask = (np.arange(sequence) < lengths).astype("float32")
    return [rng.integers(0, WORDS, (batch, sequence)), mask]


@pytest.fixture(scope="module")
def reference():
    return plain(transformer())


@pytest.fixture(scope="module")
def engine():
    return tvm_sparse.compile(transformer(), bounds={"sequence": 300})


@pytest.mark.parametrize(
    "options",
    [
        {"hints": {"batch": 8, "sequence": 500}},
        {"hints": {"batch": 1, "sequence": 3}, "columns": "off"},
        {"hints": {"batch": 16, "sequence": 200}, "columns": 3, "target": "x86-64-v3"},
    ],
)
def test_any_shape_whatever_the_hints(reference, options):
    engine = tvm_sparse.compile(transformer(), **options)
    assert not engine.report.kept_by_tvm
    rng = np.random.default_rng(0)
    longest = [int(rng.integers(1, limit)) for limit in (8, 40, 150) for _ in range(8)]
    for sequence in [1, 15, 16, 17, 31, 32, 33, *longest]:
        given = arrays(rng, int(rng.integers(1, 6)), sequence)
        (got,) = engine.run(given).values()
        np.testing.assert_allclose(got, reference(*given), rtol=1e-4, atol=2e-5)


def test_a_bias_for_each_query():
    reference, engine = plain(transformer("queries")), tvm_sparse.compile(transformer("queries"))
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 33), (2, 70)):
        given = arrays(rng, *shape)
        (got,) = engine.run(given).values()
        np.testing.assert_allclose(got, reference(*given), rtol=1e-4, atol=2e-5)


def test_names_are_shown_and_saved(engine, tmp_path):
    engine.save(tmp_path / "model.so")
    loaded = tvm_sparse.load(tmp_path / "model.so")
    for any_engine in (engine, loaded):
        assert [spec.shape for spec in any_engine.inputs] == [("batch", "sequence")] * 2
        assert any_engine.outputs[0].shape == ("batch", "sequence", CHANNELS)
        assert str(any_engine.inputs[0]) == "ids int64[batch, sequence]"
        assert any_engine.info.bounds == {"sequence": 300}
    given = arrays(np.random.default_rng(0), 3, 50)
    (a,), (b,) = engine.run(given).values(), loaded.run(given).values()
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5), (2, 6)), "'sequence' is 6, and 5 in input 'ids'"),
        (((2, 301), (2, 301)), "'sequence' is 301, and the library was compiled for up to 300"),
        (((2,), (2, 5)), r"expected shape \(batch, sequence\), got \(2,\)"),
        (((0, 5), (0, 5)), "'batch' is 0; it must be at least 1"),
    ],
)
def test_sizes_are_checked(engine, shapes, message):
    ids, mask = shapes
    with pytest.raises(InputError, match=message):
        engine.run([np.zeros(ids, "int64"), np.ones(mask, "float32")])


@pytest.mark.parametrize("option", ["hints", "bounds"])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"words": 3}, "'words', which is no dimension"), ({"batch": 0}, "'batch' the size 0")],
)
def test_sizes_are_for_dimensions_of_the_inputs(option, sizes, message):
    with pytest.raises(InputError, match=message):
        tvm_sparse.compile(transformer(), **{option: sizes})


def test_several_hints():
    hints = {"batch": 1, "sequence": (16, 200)}
    reference, engine = plain(transformer()), tvm_sparse.compile(transformer(), hints=hints)
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 16), (1, 56), (1, 57), (3, 100), (9, 10)):
        given = arrays(rng, *shape)
        (got,) = engine.run(given).values()
        np.testing.assert_allclose(got, reference(*given), rtol=1e-4, atol=2e-5)
    with pytest.raises(InputError, match="different numbers of them: 'batch' 2, 'sequence' 3"):
        tvm_sparse.compile(transformer(), hints={"batch": (1, 2), "sequence": (1, 2, 3)})
    with pytest.raises(InputError, match="'batch' the size 0"):
        tvm_sparse.compile(transformer(), hints={"batch": (1, 0)})


def test_what_keeps_the_lowering_of_tvm_is_named_once(caplog):
    width, builder = tirx.Var("width", "int64"), relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((5, 3, 8, width), "float32"))
    w = relax.Var("w", relax.TensorType((4, 3, 3, 3), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            y = builder.emit(relax.op.nn.conv2d(x, w, padding=1), "conv")
            out = builder.emit_output(relax.op.nn.avg_pool2d(y, (2, 2), padding=1))
        builder.emit_func_output(out)
    mod = builder.get()
    with caplog.at_level(logging.WARNING, "tvm_sparse"):
        engine = tvm_sparse.compile(mod)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "1 nn.conv2d (conv); 1 nn.avg_pool2d (" in warning
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(shape).astype("float32") for shape in ((5, 3, 8, 8), (4, 3, 3, 3))]
    (got,) = engine.run(given).values()
    np.testing.assert_allclose(got, plain(mod)(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["sapphirerapids", "rpi5"])
def test_float16_for_another_machine(target):
    engine = tvm_sparse.compile(transformer(channels=64), precision="auto", target=target)
    assert engine.info.precision is DType.FLOAT16
    assert ("amx-tile" in engine.info.instruction_sets) == (target == "sapphirerapids")


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
@pytest.mark.parametrize("bias", ["keys", "queries"])
@pytest.mark.parametrize("channels", [32, 64])  # heads of 32 channels fit the tiles of AMX
def test_float16_of_any_shape(bias, channels):
    mod = transformer(bias, channels)
    engine, reference = tvm_sparse.compile(mod, precision="float16"), plain(mod)
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 8), (3, 17), (2, 32), (5, 40), (1, 129), (2, 200)):
        given = arrays(rng, *shape)
        (got,) = engine.run(given).values()
        assert relative_rms(got, reference(*given)) < 5e-3


def resident_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
def test_two_hints_agree_on_random_shapes_and_memory_stays(engine):
    other = tvm_sparse.compile(transformer(), hints={"batch": 16, "sequence": 200}, columns=2)
    rng = np.random.default_rng(1)
    for _ in range(200):
        given = arrays(rng, int(rng.integers(1, 9)), int(rng.integers(1, 129)))
        (a,), (b,) = engine.run(given).values(), other.run(given).values()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    before = resident_mb()
    for _ in range(1000):
        engine.run(arrays(rng, int(rng.integers(1, 9)), int(rng.integers(1, 129))))
    assert resident_mb() < before + 8
