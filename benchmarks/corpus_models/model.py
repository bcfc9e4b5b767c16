"""What the corpus knows of a model, and how the files of this folder enter theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A trained model in a wheel.

    Attributes
    ----------
    name : str
        The name by which the command line selects it.
    package : str
        The package and its version, as ``pip`` takes them.
    file : str
        The path of the ONNX file in the wheel.
    inputs : callable
        Returns the inputs by name. Their shapes are those that the model is compiled for.
    """

    name: str
    package: str
    file: str
    inputs: Callable[[], Inputs]


MODELS: dict[str, Model] = {}
"""All models by name."""


def model(package: str, file: str) -> Callable[[Callable[[], Inputs]], Callable[[], Inputs]]:
    """Enter the function that makes inputs, by its name, as a model of a package."""

    def enter(inputs: Callable[[], Inputs]) -> Callable[[], Inputs]:
        name = inputs.__name__
        MODELS[name] = Model(name, package, file, inputs)
        return inputs

    return enter
