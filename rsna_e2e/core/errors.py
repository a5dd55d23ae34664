"""Errors a user can meet, each with the exit code that `rsna-e2e` ends with.

A message says what is wrong, where, and what to do about it. Programming errors are asserts instead.
"""

BUILD_COMMAND = "pip install --no-build-isolation -e ."  # what to run when something compiled is missing


# How libraries say that memory ran out: torch on a CPU and on a GPU, C++ in DALI
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")


class RsnaError(Exception):
    """Base of every error that is shown to the user as one line, without a traceback."""

    exit_code = 1


class UsageError(RsnaError):
    """The command line or the configuration asks for something that does not exist."""

    exit_code = 2


class BadInputError(RsnaError):
    """A file or folder is missing, damaged, or not what it should be."""

    exit_code = 3


class MissingCapabilityError(RsnaError):
    """A library, compiler or device is missing; the message names the command that installs it."""

    exit_code = 4


class OutOfResourcesError(RsnaError):
    """Disk or memory ran out; the message names the path and what is needed."""

    exit_code = 5


class DiskFullError(OutOfResourcesError):
    """A file could not be written for lack of space."""


class DivergedError(RsnaError):
    """Training produced no finite loss any more."""

    exit_code = 6


class PreemptedError(RsnaError):
    """The run was asked to stop, and stopped after saving; it can be resumed."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


class CommandFailedError(RsnaError):
    """A command that was run for the user failed; it has printed why, and its exit code is passed on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a library says that memory ran out."""
    is_said = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or is_said
