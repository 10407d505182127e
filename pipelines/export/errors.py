"""The error of an export that cannot start."""

from vrshq.errors import UserError


class ExportError(UserError, ValueError):
    """The export cannot start; the message is one line with the reason."""
