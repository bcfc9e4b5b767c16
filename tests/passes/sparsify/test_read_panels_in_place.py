from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tvm_sparse.cpu.profile import native
from tvm_sparse.passes.ir import operators
from tvm_sparse.passes.ir.expressions import is_call_to
from tvm_sparse.passes.sparsify.move_images_to_panels import MoveImagesToPanels
from tvm_sparse.passes.sparsify.read_panels_in_place import ReadPanelsInPlace

OPS = relax.op


def head(*, transposed: bool, dtype: str = "float32") -> tvm.IRModule:
    """Build sigmoid(transpose(reshape(panels_to_image(p)))), or without the transpose."""
    builder = relax.BlockBuilder()
    panels = relax.Var("p", relax.TensorType((20, 63, 32), dtype))
    with builder.function("main", [panels]):
        with builder.dataflow():
            x = builder.emit(operators.panels_to_image(panels, (1, 63, 20, 20)))
            x = builder.emit(OPS.reshape(x, (1, 3, 21, 20, 20)))
            if transposed:
                x = builder.emit(OPS.permute_dims(x, [0, 1, 3, 4, 2]))
            out = builder.emit_output(OPS.sigmoid(x))
        builder.emit_func_output(out)
    return builder.get()


def calls(mod: tvm.IRModule) -> list[relax.Call]:
    return [b.value for block in mod["main"].body.blocks for b in block.bindings]


@pytest.mark.parametrize("transposed", [False, True])
def test_an_activation_moves_above_layout_changes(transposed):
    moved = calls(MoveImagesToPanels(native())(head(transposed=transposed)))
    assert is_call_to(moved[0], "relax.sigmoid")
    assert is_call_to(moved[1], operators.PANELS_TO_IMAGE.name)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_a_transposed_image_is_read_from_its_panels(transposed, dtype):
    after = ReadPanelsInPlace()(head(transposed=transposed, dtype=dtype))
    images = [call for call in calls(after) if is_call_to(call, operators.PANELS_TO_IMAGE.name)]
    assert bool(images) != transposed
    assert after["main"].ret_ty == head(transposed=transposed)["main"].ret_ty
