"""Evaluation: data sets, metrics, scores, comparisons and ablations."""
