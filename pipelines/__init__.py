"""The programs. The only part that knows both `operators` and `cluster`."""
