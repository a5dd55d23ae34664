"""Images that a submission lacks, because prepare refused their files: counted by reason, and listed beside it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.files import atomic_writer, csv_blocks
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.image_ids import has_suffix, ids_beside
from rsna_e2e.inference.predictions import beside
from rsna_e2e.store import Store

# Refused because the file is not a CT slice
_NO_SLICE = {Reason.NOT_CT, Reason.LOCALIZER, Reason.LINKED_FOLDER}
# ... unless its name says otherwise: an empty file among others
_HARDLY_A_SLICE = {Reason.NOT_DICOM, Reason.NOT_REGULAR_FILE}
# Refused because it is there already
_ONCE_MORE = {Reason.DUPLICATE_SOP_UID, Reason.DUPLICATE_NAME, Reason.SAME_POSITION}

COLUMNS = ("ID", "reason", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingImages:
    """How many images of a split are missing, by reason; file: names them, None where none is."""

    reasons: dict[str, int]
    file: Path | None

    def __str__(self) -> str:
        why = ", ".join(f"{n} {reason}" for reason, n in self.reasons.items())
        n = sum(self.reasons.values())
        return f"missing in the submission: {n} image{'s' * (n != 1)} that prepare refused ({why}); see {self.file}"


def list_missing(store: Store, split: str, *, submission: Path) -> MissingImages:
    """Write down, beside a submission, which images of the split `store` had to leave out, and why: `COLUMNS` as CSV.

    A refused file counts for split "train" where it has a label, else for "test": its patient is not known, so neither
    is whether it was held out (`prepare --holdout`) nor its fold, and none counts for "validation". Raises StoreError
    when the refusals are damaged.
    """
    missing = [] if split == "validation" else list(_missing(store, split))
    if not missing:
        return MissingImages(reasons={}, file=None)
    place = beside(submission, "missing.csv")
    paths = [refusal.path for refusal in missing]
    image_ids = ids_beside(store.index["image_id"].tolist(), paths, store.image_ids)
    rows = [(image_id, r.reason, r.detail) for image_id, r in zip(image_ids, missing, strict=True)]
    with atomic_writer(place) as file:
        file.writelines(csv_blocks([COLUMNS, *rows]))
    return MissingImages(reasons=dict(Counter(refusal.reason for refusal in missing).most_common()), file=place)


def _missing(store: Store, split: str) -> Iterator[Refusal]:
    image_ids = set(store.index["image_id"].tolist())
    for refusal in store.read_refusals():
        is_slice = has_suffix(refusal.path) if refusal.reason in _HARDLY_A_SLICE else refusal.reason not in _NO_SLICE
        is_here = refusal.reason in _ONCE_MORE and not image_ids.isdisjoint(
            ids_beside((), [refusal.path], store.image_ids)
        )
        # Its instance is in the store, under another path; a label by its own path asks for that one
        is_here |= refusal.reason == Reason.DUPLICATE_SOP_UID and (
            store.image_ids == "sop_uid" or not refusal.has_label
        )
        if is_slice and not is_here and refusal.has_label == (split == "train"):
            yield refusal
