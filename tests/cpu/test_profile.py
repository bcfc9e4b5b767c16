from __future__ import annotations

import dataclasses

import pytest
import tvm

from tvm_sparse.cpu.profile import PROFILES, CpuProfile, native, profile
from tvm_sparse.errors import TargetError


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_survives_the_way_through_a_target(name):
    cpu = profile(name)
    assert CpuProfile.from_target(cpu.to_target()) == cpu


def test_native_is_what_this_machine_has():
    cpu = native()
    assert profile("native") == cpu and CpuProfile.from_target(cpu.to_target()) == cpu
    assert cpu.cores >= 1 and cpu.vector_bits in (256, 512)
    assert 8 * 1024 <= cpu.l1_bytes < cpu.l2_bytes


def test_the_target_wins_over_the_profile():
    target = tvm.target.Target({"kind": "llvm", "mcpu": "znver3", "num-cores": 3})
    cpu = CpuProfile.from_target(target)
    assert cpu == dataclasses.replace(profile("znver3"), cores=3)


def test_an_unlisted_processor_gets_the_profile_of_its_vectors():
    cpu = CpuProfile.from_target(tvm.target.Target({"kind": "llvm", "mcpu": "tigerlake"}))
    assert (cpu.mcpu, cpu.vector_bits) == ("tigerlake", 512)
    cpu = CpuProfile.from_target(tvm.target.Target({"kind": "llvm", "mcpu": "broadwell"}))
    assert (cpu.mcpu, cpu.vector_bits) == ("broadwell", 256)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("zenver3", "znver3"), ("Raspberry Pi 4", "rpi4"), ("cortex-a76", "rpi5"), ("rpi6", "rpi")],
)
def test_unknown_names_suggest_the_nearest(name, nearest):
    with pytest.raises(TargetError, match=f"did you mean '{nearest}"):
        profile(name)


def test_an_unlisted_arm_processor_gets_the_generic_profile():
    config = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    cpu = CpuProfile.from_target(tvm.target.Target(config | {"mcpu": "cortex-a55"}))
    assert cpu == dataclasses.replace(profile("armv8-a"), name="cortex-a55", mcpu="cortex-a55")
    assert CpuProfile.from_target(tvm.target.Target(config)) == profile("armv8-a")


def test_boards_with_the_same_core_differ():
    assert profile("rpi3").mcpu == profile("imx8").mcpu
    assert CpuProfile.from_target(profile("imx8").to_target()).name == "imx8"


def test_boards_say_their_instruction_set():
    from tvm_sparse.cpu.instruction_sets import instruction_sets

    sets = {name: instruction_sets(cpu.to_target()) for name, cpu in PROFILES.items()}
    boards = [name for name, cpu in PROFILES.items() if cpu.architecture == "aarch64"]
    assert all("neon" in sets[name] for name in boards)
    assert "dotprod" in sets["rpi5"] and "dotprod" not in sets["rpi4"]
    assert sets["riscv64"] == ("v",)


def test_half_precision_is_what_the_processor_has():
    half = {name for name, cpu in PROFILES.items() if cpu.has_half}
    arm = {"rpi5", "jetson-orin", "graviton2", "graviton3", "altra", "apple-m1"}
    assert half == {"sapphirerapids", *arm}
    assert {name for name, cpu in PROFILES.items() if cpu.has_matrix_unit} == {"sapphirerapids"}


@pytest.mark.parametrize(
    ("name", "half", "matrix_unit"),
    [
        ("x86-64-v4+fp16", True, False),
        ("x86-64-v4+fp16+amx", True, True),
        ("sapphirerapids+fp16+amx", True, True),
        ("sapphirerapids-amx", True, False),
        ("sapphirerapids-fp16-amx", False, False),
        ("rpi4+fp16", True, False),
        ("jetson-orin-fp16", False, False),
        ("native-amx-fp16", False, False),
    ],
)
def test_suffixes_add_and_take_away(name, half, matrix_unit):
    cpu = profile(name)
    assert (cpu.name, cpu.has_half, cpu.has_matrix_unit) == (name, half, matrix_unit)
    assert CpuProfile.from_target(cpu.to_target()) == cpu


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sapphirerapids+fp8", r"unknown suffix '\+fp8'.* may end in \+fp16"),
        ("rpi4+amx", "no processor of aarch64 has amx"),
        ("haswell+fp16", "no processor of x86_64 with vectors of 256 bits has fp16"),
        ("zenver3+fp16", "unknown target 'zenver3\\+fp16': did you mean 'znver3'"),
        ("sapphirerapids-fp8", "unknown target 'sapphirerapids-fp8'"),
    ],
)
def test_suffixes_that_make_no_sense_are_refused(name, why):
    with pytest.raises(TargetError, match=why):
        profile(name)


def test_other_kinds_of_target_are_refused():
    with pytest.raises(TargetError, match="not for 'c'"):
        CpuProfile.from_target(tvm.target.Target({"kind": "c"}))


def test_processors_without_wide_vectors_are_refused():
    with pytest.raises(TargetError, match="neither AVX2 nor AVX-512"):
        CpuProfile.from_target(tvm.target.Target({"kind": "llvm", "mcpu": "nehalem"}))


@pytest.mark.parametrize(
    ("name", "cores", "tokens", "lanes"),
    [
        ("haswell", 2, 1, 8),
        ("haswell", 2, 8, 8),
        ("haswell", 2, 128, 16),
        ("skylake-avx512", 2, 16, 16),
        ("skylake-avx512", 2, 128, 64),  # four vectors: two blocks for two cores
        ("skylake-avx512", 8, 128, 32),  # blocks for more cores
        ("skylake-avx512", 2, 197, 32),  # four vectors would pad more
        ("skylake-avx512", 2, 384, 48),  # three neither pad nor leave a core without a block
        ("skylake-avx512", 12, 384, 32),
        ("skylake-avx512", 2, 320, 64),
        ("rpi5", 4, 384, 16),
    ],
)
def test_lanes_of_tokens(name, cores, tokens, lanes):
    assert dataclasses.replace(profile(name), cores=cores).panel_lanes(tokens) == lanes


@pytest.mark.parametrize(
    ("name", "width", "lanes"),
    [
        ("skylake-avx512", 7, 8),
        ("skylake-avx512", 14, 16),
        ("skylake-avx512", 17, 32),
        ("haswell", 7, 8),
        ("haswell", 28, 32),
    ],
)
def test_lanes_of_images(name, width, lanes):
    assert profile(name).image_lanes(width) == lanes


def test_vectors_divide_the_lanes():
    cpu = profile("skylake-avx512")
    assert [cpu.vector_width(lanes) for lanes in (48, 24, 12)] == [16, 8, 4]
    with pytest.raises(ValueError, match="multiple of 4"):
        cpu.vector_width(6)
