"""Studies: many experiments on the same data and network, whose figures make one table."""
