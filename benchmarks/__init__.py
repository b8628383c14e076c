"""Measured comparisons; each is one command and none is a timed test."""
