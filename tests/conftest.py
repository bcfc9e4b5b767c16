"""The tests that import ONNX Runtime before this package send nothing either."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
