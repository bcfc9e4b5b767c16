"""All models of the zoo by name, such as ``bert-base-95``: how to write them, and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tvm_sparse.decoders import DecoderConfig
from tvm_sparse.errors import ModelError
from tvm_sparse.zoo import classifiers, decoders, detectors
from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import (
    BERT_BASE,
    BERT_LARGE,
    BERT_TINY,
    MINILM,
    VIT_BASE,
    VIT_TINY,
    TransformerConfig,
    bert,
    linear_chain,
    vit,
)


@dataclass(frozen=True)
class ModelRecipe:
    """A model of the benchmark: how to build it and the shapes to run it at.

    Attributes
    ----------
    build : callable
        ``build(path)`` writes the ONNX file and returns its path.
    shapes : dict of str to tuple of int
        Shape of each input.
    """

    build: Callable[[Path], Path]
    shapes: dict[str, tuple[int, ...]]


def _bert_recipe(config: TransformerConfig, sparsity: float, tokens: int) -> ModelRecipe:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return ModelRecipe(
        partial(bert, config=config, weights=RandomWeights(sparsity)),
        dict.fromkeys(names, (1, tokens)),
    )


def _vit_recipe(config: TransformerConfig, sparsity: float, image: int) -> ModelRecipe:
    classes = 1000 if image == 224 else 10
    return ModelRecipe(
        partial(vit, config=config, weights=RandomWeights(sparsity), image=image, classes=classes),
        {"pixel_values": (1, 3, image, image)},
    )


def _chain_recipe(widths: Sequence[int], sparsity: float) -> ModelRecipe:
    weights = RandomWeights(sparsity)
    build = partial(linear_chain, widths=widths, weights=weights)
    return ModelRecipe(build, {"x": (1, 128, widths[0])})


def _classifier_recipe(
    build: Callable[..., Path], sparsity: float, image: int = 224, classes: int = 1000
) -> ModelRecipe:
    options = {"sparsity": sparsity, "image": image, "classes": classes}
    return ModelRecipe(partial(build, **options), {"input": (1, 3, image, image)})


def _stack_recipe(sparsity: float, channels: int, image: int) -> ModelRecipe:
    build = partial(classifiers.conv_stack, sparsity=sparsity, channels=channels, image=image)
    return ModelRecipe(build, {"input": (1, channels, image, image)})


def _detector_recipe(build: Callable[..., Path], sparsity: float, image: int = 640) -> ModelRecipe:
    return ModelRecipe(
        partial(build, sparsity=sparsity, image=image), {"images": (1, 3, image, image)}
    )


def _llama_recipe(
    config: DecoderConfig, zeros: float | tuple[int, int], block: int = 0
) -> ModelRecipe:
    past = 128
    cache = (1, config.kv_heads, past, config.head_size)
    caches = {
        f"past_key_values.{index}.{part}": cache
        for index in range(config.layers)
        for part in ("key", "value")
    }
    build = partial(decoders.llama, config=config, zeros=zeros, block=block)
    return ModelRecipe(build, {"input_ids": (1, 1), "attention_mask": (1, past + 1), **caches})


_RESNET50 = partial(classifiers.resnet, config=classifiers.RESNET50)
_RESNET_TINY = partial(classifiers.resnet, config=classifiers.RESNET_TINY)
_MOBILENET_V2 = partial(classifiers.inverted_residuals, config=classifiers.MOBILENET_V2)
_MOBILENET_TINY = partial(classifiers.inverted_residuals, config=classifiers.MOBILENET_TINY)
_EFFICIENTNET = partial(classifiers.inverted_residuals, config=classifiers.EFFICIENTNET_B0)
_EFFICIENTNET_TINY = partial(classifiers.inverted_residuals, config=classifiers.EFFICIENTNET_TINY)
_YOLOV5S = partial(detectors.yolov5, config=detectors.YOLOV5S)
_YOLOV8N = partial(detectors.yolov8, config=detectors.YOLOV8N)
_YOLO_TINY = partial(detectors.yolov8, config=detectors.YOLO_TINY)


_FAMILIES: dict[str, Callable[[float], ModelRecipe]] = {
    "bert-base": partial(_bert_recipe, BERT_BASE, tokens=128),
    "bert-large": partial(_bert_recipe, BERT_LARGE, tokens=128),
    "minilm": partial(_bert_recipe, MINILM, tokens=128),
    "bert-tiny": partial(_bert_recipe, BERT_TINY, tokens=16),
    "linear-square": partial(_chain_recipe, [768] * 13),
    "linear-ffn": partial(_chain_recipe, [768, 3072] * 4 + [768]),
    "vit-b-16": partial(_vit_recipe, VIT_BASE, image=224),
    "vit-tiny": partial(_vit_recipe, VIT_TINY, image=64),
    "resnet50": partial(_classifier_recipe, _RESNET50),
    "mobilenet-v1": partial(_classifier_recipe, classifiers.mobilenet_v1),
    "mobilenet-v2": partial(_classifier_recipe, _MOBILENET_V2),
    "efficientnet-b0": partial(_classifier_recipe, _EFFICIENTNET),
    "yolov5s": partial(_detector_recipe, _YOLOV5S),
    "yolov5s-320": partial(_detector_recipe, _YOLOV5S, image=320),
    "yolov8n": partial(_detector_recipe, _YOLOV8N),
    "yolov8n-320": partial(_detector_recipe, _YOLOV8N, image=320),
    "conv-stack": partial(_stack_recipe, channels=32, image=320),
    "resnet-tiny": partial(_classifier_recipe, _RESNET_TINY, image=64, classes=10),
    "mobilenet-tiny": partial(_classifier_recipe, _MOBILENET_TINY, image=64, classes=10),
    "efficientnet-tiny": partial(_classifier_recipe, _EFFICIENTNET_TINY, image=64, classes=10),
    "yolo-tiny": partial(_detector_recipe, _YOLO_TINY, image=128),
}

_DECODERS: dict[str, DecoderConfig] = {
    "llama-tiny": decoders.LLAMA_TINY,
    "mixtral-tiny": decoders.MIXTRAL_TINY,
    "llama-0.1b": decoders.LLAMA_01B,
    "llama-0.5b": decoders.LLAMA_05B,
    "llama-1.1b": decoders.LLAMA_1B,
}

# The columns that share a scale, by what follows the name of a decoder.
_BLOCKS = {"": 0, "-int4": 32, "-int4g128": 128}

_DECODER_FAMILIES = {
    f"{name}{weights}": partial(_llama_recipe, config, block=block)
    for name, config in _DECODERS.items()
    for weights, block in _BLOCKS.items()
}

_PATTERNS = {"2of4": (2, 4), "4of16": (4, 16), "5of16": (5, 16)}
"""What may stand for a decoder's sparsity: how many of so many neighbours are not zero."""


def recipe(name: str) -> ModelRecipe:
    """Return the recipe of a name such as ``"bert-base-95"``: a family and a sparsity in percent.

    Decoders may be quantized, ``"llama-1.1b-int4-70"`` in blocks of 32 columns and
    ``"llama-1.1b-int4g128-70"`` in blocks of 128, and may have a pattern for a sparsity:
    ``2of4``, ``4of16`` or ``5of16``.

    Raises
    ------
    ModelError
        If there is no such family or sparsity; the message lists the families.
    """
    family, _, percent = name.rpartition("-")
    if family in _DECODER_FAMILIES and percent in _PATTERNS:
        return _DECODER_FAMILIES[family](_PATTERNS[percent])
    families: dict[str, Callable[[float], ModelRecipe]] = {**_FAMILIES, **_DECODER_FAMILIES}
    if family not in families or not percent.isdigit() or int(percent) > 100:
        raise ModelError(
            f"no built-in model {name!r}: write FAMILY-SPARSITY, for example bert-base-95; "
            f"the families are {', '.join(families)}"
        )
    return families[family](int(percent) / 100)
