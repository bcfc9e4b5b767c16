from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.passes.lower.apply_default_schedule import ApplyDefaultSchedule
from tvm_sparse.passes.lower.vectorize_math import VectorizeMath
from tvm_sparse.schedules.default.default import MOST_LOADS
from tvm_sparse.schedules.default.reduction import loads

OPS = relax.op


def module(build, shapes) -> tvm.IRModule:
    """Lower and fuse a function of tensors; ``((2, 3), "int64")`` is a shape with a dtype."""
    builder = relax.BlockBuilder()
    inputs = []
    for i, spec in enumerate(shapes):
        shape, dtype = spec if isinstance(spec[-1], str) else (spec, "float32")
        inputs.append(relax.Var(f"x{i}", relax.TensorType(shape, dtype)))
    with builder.function("main", inputs):
        with builder.dataflow():
            out = builder.emit_output(builder.normalize(build(builder, *inputs)))
        builder.emit_func_output(out)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(passes)(builder.get())


def run(mod: tvm.IRModule, inputs: list[np.ndarray]) -> np.ndarray:
    library = tvm.compile(mod, target=native().to_target())
    vm = relax.VirtualMachine(library, tvm.cpu())
    return vm["main"](*(tvm.runtime.tensor(x) for x in inputs)).numpy()


def check(build, shapes, rtol: float = 1e-4, atol: float = 1e-5, most: int = 4) -> tvm.IRModule:
    """Compare scheduled code with TVM's plain loops; returns the scheduled module.

    Integers are 0 to `most`, or to the largest one of their type.
    """
    before = module(build, shapes)
    random = np.random.default_rng(0)
    inputs = []
    for spec in shapes:
        shape, dtype = spec if isinstance(spec[-1], str) else (spec, "float32")
        shape = [e if isinstance(e, int) else 37 for e in shape]
        x = random.standard_normal(shape)
        if not dtype.startswith("float"):
            limit = 1 if dtype == "bool" else np.iinfo(dtype).max
            x = random.integers(0, min(most, limit), shape, endpoint=True)
        inputs.append(x.astype(dtype))
    after = tvm.transform.Sequential([ApplyDefaultSchedule(native()), VectorizeMath()])(before)
    want = run(VectorizeMath()(before), inputs)
    np.testing.assert_allclose(run(after, inputs), want, rtol=rtol, atol=atol)
    return after


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((128, 96), (96, 80)),
        ((37, 41), (41, 67)),
        ((1, 64), (64, 100)),
        ((1, 3, 33, 20), (20, 5)),
        ((2, 3, 35, 20), (2, 3, 20, 19)),
        ((2, 3, 1, 20), (1, 3, 20, 33)),
        ((7, 9), (9, 1)),
    ],
)
def test_matmul(a, b):
    check(lambda _, x, y: OPS.matmul(x, y), [a, b])


NUMBERS = ["float64", "int32", "int64", "uint8", "int8", "uint32"]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_products_of_other_types(dtype):
    shapes = [((37, 41), dtype), ((41, 67), dtype)]
    mod = check(lambda _, x, y: OPS.matmul(x, y), shapes, rtol=1e-12, atol=0, most=100)
    assert "Ramp" in mod.script() or "_tiled" in mod.script()


@pytest.mark.parametrize("rows", [1, 35])
def test_integer_products_are_summed_in_a_longer_type(rows):
    def build(bb, x, w):
        wide = [bb.emit(OPS.astype(value, "int32")) for value in (x, w)]
        return OPS.matmul(bb.emit(OPS.subtract(wide[0], relax.const(np.int32(7)))), wide[1])

    shapes = [((rows, 300), "uint8"), ((300, 50), "int8")]
    mod = check(build, shapes, rtol=0, atol=0, most=127)
    assert "_tiled" in mod.script()


@pytest.mark.parametrize("m", [1, 3, 40])
def test_matmul_by_transposed(m):
    def build(bb, x, w):
        return OPS.matmul(x, bb.emit(OPS.permute_dims(w)))

    check(build, [(m, 70), (33, 70)])


