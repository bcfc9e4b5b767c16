import pytest

from tvm_sparse.cpu.precision import chosen, needed_sets, processor, resolve
from tvm_sparse.cpu.profile import PROFILES, profile
from tvm_sparse.dtypes import DType
from tvm_sparse.errors import InputError, TargetError


def test_auto_is_float16_where_the_processor_computes_with_it():
    for cpu in PROFILES.values():
        found = resolve("auto", cpu).activations
        assert found == (DType.FLOAT16 if cpu.has_half else DType.FLOAT32)
    assert chosen("auto", resolve("auto", profile("rpi5"))) == (
        "float16 (auto: rpi5 has float16 arithmetic)"
    )
    assert chosen("auto", resolve("auto", profile("rpi4"))) == (
        "float32 (auto: rpi4 has no float16 arithmetic)"
    )


def test_float16_keeps_what_it_needs_and_float32_does_not():
    for name in ("native", "x86-64-v4+fp16+amx", "rpi4+fp16"):
        cpu = processor(name, 3)
        assert (cpu.cores, cpu.activations) == (3, DType.FLOAT32)
        assert not any("fp16" in attribute and attribute[0] == "+" for attribute in cpu.mattr)
        if profile(name).has_half:
            cpu = processor(name, 3, "float16")
            assert cpu.mattr == profile(name).mattr and cpu.activations is DType.FLOAT16


def test_float16_is_refused_where_it_would_be_emulated():
    with pytest.raises(
        TargetError, match=r"rpi4 .* has no float16 arithmetic; use float32 or auto"
    ):
        processor("rpi4", 4, "float16")
    assert processor("rpi4", 4, "auto").activations is DType.FLOAT32


def test_other_precisions_are_refused():
    with pytest.raises(InputError, match="precision must be one of 'float32', 'float16', 'auto'"):
        processor("native", 1, "bfloat16")


def test_only_half_precision_needs_the_matrix_unit():
    needed = needed_sets(processor("sapphirerapids", 8, "float16"))
    assert {"avx512fp16", "amx-tile", "amx-bf16"} <= {*needed}
    needed = needed_sets(processor("sapphirerapids", 8))
    assert "avx512f" in needed and "amx-tile" not in needed
