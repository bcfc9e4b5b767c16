"""Functions that take numbers are fused with no other."""

import tvm
from tvm import relax, tirx

from tvm_sparse.passes.lower.keep_numbers_apart import KeepNumbersApart


def test_patterns():
    n, builder = tirx.Var("n", "int64"), relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((n,), "int64"))
    with builder.function("main", [x]):
        with builder.dataflow():
            sizes = builder.emit(relax.op.shape_to_tensor(builder.emit(relax.ShapeExpr([n]))))
            result = builder.emit_output(builder.emit(relax.op.multiply(x, sizes)))
        builder.emit_func_output(result)
    transform = relax.transform
    mod = tvm.transform.Sequential([transform.LegalizeOps(), transform.AnnotateTIROpPattern()])(
        builder.get()
    )
    mod = KeepNumbersApart()(mod)
    patterns = {
        gvar.name_hint: int(func.attrs["op_pattern"])
        for gvar, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    assert patterns == {"shape_to_tensor": 8, "multiply": 0}
