"""Benchmarks against peers: `python -m bench` writes bench/results/*.json, from which the README's tables are generated."""
