"""What became of the layers and regions of a module, for people."""

from __future__ import annotations

from collections.abc import Mapping

import tvm

from tvm_sparse.compile_report import CompileReport
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.layer_report import (
    EXPANDED,
    FILE_LAYERS,
    LayerReport,
    layer_reports,
    with_expanded,
)
from tvm_sparse.passes.ir.shapes import sizes_of
from tvm_sparse.passes.padding.drop_padding import decision
from tvm_sparse.passes.regions.form_regions import REGIONS
from tvm_sparse.passes.sparsify.decisions import LAYERS
from tvm_sparse.passes.sparsify.keeps_default import kept_by_tvm
from tvm_sparse.passes.sparsify.measure_sparsity import WEIGHTS
from tvm_sparse.records.used import UsedRecords


def layers_of(mod: tvm.IRModule, regions: Mapping[str, int]) -> tuple[LayerReport, ...]:
    """Return what became of the layers of a module from `tvm_sparse.passes.pipeline.front`.

    Parameters
    ----------
    mod : IRModule
        The module.
    regions : mapping of str to int
        The number of the region of each operator that is in one, by the name of its result.
    """
    file_layers = mod.attrs.get(FILE_LAYERS, ())
    layers = layer_reports(mod.attrs[WEIGHTS], mod.attrs[LAYERS], file_layers, regions)
    return with_expanded(layers, mod.attrs.get(EXPANDED, {}))


def compile_report(
    mod: tvm.IRModule, cpu: CpuProfile, used: UsedRecords, precision: str
) -> CompileReport:
    """Return what became of the layers and the regions of a module from `FormRegions`.

    Parameters
    ----------
    mod : IRModule
        The module.
    cpu : CpuProfile
        The processor that it is planned for.
    used : UsedRecords
        The measured choices that went into it.
    precision : str
        What activations are computed in, for people.
    """
    formed = mod.attrs.get(REGIONS, ())
    regions = {str(name): i for i, region in enumerate(formed) for name in region["layers"]}
    alone = (layer for layer in mod.attrs[LAYERS] if str(layer["layer"]) not in regions)
    seconds = sum(float(part["seconds"]) for part in (*formed, *alone))
    layers, used = layers_of(mod, regions), used.with_regions(formed)
    kept = kept_by_tvm(mod) if sizes_of(mod) else ""
    padding = {name: str(decision(mod).get(name, "")) for name in ("text", "mask", "refusal")}
    return CompileReport(
        layers, tuple(formed), seconds, cpu.cores, used, precision, kept,
        padding["text"], padding["mask"], padding["refusal"],
    )  # fmt: skip
