"""The one exception that means "the input is wrong", as opposed to "videodit is wrong"."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that names the file or key and says what would be right.

    The command line prints it and exits with code 2, without a traceback.
    """
