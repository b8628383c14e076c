"""Data sets as arrays, the order of their batches, and their transforms on the device."""
