"""Masks as COCO run-length codes and as packed bits."""
