"""The importer: whole files become Relax modules, everything else one clear error."""

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node
from tvm import relax

import tvm_sparse
from tvm_sparse.errors import InputError, ModelError
from tvm_sparse.frontends.onnx_importer import import_onnx
from tvm_sparse.specs import TensorSpec
from tvm_sparse.testing.models import onnxruntime_outputs, operators_of, run, write_mlp, write_onnx

SHAPES = {"x": (2, 5, 32)}


def outputs_of(imported, *inputs):
    """Compute with TVM's own pipeline, which has nothing of ours."""
    target = tvm.target.Target({"kind": "llvm"})
    pipeline = relax.get_default_pipeline(target)
    executable = tvm.compile(imported.mod, target, relax_pipeline=pipeline)
    return run(executable, *inputs)


def constants_of(mod):
    found = []

    def visit(expr):
        if isinstance(expr, tvm.ir.GenericConst):
            found.append(expr.value.numpy())

    relax.analysis.post_order_visit(mod["main"], visit)
    return found


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 26])
def test_imports_and_keeps_the_numbers(tmp_path, opset):
    path = write_mlp(tmp_path / "mlp.onnx", opset=opset)
    imported = import_onnx(path, SHAPES)
    assert imported.inputs == (TensorSpec("x", (2, 5, 32), "float32"),)
    assert imported.outputs == (TensorSpec("y", (2, 5, 48), "float32"),)
    x = np.random.default_rng(1).standard_normal((2, 5, 32)).astype("float32")
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(outputs_of(imported, x), expected, atol=1e-4)


def test_what_onnxruntime_refuses_is_imported_as_it_is(tmp_path, monkeypatch):
    path = write_mlp(tmp_path / "mlp.onnx")
    x = np.random.default_rng(1).standard_normal((2, 5, 32)).astype("float32")
    expected = outputs_of(import_onnx(path, SHAPES), x)

    def refuse(*arguments, **options):
        raise RuntimeError("not this one")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    np.testing.assert_allclose(outputs_of(import_onnx(path, SHAPES), x), expected, atol=1e-5)


def test_the_file_is_only_read(tmp_path):
    path = write_mlp(tmp_path / "mlp.onnx")
    before = path.read_bytes()
    import_onnx(path, SHAPES)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_with_a_model_is_a_model(tmp_path):
    write_mlp(tmp_path / "model.onnx")
    assert import_onnx(tmp_path, SHAPES).inputs[0].shape == (2, 5, 32)


def test_variables_are_called_as_the_nodes(tmp_path):
    mod = import_onnx(write_mlp(tmp_path / "mlp.onnx"), SHAPES).mod
    assert "up_MatMul" in mod.script()


def test_every_part_of_a_node_carries_its_name(tmp_path):
    nodes = [make_node("Gemm", ["x", "w", "b"], ["y"], name="/head/Gemm")]
    weights = {"w": np.ones((4, 3), "float32"), "b": np.ones(3, "float32")}
    path = write_onnx(tmp_path / "g.onnx", nodes, {"x": [2, 4]}, ["y"], weights)
    (block,) = import_onnx(path).mod["main"].body.blocks
    named = {binding.value.op.name: binding.var.name for binding in block.bindings[:2]}
    assert named == {"relax.matmul": "head_Gemm", "relax.add": "head_Gemm1"}