@pytest.mark.parametrize(
    ("x", "w", "arguments"),
    [
        ((1, 3, 20, 20), (8, 3, 3, 3), {"padding": 1}),
        ((2, 5, 17, 70), (7, 5, 3, 3), {"strides": 2, "padding": 1}),
        ((1, 3, 32, 48), (24, 3, 16, 16), {"strides": 16}),
        ((1, 8, 14, 14), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
        ((1, 8, 9, 9), (12, 4, 1, 1), {"groups": 2}),
    ],
)
def test_conv2d(x, w, arguments):
    check(lambda _, a, b: OPS.nn.conv2d(a, b, **arguments), [x, w])


def test_conv2d_with_epilogue():
    def build(bb, x, w, bias):
        y = bb.emit(OPS.nn.conv2d(x, w, padding=1))
        return OPS.nn.relu(bb.emit(OPS.add(y, bias)))

    check(build, [(1, 4, 18, 18), (16, 4, 3, 3), (1, 16, 1, 1)])


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, (1, 2)])
@pytest.mark.parametrize("op", [OPS.sum, OPS.mean, OPS.max, OPS.min])
def test_reductions(op, axis):
    check(lambda _, x: op(x, axis), [(5, 37, 70)])


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("op", [OPS.sum, OPS.max, OPS.min, OPS.prod])
@pytest.mark.parametrize("axis", [0, -1])
def test_reductions_of_other_types(op, axis, dtype):
    check(lambda _, x: op(x, axis), [((5, 37, 70), dtype)], rtol=1e-12, atol=0, most=100)


@pytest.mark.parametrize(
    "build",
    [
        lambda _, x: OPS.nn.softmax(x, -1),
        lambda _, x: OPS.nn.softmax(x, 1),
        lambda _, x: OPS.nn.log_softmax(x, -1),
        lambda _, x: OPS.variance(x, -1),
        lambda _, x: OPS.permute_dims(x, (2, 0, 1)),
        lambda _, x: OPS.permute_dims(x, (1, 0, 2)),
        lambda _, x: OPS.reshape(x, (-1,)),
        lambda _, x: OPS.concat([x, x], 1),
        lambda _, x: OPS.nn.pad(x, (0, 0, 1, 2, 3, 4)),
        lambda _, x: OPS.strided_slice(x, [1, 2], [1, 3], [30, 60], [1, 2]),
        lambda bb, x: OPS.erf(bb.emit(OPS.exp(bb.emit(OPS.multiply(x, x))))),
        lambda bb, x: OPS.add(x, bb.emit(OPS.sum(x, 2, keepdims=True))),
        lambda bb, x: OPS.divide(bb.emit(OPS.tanh(x)), bb.emit(OPS.sum(bb.emit(OPS.exp(x)), 0))),
        lambda _, x: OPS.cumsum(x, 1),
        lambda _, x: OPS.argmax(x, 2),
        lambda _, x: OPS.astype(x, "int32"),
        lambda _, x: OPS.broadcast_to(x, (3, 5, 37, 64)),
    ],
)
def test_others(build):
    check(build, [(5, 37, 64)])


@pytest.mark.parametrize("op", [OPS.nn.max_pool2d, OPS.nn.avg_pool2d])
def test_pooling(op):
    check(lambda _, x: op(x, (3, 3), (2, 2), (1, 1)), [(1, 8, 23, 50)])


def test_layer_norm():
    check(lambda _, x, g, b: OPS.nn.layer_norm(x, g, b, -1), [(2, 9, 70), (70,), (70,)])


@pytest.mark.parametrize("width", [5, 12, 37])
def test_what_tvm_computes_in_place_is_computed_once(width):
    """Both results lie where the reshaped input lay, so that a vector must not overlap another."""

    def build(bb, x, scale, bias, slope):
        normal = bb.emit(OPS.nn.group_norm(x, scale, bias, 2, 1, [2]))
        negative = bb.emit(OPS.less(normal, relax.const(0.0)))
        return OPS.where(negative, bb.emit(OPS.multiply(normal, slope)), normal)

    check(build, [(3, 8, width), (8,), (8,), (3, 8, width)])


