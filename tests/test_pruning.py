"""Pruning: exact shares of zeros, the smallest go first, and what must stay dense stays."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.helper import make_node

from tvm_sparse.errors import InputError, OutputError
from tvm_sparse.formats.blocks import in_bytes
from tvm_sparse.formats.patterns import zero_neighbours
from tvm_sparse.frontends import onnx_file
from tvm_sparse.frontends.few_bits import codes_of
from tvm_sparse.pruning import prune
from tvm_sparse.testing.few_bits import random_codes
from tvm_sparse.testing.models import write_mlp, write_onnx


def weights_of(path):
    graph = onnx.load(path).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def sparsity(array):
    return 1 - np.count_nonzero(array) / array.size


@pytest.fixture
def chain(tmp_path):
    """Four layers: the outer ones stay dense, the inner ones are 64 x 48 and 48 x 40."""
    rng = np.random.default_rng(0)
    sizes = (32, 64, 48, 40, 36)
    weights = {
        f"w{i}": rng.standard_normal(shape).astype("float32") * (i + 1)
        for i, shape in enumerate(itertools.pairwise(sizes))
    }
    nodes = [make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"n{i}") for i in range(4)]
    return write_onnx(tmp_path / "chain.onnx", nodes, {"h0": [2, 32]}, ["h4"], weights)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_uniform(chain, tmp_path, share):
    before = weights_of(chain)
    report = prune(chain, tmp_path / "out.onnx", share)
    after = weights_of(tmp_path / "out.onnx")
    for name in ("w1", "w2"):
        zeros = after[name] == 0
        assert zeros.sum() == round(share * zeros.size)
        np.testing.assert_array_equal(after[name][~zeros], before[name][~zeros])
        if zeros.any():
            assert np.abs(before[name][zeros]).max() <= np.abs(before[name][~zeros]).min()
    for name in ("w0", "w3"):
        np.testing.assert_array_equal(after[name], before[name])
    reasons = ["nearest to the input", "", "", "nearest to the output"]
    assert [weight.kept for weight in report] == reasons
    assert [weight.zeros for weight in report][1:3] == [round(share * 3072), round(share * 1920)]


def test_global_prunes_small_weights_more(chain, tmp_path):
    prune(chain, tmp_path / "out.onnx", 0.8, scope="global")
    after = weights_of(tmp_path / "out.onnx")
    inner = [after["w1"], after["w2"]]
    assert sum(np.count_nonzero(w == 0) for w in inner) == round(0.8 * (3072 + 1920))
    assert sparsity(after["w1"]) > 0.8 > sparsity(after["w2"])


@pytest.mark.parametrize(("pattern", "axis"), [("1x4", 1), ("4x1", 0)])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_blocks(chain, tmp_path, pattern, axis, scope):
    prune(chain, tmp_path / "out.onnx", 0.75, scope, pattern)
    after, shares = weights_of(tmp_path / "out.onnx"), []
    for name in ("w1", "w2"):
        zeros = np.moveaxis(after[name].T == 0, axis, 1)  # outputs and inputs
        zeros = zeros.reshape(len(zeros), -1, 4)
        assert np.all(zeros.all(axis=2) == zeros.any(axis=2))
        shares.append(zeros.mean())
    if scope == "uniform":
        assert shares == [0.75, 0.75]
    else:
        assert shares[0] > 0.75 > shares[1]
        assert shares[0] * 3072 + shares[1] * 1920 == 0.75 * (3072 + 1920)


@pytest.mark.parametrize("pattern", ["1x4", "4x1"])
def test_blocks_of_gemm_and_conv_are_of_channels(tmp_path, pattern):
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.standard_normal((32, 32)).astype("float32"),
        "gemm": rng.standard_normal((36, 32)).astype("float32"),
        "shape": np.array([1, 36, 1, 2]),
        "conv": rng.standard_normal((28, 36, 3, 1)).astype("float32"),
        "last": rng.standard_normal((40, 28, 1, 1)).astype("float32"),
    }
    nodes = [
        make_node("MatMul", ["x", "first"], ["a"]),
        make_node("Gemm", ["a", "gemm"], ["b"], transB=1),
        make_node("Reshape", ["b", "shape"], ["c"]),
        make_node("Conv", ["c", "conv"], ["d"], pads=[1, 0, 1, 0]),
        make_node("Conv", ["d", "last"], ["y"]),
    ]
    path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2, 32]}, ["y"], weights)
    prune(path, tmp_path / "out.onnx", 0.5, pattern=pattern)
    after = weights_of(tmp_path / "out.onnx")
    for name in ("gemm", "conv"):
        axis = 1 if pattern == "1x4" else 0
        zeros = np.moveaxis(after[name] == 0, axis, -1)
        zeros = zeros.reshape(*zeros.shape[:-1], -1, 4)
        assert np.all(zeros.all(axis=-1) == zeros.any(axis=-1))
        assert zeros.mean() == 0.5


def test_a_quantized_model_is_refused(tmp_path):
    weights = {"w": np.ones((64, 64), "int8"), "s": np.float32(0.1)}
    nodes = [
        make_node("DequantizeLinear", ["w", "s"], ["f"]),
        make_node("MatMul", ["x", "f"], ["y"]),
    ]
    path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [2, 64]}, ["y"], weights)
    with pytest.raises(InputError, match="prune the model of floats"):
        prune(path, tmp_path / "out.onnx", 0.5)
    assert not (tmp_path / "out.onnx").exists()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.floats(0, 0.99), st.sampled_from(["1x1", "1x4", "4x1"]))
def test_any_size_and_share(tmp_path_factory, inputs, share, pattern):
    folder = tmp_path_factory.mktemp("size")
    weight = np.random.default_rng(0).standard_normal((inputs, 1100)).astype("float32")
    nodes = [make_node("MatMul", ["x", "w"], ["y"])]
    path = write_onnx(folder / "a.onnx", nodes, {"x": [2, inputs]}, ["y"], {"w": weight})
    (report,) = prune(path, folder / "out.onnx", share, pattern=pattern)
    after = weights_of(folder / "out.onnx")["w"]
    assert report.zeros == np.count_nonzero(after == 0)
    if pattern == "1x1":
        assert report.zeros == round(share * weight.size)
    elif pattern == "1x4":
        assert abs(report.zeros / weight.size - share) <= 4 / inputs
    else:
        assert abs(report.zeros / weight.size - share) <= 1e-3


def test_embeddings_and_small_weights_stay(tmp_path):
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((100, 32)).astype("float32"),
        "w": rng.standard_normal((32, 64)).astype("float32"),
        "tiny": rng.standard_normal((64, 8)).astype("float32"),
        "back": rng.standard_normal((8, 32)).astype("float32"),
    }
    nodes = [
        make_node("Cast", ["x"], ["ids"], to=7),
        make_node("Gather", ["table", "ids"], ["e"], name="embedding"),
        make_node("MatMul", ["e", "w"], ["a"], name="first layer after the embedding"),
        make_node("MatMul", ["a", "tiny"], ["b"], name="tiny"),
        make_node("MatMul", ["b", "back"], ["c"], name="back"),
        make_node("Transpose", ["table"], ["t"]),
        make_node("MatMul", ["c", "t"], ["y"], name="tied"),
    ]
    path = write_onnx(tmp_path / "a.onnx", nodes, {"x": [5]}, ["y"], weights)
    report = prune(path, tmp_path / "out.onnx", 0.9)
    kept = {weight.layer: weight.kept for weight in report}
    assert kept == {
        "first layer after the embedding": "",
        "tiny": "only 512 elements",
        "back": "only 256 elements",
        "tied": "an embedding shares it",
    }


def test_nan_is_kept(chain, tmp_path):
    model = onnx.load(chain)
    weight = numpy_helper.to_array(model.graph.initializer[1]).copy()
    weight[3, 4] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "w1"))
    onnx.save(model, chain)
    prune(chain, tmp_path / "out.onnx", 0.9)
    assert np.isnan(weights_of(tmp_path / "out.onnx")["w1"][3, 4])


def test_external_data_is_read_and_the_model_left_alone(tmp_path):
    path = tmp_path / "mlp.onnx"
    options = {"save_as_external_data": True, "location": "mlp.data", "size_threshold": 0}
    write_mlp(path, density=1, **options)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    out = tmp_path / "elsewhere" / "out.onnx"
    out.parent.mkdir()
    prune(path, out, 0.9)
    assert [file.name for file in out.parent.iterdir()] == ["out.onnx"]
    after = weights_of(out)
    assert sparsity(after["w0"]) == pytest.approx(0.9, abs=1e-3)
    assert {file: file.read_bytes() for file in before} == before


def test_weights_beyond_protobufs_limit_go_beside_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("tvm_sparse.frontends.onnx_file._LARGEST_EMBEDDED", 1000)
    path = write_mlp(tmp_path / "mlp.onnx", density=1)
    out = tmp_path / "out" / "out.onnx"
    out.parent.mkdir()
    prune(path, out, 0.5)
    assert sorted(file.name for file in out.parent.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert sparsity(weights_of(out)["w0"]) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.0, 90, float("nan")])
def test_bad_sparsity(chain, tmp_path, share):
    with pytest.raises(InputError, match="sparsity must be at least 0 and below 1"):
        prune(chain, tmp_path / "out.onnx", share)


def test_bad_scope(chain, tmp_path):
    with pytest.raises(InputError, match="unknown scope 'blocks'; choose one of uniform"):
        prune(chain, tmp_path / "out.onnx", 0.5, "blocks")


def test_never_overwrites_a_file_of_the_model(chain, tmp_path):
    model = onnx.load(chain)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="w.data",
              size_threshold=0)  # fmt: skip
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for source in (tmp_path / "model.onnx", tmp_path):
        for name in ("model.onnx", "link.onnx", "w.data", "../" + tmp_path.name + "/w.data"):
            with pytest.raises(OutputError, match="is read; choose another name"):
                prune(source, tmp_path / name, 0.5)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_never_overwrites_the_weights_of_the_model_by_its_own(chain, tmp_path, monkeypatch):
    onnx.save(onnx.load(chain), tmp_path / "a.onnx", save_as_external_data=True,
              location="b.onnx.data", size_threshold=0)  # fmt: skip
    monkeypatch.setattr(onnx_file, "_LARGEST_EMBEDDED", 0)
    before = (tmp_path / "b.onnx.data").read_bytes()
    with pytest.raises(OutputError, match=r"b\.onnx\.data: .*is read; choose another name"):
        prune(tmp_path / "a.onnx", tmp_path / "b.onnx", 0.5)
    assert (tmp_path / "b.onnx.data").read_bytes() == before
    assert not (tmp_path / "b.onnx").exists()


def test_not_writable(chain, tmp_path):
    with pytest.raises(OutputError, match="cannot be written: No such file or directory"):
        prune(chain, tmp_path / "no" / "out.onnx", 0.5)


def test_depthwise_convolutions_stay_dense_and_constant_nodes_are_pruned(tmp_path):
    """Weights are in ``Constant`` nodes, as PaddlePaddle's exporter writes them."""
    rng = np.random.default_rng(0)
    shapes = {
        "w0": (128, 8, 1, 1), "w1": (128, 1, 3, 3), "w2": (64, 128, 1, 1), "w3": (32, 64, 1, 1),
    }  # fmt: skip
    weights = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    nodes = [
        make_node("Constant", [], [name], name=f"c{name}", value=numpy_helper.from_array(weight))
        for name, weight in weights.items()
    ]
    nodes += [
        make_node("Conv", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"n{i}",
                  group=128 if i == 1 else 1, pads=[1] * 4 if i == 1 else [0] * 4)
        for i in range(4)
    ]  # fmt: skip
    model = write_onnx(tmp_path / "m.onnx", nodes, {"h0": [1, 8, 6, 6]}, ["h4"], {})
    report = prune(model, tmp_path / "out.onnx", 0.9)
    onnxruntime.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    assert [weight.kept for weight in report] == [
        "nearest to the input", "its convolution is in groups", "", "nearest to the output",
    ]  # fmt: skip
    after = weights_of(tmp_path / "out.onnx")
    assert sparsity(after["w2"]) == pytest.approx(0.9, abs=1e-3)
    for name in ("w0", "w1", "w3"):
        np.testing.assert_array_equal(after[name], weights[name])


