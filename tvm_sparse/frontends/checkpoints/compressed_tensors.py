"""Weights that llm-compressor wrote in the formats of the library `compressed-tensors`.

The layouts are those of https://github.com/neuralmagic/compressed-tensors (compressors/): for a
layer, ``pack-quantized`` has ``weight_packed`` int32, ``weight_scale``, ``weight_shape`` and
perhaps ``weight_zero_point`` int32; ``sparse-bitmask`` and ``sparse-24-bitmask`` have
``compressed``, ``bitmask``, ``shape`` and perhaps ``row_offsets``. Other layers have ``weight``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import Parameter, QuantizedRows
from tvm_sparse.decoders.quantized_rows import pack_nibbles
from tvm_sparse.errors import ModelError, border

_log = logging.getLogger("tvm_sparse")

_PARTS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx",
          "compressed", "bitmask", "shape", "row_offsets")  # fmt: skip
"""What may stand for ``weight`` at the end of a name."""

_FORMATS = ("pack-quantized", "dense", "sparse-bitmask", "sparse-24-bitmask")

_BLOCKS = (128, 64, 32, 16)
"""The blocks that a scale of a whole row is repeated over, the largest first."""


def parameter_of(name: str) -> str:
    """Return the name of the weight that a tensor is a part of."""
    stem, _, part = name.rpartition(".")
    return f"{stem}.weight" if part in _PARTS else name


def check_scheme(scheme: Mapping[str, Any] | None, folder: Path) -> None:
    """Refuse ways of quantization that cannot be read, and say what is not done.

    Raises
    ------
    ModelError
        If the weights are in another format.
    """
    if not scheme:
        return
    with border(ModelError, f"{folder}: what is said of the format of the weights is broken"):
        _check(scheme, folder)


def _check(scheme: Mapping[str, Any], folder: Path) -> None:
    method = scheme.get("quant_method", "compressed-tensors")
    sparsity = scheme.get("sparsity_config") or {}
    formats = {scheme.get("format", "dense"), sparsity.get("format", "dense")}
    unknown = sorted(map(str, formats - set(_FORMATS)))
    if method != "compressed-tensors" or unknown:
        what = unknown[0] if method == "compressed-tensors" else method
        raise ModelError(
            f"{folder}: weights in the format {what!r} cannot be read; those of compressed-tensors "
            f"in {', '.join(_FORMATS)} can: save the model so, or uncompressed"
        )
    groups = (scheme.get("config_groups") or {}).values()
    if any(group.get("input_activations") for group in groups):
        _log.warning(
            "%s: the model asks for quantized activations; its weights are read, and what becomes "
            "of activations is for the compiler to choose",
            folder,
        )


def compressed_parameter(
    name: str, names: Collection[str], read: Callable[[str], NDArray]
) -> Parameter | None:
    """Return a parameter, from whichever of the formats it is stored in; None if there is none.

    Raises
    ------
    ModelError
        If its parts do not fit each other.
    """
    if name in names:
        value = read(name)
        if value.dtype.kind != "f":
            raise ModelError(f"weight {name!r} is stored as {value.dtype}, without its scales")
        return value
    stem = name.removesuffix("weight")
    if f"{stem}weight_packed" in names:
        return _unpacked(name, {
            part: read(f"{stem}{part}") for part in _PARTS if f"{stem}{part}" in names
        })  # fmt: skip
    if f"{stem}bitmask" in names:
        return _scattered(name, read(f"{stem}compressed"), read(f"{stem}bitmask"),
                          read(f"{stem}shape"))  # fmt: skip
    return None


def _scattered(name: str, values: NDArray, bitmask: NDArray, shape: NDArray) -> NDArray:
    """Return the weight whose non-zero values stand where bits are set, the lowest bit first."""
    rows, columns = (int(size) for size in shape.ravel())
    mask = np.unpackbits(bitmask.astype(np.uint8), axis=1, bitorder="little")[:, :columns] == 1
    if mask.shape != (rows, columns) or mask.sum() != values.size:
        raise ModelError(f"weight {name!r}: its bitmask does not fit its {values.size} values")
    dense = np.zeros((rows, columns), values.dtype)
    dense[mask] = values.ravel()
    return dense


def _unpacked(name: str, parts: Mapping[str, NDArray]) -> QuantizedRows:
    """Return the weight of integers that were packed into words of 32 bits, the lowest first."""
    if not {"weight_scale", "weight_shape"} <= set(parts):
        raise ModelError(f"weight {name!r} is packed, but its scales or its shape are missing")
    packed, scales = parts["weight_packed"], parts["weight_scale"].astype(np.float32)
    rows, columns = (int(size) for size in parts["weight_shape"].ravel())
    bits = next((b for b in (4, 8) if packed.shape == (rows, -(-columns * b // 32))), 0)
    if not bits or scales.ndim != 2 or scales.shape[0] != rows:
        raise ModelError(
            f"weight {name!r}: words {packed.shape} and scales {scales.shape} are no integers of 4 "
            f"or 8 bits of {rows} rows of {columns}"
        )
    order = parts.get("weight_g_idx")
    group = -(-columns // scales.shape[1])
    if order is not None and (order.ravel() != np.arange(columns) // group).any():
        raise ModelError(
            f"weight {name!r}: its groups are no neighbours (g_idx); quantize with actorder "
            "'static' or without"
        )
    points = parts.get("weight_zero_point")
    zero_points = None
    if points is not None:
        zero_points = _words(points.T, bits, rows).T
    if scales.shape[1] == 1:
        # A scale for the whole row; the operator wants blocks that are powers of two.
        group = next((block for block in _BLOCKS if columns % block == 0), 0)
        repeats = columns // group if group else 0
        scales = np.repeat(scales, repeats, axis=1)
        zero_points = None if zero_points is None else np.repeat(zero_points, repeats, axis=1)
    if group < 16 or group & (group - 1) or columns % group:
        raise ModelError(
            f"weight {name!r}: {columns} columns in groups of {group}; groups that are a power of "
            "two from 16 on, and whole, can be read"
        )
    codes = _words(packed, bits, columns).reshape(rows, -1, group)
    return QuantizedRows(
        pack_nibbles(codes) if bits == 4 else codes, scales, columns, bits, zero_points
    )


def _words(words: NDArray, bits: int, count: int) -> NDArray[np.uint8]:
    """Return the integers in words of 32 bits, `count` a row."""
    halves = np.ascontiguousarray(words).view(np.uint8)
    if bits == 4:
        halves = np.stack((halves & np.uint8(15), halves >> np.uint8(4)), axis=-1)
    return halves.reshape(words.shape[0], -1)[:, :count]
