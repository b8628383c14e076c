"""Exchange with PyTorch."""
