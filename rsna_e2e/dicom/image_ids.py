"""Image ids: made of file names by one rule, and used by label files and submissions."""

# N slices

from collections import Counter
from collections.abc import Iterable, Sequence

from rsna_e2e.core.records import printable

# Suffixes of DICOM files. Nothing else is cut off: the last number of a UID is no suffix.
SUFFIXES = frozenset({"dcm", "dicom", "dic", "dc3", "ima", "img", "ct", "acr", "gdcm"})

# Characters that begin a formula in a spreadsheet, full-width forms included; tab and line breaks are escaped
# in image ids. Source: OWASP, "CSV Injection".
FORMULA_BEGINS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def image_id_of(name: str) -> str:
    """Return the image id that a file's name gives its slice: without folders, and without a suffix of DICOM files."""
    stem = name.rpartition("/")[2]
    bare, _, suffix = stem.rpartition(".")
    return printable(bare if bare and suffix.lower() in SUFFIXES else stem)


def has_suffix(name: str) -> bool:
    """Whether a file name has a suffix of DICOM files."""
    return name.rpartition(".")[2].lower() in SUFFIXES


def may_be_formula(name: str) -> bool:
    """Whether a spreadsheet would run an image id of a file: its name, or that of the folder at the top."""
    return any(part.startswith(FORMULA_BEGINS) for part in (name, name.rpartition("/")[2]))


def names_of(name: str) -> set[str]:
    """Return all names by which a label may refer to a file, frames aside: see `unique_image_ids` and `other_name`."""
    image_id = image_id_of(name)
    return {image_id, _with_folder(image_id, name), printable(name), other_name(image_id)}


def other_name(image_id: str) -> str:
    """Return the other name that a label may have for an image: without folders, and without whatever follows the last
    dot."""
    stem = image_id.rpartition("/")[2]
    bare, _, suffix = stem.rpartition(".")
    return bare if bare and suffix else stem


def unique_image_ids(image_ids: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return image ids [N] of which no two are equal; those that occur once stay as they are.

    The others get their folder before them; where that is not enough, the whole name of their file, then a number.
    image_ids [N]: each begins with that of its file, and may go on with the number of a frame. names [N]: of the files,
    with folders.
    """
    unique = list(image_ids)
    for longer in (_with_folder, _with_suffix):
        for row in _repeated(unique):
            unique[row] = longer(image_ids[row], names[row])
    while repeated := _repeated(unique):
        numbers: Counter[str] = Counter()
        for row in repeated:
            numbers[unique[row]] += 1
            unique[row] = f"{unique[row]}~{numbers[unique[row]]}"
    return unique


def ids_beside(taken: Iterable[str], names: Sequence[str]) -> list[str]:
    """Return the image ids of files [N] that are not in a store, beside its ids `taken`: with their folder where an id
    occurs twice."""
    known = set(taken)
    image_ids = [image_id_of(name) for name in names]
    counts = Counter(image_ids)
    return [
        _with_folder(image_id, name) if image_id in known or counts[image_id] > 1 else image_id
        for image_id, name in zip(image_ids, names, strict=True)
    ]


def _repeated(image_ids: Sequence[str]) -> list[int]:
    counts = Counter(image_ids)
    return (
        [row for row, image_id in enumerate(image_ids) if counts[image_id] > 1] if len(counts) < len(image_ids) else []
    )


def _with_folder(image_id: str, name: str) -> str:
    folder = name.rpartition("/")[0]
    return f"{printable(folder)}/{image_id}" if folder else image_id


def _with_suffix(image_id: str, name: str) -> str:
    return printable(name) + image_id.removeprefix(image_id_of(name))
