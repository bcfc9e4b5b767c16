"""What compiling says of pruned layers: each is sparse, or a reason is stated.

The file is long because it has one small model for each reason.
"""

import dataclasses
import logging

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper, numpy_helper
from tvm import relax

import tvm_sparse
from tvm_sparse.compile_report import CompileReport
from tvm_sparse.errors import ModelError
from tvm_sparse.frontends.onnx_file import read_model
from tvm_sparse.frontends.onnx_layers import file_layers
from tvm_sparse.layer_report import LayerReport
from tvm_sparse.report.analysis import analyze
from tvm_sparse.testing.models import pruned, write_mlp, write_onnx

HASWELL = tvm.target.Target({"kind": "llvm", "mcpu": "haswell"})


def weights(*shape, density=0.1):
    return pruned(np.random.default_rng(0), shape, density)


def module(body, shape, *parameters, dtype="float32"):
    """Return a Relax module whose function ``main`` takes one input and perhaps parameters."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, dtype))
    with builder.function("main", [x, *parameters]):
        with builder.dataflow():
            y = builder.emit_output(body(builder.emit, x))
        builder.emit_func_output(y)
    return builder.get()


def product(dtype="float32", shape=(64, 256), weight=None):
    constant = relax.const(weights(256, 512) if weight is None else weight, dtype)
    return module(lambda emit, x: relax.op.matmul(x, constant), shape, dtype=dtype)


def product_of_parameter(view):
    w = relax.Var("w", relax.TensorType((512, 256) if view else (256, 512), "float32"))
    return module(
        lambda emit, x: relax.op.matmul(x, emit(relax.op.permute_dims(w)) if view else w),
        (64, 256),
        w,
    )


def left_product():
    constant = relax.const(weights(2, 256, 512))
    return module(lambda emit, x: relax.op.matmul(constant, x), (2, 512, 64))


def convolution(operator, shape, weight, **attributes):
    constant = relax.const(weight)
    return module(lambda emit, x: operator(x, constant, **attributes), shape)


DENSE = {
    "float64": (lambda: product("float64"), "it computes in float64"),
    "parameter": (lambda: product_of_parameter(view=False), "is a parameter"),
    "view of a parameter": (lambda: product_of_parameter(view=True), "is a parameter"),
    "left operand": (left_product, "left operand"),
    "rank of the weight": (
        lambda: product(shape=(2, 64, 256), weight=weights(2, 256, 512)),
        "rank 3",
    ),
    "einsum": (
        lambda: module(
            lambda emit, x: relax.op.einsum((x, relax.const(weights(64, 80))), "bij,jk->bik"),
            (2, 20, 64),
        ),
        "einsum",
    ),
    "conv3d": (
        lambda: convolution(relax.op.nn.conv3d, (1, 8, 6, 6, 6), weights(16, 8, 3, 3, 3)),
        "nn.conv3d",
    ),
    "conv2d_transpose": (
        lambda: convolution(
            relax.op.nn.conv2d_transpose, (1, 32, 8, 8), weights(32, 32, 2, 2), strides=9
        ),
        "nn.conv2d_transpose",
    ),
    "groups": (
        lambda: convolution(relax.op.nn.conv2d, (1, 32, 8, 8), weights(64, 16, 3, 3), groups=2),
        "in groups",
    ),
    "layout": (
        lambda: convolution(
            relax.op.nn.conv2d, (1, 8, 8, 32), weights(64, 32, 3, 3), data_layout="NHWC"
        ),
        "layouts",
    ),
}


class TestTvmBuilds:
    """TVM builds Relax modules by the name of our pipeline; what it says goes to a logger."""

    @pytest.mark.parametrize("case", DENSE)
    def test_a_dense_layer_is_warned_of(self, case, caplog):
        make, reason = DENSE[case]
        with caplog.at_level(logging.WARNING, "tvm_sparse"):
            tvm.compile(make(), HASWELL, relax_pipeline="tvm_sparse")
        (message,) = (r.getMessage() for r in caplog.records if r.name == "tvm_sparse")
        assert "layer is not sparse: " in message
        assert reason in message

    @pytest.mark.parametrize(
        "make",
        [
            product,
            lambda: product("float64", weight=weights(256, 512, density=1.0)),
            lambda: product("float64", (4, 8), weights(8, 8)),
        ],
        ids=["sparse", "not pruned", "tiny"],
    )
    def test_other_layers_are_not(self, make, caplog):
        with caplog.at_level(logging.WARNING, "tvm_sparse"):
            tvm.compile(make(), HASWELL, relax_pipeline="tvm_sparse")
        assert not caplog.records

    def test_strict(self):
        pipeline = relax.get_pipeline("tvm_sparse", strict=True)
        with pytest.raises(RuntimeError, match="it computes in float64"):
            tvm.compile(product("float64"), HASWELL, relax_pipeline=pipeline)
        tvm.compile(product(), HASWELL, relax_pipeline=pipeline)


class TestEngineReport:
    def test_it_has_layers_regions_and_seconds(self, tmp_path):
        path = write_mlp(tmp_path / "mlp.onnx")
        report = tvm_sparse.compile(path, {"x": (2, 40, 32)}, "haswell", threads=2).report
        up, _ = report.layers
        assert (up.name, up.binding, up.operator) == ("/up/MatMul", "up_MatMul", "matmul")
        assert up.binding in report.regions[up.region]["layers"]
        assert report.seconds > 0
        assert report.threads == 2
        assert report.warnings == ()
        with pytest.raises(dataclasses.FrozenInstanceError):
            report.seconds = 1.0
        apart = tvm_sparse.compile(path, {"x": (2, 40, 32)}, "haswell", columns="off").report
        assert apart.regions == () and apart.seconds > 0

    def test_a_loaded_library_has_none(self, tmp_path):
        path = write_mlp(tmp_path / "mlp.onnx")
        tvm_sparse.compile(path, {"x": (1, 2, 32)}).save(tmp_path / "mlp.so")
        assert tvm_sparse.load(tmp_path / "mlp.so").report is None

    def test_strict(self):
        with pytest.raises(ModelError, match=r"not sparse: .*: it computes in float64"):
            tvm_sparse.compile(product("float64"), strict=True)
        assert tvm_sparse.compile(product(), strict=True).report.warnings == ()


def layer(name, density, kernel="sparse_linear", reason="why", refused=False, size=100):
    return LayerReport(name, "matmul", (size, size), density, kernel, reason, is_refused=refused)


class TestSummary:
    def test_all_sparse(self):
        report = CompileReport((layer("a", 0.1), layer("b", 0.2)), seconds=6.8e-4, threads=2)
        expected = "2 of 2 pruned layers sparse (85.0% zeros); 0.68 ms expected on 2 threads"
        assert str(report) == expected

    def test_dense_layers_are_grouped_by_reason(self):
        small = [layer(f"s{i}", 0.1, "linear", "small") for i in range(5)]
        report = CompileReport((layer("a", 0.1), *small, layer("b", 0.5, "linear", "slower")))
        dense = "6 dense: s0, s1, s2 and 2 more (small), b (slower)"
        assert str(report) == f"1 of 7 pruned layers sparse (84.3% zeros), {dense}"

    def test_layers_that_are_not_pruned(self):
        report = CompileReport((layer("a", 0.1), layer("head", 1.0, "linear")))
        assert str(report) == "1 of 1 pruned layer sparse (90.0% zeros), 1 not pruned: head"
        assert str(CompileReport((layer("head", 1.0),))) == (
            "no pruned layers among 1 with weights"
        )

    def test_warnings_are_grouped_by_reason(self):
        lost = [layer(f"r{i}", 0.1, "default", "rank", refused=True) for i in range(4)]
        unknown = layer("p", None, "default", "parameter", refused=True)
        report = CompileReport((*lost, unknown, layer("s", 0.1, "linear", "small")))
        assert report.warnings == (
            "4 pruned layers are not sparse: r0, r1, r2 and 1 more: rank",
            "a layer is not sparse: p: parameter",
        )


def nodes_of(*nodes):
    return [helper.make_node(op, list(i), list(o), name=name, **a) for op, i, o, name, a in nodes]


class TestFileLayers:
    """`analyze` lists every layer with a weight by its name in the file."""

    def model(self, tmp_path, nodes, inputs, initializers, output="y"):
        return write_onnx(tmp_path / "m.onnx", nodes_of(*nodes), inputs, [output], initializers)

    def layers(self, path):
        return [(f.name, f.operator, f.shape, f.nonzeros) for f in file_layers(*read_model(path))]

    @pytest.mark.parametrize("operator", ["QDQ", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul"])
    @pytest.mark.parametrize("is_single", [False, True])
    def test_zero_points(self, tmp_path, operator, is_single):
        """A weight is zero where it equals the zero point of its output channel."""
        rng = np.random.default_rng(0)
        zeros = np.array([117] if is_single else rng.integers(100, 150, 8), "uint8")
        values = rng.integers(0, 256, (12, 8)).astype("uint8")
        values[rng.random(values.shape) < 0.5] = 0
        values = np.where(values == 0, zeros, values)
        of_weight = {"w": values, "z": zeros, "s": np.full(zeros.shape, 0.1, "float32")}
        of_input = {"one": np.float32(0.1), "zero": np.uint8(3)}
        given = ("q", "one", "zero")
        rounding = ("QuantizeLinear", ("x", "one", "zero"), ("q",), "rounding", {})
        nodes = {
            "QDQ": [
                ("DequantizeLinear", given, ("f",), "input", {}),
                ("DequantizeLinear", ("w", "s", "z"), ("v",), "weight", {"axis": 1}),
                ("MatMul", ("f", "v"), ("y",), "layer", {}),
            ],
            "QGemm": [("QGemm", (*given, "w", "s", "z"), ("y",), "layer", {})],
            "MatMulInteger": [("MatMulInteger", ("q", "w", "zero", "z"), ("y",), "layer", {})],
            "DynamicQuantizeMatMul": [
                ("DynamicQuantizeMatMul", ("x", "w", "s", "z"), ("y",), "layer", {})
            ],
        }[operator]
        constants = {**of_weight, **of_input}
        path = self.model(tmp_path, [rounding, *nodes], {"x": [1, 12]}, constants)
        ((name, _, shape, nonzeros),) = self.layers(path)
        assert (name, shape) == ("layer", (12, 8))
        assert nonzeros == np.count_nonzero(values != zeros)

    def test_operators(self, tmp_path):
        nodes = [
            ("Conv", ("x", "c1"), ("a",), "conv1d", {"pads": [1, 1]}),
            ("ConvTranspose", ("a", "c2"), ("b",), "up", {}),
            ("Transpose", ("b",), ("t",), "turn", {"perm": [2, 0, 1]}),
            ("LSTM", ("t", "w", "r"), ("l", "h"), "lstm", {"hidden_size": 20}),
            ("Squeeze", ("h", "axis"), ("s",), "squeeze", {}),
            ("Gemm", ("s", "g"), ("m",), "gemm", {"transB": 1}),
            ("Einsum", ("m", "e"), ("y",), "einsum", {"equation": "ij,jk->ik"}),
        ]
        initializers = {
            "c1": weights(16, 16, 3),
            "c2": weights(16, 24, 2),
            "w": weights(1, 80, 24),
            "r": weights(1, 80, 20),
            "axis": np.array([0]),
            "g": weights(40, 20),
            "e": weights(40, 30),
        }
        path = self.model(tmp_path, nodes, {"x": [1, 16, 50]}, initializers)
        of = {name: (array.shape, np.count_nonzero(array)) for name, array in initializers.items()}
        assert self.layers(path) == [
            ("conv1d", "Conv", *of["c1"]),
            ("up", "ConvTranspose", *of["c2"]),
            ("lstm", "LSTM", *of["w"]),
            ("lstm", "LSTM", *of["r"]),
            ("gemm", "Gemm", *of["g"]),
            ("einsum", "Einsum", *of["e"]),
        ]

    def test_weights_behind_constant_nodes(self, tmp_path):
        quantized = np.random.default_rng(0).integers(7, 9, (64, 48), np.uint8)
        nodes = [
            ("DequantizeLinear", ("q", "scale", "zero"), ("d",), "dequantize", {}),
            ("Transpose", ("d",), ("t",), "transpose", {}),
            ("MatMul", ("x", "t"), ("y",), "/m", {}),
        ]
        initializers = {
            "q": quantized,
            "scale": np.array(0.1, np.float32),
            "zero": np.array(8, np.uint8),
        }
        path = self.model(tmp_path, nodes, {"x": [4, 48]}, initializers)
        assert self.layers(path) == [("/m", "MatMul", (64, 48), np.count_nonzero(quantized != 8))]
        (found,) = analyze(path, target="haswell").layers
        assert (found.name, found.operator, found.shape) == ("/m", "matmul", (48, 64))

    def test_neither_constant_nor_dead_nodes(self, tmp_path):
        nodes = [
            ("MatMul", ("w", "v"), ("c",), "constant", {}),
            ("MatMul", ("x", "v"), ("dead",), "dead", {}),
            ("MatMul", ("x", "c"), ("y",), "live", {}),
        ]
        initializers = {"w": weights(20, 20), "v": weights(20, 20)}
        path = self.model(tmp_path, nodes, {"x": [4, 20]}, initializers)
        assert [name for name, *_ in self.layers(path)] == ["live"]

    def test_sparse_initializers(self, tmp_path):
        path = self.model(
            tmp_path,
            [("MatMul", ("x", "w"), ("y",), "m", {})],
            {"x": [4, 32]},
            {"w": weights(32, 40)},
        )
        proto = onnx.load(path)
        (dense,) = proto.graph.initializer
        array = numpy_helper.to_array(dense)
        values = numpy_helper.from_array(array[array != 0], "w")
        indices = numpy_helper.from_array(np.flatnonzero(array))
        proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [32, 40]))
        del proto.graph.initializer[:]
        onnx.save(proto, path)
        assert self.layers(path) == [("m", "MatMul", (32, 40), np.count_nonzero(array))]

    @pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    def test_recurrent_layers(self, tmp_path, operator, gates):
        nodes = [(operator, ("x", "w", "r"), ("y",), "/cell", {"hidden_size": 64})]
        initializers = {"w": weights(1, 64 * gates, 96), "r": weights(1, 64 * gates, 64)}
        path = self.model(tmp_path, nodes, {"x": [40, 1, 96]}, initializers)
        inputs, state = analyze(path, target="haswell").layers
        assert (inputs.name, state.name) == ("/cell", "/cell")
        assert inputs.is_sparse
        assert (state.kernel, state.shape) == ("sparse_recurrent", (1, 64 * gates, 64))
        assert state.is_sparse and not state.is_lost

    @pytest.mark.parametrize("columns", [[24, 24], [24, 30]])
    def test_weights_that_are_joined(self, tmp_path, columns):
        halves = {f"w{i}": weights(32, n) for i, n in enumerate(columns)}
        nodes = [
            ("Concat", tuple(halves), ("w",), "join", {"axis": 1}),
            ("MatMul", ("x", "w"), ("y",), "/both", {}),
        ]
        path = self.model(tmp_path, nodes, {"x": [8, 32]}, halves)
        ((name, operator, shape, nonzeros),) = self.layers(path)
        assert (name, operator) == ("/both", "MatMul")
        assert np.prod(shape) == 32 * sum(columns)
        assert nonzeros == sum(np.count_nonzero(half) for half in halves.values())

    def test_slices_that_are_joined_are_their_tensor(self, tmp_path):
        at = {f"at{i}": np.array([16 * i]) for i in range(3)}
        nodes = [
            ("Slice", ("w", "at1", "at2"), ("lower",), "", {}),
            ("Slice", ("w", "at0", "at1"), ("upper",), "", {}),
            ("Concat", ("lower", "upper"), ("turned",), "", {"axis": 0}),
            ("MatMul", ("x", "turned"), ("y",), "/turned", {}),
        ]
        w = weights(32, 48)
        path = self.model(tmp_path, nodes, {"x": [8, 32]}, {"w": w, **at})
        assert self.layers(path) == [("/turned", "MatMul", (32, 48), np.count_nonzero(w))]

    def test_analyze_names_every_layer(self, tmp_path):
        nodes = [
            ("Gather", ("table", "x"), ("e",), "/embed", {}),
            ("MatMul", ("e", "w"), ("h",), "/up", {}),
            ("Transpose", ("h",), ("t",), "turn", {"perm": [0, 2, 1]}),
            ("Conv", ("t", "c"), ("y",), "/conv", {}),
        ]
        initializers = {
            "table": weights(100, 32, density=1.0),
            "w": weights(32, 512),
            "c": weights(48, 512, 3),
        }
        path = self.model(tmp_path, nodes, {"x": [1, 128]}, initializers)
        proto = onnx.load(path)
        proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        onnx.save(proto, path)
        found = {layer.name: layer for layer in analyze(path, target="haswell").layers}
        assert list(found) == ["/embed", "/up", "/conv"]
        assert not found["/embed"].is_lost and "looked up" in found["/embed"].reason
        assert found["/up"].is_sparse
        assert found["/conv"].is_sparse