@pytest.mark.parametrize("operator", ["Mul", "Div", "Pow", "Max"])
def test_a_part_of_a_tuple_is_no_constant(tmp_path, operator):
    """TVM's converters of arithmetic compute with NumPy unless an operand is a call or variable."""
    nodes = [
        make_node("BatchNormalization", ["x", "one", "one", "one", "one"], ["n"]),
        make_node(operator, ["n", "n"], ["y"]),
    ]
    weights = {"one": np.ones(3, "float32")}
    path = write_onnx(tmp_path / "t.onnx", nodes, {"x": [2, 3, 4]}, ["y"], weights)
    x = np.random.default_rng(0).uniform(2, 3, (2, 3, 4)).astype("float32")
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(outputs_of(import_onnx(path), x), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [6, 10])
def test_nearest_pixels_of_integers(tmp_path, size):
    nodes = [
        make_node("Cast", ["x"], ["i"], to=onnx.TensorProto.UINT8),
        make_node("Resize", ["i", "", "", "size"], ["r"], mode="nearest"),
        make_node("Cast", ["r"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    weights = {"size": np.array([1, 1, size, 10])}
    path = write_onnx(tmp_path / "r.onnx", nodes, {"x": [1, 1, 3, 5]}, ["y"], weights)
    x = np.arange(15, dtype="float32").reshape(1, 1, 3, 5)
    expected = onnxruntime_outputs(path, {"x": x})["y"]
    imported = import_onnx(path, no_fallback="not in this test")
    np.testing.assert_array_equal(outputs_of(imported, x), expected)


def test_shape_arithmetic_is_folded(tmp_path):
    """What `torch.onnx` makes of `x.view(x.size(0), x.size(1), 4, 8)`."""
    axes = {"zero": np.int64(0), "one": np.int64(1), "rest": np.array([4, 8])}
    nodes = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        make_node("Gather", ["shape", "one"], ["tokens"], axis=0),
        make_node("Unsqueeze", ["batch", "axis"], ["batch1"]),
        make_node("Unsqueeze", ["tokens", "axis"], ["tokens1"]),
        make_node("Concat", ["batch1", "tokens1", "rest"], ["new"], axis=0),
        make_node("Reshape", ["x", "new"], ["y"]),
    ]
    weights = {name: np.asarray(a) for name, a in axes.items()} | {"axis": np.array([0])}
    path = tmp_path / "view.onnx"
    write_onnx(path, nodes, {"x": ["batch", "tokens", 32]}, ["y"], weights)
    imported = import_onnx(path, SHAPES)
    assert imported.outputs[0].shape == (2, 5, 4, 8)
    assert operators_of(imported.mod) == ["reshape"]


def test_an_initializer_that_is_also_an_input_is_a_constant(tmp_path):
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    weights = {"w": np.eye(4, dtype="float32")}
    path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2, 4], "w": [4, 4]}, ["y"], weights)
    assert [spec.name for spec in import_onnx(path).inputs] == ["x"]


