"""Model files: finding, converting and publishing bundles."""
