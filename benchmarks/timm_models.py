"""Writes image networks of the package timm as ONNX files; runs where PyTorch and timm are.

    python timm_models.py list           # the smallest model of each architecture, as JSON
    python timm_models.py export NAME FILE.onnx

Nothing is downloaded: weights are random and seeded. Biases, scales and statistics of
normalizations, which a new network has at zero or one, get random values as well; else most of
these networks hardly read their input.
"""

from __future__ import annotations

import json
import sys
import warnings

import timm
import torch

_LARGEST = 120_000_000
"""Weights of the largest model that is listed."""
_OPSET = 17


def smallest() -> list[dict[str, object]]:
    """Return the name and the shape of the input of the smallest model of each module of timm."""
    found = []
    for module in timm.list_modules():
        sizes = []
        for name in timm.list_models(module=module):
            if name.startswith("test_"):
                continue
            with torch.device("meta"):
                try:
                    network = timm.create_model(name)
                except (RuntimeError, NotImplementedError, AssertionError, TypeError):
                    continue  # It computes with its weights when it is made.
            weights = sum(weight.numel() for weight in network.parameters())
            sizes.append((weights, name, list(network.default_cfg["input_size"])))
        if sizes and min(sizes)[0] <= _LARGEST:
            _, name, size = min(sizes)
            found.append({"name": name, "shape": [1, *size]})
    return found


def export(name: str, path: str) -> None:
    """Write a network in inference mode, whose input is ``x`` and whose output is ``y``."""
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    _enliven(network)
    torch.backends.mha.set_fastpath_enabled(False)  # an operator that cannot be exported
    x = torch.randn(1, *network.default_cfg["input_size"])
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network, x, path, opset_version=_OPSET, dynamo=False,
            input_names=["x"], output_names=["y"],
        )  # fmt: skip


def _enliven(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, weight in network.named_parameters():
            last = name.rpartition(".")[-1]
            if weight.ndim <= 1 and ("gamma" in name or last.startswith("ls") or "scale" in name):
                weight.copy_(0.5 + torch.rand(weight.shape))
            elif weight.ndim <= 1:
                weight.add_(0.1 * torch.randn(weight.shape))
            elif not weight.any():
                weight.copy_(0.05 * torch.randn(weight.shape))
        for name, statistic in network.named_buffers():
            if name.endswith("running_mean"):
                statistic.copy_(0.1 * torch.randn(statistic.shape))
            elif name.endswith("running_var"):
                statistic.copy_(0.5 + torch.rand(statistic.shape))


if __name__ == "__main__":
    if sys.argv[1] == "list":
        print(json.dumps({"version": timm.__version__, "models": smallest()}))
    else:
        export(*sys.argv[2:])
