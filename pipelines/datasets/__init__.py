"""Benchmarks on disk: their videos, expressions and ground truth, in one form whatever the layout."""
