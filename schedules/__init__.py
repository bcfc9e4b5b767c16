"""TensorIR schedules, one operator family a file."""

from tvm_sparse.schedules.default.default import default_schedule
from tvm_sparse.schedules.operators.amx_conv2d import AmxConv2d, amx_conv2d
from tvm_sparse.schedules.operators.amx_linear import AmxLinear, amx_linear
from tvm_sparse.schedules.operators.attention import Attention, attention
from tvm_sparse.schedules.operators.bilinear2d import Bilinear2d, bilinear2d
from tvm_sparse.schedules.operators.bitmap_row_linear import bitmap_row_linear
from tvm_sparse.schedules.operators.block_row_linear import block_row_linear
from tvm_sparse.schedules.operators.cached_attention import cached_attention
from tvm_sparse.schedules.operators.concat import Concat
from tvm_sparse.schedules.operators.conv2d import DenseConv2d, conv2d
from tvm_sparse.schedules.operators.depth_to_space import DepthToSpace, depth_to_space
from tvm_sparse.schedules.operators.depthwise_conv2d import DepthwiseConv2d
from tvm_sparse.schedules.operators.dequantize_words import DequantizeWords
from tvm_sparse.schedules.operators.direct_depthwise import depthwise_conv2d, depthwise_stage
from tvm_sparse.schedules.operators.dynamic_range import dynamic_range
from tvm_sparse.schedules.operators.elementwise import Elementwise
from tvm_sparse.schedules.operators.expert_linear import expert_linear, sparse_expert_linear
from tvm_sparse.schedules.operators.flat_conv2d import FlatConv2d, flat_conv2d
from tvm_sparse.schedules.operators.global_pool2d import global_avg_pool2d, global_max_pool2d
from tvm_sparse.schedules.operators.image_panels import (
    ImageToPanels,
    PanelsToImage,
    image_to_panels,
    panels_to_image,
)
from tvm_sparse.schedules.operators.int8_conv2d import Int8Conv2d
from tvm_sparse.schedules.operators.int8_linear import Int8Linear
from tvm_sparse.schedules.operators.int8_rows import int8_row_linear
from tvm_sparse.schedules.operators.joined_conv2d import JoinedConv2d, joined_conv2d
from tvm_sparse.schedules.operators.layer_norm import LayerNorm, layer_norm
from tvm_sparse.schedules.operators.linear import DenseLinear, linear
from tvm_sparse.schedules.operators.packed_attention import PackedAttention
from tvm_sparse.schedules.operators.padding_map import count_rows, make_map
from tvm_sparse.schedules.operators.pair_row_linear import pair_row_linear
from tvm_sparse.schedules.operators.panels import from_panels, to_panels
from tvm_sparse.schedules.operators.pool2d import AvgPool2d, MaxPool2d, avg_pool2d, max_pool2d
from tvm_sparse.schedules.operators.quantize_words import quantize_words
from tvm_sparse.schedules.operators.recurrent import recurrent
from tvm_sparse.schedules.operators.recut_strips import RecutStrips
from tvm_sparse.schedules.operators.row_linear import row_linear, sparse_row_linear
from tvm_sparse.schedules.operators.slice_channels import SliceChannels
from tvm_sparse.schedules.operators.sliding_row_linear import sliding_row_linear
from tvm_sparse.schedules.operators.sparse_conv2d import SparseConv2d, sparse_conv2d
from tvm_sparse.schedules.operators.sparse_linear import SparseLinear, sparse_linear
from tvm_sparse.schedules.operators.strips import from_strips, to_strips
from tvm_sparse.schedules.operators.upsample2d import Upsample2d, upsample2d
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.schedules.tensor_column import Region, tensor_column

__all__ = [
    "AmxConv2d",
    "AmxLinear",
    "Attention",
    "AvgPool2d",
    "Bilinear2d",
    "Concat",
    "DenseConv2d",
    "DenseLinear",
    "DepthToSpace",
    "DepthwiseConv2d",
    "DequantizeWords",
    "Elementwise",
    "FlatConv2d",
    "ImageToPanels",
    "Int8Conv2d",
    "Int8Linear",
    "JoinedConv2d",
    "LayerNorm",
    "MaxPool2d",
    "PackedAttention",
    "PanelsToImage",
    "RecutStrips",
    "Region",
    "SliceChannels",
    "SparseConv2d",
    "SparseLinear",
    "Stage",
    "Upsample2d",
    "amx_conv2d",
    "amx_linear",
    "attention",
    "avg_pool2d",
    "bilinear2d",
    "bitmap_row_linear",
    "block_row_linear",
    "cached_attention",
    "conv2d",
    "count_rows",
    "default_schedule",
    "depth_to_space",
    "depthwise_conv2d",
    "depthwise_stage",
    "dynamic_range",
    "expert_linear",
    "flat_conv2d",
    "from_panels",
    "from_strips",
    "global_avg_pool2d",
    "global_max_pool2d",
    "image_to_panels",
    "int8_row_linear",
    "joined_conv2d",
    "kernel",
    "layer_norm",
    "linear",
    "make_map",
    "max_pool2d",
    "pair_row_linear",
    "panels_to_image",
    "quantize_words",
    "recurrent",
    "row_linear",
    "sliding_row_linear",
    "sparse_conv2d",
    "sparse_expert_linear",
    "sparse_linear",
    "sparse_row_linear",
    "tensor_column",
    "to_panels",
    "to_strips",
    "upsample2d",
]
