"""Finding the files of a folder, however deep, without being led astray."""

import os
from pathlib import Path

from rsna_e2e.dicom import printable
from rsna_e2e.errors import BadInputError
from rsna_e2e.reasons import Reason
from rsna_e2e.records import Refusal

# Label tables lie beside the images in the competition's layout; they are no refused images.
TABLE_SUFFIXES = (".csv", ".csv.gz")


def find_files(raw: Path) -> tuple[list[str], list[Refusal]]:
    """Return the files below `raw`, sorted, as paths relative to it, and what cannot be taken for one.

    Links to files are followed, links to folders are not, so no loop and nothing outside `raw` is walked. What is no
    regular file is never opened. Label tables are left out. Raises BadInputError when `raw` is no folder.
    """
    if not raw.exists():
        raise BadInputError(f"{raw}: no such folder. Give the folder that holds the DICOM files")
    if not raw.is_dir():
        raise BadInputError(f"{raw}: not a folder. Give the folder that holds the DICOM files")
    names: list[str] = []
    refusals: list[Refusal] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(raw / folder))
        except OSError as error:
            refusals.append(Refusal(printable(folder), Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)))
            continue
        for entry in entries:
            name = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(name)
            elif entry.is_dir():
                refusals.append(Refusal(printable(name), Reason.LINKED_FOLDER, "links to folders are not followed"))
            elif not entry.is_file():
                refusals.append(Refusal(printable(name), Reason.NOT_REGULAR_FILE, "not a file, or a broken link"))
            elif not entry.name.lower().endswith(TABLE_SUFFIXES):
                names.append(name)
    return sorted(names), sorted(refusals, key=lambda refusal: refusal.path)
