"""ONNX Runtime without its telemetry: every other module imports the package from here.

The wheels of version 1.32 for Linux note in the user's cache which models are loaded, and
a thread of theirs sends it to the makers. They read the variable when they are first imported; in a
program that has imported them before, its own setting remains.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: TID251

__all__ = ["onnxruntime"]
