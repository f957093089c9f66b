"""Benchmarks, each beside the limit it is held against, in one run: `./dev bench path`."""
