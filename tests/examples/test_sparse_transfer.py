"""The examples that prune a network while it trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import tvm_sparse

torch = pytest.importorskip("torch")
yaml = pytest.importorskip("yaml")

FOLDER = Path(__file__).parents[2] / "examples/sparse_transfer"


def rows(script, *arguments):
    """Run a script and return the numbers in each row of the table that it prints."""
    command = [sys.executable, FOLDER / script, *map(str, arguments)]
    # The scripts import their neighbour.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")][2:]
    return [
        [float(cell) for cell in re.findall(r"(?<=\| )([\d.]+)%? (?=\|)", line)] for line in table
    ]


def test_digits_are_pruned_transferred_and_compiled():
    pytest.importorskip("sklearn")
    dense, pruned, other, moved = rows("digits.py", "--epochs", 6)
    assert dense[0] == other[0] == 0 and pruned[0] > 80 and moved[0] >= pruned[0]
    assert min(dense[1], pruned[1], other[1], moved[1]) > 80
    assert pruned[2] >= 1 and moved[2] == pruned[2]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny network for sentences, a tokenizer of words, and sentences of them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("encoder")
    words = [f"word{i}" for i in range(60)]
    known = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(known), hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, initializer_range=0.1,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    sentences = [
        " ".join(words[(7 * i + i * j) % 60] for j in range(3 + i % 9)) for i in range(400)
    ]
    (folder / "text.txt").write_text("\n".join(sentences) + "\n")
    return folder


def test_sentences_are_pruned_exported_and_compiled(encoder, tmp_path):
    recipe = yaml.safe_load((FOLDER / "sentences.yaml").read_text())
    recipe["pruning"] |= {"first_epoch": 1, "last_epoch": 4, "every": 1}
    recipe["training"] |= {"epochs": 12, "batch": 32}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "pruned.onnx"
    dense, at_once, gradually = rows(
        "sentences.py", encoder, encoder / "text.txt", out, "--recipe", tmp_path / "recipe.yaml"
    )
    assert dense[:2] == [0, 1]
    assert at_once[0] == gradually[0] == 80
    assert at_once[1] < gradually[1] <= 1
    zeros = [
        (onnx.numpy_helper.to_array(tensor) == 0).mean()
        for tensor in onnx.load(out).graph.initializer
        if len(tensor.dims) == 2 and min(tensor.dims) >= 64 and "embed" not in tensor.name
    ]
    assert len(zeros) >= 12 and min(zeros) > 0.75
    assert [*out.parent.glob("*.onnx")] == [out]


def test_masks_of_nncf_are_zeros_for_the_compiler():
    nncf = pytest.importorskip("nncf")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(64, 128)
            self.last = torch.nn.Linear(128, 64)

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    torch.manual_seed(0)
    x = torch.randn(32, 64)
    mode = nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL
    network = nncf.prune(Network().eval(), mode=mode, ratio=0.9, examples_inputs=x)
    engine = tvm_sparse.compile(network, (x,), threads=1)
    assert [layer.is_sparse for layer in engine.report.layers] == [True, True]
    with torch.no_grad():
        torch.testing.assert_close(engine(x.numpy()).popitem()[1], network(x).numpy())