@pytest.mark.parametrize(("pattern", "keep", "of"), [("2:4", 2, 4), ("5:16", 5, 16), ("1:3", 1, 3)])
def test_neighbours(chain, tmp_path, pattern, keep, of):
    before = weights_of(chain)
    prune(chain, tmp_path / "out.onnx", pattern=pattern)
    after = weights_of(tmp_path / "out.onnx")
    for name in ("w1", "w2"):
        old, new = (np.abs(w[name].T) for w in (before, after))
        whole = old.shape[1] // of * of
        runs = [part[:, :whole].reshape(len(part), -1, of) for part in (old, new)]
        assert ((runs[1] != 0).sum(2) == keep).all()
        np.testing.assert_array_equal(np.sort(runs[1])[..., -keep:], np.sort(runs[0])[..., -keep:])
        assert ((new[:, whole:] != 0).sum(1) == min(keep, old.shape[1] - whole)).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("is_symmetric", [True, False])
def test_weights_of_few_bits_get_their_zero_points(tmp_path, bits, is_symmetric):
    weight = random_codes(40, 96, bits, 32, is_symmetric=is_symmetric)
    tensors = {"w": in_bytes(weight.codes, bits).reshape(40, 3, -1), "s": weight.scales.ravel()}
    if not is_symmetric:
        tensors["z"] = in_bytes(weight.zeros, bits).ravel()
    sizes = {"N": 40, "K": 96, "bits": bits, "block_size": 32}
    node = make_node(
        "MatMulNBits", ["x", *tensors], ["y"], name="n", domain="com.microsoft", **sizes
    )
    path = write_onnx(tmp_path / "m.onnx", [node], {"x": [1, 96]}, ["y"], tensors)
    (report,) = prune(path, tmp_path / "out.onnx", pattern="2:4")
    assert (report.size, report.kept) == (40 * 96, "") and report.zeros >= 40 * 48
    model = onnx.load(tmp_path / "out.onnx")
    found = codes_of(model.graph.node[0], {t.name: t for t in model.graph.initializer})
    expected = weight.to_dense()
    zero_neighbours(expected, 2, 4)
    np.testing.assert_array_equal(found.to_dense(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "4:4"}, "unknown pattern '4:4'"),
        ({"pattern": "2:4", "sparsity": 0.9}, "sets 50% of every weight to zero"),
        ({"pattern": "2:4", "scope": "global"}, "leave out --sparsity and --scope"),
        ({}, "pattern 1x1 needs a sparsity"),
    ],
)
def test_patterns_that_do_not_fit(chain, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prune(chain, tmp_path / "out.onnx", **options)
