"""Soups: averages of candidates."""

METHODS = ("UniformEnsembling", "GreedySoup")
