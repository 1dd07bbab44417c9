"""Benchmarks of this machine against reference implementations."""

COMPARISONS = ("gflops", "int8", "engine", "decoding", "bulk", "training", "scale")
"""Each gives one or more rows."""
