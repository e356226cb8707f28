"""The exceptions that a user should read one line of: the input is wrong, or the work was interrupted. And one that
libraries have many words for: memory ran out.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that names the file or key and says what would be right.

    The command line prints it and exits with code 2, without a traceback.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or a CPU. cuDNN, whose tries all failed, may not say why."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "could not create a memory", "bad_alloc",
             "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")  # fmt: skip
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


class Interrupted(Exception):
    """The work was asked to stop before its end, and can be taken up again by the same command.

    The command line prints the message and exits with code 75 (EX_TEMPFAIL, "try again later").
    """
