"""Compares a compiled model with ONNX Runtime, and finds the node at which they part."""
