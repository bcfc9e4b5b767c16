"""The pipeline: what happens to a network, in order.

``tvm.compile(mod, target, relax_pipeline="tvm_sparse")`` runs it by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm
from tvm import relax

from tvm_sparse.columns.options import Columns, OverlapOption
from tvm_sparse.cpu.profile import CpuProfile, native
from tvm_sparse.passes.canonicalize.legalize_dynamic_slice import LegalizeDynamicSlice
from tvm_sparse.passes.canonicalize.recompose_attention import RecomposeAttention
from tvm_sparse.passes.canonicalize.recompose_clip import RecomposeClip
from tvm_sparse.passes.canonicalize.recompose_gelu import RecomposeGelu
from tvm_sparse.passes.canonicalize.recompose_hard_swish import RecomposeHardSwish
from tvm_sparse.passes.canonicalize.recompose_layer_norm import RecomposeLayerNorm
from tvm_sparse.passes.canonicalize.recompose_silu import RecomposeSilu
from tvm_sparse.passes.canonicalize.recompose_square import RecomposeSquare
from tvm_sparse.passes.canonicalize.split_linear import SplitLinear
from tvm_sparse.passes.lower.accept_unaligned import AcceptUnaligned
from tvm_sparse.passes.lower.apply_default_schedule import ApplyDefaultSchedule
from tvm_sparse.passes.lower.lower_operators import LowerOperators
from tvm_sparse.passes.lower.lower_regions import LowerRegions
from tvm_sparse.passes.lower.vectorize_math import VectorizeMath
from tvm_sparse.passes.regions.form_regions import REGIONS, FormRegions
from tvm_sparse.passes.sparsify.fuse_epilogue import FuseEpilogue
from tvm_sparse.passes.sparsify.measure_sparsity import MeasureSparsity
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.passes.sparsify.move_to_panels import MoveToPanels
from tvm_sparse.passes.sparsify.pack_dense_weights import PackDenseWeights
from tvm_sparse.passes.sparsify.read_panels_in_place import ReadPanelsInPlace
from tvm_sparse.passes.sparsify.sparsify_weights import SparsifyWeights
from tvm_sparse.records.choices import Choices, token_network
from tvm_sparse.tilings.families import KernelFor, by_cost_model

Passes = list[tvm.transform.Pass]


def canonicalize() -> Passes:
    """Make whole operators of what exporters decompose."""
    return [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
        LegalizeDynamicSlice(),
        relax.transform.FoldConstant(),
        RecomposeLayerNorm(),
        RecomposeGelu(),
        RecomposeSilu(),
        RecomposeClip(),
        RecomposeHardSwish(),
        RecomposeAttention(),
        RecomposeSquare(),
        SplitLinear(),
        relax.transform.DeadCodeElimination(),
    ]


def sparsify(cpu: CpuProfile, kernel_for: KernelFor = by_cost_model) -> Passes:
    """Choose a kernel for every weight and keep the activations in panels between them."""
    return [
        MeasureSparsity(),
        SparsifyWeights(cpu, kernel_for),
        PackDenseWeights(cpu, kernel_for),
        MoveToPanels(cpu),
        MoveImagesToPanels(cpu),
        FuseEpilogue(),
        ReadPanelsInPlace(),
    ]


def canonical(mod: tvm.IRModule, cpu: CpuProfile) -> tvm.IRModule:
    """Return a network of whole operators, as it was imported otherwise."""
    with cpu.to_target():
        return tvm.transform.Sequential(canonicalize())(mod)


def on_panels(mod: tvm.IRModule, cpu: CpuProfile, choices: Choices | None = None) -> tvm.IRModule:
    """Return a network whose operators work on panels.

    Parameters
    ----------
    mod : IRModule
        From `canonical`.
    cpu : CpuProfile
        For which processor.
    choices : Choices, optional
        Lanes and kernels that were measured.
    """
    choices = choices or Choices()
    with cpu.to_target():
        lanes = choices.lanes_for(token_network(mod, cpu))
        cpu = dataclasses.replace(cpu, token_lanes=lanes or cpu.token_lanes)
        return tvm.transform.Sequential(sparsify(cpu, choices.kernel_for))(mod)


def lower(cpu: CpuProfile) -> Passes:
    """Turn all operators into scheduled PrimFuncs: ours by our kernels, the rest by default."""
    return [
        LowerRegions(cpu),
        LowerOperators(cpu),
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        ApplyDefaultSchedule(cpu),
        VectorizeMath(),
        AcceptUnaligned(),
    ]


def pipeline(
    columns: Columns = "auto",
    overlap: OverlapOption = "auto",
    choices: Choices | None = None,
    report: Callable[[Sequence[Mapping[str, Any]]], None] | None = None,
) -> tvm.transform.Pass:
    """Return the whole pipeline, for the target in scope or else for this machine.

    Parameters
    ----------
    columns, overlap
        As `FormRegions`.
    choices : Choices, optional
        What was measured, which the cost model's choices give way to.
    report : callable, optional
        Called with what the attribute `REGIONS` says of the regions.
    """

    @tvm.transform.module_pass(opt_level=0, name="tvm_sparse")
    def run(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        target = tvm.target.Target.current(allow_none=True)
        cpu = CpuProfile.from_target(target) if target is not None else native()
        mod = canonical(mod, cpu)
        used = (choices or Choices()).fitting(mod, cpu)
        regions = FormRegions(cpu, columns, overlap, used.plan_for)
        mod = on_panels(mod, cpu, used)
        phases = [regions, *lower(cpu)]
        with target or cpu.to_target():
            mod = tvm.transform.Sequential(phases)(mod)
            if report is not None and mod.attrs and REGIONS in mod.attrs:
                report(mod.attrs[REGIONS])
            return relax.get_pipeline("default_build")(mod)

    return run
