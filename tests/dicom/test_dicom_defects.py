"""Planted defects are all found, each for its reason and nowhere else; clean series lose nothing."""

from pathlib import Path
from typing import Any

import encoders
import numpy as np
import phantoms
import pyarrow.parquet as pq
import pytest
from defects import DEFECTS, EXTRA
from enhanced import enhanced_dataset

from rsna_e2e.dicom import Repair
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

SHAPE = (70, 66)
N_SLICES = 4
DEFECTIVE = 1  # the slice that a defect is planted in

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's remarks on odd values


def test_every_planted_defect_is_found_and_nothing_else(tmp_path: Path) -> None:
    expected_hu: dict[str, np.ndarray] = {}
    expected_refusals: dict[str, str] = {}
    expected_repairs: dict[str, str] = {}
    for number, defect in enumerate(DEFECTS.values()):
        folder = tmp_path / "raw" / f"{number:02d}"
        hu = phantoms.write_series(
            folder, name=f"{number:02d}", n_slices=N_SLICES, shape=SHAPE, patient_id=f"p{number}"
        )
        image_id = list(hu)[DEFECTIVE]
        defect.plant(folder / f"{image_id}.dcm")
        names = {"slice": f"{number:02d}/{image_id}.dcm", "extra": f"{number:02d}/{EXTRA}"}
        if isinstance(defect.found_as, Repair):
            expected_repairs[image_id] = defect.found_as
            del hu[image_id]
        else:
            expected_refusals |= {names[which]: defect.found_as for which in defect.refuses}
            if "slice" in defect.refuses:
                del hu[image_id]
        expected_hu |= hu
    assert len(DEFECTS) >= 25

    prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    store = Store.open(tmp_path / "store")
    refused = pq.read_table(tmp_path / "store" / "refusals.parquet").to_pydict()
    assert dict(zip(refused["path"], refused["reason"], strict=True)) == expected_refusals
    rows = {image_id: row for row, image_id in enumerate(store.index["image_id"].tolist())}
    assert rows.keys() == expected_hu.keys() | expected_repairs.keys()
    assert {image_id: store.index["repair"][row] for image_id, row in rows.items()} == (
        dict.fromkeys(expected_hu, "") | expected_repairs
    )
    for image_id, hu in expected_hu.items():
        np.testing.assert_array_equal(store.read_slice(rows[image_id]), hu)


OPTIONAL: list[dict[str, Any]] = [
    {},
    {"SamplesPerPixel": None, "HighBit": None, "WindowCenter": None, "WindowWidth": None},
    {"SOPClassUID": None},
    {"RescaleType": "HU", "SliceThickness": 5, "BurnedInAnnotation": "NO", "NumberOfFrames": 1},
    {"PixelPaddingValue": -2001, "PixelPaddingRangeLimit": -3000},  # of which there are none
    {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PatientName": "Name^Some", "OtherPatientIDs": "x"},
    {"ImageOrientationPatient": list(phantoms.TILTED)},
    {"RescaleSlope": "1.0", "RescaleIntercept": "-1024.0"},
]


@pytest.mark.needs_jpeg
def test_clean_series_lose_no_slice(tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    kinds = [(syntax, {}) for syntax in encoders.LOSSLESS] + [(encoders.NATIVE[0], tags) for tags in OPTIONAL]
    for number, (syntax, tags) in enumerate(kinds):
        for form_name, form in (("s", phantoms.SIGNED_16), ("u", phantoms.UNSIGNED_12)):
            if form_name == "u" and "PixelPaddingValue" in tags:
                continue
            for index in range(2):
                stored = phantoms.stored_image(*SHAPE, seed=index, form=form)
                image_id = f"ID_{number}{form_name}{index}"
                dataset = phantoms.slice_dataset(
                    stored,
                    **{
                        **form,
                        "PatientID": f"p{number}{form_name}",
                        "SOPInstanceUID": f"1.2.{number}.{ord(form_name)}.{index}",
                        "ImagePositionPatient": [0, 0, 2.5 * index],
                        **tags,
                    },
                )
                encoders.write_in(tmp_path / "raw" / f"{image_id}.dcm", dataset, syntax)
                expected[image_id] = stored.astype(np.int64) + int(dataset.RescaleIntercept)
    frames = np.stack([phantoms.stored_image(*SHAPE, seed=index, form=phantoms.SIGNED_16) for index in range(3)])
    phantoms.write_dicom(tmp_path / "raw" / "ID_frames.dcm", enhanced_dataset(frames, PatientID="frames"))
    expected |= {f"ID_frames_{number}": frame for number, frame in enumerate(frames, start=1)}

    report = prepare(tmp_path / "raw", tmp_path / "store", task=ICH, n_jobs=1)
    assert (report.refusals, report.repairs) == ({}, {})
    store = Store.open(tmp_path / "store")
    assert set(store.index["image_id"]) == expected.keys()
    for row, image_id in enumerate(store.index["image_id"].tolist()):
        np.testing.assert_array_equal(store.read_slice(row), expected[image_id])
