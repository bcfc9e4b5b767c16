"""What was measured takes the place of the cost model's lookups."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tvm import relax

from tvm_sparse.cpu import measurement
from tvm_sparse.cpu.profile import profile
from tvm_sparse.errors import RecordsError
from tvm_sparse.formats.sparse import SparseTiling
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.ir.operators.operator import PREFIX
from tvm_sparse.passes.sparsify.token_network import token_network
from tvm_sparse.records.best import RecordedPlans
from tvm_sparse.records.keys import network_key
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.testing.models import dataflow, pruned
from tvm_sparse.tilings.conv2d import Conv2dTiling
from tvm_sparse.tilings.depthwise_conv2d import DepthwiseConv2dTiling
from tvm_sparse.tilings.linear import LinearTiling

CPU = profile("haswell")
RNG = np.random.default_rng(0)
WEIGHT = pruned(RNG, (64, 96), 0.05)
IMAGE = (1, 8, 12, 12)


def mlp(emit, x):
    y = emit(relax.op.matmul(x, relax.const(WEIGHT)))
    return emit(relax.op.matmul(y, relax.const(WEIGHT.T.copy())))


def tilings_of(body, shape, lookups):
    mod = pipeline.front(dataflow(body, shape), CPU, lookups).mod
    calls = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    return [
        (call.op.name.removeprefix(PREFIX), dict(call.attrs["tiling"]))
        for call in calls
        if is_call_to(call, *operators.WITH_EPILOGUE) and "tiling" in call.attrs
    ]


@pytest.mark.parametrize("tiling", [SparseTiling(3, 17), LinearTiling(4, 2)])
def test_the_kernel_of_a_linear_layer(tiling):
    seen = []
    lookups = Lookups(kernel_for=lambda layer: seen.append(layer) or tiling)
    name = "sparse_linear" if isinstance(tiling, SparseTiling) else "linear"
    expected = [(name, dataclasses.asdict(tiling))] * 2
    assert tilings_of(mlp, (2, 32, 64), lookups) == expected
    assert {(layer.problem.n, layer.problem.k) for layer in seen} == {(96, 64), (64, 96)}
    assert seen[0].density == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    "tiling", [Conv2dTiling(2, 1, 3, 8, 6, 1), DepthwiseConv2dTiling(2, 1, 8, 4, 3)]
)
def test_the_kernel_of_a_convolution(tiling):
    groups = 8 if isinstance(tiling, DepthwiseConv2dTiling) else 1
    weight = RNG.standard_normal((8, 8 // groups, 3, 3)).astype("float32")

    def body(emit, x):
        return emit(relax.op.nn.conv2d(x, relax.const(weight), padding=1, groups=groups))

    lookups = Lookups(kernel_for=lambda layer: tiling)
    name = "depthwise_conv2d" if groups > 1 else "conv2d"
    assert tilings_of(body, IMAGE, lookups) == [(name, dataclasses.asdict(tiling))]


def test_without_measurements_the_cost_model_chooses():
    assert all(name == "sparse_linear" for name, _ in tilings_of(mlp, (2, 32, 64), None))


def test_without_records_nothing_is_asked(monkeypatch):
    assert RecordedPlans().known_on(CPU) is None
    for name in ("model_key", "token_network"):
        monkeypatch.setattr(pipeline, name, None)  # a call is an error
    assert pipeline.front(dataflow(mlp, (2, 32, 64)), CPU, None).plan_for is None


def test_the_lanes_of_tokens():
    seen = []
    lookups = Lookups(lanes_for=lambda network: seen.append(network) or 24)
    mod = pipeline.front(dataflow(mlp, (2, 96, 64)), CPU, lookups).mod
    panels = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    lanes = {int(p.ty.shape[2]) for p in panels if is_call_to(p, operators.SPARSE_LINEAR.name)}
    assert lanes == {24}
    (network,) = seen
    assert [layer[:4] for layer in network.layers] == [(2, 96, 64, 96), (2, 96, 96, 64)]
    assert network.name == "network of 2 linear layers @ 2x96"


def test_networks_are_known_by_their_structure():
    def other(emit, x):
        return emit(relax.op.matmul(x, relax.const(RNG.permuted(WEIGHT))))

    def one(emit, x):
        return emit(relax.op.matmul(x, relax.const(WEIGHT)))

    def key_of(body, shape):
        return network_key(token_network(dataflow(body, shape), CPU))

    keys = [key_of(body, (1, 32, 64)) for body in (one, other, mlp)]
    assert keys[0] == keys[1] != keys[2]
    assert key_of(one, (1, 64, 64)) != keys[0]


class TestUsersRecords:
    """The user's own file of records is not needed: what is wrong with it is a warning."""

    def test_a_home_that_cannot_be_read(self, monkeypatch, caplog):
        def exists(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "exists", exists)
        assert len(RecordedPlans.read(None).records) == 0
        (message,) = [record.getMessage() for record in caplog.records]
        assert "Permission denied" in message and "compiled without the records" in message

    def test_a_file_that_cannot_be_read(self, monkeypatch, caplog, tmp_path):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        (tmp_path / "tvm-sparse" / "records.jsonl").mkdir(parents=True)
        assert len(RecordedPlans.read(None).records) == 0
        assert "a folder, a device or a pipe" in caplog.text
        with pytest.raises(RecordsError, match="a folder, a device or a pipe"):
            RecordedPlans.read(tmp_path / "tvm-sparse" / "records.jsonl")

    def test_a_user_without_a_home(self, monkeypatch, caplog):
        def home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        monkeypatch.setattr(Path, "home", home)
        assert len(RecordedPlans.read(None).records) == 0
        assert measurement.load("cpu", 2) is None
        assert not caplog.records
