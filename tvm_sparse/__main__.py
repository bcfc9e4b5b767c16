"""``python -m tvm_sparse``."""

from tvm_sparse.cli.main import main

raise SystemExit(main())
