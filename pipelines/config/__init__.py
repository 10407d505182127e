"""Reading of settings, shared by all commands: YAML files, `--set` assignments, validation."""
