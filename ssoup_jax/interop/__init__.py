"""Exchange with PyTorch, and ONNX."""
