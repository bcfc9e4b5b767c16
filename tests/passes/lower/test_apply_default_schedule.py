from __future__ import annotations

import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native, profile
from tvm_sparse.passes.lower.apply_default_schedule import ApplyDefaultSchedule


def module() -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((512, 768), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.exp(x)))
    return relax.transform.LegalizeOps()(builder.get())


def test_schedules_and_marks_functions():
    after = ApplyDefaultSchedule(native())(module())
    assert after["tir_exp"].attrs["tirx.is_scheduled"]
    assert "T.parallel" in after["tir_exp"].script()
    tvm.ir.assert_structural_equal(after["main"], module()["main"], map_free_vars=True)


def test_scheduled_functions_stay():
    before = module()
    before["tir_exp"] = before["tir_exp"].with_attr("tirx.is_scheduled", True)
    tvm.ir.assert_structural_equal(ApplyDefaultSchedule(native())(before), before)


def test_accepts_a_target():
    cpu = profile("haswell")
    of_target = ApplyDefaultSchedule(cpu.to_target())(module())
    tvm.ir.assert_structural_equal(of_target, ApplyDefaultSchedule(cpu)(module()))
