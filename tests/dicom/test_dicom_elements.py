"""Every element that is read, missing and empty: what docs/dicom.md says of it is what happens."""

import re
from collections.abc import Iterator
from pathlib import Path

import enhanced
import phantoms
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.tags import TAGS

DOCS = Path(__file__).parents[2] / "docs" / "dicom.md"
STORED = phantoms.stored_image(12, 10, seed=1, form=phantoms.SIGNED_16)
IN_THE_META = "TransferSyntaxUID"

# So that each element is there before it is taken away
TAGGED = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "SliceThickness": 5,
    "RescaleType": "HU",
    "BurnedInAnnotation": "NO",
    "NumberOfFrames": 1,
}


def rows() -> Iterator[tuple[str, str, str]]:
    """Name, type, and what a missing one does, of each element in the table."""
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[123]C?", cells[1]):
            for name in cells[0].split(", "):
                yield name.strip("()"), cells[1], cells[2]


TABLE = {name: (kind, missing) for name, kind, missing in rows()}


def test_the_table_names_every_element_that_is_read() -> None:
    assert TABLE.keys() == TAGS.keys() | {IN_THE_META, "PixelData"}


def test_no_element_that_may_be_empty_is_demanded() -> None:
    """Of type 2 and 3 nothing may depend; conditions of type C are met by what a slice is."""
    assert {
        name for name, (kind, missing) in TABLE.items() if kind in "23" and not missing.startswith("taken")
    } == set()


def whole() -> Dataset:
    dataset = phantoms.slice_dataset(STORED, **TAGGED)
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    dataset.add_new("PixelPaddingRangeLimit", "SS", -1990)
    return dataset


def without(dataset: Dataset, name: str, *, is_empty: bool) -> Dataset:
    vr = dataset[name].VR if name in dataset else dictionary_VR(name)
    del dataset[name]
    if is_empty:
        dataset.add_new(name, vr, None)
    return dataset


@pytest.mark.parametrize("is_empty", [False, True], ids=["absent", "empty"])
@pytest.mark.parametrize("name", sorted(TABLE.keys() - {IN_THE_META, "PixelData", "FrameType"}))
def test_a_missing_element_does_what_the_table_says(tmp_path: Path, name: str, is_empty: bool) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", whole())
    assert not isinstance(dicom.read_slice(path), Refusal)
    result = dicom.read_slice(phantoms.write_dicom(path, without(whole(), name, is_empty=is_empty)))
    _, missing = TABLE[name]
    if missing.startswith("taken"):
        assert not isinstance(result, Refusal), result
    else:
        assert isinstance(result, Refusal)
        assert f"`{result.reason}`" == missing
        assert result.detail.startswith(name)


@pytest.mark.parametrize("is_empty", [False, True], ids=["absent", "empty"])
def test_a_missing_frame_type(tmp_path: Path, is_empty: bool) -> None:
    dataset = enhanced.enhanced_dataset(STORED[None])
    without(dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0], "FrameType", is_empty=is_empty)
    assert not isinstance(dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset)), Refusal)


def test_no_pixels(tmp_path: Path) -> None:
    dataset = phantoms.slice_dataset(STORED)
    del dataset.PixelData
    result = dicom.read_slice(phantoms.write_dicom(tmp_path / "a.dcm", dataset))
    assert isinstance(result, Refusal)
    assert f"`{result.reason}`" == TABLE["PixelData"][1] == f"`{Reason.NO_PIXEL_DATA}`"
