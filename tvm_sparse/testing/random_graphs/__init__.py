"""Random ONNX graphs, each compiled and compared with ONNX Runtime; see `__main__`."""
