"""``python -m tvm_sparse``."""

from tvm_sparse.cli import main

raise SystemExit(main())
