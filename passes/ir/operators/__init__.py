"""The operators that networks are rewritten into, one family a file."""

from tvm_sparse.passes.ir.operators.operator import *  # noqa: F403
