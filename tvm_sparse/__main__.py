"""``python -m tvm_sparse``."""

import sys

if not sys.flags.safe_path:
    # With -m, Python puts the current folder first in the path; its modules would hide others.
    del sys.path[0]

from tvm_sparse.cli.entry import main

raise SystemExit(main())
