"""Training: settings, data sources, checkpoints, and stages in one process or on Ray."""
