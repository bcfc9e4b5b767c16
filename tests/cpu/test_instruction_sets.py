"""This machine's instruction sets are those that its system shows, whatever LLVM calls it."""

import platform

import pytest
import tvm

from tvm_sparse.cpu import instruction_sets
from tvm_sparse.cpu.profile import native

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are x86's")

SKYLAKE = frozenset(
    [
        "pni",
        "ssse3",
        "sse4_1",
        "sse4_2",
        "popcnt",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "movbe",
        "bmi1",
        "bmi2",
        "abm",
        "avx512f",
        "avx512cd",
        "avx512bw",
        "avx512dq",
        "avx512vl",
    ]
)


@pytest.fixture
def shown(monkeypatch):
    """Return a function that sets the flags which the system shows."""

    def show(flags, mcpu="skylake-avx512"):
        monkeypatch.setattr(instruction_sets, "cpu_flags", lambda: frozenset(flags))
        monkeypatch.setattr(tvm.target.codegen, "llvm_get_system_cpu", lambda: mcpu)
        forget()

    def forget():
        instruction_sets._here.cache_clear()
        native.cache_clear()

    yield show
    monkeypatch.undo()
    forget()


def test_what_the_system_hides_is_missing(shown):
    shown({"avx", "avx2", "fma", "abm", "bmi1"})
    named = ("avx2", "avx512f", "lzcnt", "bmi", "bmi2")
    assert instruction_sets.missing(named) == ("avx512f", "bmi2")


def test_a_processor_that_llvm_names_rightly_needs_no_corrections(shown):
    shown(SKYLAKE)
    assert instruction_sets.corrections("skylake-avx512") == ()
    assert (native().has_half, native().has_matrix_unit) == (False, False)
    shown(())
    assert instruction_sets.corrections("skylake-avx512") == ()


def test_half_precision_that_llvm_does_not_know_of_is_added(shown):
    shown(SKYLAKE | {"avx512_fp16"})
    assert native().mattr == ("-prefer-256-bit", "+avx512fp16")
    shown(SKYLAKE | {"avx512_fp16", "amx_tile", "amx_bf16", "avx512_bf16"})
    assert native().has_half and native().has_matrix_unit


def test_what_a_virtual_machine_hides_is_taken_away(shown):
    shown(SKYLAKE, mcpu="sapphirerapids")
    assert {"-avx512fp16", "-amx-tile", "-avx512vnni"} <= {*native().mattr}
    assert not native().has_half and native().vector_bits == 512
    sets = instruction_sets.instruction_sets(native().to_target())
    assert instruction_sets.missing(sets) == ()


def test_without_avx512_the_vectors_are_those_of_avx2(shown):
    shown({flag for flag in SKYLAKE if "512" not in flag}, mcpu="sapphirerapids")
    cpu = native()
    assert (cpu.mcpu, cpu.vector_bits, cpu.vector_registers) == ("sapphirerapids", 256, 16)
    assert instruction_sets.missing(instruction_sets.instruction_sets(cpu.to_target())) == ()


def test_float32_needs_no_attributes_of_half_precision():
    mattr = ("-prefer-256-bit", "+avx512fp16", "+amx-tile", "-amx-bf16", "+fullfp16")
    assert instruction_sets.without_half(mattr) == (
        "-prefer-256-bit",
        "+amx-tile",  # of integers, too
        "-amx-bf16",
    )
