"""A model as a whole: its libraries, and whether it is faster with the records or without."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import relax

from tvm_sparse.building import build
from tvm_sparse.compiling import one_at_a_time
from tvm_sparse.cpu.precision import PrecisionOption, processor
from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.dtypes import DType
from tvm_sparse.frontends.load import import_module
from tvm_sparse.layer_report import LayersOf
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.sparsify.token_network import model_key
from tvm_sparse.records.best import BY_COST_MODEL, RecordedPlans
from tvm_sparse.records.keys import key_on
from tvm_sparse.records.lookups import Lookups
from tvm_sparse.records.record import Key, Plan, digest
from tvm_sparse.tuning.devices import Arguments, Build
from tvm_sparse.tuning.libraries import export, write_arguments
from tvm_sparse.tuning.part import Part, Setting, name_of
from tvm_sparse.tuning.task import Store, Task

BUILD_SECONDS = 300.0
"""Seconds that the build of a model may take."""


@dataclass(frozen=True)
class ModelSubject:
    """A whole model, from which libraries are built with or without records.

    Attributes
    ----------
    model : str
        An ONNX file, or a Relax module as JSON.
    shapes : mapping, optional
        The shapes of the inputs that have dynamic dimensions.
    target : str
        The name of the CPU profile.
    threads : int
        The number of threads that the model runs on.
    records : Path
        The file of the records, for a plan that uses them.
    precision : DType
        The type of the model's activations.
    keep_float32 : tuple of str
        The names of layers that stay in float32.
    """

    model: str
    shapes: Mapping[str, Sequence[int]] | None
    target: str
    threads: int
    records: Path
    precision: DType = DType.FLOAT32
    keep_float32: tuple[str, ...] = ()

    @staticmethod
    def of(
        model: str | os.PathLike[str] | tvm.IRModule,
        shapes: Mapping[str, Sequence[int]] | None,
        folder: Path,
        target: str,
        cpu: CpuProfile,
        records: Path,
        keep_float32: Iterable[str] = (),
    ) -> ModelSubject:
        """Return a model, which is written to a folder unless it is a file."""
        if isinstance(model, tvm.IRModule):
            path = folder / "network.json"
            path.write_text(tvm.ir.save_json(model))
            given, shapes = str(path), None
        else:
            given = str(Path(model).resolve())
        keep = tuple(keep_float32)
        return ModelSubject(given, shapes, target, cpu.cores, records, cpu.activations, keep)

    def build(self, plan: Plan) -> Build:
        """Return how the library is built: with given lanes, with records, or without any."""
        shapes = self.shapes and {name: list(shape) for name, shape in self.shapes.items()}
        arguments = {
            "model": self.model,
            "shapes": json.dumps(shapes),
            "plan": dict(plan),
            "records": str(self.records),
            "target": self.target,
            "threads": self.threads,
            "precision": self.precision,
            "keep_float32": list(self.keep_float32),
        }
        return Build(f"{__name__}:build_model_library", arguments, BUILD_SECONDS)

    def arguments(self, folder: Path, main: relax.Function) -> Arguments:
        """Write the arguments of the libraries: random inputs of ``main``."""
        return write_arguments(
            folder,
            main,
            lambda ty: int(ty.shape[-1]) if len(ty.shape) else 1,
            precision=self.precision,
        )


def build_model_library(
    library: Path,
    model: str,
    shapes: str,
    plan: Plan,
    records: str,
    target: str,
    threads: int,
    precision: PrecisionOption,
    keep_float32: Sequence[str],
) -> None:
    """Build a model under a plan, as a library for the virtual machine."""
    cpu = processor(target, threads, precision)
    lookups = Lookups()
    lanes = plan.get("lanes")
    if isinstance(lanes, int):
        lookups = Lookups(lanes_for=lambda network: lanes)
    elif plan["choices"] != BY_COST_MODEL:
        known = RecordedPlans.read(Path(records)).lookups_on(cpu)
        lookups = replace(known, refuses=lambda key: False)
    passes = pipeline.pipeline(
        lookups=lookups,
        report=lambda _: None,
        precision=precision,
        keep_float32=LayersOf(keep_float32),
    )
    export(build(_read(model, shapes), cpu.to_target(), passes), library, cpu)


@functools.lru_cache(maxsize=1)
def _read(model: str, shapes: str) -> tvm.IRModule:
    if model.endswith(".json"):
        return tvm.ir.load_json(Path(model).read_text())
    return import_module(model, json.loads(shapes)).mod


@one_at_a_time
def model_part(
    mod: tvm.IRModule,
    store: Store,
    keys: Sequence[Key],
    subject: ModelSubject,
    arguments: Arguments,
    setting: Setting,
) -> Part:
    """Return the part that tells whether the model as a whole is faster with the records.

    Parameters
    ----------
    mod : IRModule
        The model, from `tvm_sparse.passes.pipeline.canonical`.
    store : Store
        The records.
    keys : sequence of Key
        The keys of the records that the model uses; if their best plans change, the model is
        measured again.
    subject : ModelSubject
        The same model, to build.
    arguments : Arguments
        The inputs of the model.
    setting : Setting
        The setting of the run.
    """
    best = [store.records.best(key) for key in keys]
    used = sorted(f"{r.key.structure} {json.dumps(r.plan, sort_keys=True)}" for r in best if r)
    key = key_on(model_key(mod, setting.cpu), setting.cpu)
    plans = {"choices": BY_COST_MODEL}, {"choices": f"records {digest(''.join(used))}"}
    return Part("model", Task(name_of(key), key, plans, subject.build, arguments))
