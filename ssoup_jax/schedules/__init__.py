"""Learning rates as plain NumPy arrays, one rate per optimiser step: data for the compiled step, never code."""
