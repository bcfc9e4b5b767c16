"""All models of the zoo by name, such as ``bert-base-95``: how to write them, and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tvm_sparse.errors import ModelError
from tvm_sparse.zoo import classifiers, detectors
from tvm_sparse.zoo.random_weights import RandomWeights
from tvm_sparse.zoo.transformers import (
    BERT_BASE,
    BERT_LARGE,
    BERT_TINY,
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


def recipe(name: str) -> ModelRecipe:
    """Return the recipe of a name such as ``"bert-base-95"``: a family and a sparsity in percent.

    Raises
    ------
    ModelError
        If there is no such family or sparsity; the message lists the families.
    """
    family, _, percent = name.rpartition("-")
    if family not in _FAMILIES or not percent.isdigit() or int(percent) > 100:
        raise ModelError(
            f"no built-in model {name!r}: write FAMILY-SPARSITY, for example bert-base-95; "
            f"the families are {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[family](int(percent) / 100)
