"""Passes over Relax modules, one a file; `pipeline` is their table of contents."""

from tvm_sparse.passes.canonicalize.check_indices import CheckIndices
from tvm_sparse.passes.canonicalize.compute_constants import ComputeConstants
from tvm_sparse.passes.canonicalize.expand_blocks import ExpandBlocks
from tvm_sparse.passes.canonicalize.flatten_recurrent_rows import FlattenRecurrentRows
from tvm_sparse.passes.canonicalize.gather_whole import GatherWhole
from tvm_sparse.passes.canonicalize.keep_zeros import KeepZeros
from tvm_sparse.passes.canonicalize.legalize_dynamic_slice import LegalizeDynamicSlice
from tvm_sparse.passes.canonicalize.multiply_single_pixels import MultiplySinglePixels
from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.passes.canonicalize.recompose_gelu import RecomposeGelu
from tvm_sparse.passes.canonicalize.recompose_hard_swish import RecomposeHardSwish
from tvm_sparse.passes.canonicalize.recompose_layer_norm import RecomposeLayerNorm
from tvm_sparse.passes.canonicalize.recompose_silu import RecomposeSilu
from tvm_sparse.passes.canonicalize.recompose_softplus import RecomposeSoftplus
from tvm_sparse.passes.canonicalize.sink_views import SinkViews
from tvm_sparse.passes.canonicalize.split_linear import SplitLinear
from tvm_sparse.passes.canonicalize.split_reductions import SplitReductions
from tvm_sparse.passes.canonicalize.widen_half import WidenHalf
from tvm_sparse.passes.canonicalize.write_out_powers import WriteOutPowers
from tvm_sparse.passes.lower.accept_unaligned import AcceptUnaligned
from tvm_sparse.passes.lower.apply_default_schedule import ApplyDefaultSchedule
from tvm_sparse.passes.lower.check_divisors import CheckDivisors
from tvm_sparse.passes.lower.clamp_indices import ClampIndices
from tvm_sparse.passes.lower.lower_operators import LowerOperators
from tvm_sparse.passes.lower.lower_regions import LowerRegions
from tvm_sparse.passes.lower.trust_arguments import TrustArguments
from tvm_sparse.passes.lower.vectorize_math import VectorizeMath
from tvm_sparse.passes.padding.drop_padding import DropPadding
from tvm_sparse.passes.padding.map_padding import MapPadding
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.sparsify.cut_wide_rows import CutWideRows
from tvm_sparse.passes.sparsify.fuse_epilogue import FuseEpilogue
from tvm_sparse.passes.sparsify.measure_sparsity import MeasureSparsity
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.passes.sparsify.move_to_panels import MoveToPanels
from tvm_sparse.passes.sparsify.pack_block_weights import PackBlockWeights
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.passes.sparsify.pack_recurrent_weights import PackRecurrentWeights
from tvm_sparse.passes.sparsify.read_panels_in_place import ReadPanelsInPlace
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights

__all__ = [
    "AcceptUnaligned",
    "ApplyDefaultSchedule",
    "CheckDivisors",
    "CheckIndices",
    "ClampIndices",
    "ComputeConstants",
    "CutWideRows",
    "DropPadding",
    "ExpandBlocks",
    "FlattenRecurrentRows",
    "FormRegions",
    "FuseEpilogue",
    "GatherWhole",
    "KeepZeros",
    "LegalizeDynamicSlice",
    "LowerOperators",
    "LowerRegions",
    "MapPadding",
    "MeasureSparsity",
    "MoveImagesToPanels",
    "MoveToPanels",
    "MultiplySinglePixels",
    "PackBlockWeights",
    "PackDenseWeights",
    "PackRecurrentWeights",
    "ReadPanelsInPlace",
    "RecomposeAttention",
    "RecomposeClip",
    "RecomposeGelu",
    "RecomposeHardSwish",
    "RecomposeLayerNorm",
    "RecomposeSilu",
    "RecomposeSoftplus",
    "SinkViews",
    "SparsifyWeights",
    "SplitLinear",
    "SplitReductions",
    "TrustArguments",
    "VectorizeMath",
    "WidenHalf",
    "WriteOutPowers",
]
