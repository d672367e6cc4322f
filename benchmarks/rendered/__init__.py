"""Rendered scenes of the benchmarks and the tests."""
