"""What names structures in the tuning records, to the letter.

A failure here means that the records of all users become worthless: raise `record.VERSION`, too.
"""

from __future__ import annotations

from dataclasses import replace

from tvm_sparse.columns.shapes import Edge, RegionShape, StageShape
from tvm_sparse.columns.tiles import Tiles
from tvm_sparse.cpu.profile import profile
from tvm_sparse.dtypes import DType
from tvm_sparse.records import keys
from tvm_sparse.records.lookups import TokenNetwork
from tvm_sparse.schedules.emit.epilogue import Epilogue
from tvm_sparse.schedules.operators.conv2d import DenseConv2d
from tvm_sparse.schedules.operators.linear import DenseLinear
from tvm_sparse.sizes.conv2d import Conv2d
from tvm_sparse.sizes.linear import Linear
from tvm_sparse.sizes.tensor import RowMap, Tensor
from tvm_sparse.tilings.layer import Layer

CPU = profile("haswell")
LINEAR = Layer(Linear(rows=4, lanes=16, n=64, k=48), 0.1)
CONV = Conv2d(1, 12, 9, 9, 10, (3, 3), (2, 2), (1, 1, 1, 1), lanes_in=16, lanes_out=8)
NETWORK = TokenNetwork(((2, 96, 64, 32, 0.1), (2, 96, 32, 64, 0.01)))
PADDED = "kernel=3x3 stride=2x2 padding=1x1x1x1 dilation=1x1"


def test_linear_layer():
    text = "linear rows=4 lanes=16 channels=48 out_channels=64 density 0.10"
    assert keys.layer_text(LINEAR) == text
    assert keys.layer_key(LINEAR) == "linear 48 > 64 @ 4x16 #a55284f2fb2fde20"


def test_convolution():
    layer = Layer(CONV, 0.013)
    text = (
        f"conv2d batch=1 channels=12 height=9 width=9 out_channels=10 {PADDED} groups=1 "
        "lanes_in=16 lanes_out=8 density 0.02"
    )
    assert keys.layer_text(layer) == text
    assert keys.layer_key(layer) == "conv2d 3x3 / 2 12 > 10 @ 1x9x9 #e7630b00bdfcdb24"


def test_network_on_tokens():
    assert keys.network_text(NETWORK) == (
        "batch=2 tokens=96 channels=64 out_channels=32 density 0.10\n"
        "batch=2 tokens=96 channels=32 out_channels=64 density 0.02"
    )
    assert keys.network_key(NETWORK) == "network of 2 linear layers @ 2x96 #aefeaf8db4826ec1"


def test_model():
    assert keys.model_key([LINEAR, Layer(CONV, 1.0)]) == "model of 2 layers #7f239c090f387177"


def test_region():
    first = StageShape(
        "conv2d", CONV.output, (Edge(-1, CONV.rows_seen),), tiles=Tiles(2), key="conv2d ..."
    )
    second = StageShape("add", CONV.output, (Edge(0, RowMap()), Edge(-2, None)), key="add ...")
    other = Tensor(1, 3, 10, 8)
    region = RegionShape((first, second), (CONV.input, other), (0, 1))
    assert keys.region_text(region) == (
        "conv2d ...; computes 1x5x10x8; reads -1 stride=2 before=1 after=2 factor=1; tile 2\n"
        "add ...; computes 1x5x10x8; "
        "reads 0 stride=1 before=0 after=1 factor=1, -2 all rows; tile 1\n"
        "inputs 1x9x12x16, 1x3x10x8\n"
        "outputs 0, 1"
    )
    assert keys.region_key(region) == "conv2d > add @ 1x5x10x8 #38ea687fc304be24"


def test_stages():
    epilogue = Epilogue(bias=True, activation="relu")
    conv = DenseConv2d(CONV, epilogue, CPU)
    assert conv.key() == (
        f"conv2d of conv2d batch=1 channels=12 height=9 width=9 out_channels=10 {PADDED} groups=1 "
        "lanes_in=16 lanes_out=8 bias=1 residual=0 activation=relu"
    )
    linear = DenseLinear(Tensor(1, 4, 48, 16), 64, Epilogue(residual=True), CPU)
    assert linear.key() == "linear channels=48 bias=0 residual=1 activation=none"


def test_other_types_than_float32_are_named():
    half = Layer(replace(LINEAR.problem, dtype=DType.FLOAT16), 0.1)
    text = "linear rows=4 lanes=16 channels=48 out_channels=64 float16 density 0.10"
    assert keys.layer_text(half) == text
    tensor = Tensor(1, 4, 48, 16, DType.FLOAT16)
    assert keys._tensor(tensor) == "1x4x48x16 float16"


def test_target():
    assert keys.target_key(CPU) == "haswell, 256 bits, L1 32 KB, L2 256 KB"
    half = replace(CPU, activations=DType.FLOAT16)
    assert keys.target_key(half) == "haswell, 256 bits, L1 32 KB, L2 256 KB float16"
