"""Turns an error while a file is read into a refusal of that file, whose reason says what is to blame."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.elements import RefusedError

_T = TypeVar("_T")


def refuse_on_error(name: str, read: Callable[[], _T]) -> _T | Refusal:
    """Return what `read` does, or a refusal of the file called `name`.

    A RefusedError has its own reason, an OSError is `unreadable_file`. Any other error is a bug of this program,
    `internal_error`: those of decoders became a RefusedError before. The text of an error may quote the patient, so
    only its class and the line of code are kept.
    """
    try:
        return read()
    except RefusedError as error:
        return Refusal(name, error.reason, error.detail, sop_uid=error.sop_uid)
    except OSError as error:
        if error.errno is not None:
            return Refusal(name, Reason.UNREADABLE_FILE, os.strerror(error.errno))
        return _internal_error(name, error)
    except Exception as error:
        return _internal_error(name, error)


def decoder_error(error: BaseException) -> RefusedError:
    """Return the refusal to raise for an error of a third-party decoder, which may be of any class: a Rust panic is no
    Exception."""
    return RefusedError(Reason.DECODER_FAILED, type(error).__name__)


def _internal_error(name: str, error: Exception) -> Refusal:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    detail = f"{type(error).__name__} in {where}: a bug of this program, please report it with the file if you may"
    return Refusal(name, Reason.INTERNAL_ERROR, detail)
