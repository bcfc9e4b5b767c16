"""Writes the .onnx fixtures of this folder: tiny, randomly initialised models, really exported.

    pip install torch transformers onnx onnxscript
    python tests/data/export.py tests/data             # the committed fixtures
    python tests/data/export.py /tmp/every --every     # every model x exporter x opset

A fixture's name is MODEL-EXPORTER-OPSET; `script` is torch's TorchScript exporter and `dynamo` the
newer one, built on torch.export. Weights are seeded, 2 layers, 2 heads, 16 features.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers
from torch import nn

BATCH, TOKENS, FEATURES, HEADS, LAYERS = 2, 7, 16, 2, 2
EXPERTS = 4

Case = tuple[nn.Module, dict[str, torch.Tensor]]

SHARED: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": FEATURES,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * FEATURES,
    "max_position_embeddings": 16,
}


def token_inputs() -> dict[str, torch.Tensor]:
    """Token ids and a mask that hides the last two tokens of the second sequence."""
    mask = torch.ones(BATCH, TOKENS, dtype=torch.int64)
    mask[1, -2:] = 0
    return {"input_ids": torch.randint(3, 24, (BATCH, TOKENS)), "attention_mask": mask}


class FirstOutput(nn.Module):
    """A Hugging Face model called by position and reduced to its first output."""

    def __init__(self, model: nn.Module, *names: str, **options: Any) -> None:
        super().__init__()
        self.model, self.names, self.options = model, names, options

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)[0]


def text_case(model: nn.Module) -> Case:
    inputs = token_inputs()
    return FirstOutput(model, *inputs), inputs


def bert(attention: str, activation: str = "gelu") -> Case:
    config = transformers.BertConfig(**SHARED, attn_implementation=attention, hidden_act=activation)
    return text_case(transformers.BertModel(config, add_pooling_layer=False))


def roberta() -> Case:
    config = transformers.RobertaConfig(**SHARED, attn_implementation="sdpa")
    return text_case(transformers.RobertaModel(config, add_pooling_layer=False))


def distilbert() -> Case:
    config = transformers.DistilBertConfig(
        vocab_size=24,
        dim=FEATURES,
        hidden_dim=2 * FEATURES,
        n_layers=LAYERS,
        n_heads=HEADS,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    return text_case(transformers.DistilBertModel(config))


def gpt2() -> Case:
    config = transformers.GPT2Config(
        vocab_size=24,
        n_positions=16,
        n_embd=FEATURES,
        n_layer=LAYERS,
        n_head=HEADS,
        attn_implementation="eager",
    )
    model = FirstOutput(transformers.GPT2Model(config), "input_ids", use_cache=False)
    return model, {"input_ids": torch.randint(0, 24, (BATCH, TOKENS))}


def vit(attention: str) -> Case:
    config = transformers.ViTConfig(
        **{k: v for k, v in SHARED.items() if k not in ("vocab_size", "max_position_embeddings")},
        image_size=16,
        patch_size=8,
        num_labels=3,
        attn_implementation=attention,
    )
    model = FirstOutput(transformers.ViTForImageClassification(config), "pixel_values")
    return model, {"pixel_values": torch.randn(BATCH, 3, 16, 16)}


class SiluBlock(nn.Module):
    """The gated feed-forward of Llama: down(silu(gate(x)) * up(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(FEATURES, 2 * FEATURES, bias=False)
        self.up = nn.Linear(FEATURES, 2 * FEATURES, bias=False)
        self.down = nn.Linear(2 * FEATURES, FEATURES)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.act(self.gate(x)) * self.up(x))


class FusedQkv(nn.Module):
    """A pre-norm block with timm's attention: one linear layer makes q, k and v."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)
        self.qkv, self.projection = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, s, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, s, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // HEADS) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return x + self.projection(y.transpose(1, 2).reshape(b, s, c))


class SelfAttention(nn.Module):
    """nn.MultiheadAttention of a sequence with itself."""

    def __init__(self, need_weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(FEATURES, HEADS, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=self.need_weights)[0]


class Mixture(nn.Module):
    """Experts behind a router, in the loop of transformers 4: each computes its own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)
        self.router = nn.Linear(FEATURES, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, 24), nn.SiLU(), nn.Linear(24, FEATURES))
            for _ in range(EXPERTS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.norm(x).view(-1, FEATURES)
        likely = nn.functional.softmax(self.router(rows), dim=1)
        shares, chosen = torch.topk(likely, 2, dim=-1)
        shares = shares / shares.sum(dim=-1, keepdim=True)
        return x + self.mixed(rows, shares, chosen).reshape(x.shape)

    def mixed(self, rows: torch.Tensor, shares: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(rows)
        is_sent = nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            rank, token = torch.where(is_sent[number])
            result = expert(rows[None, token].reshape(-1, FEATURES)) * shares[token, rank, None]
            total.index_add_(0, token, result)
        return total


class MaskedMixture(Mixture):
    """The same, where every expert computes all tokens, and most shares are 0."""

    def mixed(self, rows: torch.Tensor, shares: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        every = torch.zeros(len(rows), EXPERTS).scatter_(1, chosen, shares)
        results = torch.stack([expert(rows) for expert in self.experts], -2)
        return (results * every[..., None]).sum(-2)


class StackedMixture(Mixture):
    """The same with stacked weights, as in gpt-oss."""

    def __init__(self) -> None:
        super().__init__()
        del self.experts
        self.first = nn.Parameter(torch.empty(EXPERTS, FEATURES, 48))
        self.first_bias = nn.Parameter(torch.empty(EXPERTS, 48))
        self.last = nn.Parameter(torch.empty(EXPERTS, 24, FEATURES))

    def mixed(self, rows: torch.Tensor, shares: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        every = torch.zeros(len(rows), EXPERTS).scatter_(1, chosen, shares)
        copies = rows.repeat(EXPERTS, 1).view(EXPERTS, -1, FEATURES)
        both = torch.bmm(copies, self.first) + self.first_bias[:, None]
        gates, values = both[..., ::2].clamp(max=3.0), both[..., 1::2]
        results = torch.bmm(gates * torch.sigmoid(1.5 * gates) * (values + 1), self.last)
        return (results * every.T[..., None]).sum(0)


def tokens() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(BATCH, TOKENS, FEATURES)}


def encoder_layer(activation: str) -> Case:
    layer = nn.TransformerEncoderLayer(
        FEATURES, HEADS, 2 * FEATURES, activation=activation, batch_first=True
    )
    # The inference fast path is one opaque operator, which neither exporter can write.
    torch.backends.mha.set_fastpath_enabled(False)
    return nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False), tokens()


def blocks(make: Callable[[], nn.Module]) -> Case:
    return nn.Sequential(*(make() for _ in range(LAYERS))), tokens()


MODELS: dict[str, Callable[[], Case]] = {
    "bert": lambda: bert("eager"),
    "bert_sdpa": lambda: bert("sdpa"),
    "bert_gelu_new": lambda: bert("eager", "gelu_new"),
    "bert_gelu_tanh": lambda: bert("eager", "gelu_pytorch_tanh"),
    "roberta": roberta,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "vit": lambda: vit("eager"),
    "vit_sdpa": lambda: vit("sdpa"),
    "silu": lambda: blocks(SiluBlock),
    "qkv": lambda: blocks(lambda: FusedQkv(fused=False)),
    "qkv_sdpa": lambda: blocks(lambda: FusedQkv(fused=True)),
    "mha": lambda: blocks(lambda: SelfAttention(need_weights=False, batch_first=True)),
    "mha_weights": lambda: blocks(lambda: SelfAttention(need_weights=True, batch_first=True)),
    "mha_tokens_first": lambda: blocks(lambda: SelfAttention(False, batch_first=False)),
    "encoder": lambda: encoder_layer("gelu"),
    "mixture": lambda: blocks(Mixture),
    "mixture_masked": lambda: blocks(MaskedMixture),
    "mixture_stacked": lambda: blocks(StackedMixture),
    "encoder_relu": lambda: encoder_layer("relu"),
}

OPSETS = {"script": (11, 14, 17, 20), "dynamo": (18, 20, 21, 23, 24)}

# Those that differ in how they write something out.
FIXTURES = (
    "bert-script-11",
    "bert_gelu_tanh-script-17",
    "bert_sdpa-script-14",
    "bert_sdpa-dynamo-18",
    "bert_sdpa-dynamo-23",
    "encoder-dynamo-20",
    "gpt2-dynamo-18",
    "mha-dynamo-18",
    "mixture-dynamo-18",
    "mixture-script-17",
    "mixture_masked-dynamo-20",
    "mixture_stacked-script-17",
    "mha_weights-script-14",
    "qkv_sdpa-script-17",
    "silu-dynamo-18",
    "vit-script-14",
)


def randomize(model: nn.Module) -> None:
    """Give every parameter, LayerNorm's too, values that an error would show in."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            parameter.copy_(0.3 * noise if parameter.ndim > 1 else 1 + 0.3 * noise)


def strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter says about itself: documentation, stack traces, inferred shapes."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:], graph.value_info[:]
    for entry in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]


def export(name: str, folder: Path) -> None:
    """Write one fixture."""
    model_name, exporter, opset = name.split("-")
    torch.manual_seed(0)
    model, inputs = MODELS[model_name]()
    randomize(model.eval())
    path = folder / f"{name}.onnx"
    torch.onnx.export(
        model,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=["output"],
        opset_version=int(opset),
        dynamo=exporter == "dynamo",
        external_data=False,
        verbose=False,
    )
    written = onnx.load(path)
    strip(written)
    onnx.save(written, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", action="store_true", help="every model x exporter x opset")
    parser.add_argument("--only", help="one model, exporter and opset by its fixture name")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    names: tuple[str, ...] = FIXTURES
    if arguments.every:
        names = tuple(
            f"{model}-{exporter}-{opset}"
            for model in MODELS
            for exporter, opsets in OPSETS.items()
            for opset in opsets
        )
    if arguments.only:
        names = (arguments.only,)
    failed = 0
    for name in names:
        try:
            export(name, arguments.folder)
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            print(f"{name}: {str(error).strip().splitlines()[0][:150]}")
            failed += 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
