"""Passes over Relax modules, one a file; `pipeline` is their table of contents."""

from tvm_sparse.passes.accept_unaligned import AcceptUnaligned
from tvm_sparse.passes.apply_default_schedule import ApplyDefaultSchedule
from tvm_sparse.passes.fuse_epilogue import FuseEpilogue
from tvm_sparse.passes.lower_operators import LowerOperators
from tvm_sparse.passes.measure_sparsity import MeasureSparsity
from tvm_sparse.passes.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.passes.move_to_panels import MoveToPanels
from tvm_sparse.passes.pack_dense_weights import PackDenseWeights
from tvm_sparse.passes.read_panels_in_place import ReadPanelsInPlace
from tvm_sparse.passes.recompose_attention import RecomposeAttention
from tvm_sparse.passes.recompose_clip import RecomposeClip
from tvm_sparse.passes.recompose_gelu import RecomposeGelu
from tvm_sparse.passes.recompose_hard_swish import RecomposeHardSwish
from tvm_sparse.passes.recompose_layer_norm import RecomposeLayerNorm
from tvm_sparse.passes.recompose_silu import RecomposeSilu
from tvm_sparse.passes.recompose_square import RecomposeSquare
from tvm_sparse.passes.sink_views import SinkViews
from tvm_sparse.passes.sparsify_weights import SparsifyWeights
from tvm_sparse.passes.split_linear import SplitLinear
from tvm_sparse.passes.vectorize_math import VectorizeMath

__all__ = [
    "AcceptUnaligned",
    "ApplyDefaultSchedule",
    "FuseEpilogue",
    "LowerOperators",
    "MeasureSparsity",
    "MoveImagesToPanels",
    "MoveToPanels",
    "PackDenseWeights",
    "ReadPanelsInPlace",
    "RecomposeAttention",
    "RecomposeClip",
    "RecomposeGelu",
    "RecomposeHardSwish",
    "RecomposeLayerNorm",
    "RecomposeSilu",
    "RecomposeSquare",
    "SinkViews",
    "SparsifyWeights",
    "SplitLinear",
    "VectorizeMath",
]