def test_nan_weights_are_kept(tmp_path):
    weights = {"w": np.eye(8, dtype="float32")}
    weights["w"][3, 4] = np.nan
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = write_onnx(tmp_path / "nan.onnx", nodes, {"x": [2, 8]}, ["y"], weights)
    (weight,) = constants_of(import_onnx(path).mod)
    np.testing.assert_array_equal(weight, weights["w"])


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path):
        options = {"save_as_external_data": True, "location": "mlp.data", "size_threshold": 0}
        return write_mlp(tmp_path / "mlp.onnx", **options)

    def test_is_read_from_next_to_the_model(self, path, monkeypatch, tmp_path_factory):
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        weights = constants_of(import_onnx(path, SHAPES).mod)
        assert sorted(w.shape for w in weights) == [(32, 64), (64,), (64, 48)]

    def test_missing(self, path):
        path.with_name("mlp.data").unlink()
        with pytest.raises(ModelError, match=r"weight '\w+' lies in .*mlp\.data.*does not exist"):
            import_onnx(path, SHAPES)

    def test_truncated(self, path):
        data = path.with_name("mlp.data")
        data.write_bytes(data.read_bytes()[:100])
        with pytest.raises(ModelError, match="too short"):
            import_onnx(path, SHAPES)

    def test_outside_of_the_folder(self, path):
        model = onnx.load(path, load_external_data=False)
        location = model.graph.initializer[0].external_data[0]
        assert location.key == "location"
        location.value = "../mlp.data"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="outside of the model's folder"):
            import_onnx(path, SHAPES)

    @pytest.mark.parametrize("linked", ["file", "folder"])
    def test_a_link_out_of_the_folder(self, linked, path, tmp_path_factory):
        outside, data = tmp_path_factory.mktemp("outside"), path.with_name("mlp.data")
        data.rename(outside / "mlp.data")
        if linked == "file":
            data.symlink_to(outside / "mlp.data")
        else:
            (path.parent / "d").symlink_to(outside)
            model = onnx.load(path, load_external_data=False)
            for tensor in model.graph.initializer:
                for entry in tensor.external_data:
                    entry.value = "d/mlp.data" if entry.key == "location" else entry.value
            path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="a link out of the model's folder; copy the file"):
            import_onnx(path, SHAPES)

    def test_links_of_a_cache_of_downloads(self, path, tmp_path):
        """Both the model and its weights are links into the same folder."""
        (tmp_path / "snapshot").mkdir()
        for name in ("mlp.onnx", "mlp.data"):
            (tmp_path / "snapshot" / name).symlink_to(tmp_path / name)
        mod = import_onnx(tmp_path / "snapshot" / "mlp.onnx", SHAPES).mod
        assert sorted(w.shape for w in constants_of(mod)) == [(32, 64), (64,), (64, 48)]

    @pytest.mark.parametrize("rows", [4, 64])
    @pytest.mark.parametrize("place", ["initializer", "constant", "sparse", "branch", "function"])
    def test_places_of_tensors(self, place, rows, tmp_path, tmp_path_factory, monkeypatch):
        """Wherever a tensor is, it lies next to the model, and no link leads away."""
        values = np.arange(1, rows * 8 + 1, dtype="float32")
        path, data = tmp_path / "model.onnx", tmp_path / "w.bin"
        data.write_bytes(values.tobytes())
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        (elsewhere / "w.bin").write_bytes(bytes(values.nbytes))
        path.write_bytes(with_external_weight(place, rows).SerializeToString())
        monkeypatch.chdir(elsewhere)
        y = tvm_sparse.compile(path, threads=1).run([np.eye(rows, dtype="float32")])["y"]
        np.testing.assert_array_equal(y, values.reshape(rows, 8))
        data.unlink()
        data.symlink_to(elsewhere / "w.bin")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ModelError, match="a link out of the model's folder"):
            import_onnx(path)
        path.rename(elsewhere / "model.onnx")
        import_onnx(elsewhere / "model.onnx")


def with_external_weight(place, rows):
    """Return y = x @ w, where `w` lies in a file and is a tensor somewhere in the model."""
    dims = [rows * 8] if place == "sparse" else [rows, 8]
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=1)
    weight.external_data.add(key="location", value="w.bin")
    product, opsets = make_node("MatMul", ["x", "w"], ["y"]), [helper.make_opsetid("", 17)]
    constant = [make_node("Constant", [], ["w"], value=weight), product]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 8])
    nodes, functions, initializers = [product], [], []
    if place == "initializer":
        initializers = [weight]
    elif place == "constant":
        nodes = constant
    elif place == "branch":
        inner = helper.make_graph(constant, "inner", [], [y])
        flag = numpy_helper.from_array(np.array(True), "flag")
        nodes = [make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)]
        initializers = [flag]
    elif place == "function":
        functions = [helper.make_function("mine", "F", ["x"], ["y"], constant, opsets)]
        opsets.append(helper.make_opsetid("mine", 1))
        nodes = [make_node("F", ["x"], ["y"], domain="mine")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, rows])
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    if place == "sparse":
        indices = numpy_helper.from_array(np.arange(rows * 8), "i")
        graph.sparse_initializer.append(
            onnx.SparseTensorProto(values=weight, indices=indices, dims=[rows, 8])
        )
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


