"""Where the figures of models go while they train, and when they are done: files, dashboards, the console."""

from ssoup_jax.report.trackers.tracker import NULL, Composite, Guarded, Line, Record, Run, Tracker, tracking

__all__ = ["NULL", "Composite", "Guarded", "Line", "Record", "Run", "Tracker", "tracking"]
