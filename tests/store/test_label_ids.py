"""IDs of labels by file name, path or SOP instance UID: the same labels at the end, and the same IDs afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import archives
import numpy as np
import phantoms
import pytest
from enhanced import enhanced_dataset

from rsna_e2e.core.records import IdRule
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.store.pseudonyms import Pseudonyms
from rsna_e2e.tasks.labels import write_labels
from rsna_e2e.tasks.task import ICH

RULES: tuple[IdRule, ...] = ("name", "path", "sop_uid")
N_SERIES, N_SLICES, SIDE = 3, 3, 16  # the last series has no labels
WORDS = {"name": "file names", "path": "paths", "sop_uid": "SOP Instance UIDs"}
KEY = Pseudonyms(b"k" * 32)


@dataclass(frozen=True)
class Slice:
    """A slice in the order of the store, what its ID is by each rule, and its label and pixels."""

    ids: dict[IdRule, str]
    seed: int

    @property
    def label(self) -> list[float]:
        """Another one for each slice: the bits of its number."""
        return [float(self.seed >> bit & 1) for bit in range(6)]

    @property
    def hu(self) -> np.ndarray:
        """The stored values of `phantoms`, which are HU."""
        return phantoms.stored_image(SIDE, SIDE, seed=self.seed, form=phantoms.SIGNED_16)


def single_files(raw: Path, called: Callable[[int, int], str], *, suffix: str = "") -> list[Slice]:
    """Write a file for each slice. called: the path by series and slice."""
    slices = []
    for series in range(N_SERIES):
        for index in range(N_SLICES):
            path = called(series, index)
            phantoms.write_numbered(raw / f"{path}{suffix}", series=series, index=index, side=SIDE)
            slices.append(Slice({"name": path, "path": path, "sop_uid": f"1.2.3.{series}.{index}"}, 8 * series + index))
    return slices


def flat(raw: Path) -> list[Slice]:
    return single_files(raw, lambda series, index: f"ID_{series}{index}", suffix=".dcm")


def nested(raw: Path) -> list[Slice]:
    slices = single_files(raw, lambda series, index: f"s{series}/ID_{series}{index}", suffix=".dcm")
    return [Slice(one.ids | {"name": one.ids["path"].partition("/")[2]}, one.seed) for one in slices]


def repeated(raw: Path) -> list[Slice]:
    """As a viewer exports them; by name, they have the folder before it."""
    return single_files(raw, lambda series, index: f"PAT{series}/ST1/SE1/IM00000{index}")


def called_by_uid(raw: Path) -> list[Slice]:
    return single_files(raw, lambda series, index: f"1.2.3.{series}.{index}")


def enhanced_ct(raw: Path) -> list[Slice]:
    """A file for each series, with the slices from head to feet."""
    slices = []
    for series in range(N_SERIES):
        seeds = [8 * series + index for index in range(N_SLICES)]
        stored = np.stack([phantoms.stored_image(SIDE, SIDE, seed=seed, form=phantoms.SIGNED_16) for seed in seeds])
        tags = {"SOPInstanceUID": f"1.2.3.{series}", "PatientID": f"p{series}", "SeriesInstanceUID": f"1.2.5.{series}"}
        phantoms.write_dicom(raw / f"s{series}" / f"e{series}.dcm", enhanced_dataset(stored, **tags))
        for frame in range(N_SLICES, 0, -1):
            name, uid = f"e{series}_{frame}", f"1.2.3.{series}_{frame}"
            slices.append(Slice({"name": name, "path": f"s{series}/{name}", "sop_uid": uid}, seeds[frame - 1]))
    return slices


def write_table(path: Path, slices: Sequence[Slice], rule: IdRule) -> Path:
    """Write labels of these slices; `label_text` of other IDs."""
    write_labels(path, ICH, [one.ids[rule] for one in slices], [one.label for one in slices])
    return path


def write_ids(path: Path, image_ids: Sequence[str]) -> Path:
    """Write labels of these IDs, the number of each in its bits."""
    write_labels(path, ICH, image_ids, [[float(n >> bit & 1) for bit in range(6)] for n in range(len(image_ids))])
    return path


def labelled(slices: Sequence[Slice]) -> Sequence[Slice]:
    return slices[:-N_SLICES]


def check_store(path: Path, slices: Sequence[Slice], rule: IdRule, called: Callable[[str], str] = str) -> None:
    """Check ids, order, pixels and labels of a store of these slices."""
    store = Store.open(path)
    assert store.index["image_id"].tolist() == [called(one.ids[rule]) for one in slices]
    for row, one in enumerate(slices):
        np.testing.assert_array_equal(store.read_slice(row), one.hu)
    expected = [one.label for one in labelled(slices)] + [[np.nan] * 6] * N_SLICES
    np.testing.assert_array_equal(store.labels, expected)
    assert store.index["split"].tolist() == ["train"] * len(labelled(slices)) + ["test"] * N_SLICES
    assert store.image_ids == rule


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize("layout", [flat, nested, repeated, called_by_uid, enhanced_ct])
def test_labels_by_each_rule_give_the_same(tmp_path: Path, layout: Callable[[Path], list[Slice]], place: str) -> None:
    slices = layout(tmp_path / "raw")
    raw = tmp_path / "raw" if place == "folder" else archives.zip_folder(tmp_path / "raw", tmp_path / "data.zip")
    for rule in RULES:
        table = write_table(tmp_path / f"{rule}.csv", labelled(slices), rule)
        report = prepare(raw, tmp_path / rule, task=ICH, labels=table, n_jobs=1)
        assert (report.n_unlabelled, report.n_labels_without_image, report.refusals) == (N_SLICES, 0, {})
        found = rule
        if slices[0].ids[rule] == slices[0].ids["name"]:  # they are all the same, and of the same rule
            found = "path" if layout is repeated else "name"
        check_store(tmp_path / rule, slices, found)
        assert str(report.image_ids) == f"{WORDS[found]} (6 of 6 in the labels match an image)"
