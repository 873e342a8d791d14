"""Benchmarks, as functions that measure and format. Each measures what it compares in a single run."""