def test_gather():
    check(lambda _, x, i: OPS.take(x, i, 0), [(50, 40), ((1, 7), "int64")])


def test_unknown_extent():
    n = tirx.Var("n", "int64")
    check(lambda _, x: OPS.nn.softmax(x, -1), [(4, n)])
    check(lambda _, x, y: OPS.matmul(x, y), [(n, 20), (20, 33)])
    check(lambda bb, x: OPS.exp(bb.emit(OPS.add(x, x))), [(n, 40)])


def test_large_loops_are_parallel_and_small_ones_are_not():
    def kinds(rows: int) -> str:
        mod = module(lambda _, x: OPS.nn.relu(x), [(rows, 768)])
        return ApplyDefaultSchedule(native())(mod).script()

    assert "T.parallel" in kinds(512)
    assert "T.parallel" not in kinds(4)


@pytest.mark.parametrize(("cpu", "register"), [("haswell", "ymm"), ("skylake-avx512", "zmm")])
def test_product_keeps_accumulators_in_registers(cpu, register):
    cpu = profile(cpu)
    mod = ApplyDefaultSchedule(cpu)(module(lambda _, x, y: OPS.matmul(x, y), [(96, 96)] * 2))
    func = mod["matmul"].with_attr("global_symbol", "main")
    source = tvm.compile(tvm.IRModule({"main": func}), target=cpu.to_target()).mod.inspect_source(
        "s"
    )
    products = re.findall(rf"vfmadd231ps\s+%{register}\d+, %{register}\d+, %{register}\d+", source)
    assert len(products) >= cpu.vector_registers // 2


@pytest.mark.parametrize("pixels", [64, 56, 49])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_elements_are_loaded_by_vectors_however_long_rows_are(dtype, pixels):
    other = "int32" if dtype == "float32" else "float32"
    shapes = [((1, 64, pixels, pixels), dtype)]
    mod = ApplyDefaultSchedule(profile("sapphirerapids"))(
        module(lambda _, x: OPS.astype(x, other), shapes)
    )
    func = mod["cast"].with_attr("global_symbol", "main")
    target = profile("sapphirerapids").to_target()
    source = tvm.compile(tvm.IRModule({"main": func}), target=target).mod.inspect_source("s")
    assert re.search(r"vcvt\w+\s.*zmm", source)
    assert not re.search(r"vpextr|vpinsr|gather|vmovsh", source)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_is_a_copy_per_input(axis):
    shapes = [[4, 5, 40], [4, 5, 40], [4, 5, 40]]
    for i, shape in enumerate(shapes):
        shape[axis] += i

    def build(bb, x, y, z):
        scaled = bb.emit(OPS.multiply(y, relax.const(2.0)))
        return OPS.concat([x, scaled, z], axis)

    scheduled = check(build, [tuple(shape) for shape in shapes])
    assert "if_then_else" not in scheduled.script()


def test_heads_of_a_detector():
    """Reshape, transpose and slices between concatenations: neither conditions nor divisions."""

    def build(bb, x, y, sides):
        heads = []
        for image, size in ((x, 20), (y, 10)):
            cells = bb.emit(OPS.reshape(image, (1, 3, 21, size, size)))
            cells = bb.emit(OPS.permute_dims(cells, [0, 1, 3, 4, 2]))
            boxes = bb.emit(OPS.strided_slice(cells, [4], [0], [2]))
            boxes = bb.emit(OPS.multiply(boxes, sides))
            rest = bb.emit(OPS.strided_slice(cells, [4], [2], [21]))
            cells = bb.emit(OPS.concat([boxes, rest], 4))
            heads.append(bb.emit(OPS.reshape(cells, (1, 3 * size * size, 21))))
        return OPS.concat(heads, 1)

    shapes = [(1, 63, 20, 20), (1, 63, 10, 10), (1, 3, 1, 1, 2)]
    script = check(build, shapes).script()
    assert "if_then_else" not in script
    stores = [line for line in script.splitlines() if "] = " in line and "T.let" not in line]
    assert stores and not [line for line in stores if "%" in line or "//" in line]


