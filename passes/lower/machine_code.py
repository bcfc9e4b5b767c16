"""The last passes: what TVM's virtual machine runs, of functions that are lowered."""

from __future__ import annotations

import tvm
from tvm.relax import backend, transform

from tvm_sparse.passes.lower.share_blocks import ShareBlocks


def machine_code() -> list[tvm.transform.Pass]:
    """Return the passes of TVM's pipeline ``default_build``, with blocks of few sizes."""
    return [
        backend.DispatchSampling(),
        backend.DispatchSortScan(),
        transform.LegalizeOps(),
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
        transform.LowerAllocTensor(),
        ShareBlocks(),
        transform.KillAfterLastUse(),
        transform.LowerRuntimeBuiltin(),
        transform.ComputePrimValue(),
        transform.VMShapeLower(),
        transform.AttachGlobalSymbol(),
    ]
