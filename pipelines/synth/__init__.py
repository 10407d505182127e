"""Synthetic data sets in ReVOS's layout, on disk or in a bucket."""
