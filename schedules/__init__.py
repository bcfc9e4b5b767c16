"""TensorIR schedules, one operator family a file."""

from tvm_sparse.schedules.attention import Attention, attention
from tvm_sparse.schedules.bilinear2d import bilinear2d
from tvm_sparse.schedules.concat import Concat
from tvm_sparse.schedules.conv2d import DenseConv2d, conv2d, pack_conv2d
from tvm_sparse.schedules.default import default_schedule
from tvm_sparse.schedules.depthwise_conv2d import DepthwiseConv2d, depthwise_conv2d
from tvm_sparse.schedules.elementwise import Elementwise
from tvm_sparse.schedules.global_pool2d import global_avg_pool2d, global_max_pool2d
from tvm_sparse.schedules.image_panels import (
    ImageToPanels,
    PanelsToImage,
    image_to_panels,
    panels_to_image,
)
from tvm_sparse.schedules.layer_norm import LayerNorm, layer_norm
from tvm_sparse.schedules.linear import DenseLinear, linear, pack_linear
from tvm_sparse.schedules.panels import from_panels, to_panels
from tvm_sparse.schedules.pool2d import AvgPool2d, MaxPool2d, avg_pool2d, max_pool2d
from tvm_sparse.schedules.slice_channels import SliceChannels
from tvm_sparse.schedules.sparse_conv2d import SparseConv2d, sparse_conv2d
from tvm_sparse.schedules.sparse_linear import SparseLinear, sparse_linear
from tvm_sparse.schedules.stage import Stage, kernel
from tvm_sparse.schedules.tensor_column import Region, tensor_column
from tvm_sparse.schedules.upsample2d import Upsample2d, upsample2d

__all__ = [
    "Attention",
    "AvgPool2d",
    "Concat",
    "DenseConv2d",
    "DenseLinear",
    "DepthwiseConv2d",
    "Elementwise",
    "ImageToPanels",
    "LayerNorm",
    "MaxPool2d",
    "PanelsToImage",
    "Region",
    "SliceChannels",
    "SparseConv2d",
    "SparseLinear",
    "Stage",
    "Upsample2d",
    "attention",
    "avg_pool2d",
    "bilinear2d",
    "conv2d",
    "default_schedule",
    "depthwise_conv2d",
    "from_panels",
    "global_avg_pool2d",
    "global_max_pool2d",
    "image_to_panels",
    "kernel",
    "layer_norm",
    "linear",
    "max_pool2d",
    "pack_conv2d",
    "pack_linear",
    "panels_to_image",
    "sparse_conv2d",
    "sparse_linear",
    "tensor_column",
    "to_panels",
    "upsample2d",
]
