"""The exceptions that a user should read one line of: the input is wrong, or the work was interrupted."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that names the file or key and says what would be right.

    The command line prints it and exits with code 2, without a traceback.
    """


class Interrupted(Exception):
    """The work was asked to stop before its end, and can be taken up again by the same command.

    The command line prints the message and exits with code 75 (EX_TEMPFAIL, "try again later").
    """
