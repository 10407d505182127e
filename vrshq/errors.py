"""The base class of errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave. The message is one line: what was given, what was expected, what to do.

    The command line prints it and exits with code 1. Any other exception is a fault of the program and shows a traceback.
    """
