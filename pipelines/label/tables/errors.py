"""Errors of the labelling run that the user can mend."""

from __future__ import annotations

from vrshq.errors import UserError


class InstructionTableError(UserError, ValueError):
    """The instruction table cannot be used; one line that names the file, the column or the rows."""
