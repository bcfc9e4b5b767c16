"""One library for batches of any number of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tvm
from onnx.helper import make_node
from tvm import relax, tirx

import tvm_sparse
from tvm_sparse.cpu.profile import native
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir.shapes import planned_for
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.regions.plan_for_hints import PlanForHints, is_more
from tvm_sparse.passes.sparsify.decisions import LAYERS
from tvm_sparse.testing.kernels import relative_rms
from tvm_sparse.testing.models import onnxruntime_outputs, pruned, write_onnx
from tvm_sparse.zoo.recipes import recipe

BATCHES = (1, 2, 3, 7)


def plain(mod: tvm.IRModule):
    """Return ``main`` of a module that TVM compiles without our passes."""
    compiled = tvm.compile(mod, tvm.target.Target("llvm"))
    main = relax.VirtualMachine(compiled, tvm.cpu(), memory_cfg="naive")["main"]
    return lambda *arrays: main(*map(tvm.runtime.tensor, arrays)).numpy()


class Network:
    """Builds a network of images of any batch."""

    def __init__(self) -> None:
        self.rng, self.builder = np.random.default_rng(0), relax.BlockBuilder()
        self.batch = tirx.Var("batch", "int64")

    def emit(self, value):
        return self.builder.emit(value)

    def conv(self, x, inputs, outputs, kernel, density=1.0, stride=1, groups=1):
        shape = outputs, inputs // groups, kernel, kernel
        scale = np.float32(np.sqrt(density * np.prod(shape[1:])))
        weight = relax.const(pruned(self.rng, shape, density) / scale)
        options = {"strides": stride, "padding": kernel // 2, "groups": groups}
        product = self.emit(relax.op.nn.conv2d(x, weight, **options))
        bias = relax.const(self.rng.standard_normal((outputs, 1, 1)).astype("float32"))
        return self.emit(relax.op.nn.relu(self.emit(relax.op.add(product, bias))))

    def enlarged(self, x, size, method, mode):
        options = {"method": method, "coordinate_transformation_mode": mode, "layout": "NCHW"}
        return self.emit(relax.op.image.resize2d(x, size, rounding_method="floor", **options))

    def build(self, size, body):
        x = relax.Var("x", relax.TensorType((self.batch, 3, *size), "float32"))
        with self.builder.function("main", [x]):
            with self.builder.dataflow():
                out = self.builder.emit_output(body(x))
            self.builder.emit_func_output(out)
        return self.builder.get()


def classifier() -> tvm.IRModule:
    """Return a network with all operators of images that work on panels."""
    net = Network()
    op, emit = relax.op, net.emit

    def body(x):
        x = net.conv(x, 3, 16, 3, stride=2)
        x = emit(op.nn.max_pool2d(x, (3, 3), strides=(1, 1), padding=(1, 1, 1, 1)))
        a = net.conv(x, 16, 48, 3, 0.1)
        b = net.conv(a, 48, 16, 1, 0.1)
        deep = net.conv(b, 16, 16, 3, groups=16)
        left, right = (emit(relax.TupleGetItem(emit(op.split(deep, 2, 1)), i)) for i in (0, 1))
        joined = emit(op.concat([right, emit(op.add(b, deep)), left], 1))
        near = net.enlarged(joined, (20, 24), "nearest_neighbor", "asymmetric")
        far = net.enlarged(joined, (20, 24), "linear", "half_pixel")
        x = net.conv(emit(op.add(near, far)), 32, 32, 3, stride=2)
        x = emit(op.nn.avg_pool2d(x, (2, 2), strides=(2, 2)))
        share = net.conv(emit(op.mean(x, [2, 3], keepdims=True)), 32, 32, 1, 0.2)
        x = emit(op.multiply(x, emit(op.sigmoid(share))))
        x = net.conv(x, 32, 64, 1, 0.05)
        weight = relax.const(pruned(net.rng, (64, 10), 0.2))
        return op.matmul(emit(op.mean(x, [2, 3])), weight)

    return net.build((20, 24), body)


@pytest.fixture(scope="module")
def reference():
    return plain(classifier())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hints": {"batch": 8}},
        {"columns": "off"},
        {"columns": 3, "overlap": "carry", "hints": {"batch": 5}},
        {"target": "x86-64-v3", "threads": 3},
    ],
)
def test_any_batch_whatever_the_hint(reference, options):
    engine = tvm_sparse.compile(classifier(), **options)
    assert engine.inputs[0].shape == ("batch", 3, 20, 24)
    assert not engine.report.kept_by_tvm
    assert "sparse_conv2d" in {layer.kernel for layer in engine.report.layers}
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        x = rng.standard_normal((batch, 3, 20, 24)).astype("float32")
        (got,) = engine.run([x]).values()
        np.testing.assert_allclose(got, reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not native().has_half, reason="this CPU has no float16 arithmetic")
@pytest.mark.parametrize("columns", ["auto", "off"])
def test_any_batch_in_float16(reference, columns):
    engine = tvm_sparse.compile(classifier(), precision="float16", columns=columns)
    assert "float32" not in {layer.precision for layer in engine.report.layers}
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        x = rng.standard_normal((batch, 3, 20, 24)).astype("float32")
        (got,) = engine.run([x]).values()
        assert relative_rms(got, reference(x)) < 1e-2


@pytest.mark.parametrize("batches", [(1, 8), (6, 2, 20)])
def test_each_of_several_hints_has_a_plan(reference, batches, tmp_path):
    engine = tvm_sparse.compile(classifier(), hints={"batch": batches})
    first = tvm_sparse.compile(classifier(), hints={"batch": batches[0]})
    regions = [[region["operators"] for region in e.report.regions] for e in (engine, first)]
    assert regions[0] == regions[1]
    engine.save(tmp_path / "model.so")
    loaded = tvm_sparse.load(tmp_path / "model.so")
    rng = np.random.default_rng(0)
    for batch in (1, 2, 3, 4, 11, 12):
        x = rng.standard_normal((batch, 3, 20, 24)).astype("float32")
        (got,), (again,), (one,) = (e.run([x]).values() for e in (engine, loaded, first))
        np.testing.assert_allclose(got, reference(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(got, again)
        np.testing.assert_array_equal(got, one)


def test_the_function_with_the_nearest_hint_is_taken():
    main = relax.transform.CanonicalizeBindings()(classifier())
    planned = PlanForHints([{"batch": 8}, {"batch": 2}])(main)
    names = sorted(gvar.name_hint for gvar in planned.get_global_vars())
    assert names == ["main", "main_0", "main_1"]
    choice = planned["main"].body.blocks[0].bindings[0].value
    (called,) = choice.true_branch.blocks[0].bindings
    assert called.value.op.name_hint == "main_0"  # of batches from 4 on, since 4 * 4 is 2 * 8
    assert "batch * batch >= 16" in str(choice.cond).replace("T.int64(16)", "16")
    assert is_more(planned["main_1"])
    assert not is_more(planned["main_0"])
    same = PlanForHints([{"batch": 8}])(main)
    tvm.ir.assert_structural_equal(same, main)


def test_an_image_is_the_same_in_every_batch():
    engine = tvm_sparse.compile(classifier())
    fixed = tvm_sparse.compile(relax.transform.BindSymbolicVars({"batch": 3})(classifier()))
    x = np.random.default_rng(0).standard_normal((3, 3, 20, 24)).astype("float32")
    (whole,), (known,) = engine.run([x]).values(), fixed.run([x]).values()
    np.testing.assert_allclose(whole, known, rtol=1e-5, atol=1e-6)
    for i in range(3):
        (one,) = engine.run([x[i : i + 1]]).values()
        np.testing.assert_array_equal(one, whole[i : i + 1])


def test_a_network_without_a_layer_of_tokens_forms_regions_over_the_batch():
    net = Network()

    def body(x):
        x = net.conv(x, 3, 16, 3)
        x = net.conv(x, 16, 16, 3, 0.1)
        return net.conv(x, 16, 16, 3, 0.1)

    mod = net.build((32, 32), body)
    engine = tvm_sparse.compile(mod, columns=4)
    operators = [region["operators"] for region in engine.report.regions]
    assert max(map(len, operators)) == 3
    x = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype("float32")
    (got,) = engine.run([x]).values()
    np.testing.assert_allclose(got, plain(mod)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("columns", ["auto", "off"])
def test_vectors_that_span_several_rows_of_narrow_images(columns):
    # Another machine's code is compiled for this one; it has vectors of this length in any case.
    cpu = replace(native(), vector_bits=512, vector_registers=32)
    net = Network()

    def body(x):
        x = net.conv(x, 3, 64, 3)
        x = net.conv(x, 64, 64, 1, 0.1)
        x = net.conv(x, 64, 64, 3, 0.1)
        return net.emit(relax.op.mean(net.conv(x, 64, 128, 1, 0.1), [2, 3]))

    mod = net.build((7, 7), body)
    with planned_for({"batch": 4}), native().to_target():
        on_panels = pipeline.front(mod, cpu).mod
        kernels = [str(layer["kernel"]) for layer in on_panels.attrs[LAYERS]]
        assert kernels == ["flat_conv2d", "joined_linear", "joined_conv2d", "joined_linear"]
        passes = [FormRegions(cpu, columns), *pipeline.lower(cpu)]
        lowered = relax.get_pipeline("default_build")(tvm.transform.Sequential(passes)(on_panels))
        built = relax.build(lowered, native().to_target(), relax_pipeline=None)
    main, reference = relax.VirtualMachine(built, tvm.cpu(), memory_cfg="naive")["main"], plain(mod)
    for batch in BATCHES:
        x = np.random.default_rng(0).standard_normal((batch, 3, 7, 7)).astype("float32")
        got = main(tvm.runtime.tensor(x)).numpy()
        np.testing.assert_allclose(got, reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [300, 900])
def test_convolutions_of_one_axis(tmp_path, length):
    rng = np.random.default_rng(0)
    weights = {
        "w0": pruned(rng, (16, 2, 5), 1.0),
        "w1": pruned(rng, (16, 16, 3), 0.1),
        "b": np.ones(16, "float32"),
    }
    nodes = [
        make_node("Conv", ["x", "w0", "b"], ["a"], pads=[2, 2], strides=[2]),
        make_node("Relu", ["a"], ["r"]),
        make_node("Conv", ["r", "w1"], ["y"], pads=[1, 1]),
    ]
    path = tmp_path / "model.onnx"
    write_onnx(path, nodes, {"x": ["n", 2, length]}, ["y"], weights, opset=13)
    engine = tvm_sparse.compile(path)
    assert not engine.report.kept_by_tvm
    for batch in BATCHES:
        given = {"x": rng.standard_normal((batch, 2, length)).astype("float32")}
        want = onnxruntime_outputs(path, given)["y"]
        np.testing.assert_allclose(engine.run(given)["y"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 1), (3, 2)])
def test_transposed_convolutions(tmp_path, kernel, stride):
    rng = np.random.default_rng(0)
    weights = {
        "w0": pruned(rng, (16, 8, 3, 3), 1.0),
        "w1": pruned(rng, (16, 12, kernel, kernel), 0.2),
    }
    nodes = [
        make_node("Conv", ["x", "w0"], ["a"], pads=[1] * 4),
        make_node("ConvTranspose", ["a", "w1"], ["b"], strides=[stride] * 2),
        make_node("Relu", ["b"], ["y"]),
    ]
    path = tmp_path / "model.onnx"
    write_onnx(path, nodes, {"x": ["n", 8, 9, 11]}, ["y"], weights, opset=13)
    engine = tvm_sparse.compile(path)
    assert not engine.report.kept_by_tvm
    for batch in BATCHES:
        given = {"x": rng.standard_normal((batch, 8, 9, 11)).astype("float32")}
        want = onnxruntime_outputs(path, given)["y"]
        np.testing.assert_allclose(engine.run(given)["y"], want, rtol=1e-4, atol=1e-4)


def test_a_file_with_a_dynamic_batch_just_compiles(tmp_path):
    path = recipe("mobilenet-tiny-90").build(tmp_path / "model.onnx")
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "images"
    del model.graph.value_info[:]
    onnx.save(model, path)
    engine = tvm_sparse.compile(path, verify=True)
    assert engine.inputs[0].shape == ("images", 3, 64, 64)
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        given = {"input": rng.standard_normal((batch, 3, 64, 64)).astype("float32")}
        (want,) = onnxruntime_outputs(path, given).values()
        (got,) = engine.run(given).values()
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
