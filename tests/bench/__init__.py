"""Benchmarks: `python -m tests.bench [name]` or `make bench ONLY=name`; no timed asserts, figures and ratios only."""
