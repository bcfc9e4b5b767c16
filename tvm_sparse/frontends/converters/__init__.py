"""From nodes of ONNX graphs to Relax: ours, and TVM's under supervision."""
