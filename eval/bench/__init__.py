"""Benchmarks; each measures its ratios in one run."""
