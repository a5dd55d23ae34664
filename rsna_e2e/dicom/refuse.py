"""Whatever goes wrong while a file is read becomes a refusal of that file."""

import os
from collections.abc import Callable
from typing import TypeVar

from rsna_e2e.elements import RefusedError
from rsna_e2e.reasons import Reason
from rsna_e2e.records import Refusal

_T = TypeVar("_T")


def refuse_on_error(name: str, read: Callable[[], _T], *, otherwise: Reason) -> _T | Refusal:
    """Return what `read` does, or a refusal of the file called `name`: with `otherwise` for what nobody foresaw."""
    try:
        return read()
    except RefusedError as error:
        return Refusal(name, error.reason, error.detail)
    except OSError as error:
        if error.errno is None:  # a decoder's own, not the operating system's
            return Refusal(name, otherwise, type(error).__name__)
        return Refusal(name, Reason.UNREADABLE_FILE, os.strerror(error.errno))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Hostile bytes make decoders raise nearly anything, a Rust panic outside Exception among them. The text of such
        # an error may quote the patient, so only its kind is kept.
        return Refusal(name, otherwise, type(error).__name__)
