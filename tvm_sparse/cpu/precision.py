"""The precision of a network's activations: what a user asks for, and what a processor can do.

float16 is worth its rounding only where the processor computes with it. A processor that merely
converts it takes longer for that than it saves by reading half the bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from tvm_sparse.cpu.instruction_sets import instruction_sets, without_half
from tvm_sparse.cpu.integers import has_byte_matrix_unit
from tvm_sparse.cpu.profile import CpuProfile, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import InputError, TargetError

Precision = Literal["float32", "float16", "auto"]

PrecisionOption = Precision | DType
"""What activations are computed in; ``"auto"`` is the fastest of both that the target has."""


def check_precision(precision: str) -> None:
    """Refuse what is no precision.

    Raises
    ------
    InputError
        If `precision` is none of `PrecisionOption`.
    """
    names = get_args(Precision)
    if precision not in names:
        known = ", ".join(map(repr, names))
        raise InputError(f"precision must be one of {known}; got {precision!r}")


def resolve(precision: PrecisionOption, cpu: CpuProfile) -> CpuProfile:
    """Return a processor as a network of this precision uses it.

    Its `activations` are set. For float32, what was added to it for half precision is left out,
    so that a library runs wherever its code can.

    Raises
    ------
    InputError
        If `precision` is none of `PrecisionOption`.
    TargetError
        If `precision` is float16 and the processor has no arithmetic for it.
    """
    check_precision(precision)
    if precision == "float32" or (precision == "auto" and not cpu.has_half):
        return replace(cpu, activations=DType.FLOAT32, mattr=without_half(cpu.mattr))
    if not cpu.has_half:
        raise TargetError(
            f"precision float16: the target {cpu.name} ({cpu.mcpu}) has no float16 arithmetic; "
            "use float32 or auto, or a target that has it, such as sapphirerapids or rpi5"
        )
    return replace(cpu, activations=DType.FLOAT16)


def chosen(precision: PrecisionOption, cpu: CpuProfile) -> str:
    """Return the precision that `resolve` chose, and why, for people."""
    if precision != "auto":
        return str(cpu.activations)
    has = "has" if cpu.activations is DType.FLOAT16 else "has no"
    return f"{cpu.activations} (auto: {cpu.name} {has} float16 arithmetic)"


def processor(
    target: str, threads: int | None, precision: PrecisionOption = "float32"
) -> CpuProfile:
    """Return the profile that `tvm_sparse.compile` plans for.

    Raises
    ------
    InputError
        If `precision` is none of `PrecisionOption`.
    TargetError
        If `target` is unknown, or cannot compute in the precision.
    """
    cpu = profile(target)
    planned = CpuProfile.from_target(replace(cpu, cores=threads or cpu.cores).to_target())
    return resolve(precision, planned)


def needed_sets(cpu: CpuProfile, *, is_quantized: bool = False) -> tuple[str, ...]:
    """Return the optional instruction sets that code for a processor may use, by LLVM's names.

    LLVM uses any of them by itself, except for the matrix unit, which float32 leaves alone unless
    the model is quantized.
    """
    sets = instruction_sets(cpu.to_target())
    if cpu.activations is DType.FLOAT16:
        return sets
    used = ("amx-tile", "amx-int8") if is_quantized and has_byte_matrix_unit(cpu) else ()
    return tuple(name for name in sets if not name.startswith("amx") or name in used)
