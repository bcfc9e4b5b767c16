"""Attributes that are one of a few words by the ONNX standard."""

from __future__ import annotations

from tvm_sparse.frontends.checks.node import CheckedNode

_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_DIRECTIONS = ("forward", "reverse", "bidirectional")
_REDUCTIONS = ("none", "add", "mul", "max", "min")
_LOSSES = ("none", "sum", "mean")

_OF_ALL = {"auto_pad": _PADS}

_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "BitShift": {"direction": ("LEFT", "RIGHT")},
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "GRU": {"direction": _DIRECTIONS},
    "Gelu": {"approximate": ("none", "tanh")},
    "GridSample": {
        "mode": ("linear", "nearest", "cubic", "bilinear", "bicubic"),
        "padding_mode": ("zeros", "border", "reflection"),
    },
    "LSTM": {"direction": _DIRECTIONS},
    "NegativeLogLikelihoodLoss": {"reduction": _LOSSES},
    "Pad": {"mode": ("constant", "reflect", "edge", "wrap")},
    "RNN": {"direction": _DIRECTIONS},
    "Resize": {
        "mode": ("nearest", "linear", "cubic"),
        "coordinate_transformation_mode": (
            "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
            "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize",
        ),
        "nearest_mode": (
            "round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple",
        ),
        "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    },
    "RoiAlign": {
        "mode": ("avg", "max"),
        "coordinate_transformation_mode": ("half_pixel", "output_half_pixel"),
    },
    "ScatterElements": {"reduction": _REDUCTIONS},
    "ScatterND": {"reduction": _REDUCTIONS},
    "SoftmaxCrossEntropyLoss": {"reduction": _LOSSES},
    "SpaceToDepth": {"mode": ("DCR", "CRD")},
}  # fmt: skip


def check_choices(node: CheckedNode) -> None:
    """Check the attributes of a node that are words.

    Raises
    ------
    ValueError
        If one is another word than those of the standard.
    """
    for name, words in (_OF_ALL | _WORDS.get(node.op_type, {})).items():
        # Some exporters write an empty text for the default.
        if node.texts.get(name) and node.texts[name] not in words:
            raise ValueError(
                f"its attribute {name!r} is {node.texts[name]!r}, and it is one of "
                f"{', '.join(words)}"
            )
