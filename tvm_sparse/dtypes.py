"""Element types of tensors, by the names that NumPy and TVM give them."""

from __future__ import annotations

import functools
import string
from enum import StrEnum


class DType(StrEnum):
    """The type of a tensor's elements; its value is the name that NumPy and TVM know."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"

    @functools.cached_property
    def bits(self) -> int:
        """Bits of an element."""
        return int(self.value.lstrip(string.ascii_lowercase))

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of an element."""
        return self.bits // 8


ACTIVATIONS = DType.FLOAT32
"""The type of panels, and of the weights that meet them, wherever nothing says otherwise."""