READS_A_SCALAR = {
    "concat": lambda bb, x: OPS.concat([x, x], 2),
    "pad": lambda bb, x: OPS.nn.pad(x, (0, 0, 1, 2, 3, 4)),
    "transpose": lambda bb, x: OPS.permute_dims(x, (0, 2, 1)),
    "transposed concat": lambda bb, x: OPS.concat([bb.emit(OPS.permute_dims(x, (2, 1, 0)))] * 2, 1),
    "sum of a row": lambda bb, x: OPS.sum(x, 2),
    "sum over the middle axis": lambda bb, x: OPS.sum(x, 1),
    "sum of all": lambda bb, x: OPS.sum(x),
    "softmax": lambda bb, x: OPS.nn.softmax(x, 1),
    "argmax": lambda bb, x: OPS.argmax(x, 2),
    "slice": lambda bb, x: OPS.strided_slice(x, [1, 2], [1, 3], [30, 60], [1, 2]),
    "repeat": lambda bb, x: OPS.tile(x, (1, 2, 3)),
}


@pytest.mark.parametrize("reader", READS_A_SCALAR.values(), ids=READS_A_SCALAR)
@pytest.mark.parametrize("operator", [OPS.divide, OPS.maximum, OPS.add])
def test_a_tensor_without_axes_is_read(operator, reader):
    """A scalar that is computed at run time, such as a maximum that everything is divided by."""

    def build(bb, x, scalar):
        return reader(bb, bb.emit(operator(x, scalar)))

    check(build, [(5, 37, 64), ((), "float32")])


def test_a_scalar_is_selected_and_copied():
    def build(bb, x, condition, scalar):
        joined = bb.emit(OPS.concat([x, x], 1))
        return OPS.permute_dims(bb.emit(OPS.where(condition, joined, scalar)), (0, 2, 1))

    check(build, [(2, 9, 32), ((1, 18, 1), "bool"), ((), "float32")])


@pytest.mark.parametrize(
    "dtype", ["int64", "int32", "uint8", "int8", "bool", "float64", "float16", "float32"]
)
@pytest.mark.parametrize(
    "copy",
    [
        lambda bb, x: OPS.permute_dims(x),
        lambda bb, x: OPS.concat([bb.emit(OPS.permute_dims(x)), x], 0),
        lambda bb, x: OPS.reshape(bb.emit(OPS.permute_dims(x)), (-1,)),
        lambda bb, x: OPS.strided_slice(
            bb.emit(OPS.concat([bb.emit(OPS.permute_dims(x)), x], 1)), [0, 1], [1, 2], [39, 70]
        ),
    ],
)
def test_copies_are_exact_in_every_type(dtype, copy):
    """The registers in which a tile is transposed hold values of the type that is copied."""
    check(copy, [((40, 40), dtype)], rtol=0, atol=0, most=2**62)


FUNCTIONS = {
    "sigmoid": OPS.sigmoid,
    "tanh": OPS.tanh,
    "erf": OPS.erf,
    "silu": OPS.nn.silu,
    "gelu": OPS.nn.gelu,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_are_not_nested(function):
    """A function of a function is an expression that takes TVM's passes minutes."""

    def build(bb, x):
        for _ in range(4):
            x = bb.emit(OPS.add(bb.emit(function(x)), relax.const(0.3)))
        return function(x)

    check(build, [(3, 8, 40)])
    plain = ApplyDefaultSchedule(native())(module(build, [(3, 8, 40)])).script()
    calls = [len(re.findall(r"T\.(?:sigmoid|tanh|erf)\(", line)) for line in plain.splitlines()]
    assert max(calls) == 1
    assert sum(calls) >= 5


def test_a_chain_that_doubles_its_operand_stays_small():
    def doubled(builder, x):
        for _ in range(40):
            x = builder.emit(OPS.add(x, x))
        return x

    (function,) = (
        f for f in check(doubled, [(4,)]).functions.values() if isinstance(f, tirx.PrimFunc)
    )
    assert len(loads(function.body)) <= 40 // 6 * MOST_LOADS + MOST_LOADS
