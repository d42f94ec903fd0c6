"""Benchmarks against peers and floors: `python -m benchmarks`. Never a timed test: only ratios within one run mean anything."""
