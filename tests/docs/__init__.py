"""Tests of the documents: what they say runs, exists and is complete."""
