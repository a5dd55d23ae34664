"""Writing an HDF5 file so that nobody ever takes half of it for the whole."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py

from rsna_e2e.files import sync

# Datasets begin on a page, so that they can be mapped or read past the page cache. Smaller ones are packed.
ALIGNMENT_BYTES = 4096

# HDF5's 1.10 format marks a file that is open for writing: one left by a killed writer cannot be opened as whole.
HDF5_VERSIONS = ("v110", "v110")


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which gets its name when the block ended well and it reached the disk.

    A full disk is an OSError with its number, whenever it shows. On any error nothing stays.
    """
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with _open(temporary) as file:
            yield file
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    file = h5py.File(
        path, "w", libver=HDF5_VERSIONS, alignment_threshold=ALIGNMENT_BYTES, alignment_interval=ALIGNMENT_BYTES
    )
    try:
        yield file
        file.close()
    except (OSError, RuntimeError) as error:  # RuntimeError: what closing a file raises
        if f"errno = {errno.ENOSPC}," in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        with suppress(OSError, RuntimeError):  # on a full disk closing fails as well; the first error counts
            file.close()
