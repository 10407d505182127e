"""The model bundles that ship with the package."""
