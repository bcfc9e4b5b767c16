"""Who converts which operator of the ONNX standard, and what of it: the table of the docs.

python -m tvm_sparse.frontends.converters.support > docs/operators.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_sparse.frontends.canonical.functions import WRITTEN_OUT
from tvm_sparse.frontends.canonical.opset import OLDEST
from tvm_sparse.frontends.converters.table import OURS
from tvm_sparse.frontends.onnx_recurrent import RECURRENT

LIMITS = {
    "BatchNormalization": "`training_mode` of float16",
    "ConvInteger": "long sums with a weight that is computed at run time",
    "ConvTranspose": "`output_padding` that is not below the strides",
    "Dropout": "`training_mode` with a ratio above 0",
    "Loop": "lengths known at run time only, loops of more than 512 nodes",
    "MaxPool": "the output `Indices`",
    "MaxRoiPool": "everything: TVM does not check the images",
    "MaxUnpool": "`pads` that differ from side to side",
    "NonMaxSuppression": "everything: TVM keeps other boxes",
    "Pad": "pads below zero or computed at run time",
    "QLinearConv": "`channels_last`",
    "QuantizeLinear": "`block_size`; types of other than 8 and 16 bits",
    "Pow": "integers, but for constant powers up to 8",
    "Range": "numbers that are computed at run time",
    "Resize": "`tf_crop_and_resize`, sizes computed at run time, interpolation of integers",
    "RoiAlign": "`mode` max; `half_pixel` with a `spatial_scale` other than 1",
    "DequantizeLinear": "`block_size` of what is computed at run time, `output_dtype`",
    "RMSNormalization": "all axes of float16",
    "SimplifiedLayerNormalization": "the output of statistics",
    "Scan": "lengths known at run time only, loops of more than 512 nodes",
    "ai.onnx.ml.Imputer": "other types than float32",
    "ai.onnx.ml.LinearRegressor": "other types than float32, `post_transform`",
    "com.microsoft.Attention": "caches of past keys, biases of scores, rotary embedding",
    "com.microsoft.DynamicQuantizeLSTM": "lengths of sequences, weights that are no constants",
    "com.microsoft.EmbedLayerNormalization": "`mask_index_type`, the sum of embeddings",
    "com.microsoft.GatherBlockQuantized": "blocks along another axis than the last, in bytes",
    "com.microsoft.MatMulNBits": "`g_idx`, weights that are no constants",
    "com.microsoft.MoE": "`use_sparse_mixer`, weights that are no constants, geglu and relu2",
    "com.microsoft.QAttention": "caches of past keys, rotary embedding",
    "com.microsoft.QMoE": "what MoE does not, `quant_type` but int, `router_weights`",
    "com.microsoft.QEmbedLayerNormalization": "`mask_index_type`, the sum of embeddings",
    "com.microsoft.QLinearAveragePool": "`channels_last`",
    "com.microsoft.QLinearGlobalAveragePool": "`channels_last`",
    "com.microsoft.RotaryEmbedding": "`scale`, `is_packed_batching`",
    "com.microsoft.SkipSimplifiedLayerNormalization": "the outputs of statistics",
}
"""What our converters do not do, by operator."""

HEAD = f"""# Operators

Who converts which operator of ONNX {onnx.__version__}. Models of opsets 7 to {OLDEST - 1} are
raised to opset {OLDEST} first. A converter must have asked for every attribute, input and output
that a node has and that is not the default. Where it has not, or where this page says "not", ONNX
Runtime runs the node inside of the library, or compiling ends in an error that names the node and
the attribute.

- **ours**: a converter of this package, which may use TVM's where it is right.
- **written out**: by the function that defines the operator in the standard; a loop by the nodes of
  its iterations.
- **TVM**: TVM's converter, under supervision.
- **ONNX Runtime**: nobody converts it. So it is with all operators of `com.microsoft` and of
  `ai.onnx.ml` that are not at the end of the table.

| operator | converted by | not |
| --- | --- | --- |
"""


@dataclass(frozen=True)
class Support:
    """A row of the table.

    Attributes
    ----------
    operator : str
        The operator; its domain precedes it if that is not the domain of ONNX itself.
    by : str
        Who converts it.
    limits : str
        What they do not do.
    """

    operator: str
    by: str
    limits: str


def rows() -> Iterator[Support]:
    """Yield a row for each operator of the newest opset, by name; then those of ONNX Runtime."""
    converters = onnx_frontend._get_convert_map()
    standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    for schema in sorted(onnx.defs.get_all_schemas(), key=lambda schema: schema.name):
        name = schema.name
        if schema.domain or schema.deprecated:
            continue
        if name in ("If", "Constant"):  # read by TVM's importer itself
            yield Support(name, "TVM", "")
        elif name in OURS or name in RECURRENT:
            yield Support(name, "ours", LIMITS.get(name, ""))
        elif name in WRITTEN_OUT:
            yield Support(name, "written out", "")
        elif name in ("Loop", "Scan"):
            yield Support(name, "written out", LIMITS[name])
        elif name in converters:
            unread = ", ".join(f"`{attribute}`" for attribute in _unread(schema, converters[name]))
            yield Support(name, "TVM", unread)
        else:
            yield Support(name, "ONNX Runtime", "")
    for name in sorted(OURS):
        if name not in standard:
            yield Support(name, "ours", LIMITS.get(name, ""))


def _unread(schema: Any, converter: Any) -> list[str]:
    """Return the attributes that TVM's converter does not ask for."""
    classes = [c for c in converter.__mro__[:-1] if c is not onnx_frontend.OnnxOpConverter]
    source = "".join(inspect.getsource(c) for c in classes)
    source += inspect.getsource(onnx_frontend._get_onnx_reduction) if "reduction" in source else ""
    words = set(re.findall(r"[\"'](\w+)[\"']", source))
    return sorted(attribute for attribute in schema.attributes if attribute not in words)


def markdown() -> str:
    """Return the page of the docs."""
    return HEAD + "".join(f"| {row.operator} | {row.by} | {row.limits} |\n" for row in rows())


if __name__ == "__main__":
    print(markdown(), end="")
