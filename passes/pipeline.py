"""The pipeline: the passes of a network in order, phase by phase.

``tvm.compile(mod, target, relax_pipeline="tvm_sparse")`` runs it by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.columns.options import ColumnRows, OverlapOption
from tvm_sparse.columns.plans import PlanFor
from tvm_sparse.compile_report import CompileReport
from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.precision import PrecisionOption, chosen, resolve
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.errors import ModelError
from tvm_sparse.passes.canonicalize.check_indices import CheckIndices
from tvm_sparse.passes.canonicalize.compute_constants import ComputeConstants
from tvm_sparse.passes.canonicalize.compute_indices import ComputeIndices
from tvm_sparse.passes.canonicalize.expand_blocks import ExpandBlocks
from tvm_sparse.passes.canonicalize.flatten_recurrent_rows import FlattenRecurrentRows
from tvm_sparse.passes.canonicalize.fold_constants import FoldConstants
from tvm_sparse.passes.canonicalize.gather_whole import GatherWhole
from tvm_sparse.passes.canonicalize.keep_zeros import KeepZeros
from tvm_sparse.passes.canonicalize.legalize_dynamic_slice import LegalizeDynamicSlice
from tvm_sparse.passes.canonicalize.move_left_weights import MoveLeftWeights
from tvm_sparse.passes.canonicalize.multiply_frames import MultiplyFrames
from tvm_sparse.passes.canonicalize.multiply_single_pixels import MultiplySinglePixels
from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.passes.canonicalize.recompose_experts import RecomposeExperts
from tvm_sparse.passes.canonicalize.recompose_gelu import RecomposeGelu
from tvm_sparse.passes.canonicalize.recompose_hard_swish import RecomposeHardSwish
from tvm_sparse.passes.canonicalize.recompose_layer_norm import RecomposeLayerNorm
from tvm_sparse.passes.canonicalize.recompose_quantized import RecomposeQuantized
from tvm_sparse.passes.canonicalize.recompose_quantized_products import (
    RecomposeQuantizedProducts,
)
from tvm_sparse.passes.canonicalize.recompose_silu import RecomposeSilu
from tvm_sparse.passes.canonicalize.recompose_softplus import RecomposeSoftplus
from tvm_sparse.passes.canonicalize.split_exact_products import SplitExactProducts
from tvm_sparse.passes.canonicalize.split_linear import SplitLinear
from tvm_sparse.passes.canonicalize.split_reductions import SplitReductions
from tvm_sparse.passes.canonicalize.split_transposed_conv import SplitTransposedConv
from tvm_sparse.passes.canonicalize.view_quantized_weights import ViewQuantizedWeights
from tvm_sparse.passes.canonicalize.widen_half import WidenHalf
from tvm_sparse.passes.canonicalize.write_out_powers import WriteOutPowers
from tvm_sparse.passes.ir.left_out import MEMORY_PLANNING, has_branches, without_passes
from tvm_sparse.passes.ir.legalize_quantize import legalize_quantize
from tvm_sparse.passes.ir.shapes import planned_for, sizes_of
from tvm_sparse.passes.lower.accept_unaligned import AcceptUnaligned
from tvm_sparse.passes.lower.apply_default_schedule import ApplyDefaultSchedule
from tvm_sparse.passes.lower.call_host_functions import CallHostFunctions
from tvm_sparse.passes.lower.check_divisors import CheckDivisors
from tvm_sparse.passes.lower.clamp_indices import ClampIndices
from tvm_sparse.passes.lower.count_multiples import (
    CountMultiples,
    counted,
    default_counts,
    multiples_in,
)
from tvm_sparse.passes.lower.drop_pragmas import DropPragmas
from tvm_sparse.passes.lower.join_reshapes import JoinReshapes
from tvm_sparse.passes.lower.keep_numbers_apart import KeepNumbersApart
from tvm_sparse.passes.lower.lower_operators import LowerOperators
from tvm_sparse.passes.lower.lower_regions import LowerRegions
from tvm_sparse.passes.lower.machine_code import machine_code
from tvm_sparse.passes.lower.trust_arguments import TrustArguments
from tvm_sparse.passes.lower.vectorize_math import VectorizeMath
from tvm_sparse.passes.lower.view_reshapes import ViewReshapes
from tvm_sparse.passes.lower.view_results import ViewResults
from tvm_sparse.passes.padding.drop_padding import (
    PACKED_LANES,
    DropPadding,
    decision,
    with_rows,
)
from tvm_sparse.passes.padding.map_padding import MapPadding
from tvm_sparse.passes.regions.fewer_threads import is_small, may_be_small
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.regions.plan_for_hints import PlanForHints
from tvm_sparse.passes.reporting import compile_report
from tvm_sparse.passes.sparsify.cut_wide_rows import CutWideRows
from tvm_sparse.passes.sparsify.fuse_epilogue import FuseEpilogue
from tvm_sparse.passes.sparsify.measure_sparsity import MeasureSparsity
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.passes.sparsify.move_to_panels import MoveToPanels
from tvm_sparse.passes.sparsify.pack_block_weights import PackBlockWeights
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.passes.sparsify.pack_expert_weights import PackExpertWeights
from tvm_sparse.passes.sparsify.pack_recurrent_weights import PackRecurrentWeights
from tvm_sparse.passes.sparsify.read_as_integers import OrReadAsIntegers
from tvm_sparse.passes.sparsify.read_panels_in_place import ReadPanelsInPlace
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights
from tvm_sparse.passes.sparsify.token_network import model_key, token_network
from tvm_sparse.records.keys import layer_key
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.records.used import UsedRecords
from tvm_sparse.specs import Hints, PaddingOption, each_hint
from tvm_sparse.tilings.families import KernelFor, Tiling, nothing_measured
from tvm_sparse.tilings.layer import Layer

Passes = list[tvm.transform.Pass]


def canonicalize() -> Passes:
    """Make whole operators of the parts into which exporters decompose them."""
    return [
        ComputeIndices(),
        CheckIndices(),
        WidenHalf(),
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        LegalizeDynamicSlice(),
        RecomposeQuantizedProducts(),
        SplitExactProducts(),
        ViewQuantizedWeights(),
        RecomposeQuantized(),
        KeepZeros(),
        WriteOutPowers(),
        ComputeConstants(),
        FoldConstants(),
        GatherWhole(),
        MultiplySinglePixels(),
        MultiplyFrames(),
        RecomposeExperts(),
        RecomposeLayerNorm(),
        RecomposeGelu(),
        RecomposeSilu(),
        RecomposeSoftplus(),
        RecomposeClip(),
        RecomposeHardSwish(),
        RecomposeAttention(),
        MoveLeftWeights(),
        FlattenRecurrentRows(),
        SplitLinear(),
        SplitReductions(),
        SplitTransposedConv(),
        relax.transform.DeadCodeElimination(),
    ]


def sparsify(
    cpu: CpuProfile,
    kernel_for: KernelFor = nothing_measured,
    keep_float32: Collection[str] = (),
) -> Passes:
    """Choose a kernel for every weight and keep the activations in panels between them."""
    return [
        CutWideRows(cpu),
        MeasureSparsity(),
        SparsifyWeights(cpu, kernel_for, keep_float32),
        PackDenseWeights(cpu, kernel_for, keep_float32),
        PackBlockWeights(cpu, kernel_for),
        PackRecurrentWeights(cpu),
        PackExpertWeights(cpu),
        MoveToPanels(cpu),
        MoveImagesToPanels(cpu),
        FuseEpilogue(),
        ReadPanelsInPlace(),
    ]


def lower(cpu: CpuProfile) -> Passes:
    """Turn all operators into scheduled PrimFuncs: ours by our kernels, the rest by default."""
    return [
        KeepZeros(),
        MapPadding(),
        LowerRegions(cpu),
        LowerOperators(cpu),
        JoinReshapes(),
        relax.transform.LegalizeOps({"relax.quantize": legalize_quantize}),
        CallHostFunctions(),
        ClampIndices(),
        CheckDivisors(),
        relax.transform.AnnotateTIROpPattern(),
        KeepNumbersApart(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        # It knows a reshape by its loops: a scheduled one would be copied.
        ViewReshapes(),
        ViewResults(),
        relax.transform.DeadCodeElimination(),
        ApplyDefaultSchedule(cpu),
        DropPragmas(),
        VectorizeMath(),
        AcceptUnaligned(),
        TrustArguments(),
    ]


@one_at_a_time
def canonical(mod: tvm.IRModule, cpu: CpuProfile) -> tvm.IRModule:
    """Return a model as it was imported, with whole operators."""
    with cpu.to_target(), planned_for(sizes_of(mod)):
        return tvm.transform.Sequential([ExpandBlocks(cpu), *canonicalize()])(mod)


@dataclass(frozen=True)
class Front:
    """A model behind the front half of the pipeline.

    Attributes
    ----------
    mod : IRModule
        The model; its operators work on panels.
    plan_for : callable, optional
        Looks up measured plans of regions; None if none are known, or none shall be used.
    used : UsedRecords
        The measured choices that were used.
    """

    mod: tvm.IRModule
    plan_for: PlanFor | None
    used: UsedRecords


@one_at_a_time
def front(
    mod: tvm.IRModule,
    cpu: CpuProfile,
    lookups: Lookups | None = None,
    keep_float32: Collection[str] = (),
    padding: PaddingOption = "keep",
) -> Front:
    """Return a model whose operators work on panels: the front half of the pipeline.

    Parameters
    ----------
    mod : IRModule
        The model as it was imported.
    cpu : CpuProfile
        The processor to compile for, and the type of the panels.
    lookups : Lookups, optional
        Looks up measured choices; the cost models choose where nothing was measured.
    keep_float32 : collection of str
        The names of layers whose panels are float32 whatever `cpu.activations` are.
    padding : str
        What becomes of padded tokens, as `DropPadding` takes it.
    """
    with planned_for(sizes_of(mod)):
        mod = canonical(mod, cpu)
        known = lookups or Lookups()
        is_refused = lookups is not None and lookups.refuses(model_key(mod, cpu))
        if is_refused:
            known = Lookups(source=known.source)
        lanes = known.lanes_for(token_network(mod, cpu)) if lookups else None
        packed = lanes or max(PACKED_LANES, cpu.vector_lanes(cpu.activations))
        mod = tvm.transform.Sequential([DropPadding(padding, packed)])(mod)
        if decision(mod).get("mask"):
            lanes = packed
        layers = set()

        def kernel_for(layer: Layer[Any]) -> Tiling | None:
            tiling = known.kernel_for(layer)
            if tiling is not None:
                layers.add(layer_key(layer))
            return tiling

        with cpu.to_target(), planned_for(with_rows(mod, {})):
            on_lanes = dataclasses.replace(cpu, token_lanes=lanes or cpu.token_lanes)
            keep = OrReadAsIntegers(keep_float32, mod)
            mod = tvm.transform.Sequential(sparsify(on_lanes, kernel_for, keep))(mod)
            # What surrounds an If and what is in its branches are no blocks of dataflow before: the
            # rules look through the variables of all of them.
            mod = relax.transform.ConvertToDataflow(min_size=1)(mod)
        used = UsedRecords(known.source, lanes, frozenset(layers), is_refused)
        return Front(mod, known.plan_for, used)


@dataclass(frozen=True)
class _Planned:
    """A model with its regions, for a processor; `made` says what became of it."""

    mod: tvm.IRModule
    cpu: CpuProfile
    made: CompileReport
    point: Mapping[str, int]


def pipeline(
    columns: ColumnRows = "auto",
    overlap: OverlapOption = "auto",
    lookups: Lookups | None = None,
    report: Callable[[CompileReport], None] | None = None,
    strict: bool = False,
    precision: PrecisionOption = "float32",
    keep_float32: Collection[str] = (),
    hints: Hints | None = None,
    padding: PaddingOption = "keep",
    fewer_threads: bool = False,
) -> tvm.transform.Pass:
    """Return the whole pipeline, for the target in scope or else for this machine.

    Parameters
    ----------
    columns, overlap
        The arguments `column_rows` and `overlap` of `FormRegions`.
    lookups : Lookups, optional
        Looks up measured choices; the cost models choose where nothing was measured.
    report : callable, optional
        Called with what became of the layers and regions; by default, the warnings are logged.
    strict : bool
        Whether a pruned layer without a sparse kernel is a `ModelError`; TVM raises RuntimeError.
    precision : str
        What activations are computed in, as `tvm_sparse.compile` takes it.
    keep_float32 : collection of str
        The names of layers whose panels are float32 whatever `precision` is.
    hints : mapping of str to int or sequence of int, optional
        Values of named sizes to plan for. The code computes all values.
    padding : str
        What becomes of padded tokens, as `DropPadding` takes it. If they cannot be dropped that
        shall be, `ModelError` says why; TVM raises RuntimeError.
    fewer_threads : bool
        Whether a network that is too small for several threads is planned for one.
    """
    several = each_hint(hints or {})

    @tvm.transform.module_pass(opt_level=0, name="tvm_sparse")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        target = tvm.target.Target.current(allow_none=True)
        cpu = resolve(precision, CpuProfile.from_target(target) if target else native())
        multiples = multiples_in(mod)
        sizes = sizes_of(mod) | default_counts(multiples)
        planned = [counted(hint, multiples) for hint in several]
        with planned_for(sizes | planned[0]):
            return whole(mod, cpu, target or cpu.to_target(), planned)

    def whole(
        mod: tvm.IRModule,
        cpu: CpuProfile,
        target: Any,
        planned: Sequence[Mapping[str, int]],
    ) -> tvm.IRModule:
        def planned_on(cpu: CpuProfile, lookups: Lookups | None) -> _Planned:
            found = front(mod, cpu, lookups, keep_float32, padding)
            regions = FormRegions(cpu, columns, overlap, found.plan_for)
            points = [with_rows(found.mod, hints) for hints in planned]
            with cpu.to_target(), planned_for(points[0]):
                formed = tvm.transform.Sequential([PlanForHints(points), regions])(found.mod)
                made = compile_report(formed, cpu, found.used, chosen(precision, cpu))
            return _Planned(formed, cpu, made, points[0])

        plan = planned_on(cpu, lookups)
        if fewer_threads and not sizes_of(mod) and may_be_small(plan.mod, plan.made, cpu):
            alone = planned_on(dataclasses.replace(cpu, cores=1), None)
            if is_small(plan.made, alone.made):
                plan, target = alone, alone.cpu.to_target()
        made = plan.made
        with target, planned_for(plan.point):
            (report or CompileReport.log)(made)
            if made.refusal:
                raise ModelError(made.refusal)
            if strict and made.warnings:
                raise ModelError(made.warnings[0])
            mod = tvm.transform.Sequential([CountMultiples(), *lower(plan.cpu)])(plan.mod)
            with without_passes(*[MEMORY_PLANNING] if has_branches(mod) else []):
                return tvm.transform.Sequential(machine_code())(mod)

    return run
