"""Language models of Llama's shapes with seeded weights: float or int4, pruned or not.

The linear layers are pruned; embeddings, norms and the head stay whole, as is done in practice.
The head is quantized with the layers, as onnxruntime-genai and llama.cpp's ``--pure`` do.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tvm_sparse.decoders import (
    DecoderConfig,
    Parameter,
    parameter_shapes,
    quantize_rows,
    write_decoder,
)
from tvm_sparse.decoders.parameters import ROUTER
from tvm_sparse.errors import ModelError

LLAMA_TINY = DecoderConfig(
    layers=2, hidden=64, intermediate=160, heads=4, kv_heads=2, head_size=16, vocabulary=256,
    context=256,
)  # fmt: skip
MIXTRAL_TINY = replace(LLAMA_TINY, experts=4)
LLAMA_01B = DecoderConfig(
    layers=12, hidden=768, intermediate=2048, heads=12, kv_heads=4, head_size=64, vocabulary=32000
)
LLAMA_05B = DecoderConfig(
    layers=24, hidden=1280, intermediate=3456, heads=20, kv_heads=4, head_size=64,
    vocabulary=32000,
)  # fmt: skip
LLAMA_1B = DecoderConfig(
    layers=22, hidden=2048, intermediate=5632, heads=32, kv_heads=4, head_size=64,
    vocabulary=32000,
)  # fmt: skip


def llama(
    path: Path,
    config: DecoderConfig,
    zeros: float | tuple[int, int] = 0.0,
    block: int = 0,
    accuracy_level: int = 4,
    seed: int = 0,
) -> Path:
    """Write a language model with random weights, in the form of onnxruntime-genai's builder.

    Parameters
    ----------
    path : Path
        The file to write; weights of large models lie in ``<path>.data``.
    config : DecoderConfig
        The sizes.
    zeros : float or tuple of int
        The share of zeros in each row of a linear layer, or (kept, of): how many of so many
        neighbours are not zero, such as (2, 4).
    block : int
        The columns that share a scale of int4; 0 for weights of float32.
    accuracy_level : int
        As for `tvm_sparse.decoders.decoder_model`.
    seed : int
        The same seed gives the same model.
    """
    return write_decoder(
        path,
        config,
        RandomDecoder(config, zeros, block, seed),
        accuracy_level=accuracy_level,
        packed=True,
    )


@dataclass(frozen=True)
class RandomDecoder:
    """Seeded parameters by name; the fields are those of `llama`.

    Weights are normal numbers of which the smallest of each row, or of each group of neighbours,
    are zero. Rows are scaled so that a layer keeps the variance of its input, whatever the zeros.
    """

    config: DecoderConfig
    zeros: float | tuple[int, int] = 0.0
    block: int = 0
    seed: int = 0

    def __call__(self, name: str) -> Parameter | None:
        """Return the parameter called `name`; there are no biases."""
        shape = parameter_shapes(self.config).get(name)
        if shape is None:
            return None
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        weight = rng.standard_normal(shape, np.float32)
        if len(shape) == 1:
            return 1 + np.float32(0.1) * weight
        if "embed_tokens" in name:
            return weight
        is_router = ROUTER in name
        if ".layers." in name and not is_router:
            weight = pruned_rows(weight, self.zeros)
        norm = np.sqrt(np.einsum("nk,nk->n", weight, weight))
        weight *= (_gain(name) / np.where(norm > 0, norm, 1))[:, None]
        return quantize_rows(weight, self.block) if self.block and not is_router else weight


def _gain(name: str) -> np.float32:
    """Return the factor of a layer: sharp attention and routers keep the tokens apart."""
    is_sharp = any(part in name for part in ("q_proj", "k_proj", ROUTER))
    return np.float32(2.0 if is_sharp else 1.0)


def pruned_rows(weight: NDArray[np.float32], zeros: float | tuple[int, int]) -> NDArray[np.float32]:
    """Return the weight with its smallest magnitudes zero, in each row or group of neighbours.

    Parameters
    ----------
    weight : array of float32
        (N, K).
    zeros : float or tuple of int
        As for `llama`.

    Raises
    ------
    ModelError
        If K does not consist of whole groups.
    """
    if not zeros:
        return weight
    if isinstance(zeros, tuple):
        kept, of = zeros
        if weight.shape[1] % of:
            raise ModelError(f"rows of {weight.shape[1]} do not consist of groups of {of}")
        groups = weight.reshape(-1, of)
    else:
        of = weight.shape[1]
        kept, groups = round((1 - zeros) * of), weight
    if kept == 0:
        return np.zeros_like(weight)
    if kept == of:
        return weight
    places = np.argpartition(np.abs(groups), of - kept, axis=1)[:, of - kept :]
    result = np.zeros_like(groups)
    np.put_along_axis(result, places, np.take_along_axis(groups, places, axis=1), axis=1)
    return result.reshape(weight.shape)
