"""What may become of a mutant, and what may not."""

from __future__ import annotations

import signal

from tvm_sparse.testing.mutants.child import Ended

RIGHT = "right"
UNCOMPARED = "right, not compared"
REFUSED = "refused"
INVALID = "invalid accepted"

GOOD = (RIGHT, UNCOMPARED, REFUSED)
"""The mutant works as ONNX Runtime says, or one clear line says what is wrong with it."""

BAD = ("crash", "hang", "traceback", "report", INVALID, "unclear", "leftover", "overwritten")
"""Faults: ``report`` is an error that the program itself calls one of its own."""


def outcome(ended: Ended) -> str:
    """Return one of `GOOD` or `BAD`, a colon, and what tells it."""
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    last = (ended.err.strip().splitlines() or [""])[-1]
    if ended.status == -signal.SIGXCPU:
        return "hang: no end"
    if ended.status < 0:
        return f"crash: {signal.Signals(-ended.status).name}"
    if "Traceback" in ended.err:
        return f"traceback: {last}"
    if "please report" in ended.err:
        told = [line for line in ended.err.splitlines() if "please report" in line]
        return f"report: {told[0]}"
    if ended.left:
        return f"leftover: {', '.join(ended.left)}"
    if ended.status == 0 and not errors:
        is_compared = "not verified" not in ended.out
        why = [line for line in ended.out.splitlines() if line.startswith("not verified")]
        return RIGHT if is_compared else f"{UNCOMPARED}: {why[0]}"
    if ended.status == 2 and len(errors) == 1 and last == errors[0]:
        return f"{REFUSED}: {last.removeprefix('error: ')}"
    return f"unclear: status {ended.status}: {last}"
