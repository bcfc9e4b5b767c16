"""Counts the misses of a module in a simulated private cache, with valgrind's cachegrind."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tvm
from column_cases import stages_alone
from tvm_ffi import libinfo

from tvm_sparse.bench.arrays import random_inputs
from tvm_sparse.building import build
from tvm_sparse.costs.regions import predict_alone
from tvm_sparse.cpu.instruction_sets import instruction_sets
from tvm_sparse.cpu.profile import CpuProfile, native, profile
from tvm_sparse.cpu.rates import CACHE_LINE_BYTES
from tvm_sparse.errors import ToolError
from tvm_sparse.frontends.load import import_module
from tvm_sparse.passes import pipeline
from tvm_sparse.passes.regions.form_regions import FormRegions
from tvm_sparse.passes.regions.region_planner import RegionPlanner
from tvm_sparse.runtime.info import LibraryInfo
from tvm_sparse.runtime.writing import describe, write_library

RUNNER = Path(__file__).parent.parent / "examples" / "cpp" / "main.cc"


def check_tools() -> None:
    """Return if all tools are there that counting needs.

    Raises
    ------
    ToolError
        If valgrind or a C++ compiler is missing.
    """
    for tool, package in (("valgrind", "valgrind"), ("g++", "g++")):
        if not shutil.which(tool):
            raise ToolError(f"{tool} is not on the search path; `apt-get install {package}`")


def processor() -> CpuProfile:
    """Return a core that valgrind can run the code of, with this machine's caches."""
    here = native()
    return dataclasses.replace(
        profile("haswell"),
        cores=1,
        l1_bytes=here.l1_bytes,
        l2_bytes=here.l2_bytes,
        l3_bytes=here.l3_bytes,
        measured=here.measured,
    )


def misses(
    mod: tvm.IRModule, cpu: CpuProfile, options: Mapping[str, Any], folder: Path
) -> tuple[int, int]:
    """Return the reads and the writes of one inference that miss the private cache.

    Parameters
    ----------
    mod : IRModule
        A function ``main`` of panels.
    cpu : CpuProfile
        The result of `processor`.
    options : mapping
        Arguments of `FormRegions`.
    folder : Path
        Folder for the library and its inputs.
    """
    module, inputs = _build(mod, cpu, options, folder)
    runner = _runner(folder)
    counts = []
    for runs in (1, 2):
        size, ways = cpu.l2_bytes, _l2_ways()
        command = [
            *(
                "valgrind",
                "--tool=cachegrind",
                "--cache-sim=yes",
                "--cachegrind-out-file=/dev/null",
            ),
            *(f"--LL={size},{ways},{CACHE_LINE_BYTES}", runner, module, "--runs", str(runs)),
            *("--threads", "1", *(word for path in inputs for word in ("--input", path))),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found = re.search(r"LLd misses:.*\(\s*([\d,]+) rd\s*\+\s*([\d,]+) wr\)", done.stderr)
        if done.returncode or found is None:
            raise ToolError(f"valgrind failed: {done.stderr.strip().splitlines()[-1:]}")
        counts.append([int(number.replace(",", "")) for number in found.groups()])
    (reads, writes), (more_reads, more_writes) = counts
    return more_reads - reads, more_writes - writes


def expected(mod: tvm.IRModule, cpu: CpuProfile, options: Mapping[str, Any]) -> float:
    """Return the bytes that the cost model expects to miss the private cache; see `misses`."""
    if options.get("columns", "auto") == "off":
        predictions = [predict_alone(shape, cpu) for shape in stages_alone(mod, cpu)]
    else:
        planner = RegionPlanner(cpu, "auto", options.get("overlap", "auto"), None)
        FormRegions(cpu, planner=planner)(mod)
        predictions = [region.prediction for region in planner.planned]
    return sum(sum(prediction.bytes_moved[2:]) for prediction in predictions)


def _build(
    mod: tvm.IRModule, cpu: CpuProfile, options: Mapping[str, Any], folder: Path
) -> tuple[Path, list[Path]]:
    """Write a library and its inputs."""
    imported = import_module(mod)
    info = LibraryInfo(
        inputs=imported.inputs,
        outputs=imported.outputs,
        constant_outputs=(),
        cpu=cpu.mcpu,
        machine=cpu.architecture,
        instruction_sets=instruction_sets(cpu.to_target()),
    )
    # The target does not say the sizes of the caches, so the passes run before.
    passes = [
        FormRegions(cpu, options.get("columns", "auto"), options.get("overlap", "auto")),
        *pipeline.lower(cpu),
    ]
    with cpu.to_target():
        described = describe(tvm.transform.Sequential(passes)(imported.mod), info)
        executable = build(described, cpu.to_target(), "default_build")
    path = folder / "traffic.so"
    write_library(executable.mod, path, info)
    files = []
    for i, value in enumerate(random_inputs(imported.inputs).values()):
        files.append(folder / f"traffic.{i}.bin")
        value.tofile(files[-1])
    return path, files


def _runner(folder: Path) -> Path:
    """Compile the C++ example, which has no other work than running the library."""
    program = folder / "traffic_run"
    folders = [Path(module.__file__).parent / "lib" for module in (tvm, libinfo)]
    includes = [libinfo.find_include_path(), libinfo.find_dlpack_include_path()]
    command = [
        *("g++", "-std=c++17", "-O1", "-o", program, RUNNER),
        *(f"-I{include}" for include in includes),
        *(word for path in folders for word in (f"-L{path}", f"-Wl,-rpath,{path}")),
        *("-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"),
        *("-ltvm_runtime", "-ltvm_runtime_extra", "-ltvm_ffi"),
    ]
    subprocess.run(command, check=True)
    return program


def _l2_ways() -> int:
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (index / "level").read_text().strip() == "2":
            return int((index / "ways_of_associativity").read_text())
    raise ToolError("Linux does not tell about the L2 cache of this machine")
