"""TensorIR schedules, one operator family a file."""

from tvm_sparse.schedules.attention import attention
from tvm_sparse.schedules.bilinear2d import bilinear2d
from tvm_sparse.schedules.conv2d import conv2d, pack_conv2d
from tvm_sparse.schedules.default import default_schedule
from tvm_sparse.schedules.depthwise_conv2d import depthwise_conv2d
from tvm_sparse.schedules.global_pool2d import global_avg_pool2d, global_max_pool2d
from tvm_sparse.schedules.image_panels import image_to_panels, panels_to_image
from tvm_sparse.schedules.layer_norm import layer_norm
from tvm_sparse.schedules.linear import linear, pack_linear
from tvm_sparse.schedules.panels import from_panels, to_panels
from tvm_sparse.schedules.pool2d import avg_pool2d, max_pool2d
from tvm_sparse.schedules.sparse_conv2d import sparse_conv2d
from tvm_sparse.schedules.sparse_linear import sparse_linear
from tvm_sparse.schedules.upsample2d import upsample2d

__all__ = [
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
    "layer_norm",
    "linear",
    "max_pool2d",
    "pack_conv2d",
    "pack_linear",
    "panels_to_image",
    "sparse_conv2d",
    "sparse_linear",
    "to_panels",
    "upsample2d",
]
