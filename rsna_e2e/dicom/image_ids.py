"""Image ids, by which label files and submissions refer to slices: file names, paths, or SOP instance UIDs."""

# N slices

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from rsna_e2e.core.records import IdRule, printable

ImageIds: TypeAlias = IdRule | Literal["auto"]  # auto: as the labels have them

# Suffixes of DICOM files, and with those of images. Nothing else is cut off: the last number of a UID is no suffix.
DICOM_SUFFIXES = frozenset({"dcm", "dicom", "dic", "dc3", "ima", "img", "ct", "acr", "gdcm"})
SUFFIXES = DICOM_SUFFIXES | {"png", "jpg", "jpeg"}

# Characters that begin a formula in a spreadsheet, full-width forms included; tab and line breaks are escaped
# in image ids. Source: OWASP, "CSV Injection".
FORMULA_BEGINS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def image_id_of(name: str) -> str:
    """Return the image id that a file's name gives its slice: without folders, and without a suffix of `SUFFIXES`."""
    stem = name.rpartition("/")[2]
    bare, _, suffix = stem.rpartition(".")
    return printable(bare if bare and suffix.lower() in SUFFIXES else stem)


def has_suffix(name: str) -> bool:
    """Whether a file name has a suffix of DICOM files."""
    return name.rpartition(".")[2].lower() in DICOM_SUFFIXES


def may_be_formula(name: str) -> bool:
    """Whether a spreadsheet would run an image id of a file: its name, or that of the folder at the top."""
    return any(part.startswith(FORMULA_BEGINS) for part in (name, name.rpartition("/")[2]))


def names_of(name: str, rule: IdRule = "name") -> set[str]:
    """Return all names by which a label may refer to a file, frames aside, as far as its name says: see
    `unique_image_ids` and `other_name`."""
    image_id = image_id_of(name)
    paths = {with_folder(image_id, name), printable(name)}
    match rule:
        case "name":
            return {image_id, *paths, other_name(image_id), printable(name.rpartition("/")[2])}
        case "path":
            return paths
        case "sop_uid":
            return {image_id}


def other_name(image_id: str) -> str:
    """Return the other name that a label may have for an image: without folders, and without whatever follows the last
    dot."""
    stem = image_id.rpartition("/")[2]
    bare, _, suffix = stem.rpartition(".")
    return bare if bare and suffix else stem


def image_ids_by(rule: IdRule, image_ids: Sequence[str], names: Sequence[str], sop_uids: Sequence[str]) -> list[str]:
    """Return the image ids [N] that slices have by a rule: those of one slice need not be different from others'.

    image_ids, names: as for `unique_image_ids`. sop_uids [N]: read by rule "sop_uid" alone.
    """
    match rule:
        case "name":
            return list(image_ids)
        case "path":
            return list(map(with_folder, image_ids, names))
        case "sop_uid":
            return [
                printable(sop_uid) + image_id.removeprefix(image_id_of(name))
                for image_id, name, sop_uid in zip(image_ids, names, sop_uids, strict=True)
            ]


def unique_image_ids(
    image_ids: Sequence[str], names: Sequence[str], *, rule: IdRule = "name", sop_uids: Sequence[str] = ()
) -> list[str]:
    """Return image ids [N] of which no two are equal; those that occur once stay as they are.

    The others get their folder before them; where that is not enough, the whole name of their file, then a number.
    image_ids [N]: by name; each begins with that of its file, and may go on with the number of a frame. names [N]: of
    the files, with folders. sop_uids [N]: for rule "sop_uid", by which no image is called by the name of its file.
    """
    ids = image_ids_by(rule, image_ids, names, sop_uids)
    unique = list(ids)
    if rule != "path":  # which has the folder
        for row in _repeated(unique):
            unique[row] = with_folder(ids[row], names[row])
    if rule != "sop_uid":
        for row in _repeated(unique):
            unique[row] = with_suffix(image_ids[row], names[row])
    while repeated := _repeated(unique):
        numbers: Counter[str] = Counter()
        for row in repeated:
            numbers[unique[row]] += 1
            unique[row] = f"{unique[row]}~{numbers[unique[row]]}"
    return unique


def ids_beside(taken: Iterable[str], names: Sequence[str], rule: IdRule) -> list[str]:
    """Return the image ids of files [N] that are not in a store, beside its ids `taken`: with their folder where an id
    occurs twice. UIDs of such files are not known; they are called by their names."""
    known = set(taken)
    image_ids = [image_id_of(name) for name in names]
    if rule == "path":
        return list(map(with_folder, image_ids, names))
    counts = Counter(image_ids)
    return [
        with_folder(image_id, name) if image_id in known or counts[image_id] > 1 else image_id
        for image_id, name in zip(image_ids, names, strict=True)
    ]


def _repeated(image_ids: Sequence[str]) -> list[int]:
    counts = Counter(image_ids)
    return (
        [row for row, image_id in enumerate(image_ids) if counts[image_id] > 1] if len(counts) < len(image_ids) else []
    )


def with_folder(image_id: str, name: str) -> str:
    """Return an image id with the folder of its file before it: the path of the file, where the id is by name."""
    folder = name.rpartition("/")[0]
    return f"{printable(folder)}/{image_id}" if folder else image_id


def with_suffix(image_id: str, name: str) -> str:
    """Return the path of a file, with its suffix, and the number of the frame that an image id by name ends in."""
    return printable(name) + image_id.removeprefix(image_id_of(name))
