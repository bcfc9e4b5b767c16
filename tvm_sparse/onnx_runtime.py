"""ONNX Runtime without its telemetry: every other module imports the package from here.

The wheels of version 1.32 for Linux note in the user's cache which models are loaded, and
a thread of theirs sends it to the makers. They read the variable when they are first imported; in a
program that has imported them before, its own setting remains.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # noqa: TID251

__all__ = ["exact_options", "onnxruntime"]


def exact_options() -> onnxruntime.SessionOptions:
    """Return options of a session whose products of integers are exact.

    On x86 processors without VNNI, ONNX Runtime adds pairs of products of unsigned and signed bytes
    in 16 bits, and cuts off what does not fit. With this option, which its C interface calls
    ``kOrtSessionOptionsAvx2PrecisionMode``, both operands are unsigned, and their sums fit.
    """
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options
