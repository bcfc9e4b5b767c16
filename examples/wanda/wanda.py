"""Prunes a language model of transformers in one shot, and writes the folder that is compiled.

    pip install torch transformers 'tvm-sparse[safetensors,generate]'
    python wanda.py my-model text.txt pruned --pattern 2:4
    tvm-sparse quantize pruned --weights int4 --group 32 -o pruned.onnx

A weight's score is its magnitude times the norm of the channel that it multiplies, over the tokens
of a text; the smallest scores of each output become zeros, or of each group of neighbours. This is
Wanda (Sun and others, "A Simple and Effective Pruning Approach for Large Language Models", arXiv
2306.11695). Layer after layer is pruned, so that the norms are those behind the pruned layers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn


def prune(scores: torch.Tensor, zeros: float | tuple[int, int]) -> torch.Tensor:
    """Return which weights are kept: of each row, or of each group of neighbours in it.

    Parameters
    ----------
    scores : tensor
        (outputs, inputs).
    zeros : float or tuple of int
        The share of zeros, or (kept, of).
    """
    if isinstance(zeros, tuple):
        kept, of = zeros
        groups = scores.reshape(-1, of)
    else:
        groups = scores
        kept = round((1 - zeros) * scores.shape[1])
    mask = torch.zeros(groups.shape, dtype=torch.bool)
    mask.scatter_(1, groups.topk(kept, dim=1).indices, True)
    return mask.reshape(scores.shape)


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a model, but for its head."""
    head = model.get_output_embeddings()
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head
    }


@torch.no_grad()
def norms_of(layers: dict[str, nn.Linear], run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """Return the norms of the channels that layers read while `run` runs."""
    squares = {name: torch.zeros(layer.in_features) for name, layer in layers.items()}

    def listen(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].float().reshape(-1, inputs[0].shape[-1])
            squares[name] += (rows * rows).sum(0)

        return hook

    hooks = [layer.register_forward_pre_hook(listen(name)) for name, layer in layers.items()]
    run()
    for hook in hooks:
        hook.remove()
    return {name: square.sqrt() for name, square in squares.items()}


@torch.no_grad()
def wanda(
    model: nn.Module, windows: torch.Tensor, zeros: float | tuple[int, int], by_block: bool = True
) -> None:
    """Prune a model in place.

    Parameters
    ----------
    model : nn.Module
        A language model.
    windows : tensor of int
        Tokens of a text, (windows, tokens).
    zeros : float or tuple of int
        The share of zeros, or (kept, of).
    by_block : bool
        Whether a block of the model is pruned before the norms of the next one are taken, which
        reads the text once for each block.
    """
    groups: dict[str, dict[str, nn.Linear]] = {}
    for name, layer in layers_of(model).items():
        block = next((part for part in name.split(".") if part.isdigit()), "")
        groups.setdefault(block if by_block else "", {})[name] = layer
    for layers in groups.values():
        norms = norms_of(layers, lambda: [model(window[None]) for window in windows])
        for name, layer in layers.items():
            scores = layer.weight.float().abs() * norms[name]
            layer.weight.mul_(prune(scores, zeros))


def windows_of(tokenizer: object, text: str, length: int, most: int) -> torch.Tensor:
    """Return the first windows of a text."""
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    count = min(most, len(ids) // length)
    if not count:
        raise SystemExit(f"the text has {len(ids)} tokens; a window has {length}")
    return ids[: count * length].reshape(count, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a model and its tokenizer")
    parser.add_argument("text", type=Path, help="text like what the model shall write")
    parser.add_argument("out", type=Path, help="folder to write")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--sparsity", type=float, help="share of zeros in each row, such as 0.5")
    kind.add_argument("--pattern", help="such as 2:4, two of four neighbours stay")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=64, help="most windows")
    options = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
    text = options.text.read_text(encoding="utf-8")
    windows = windows_of(tokenizer, text, options.length, options.windows)
    if options.pattern:
        kept, of = map(int, options.pattern.split(":"))
        wanda(model, windows, (kept, of))
    else:
        wanda(model, windows, options.sparsity)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