class TestShapes:
    @pytest.fixture
    def path(self, tmp_path):
        nodes = [make_node("Add", ["a", "b"], ["y"])]
        inputs = {"a": ["batch", 3], "b": ["batch", 3]}
        return write_onnx(tmp_path / "add.onnx", nodes, inputs, ["y"], {})

    def test_a_named_dimension_is_bound_in_every_input(self, path):
        assert [spec.shape for spec in import_onnx(path, {"b": (7, 3)}).inputs] == [(7, 3)] * 2

    def test_missing(self, path):
        message = r"input 'a': dimension 0 \('batch'\) is dynamic.*--shape a="
        with pytest.raises(InputError, match=message):
            import_onnx(path)

    def test_unknown_input(self, path):
        with pytest.raises(InputError, match=r"unknown input 'c'.*a, b"):
            import_onnx(path, {"c": (1, 3)})

    @pytest.mark.parametrize("shape", [(2,), (2, 4), (2, 3, 1)])
    def test_does_not_fit(self, path, shape):
        with pytest.raises(InputError, match=r"input 'a': shape .* does not fit .*'batch', 3"):
            import_onnx(path, {"a": shape})

    def test_contradiction(self, path):
        with pytest.raises(InputError, match="'batch' is 2 elsewhere"):
            import_onnx(path, {"a": (2, 3), "b": (4, 3)})

    @pytest.mark.parametrize("name", ["?", "None", "-1"])
    def test_names_that_only_say_unknown(self, tmp_path, name):
        relu = onnx.helper.make_node("Relu", ["x"], ["y"])
        path = write_onnx(tmp_path / "m.onnx", [relu], {"x": [name, 3, name]}, ["y"], {})
        assert import_onnx(path, {"x": (2, 3, 5)}).outputs[0].shape == (2, 3, 5)
        with pytest.raises(InputError, match="dimension 0 is dynamic"):
            import_onnx(path)

    def test_below_one(self, path):
        with pytest.raises(InputError, match="below 1"):
            import_onnx(path, {"a": (0, 3)})


class TestBadFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(ModelError, match="there is no such file"):
            import_onnx(tmp_path / "no.onnx")

    @pytest.mark.parametrize(
        "content", [b"", b"a text\n", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(range(256)) * 8]
    )
    def test_not_onnx(self, tmp_path, content):
        path = tmp_path / "no.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"no\.onnx: not an ONNX model, or a truncated one"):
            import_onnx(path)

    def test_truncated_anywhere(self, tmp_path):
        whole = write_mlp(tmp_path / "mlp.onnx").read_bytes()
        path = tmp_path / "cut.onnx"
        for length in np.linspace(1, len(whole) - 1, 60).astype(int):
            path.write_bytes(whole[:length])
            with pytest.raises(ModelError, match="truncated"):
                import_onnx(path, SHAPES)

    def test_opset_of_the_future(self, tmp_path):
        path = write_mlp(tmp_path / "mlp.onnx")
        model = onnx.load(path)
        model.opset_import[0].version = 999
        onnx.save(model, path)
        with pytest.raises(ModelError, match="opset 999 is newer than"):
            import_onnx(path, SHAPES)

    def test_unknown_operator(self, tmp_path):
        nodes = [make_node("Nonsense", ["x"], ["y"], name="/head/Nonsense")]
        path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2]}, ["y"], {})
        message = r"not a valid model: .*/head/Nonsense.*No Op registered for Nonsense"
        with pytest.raises(ModelError, match=message):
            import_onnx(path)

    def test_unknown_domain(self, tmp_path):
        nodes = [make_node("Relu", ["x"], ["y"], name="mine", domain="my.own")]
        path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2]}, ["y"], {}, domains=["my.own"])
        with pytest.raises(ModelError, match=r"'mine' \(my\.own\.Relu\)"):
            import_onnx(path)

    def test_an_operator_that_only_tvm_does_not_know(self, tmp_path):
        nodes = [
            make_node("Relu", ["x"], ["r"]),
            make_node("DFT", ["r"], ["y"], name="spectrum"),
        ]
        path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [1, 8, 1]}, ["y"], {})
        with pytest.raises(ModelError, match=r"'spectrum' \(DFT\).*simplified by ONNX Runtime"):
            import_onnx(path, no_fallback="not in this test")

    def test_a_node_whose_operands_do_not_fit(self, tmp_path, capfd):
        nodes = [make_node("Add", ["x", "b"], ["y"], name="misfit")]
        weights = {"b": np.ones(3, "float32")}
        path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2, 8]}, ["y"], weights)
        with pytest.raises(
            ModelError, match=r"not a valid model: node 'misfit' .*dimensions.*\[2, 8\] and \[3\]"
        ) as error:
            import_onnx(path)
        assert "\n" not in str(error.value)
        assert capfd.readouterr().out == ""
