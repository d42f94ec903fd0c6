"""Benchmarks against peers and floors: `python -m benchmarks`. Only ratios within one run mean anything."""
