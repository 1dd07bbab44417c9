"""Benchmarks of this machine against reference implementations."""
