"""The entry of the program: signals end it quietly while it still imports what it needs."""

from __future__ import annotations

from tvm_sparse.cli import ending


def main() -> int:
    """Run the command line of this process and return its exit status."""
    ending.at_once()
    from tvm_sparse.cli import main as program

    return program.main()
