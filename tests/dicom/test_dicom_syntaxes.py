"""Every transfer syntax: one source, the same HU; the pinned decoders, and what happens without one of them."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import encoders
import numpy as np
import phantoms
import pydicom
import pydicom.data
import pytest
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from rsna_e2e import dicom
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Refusal, SliceRecord
from rsna_e2e.store import Store
from rsna_e2e.store.prepare import prepare
from rsna_e2e.tasks.ich import ICH

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
SHAPE = (66, 70)  # JPEG 2000's six resolutions need 64
FORMS = {"signed_16": phantoms.SIGNED_16, "unsigned_12": phantoms.UNSIGNED_12}
JPEG_ROUNDING = 8  # grey levels of quality 95 on noise-free ramps; DCT is not exact

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's advice to whoever writes such files

NEEDS_JPEG = (JPEGLossless, JPEGLosslessSV1)
EVERY_LOSSLESS = [
    pytest.param(syntax, marks=[pytest.mark.needs_jpeg] if syntax in NEEDS_JPEG else []) for syntax in encoders.LOSSLESS
]
DISTRIBUTIONS = {
    RLELossless: "pylibjpeg-rle",
    JPEGLossless: "pylibjpeg-libjpeg",
    JPEGLosslessSV1: "pylibjpeg-libjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg-openjpeg",
}


def taken(path: Path) -> tuple[SliceRecord, Any]:
    result = dicom.read_slice(path)
    assert not isinstance(result, Refusal), result
    return result


def expected_decoder(distribution: str) -> str:
    return f"{distribution} {importlib.metadata.version(distribution)}"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("syntax", EVERY_LOSSLESS, ids=lambda syntax: f"{syntax.name[:12]}{syntax[-3:]}")
def test_every_pixel_in_every_lossless_syntax(tmp_path: Path, syntax: str, form: dict[str, int]) -> None:
    stored = phantoms.stored_image(*SHAPE, seed=2, form=form)
    path = encoders.write_in(tmp_path / "ID_1.dcm", phantoms.slice_dataset(stored, **form), syntax)
    record, hu = taken(path)
    assert record.transfer_syntax_uid == syntax
    np.testing.assert_array_equal(hu, stored.astype(np.int64) + form["RescaleIntercept"])
    assert record.decoder == (expected_decoder(DISTRIBUTIONS[syntax]) if syntax in DISTRIBUTIONS else "")
    assert record.repair == ""


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_of_another_encoder(tmp_path: Path, name: str, syntax: str) -> None:
    stored, lossless, lossy, decoded = encoders.htj2k(name)
    form = FORMS[name]
    np.testing.assert_array_equal(stored, phantoms.stored_image(*SHAPE, seed=2, form=form))
    frame = lossy if syntax == HTJ2K else lossless
    path = encoders.write_frames(tmp_path / "a.dcm", phantoms.slice_dataset(stored, **form), [frame], syntax)
    record, hu = taken(path)
    assert record.decoder == expected_decoder("pylibjpeg-openjpeg")
    if syntax != HTJ2K:
        np.testing.assert_array_equal(hu, stored.astype(np.int64) + form["RescaleIntercept"])
        return
    # Two decoders of an irreversible transform may round differently, by one.
    is_between = decoded < (1 << form["BitsStored"]) - 2 if name == "unsigned_12" else decoded > -32768
    difference = (hu - (decoded.astype(np.int64) + form["RescaleIntercept"]))[is_between]
    assert np.abs(difference).max() <= 1


def test_jpeg_baseline_is_what_was_written_within_its_loss(tmp_path: Path) -> None:
    grey = np.add.outer(np.arange(64), np.arange(96)).astype(np.uint8)
    form = {"BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0, "RescaleIntercept": -100}
    dataset = phantoms.slice_dataset(grey, **form)
    path = encoders.write_frames(tmp_path / "a.dcm", dataset, [encoders.jpeg_baseline(grey)], JPEGBaseline8Bit)
    record, hu = taken(path)
    assert record.decoder == expected_decoder("pillow")
    assert np.abs(hu - (grey.astype(np.int64) - 100)).max() <= JPEG_ROUNDING


@pytest.mark.needs_jpeg
def test_jpeg_extended_has_the_known_values_of_a_real_file(tmp_path: Path) -> None:
    source = pydicom.dcmread(PYDICOM_FILES / "JPGExtended.dcm")
    form = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleIntercept": -1024}
    dataset = phantoms.slice_dataset(np.zeros((1024, 256), np.uint16), **form)
    frame = pydicom.encaps.get_frame(source.PixelData, 0, number_of_frames=1)
    record, hu = taken(encoders.write_frames(tmp_path / "a.dcm", dataset, [frame], JPEGExtended12Bit))
    assert record.decoder == expected_decoder("pylibjpeg-libjpeg")
    # pydicom's own reference for this file: (row 420, columns 140 and following)
    assert (hu[420, 140:143] + 1024).tolist() == source.pixel_array[420, 140:143].tolist()
    assert (hu[420, 140] + 1024, hu[230, 120] + 1024) == (244, 95)


@pytest.mark.parametrize(
    ("syntax", "plugins"),
    [
        (RLELossless, ["pydicom"]),
        pytest.param(JPEGLSLossless, ["pylibjpeg"], marks=pytest.mark.needs_jpeg),
        (JPEG2000Lossless, ["pillow"]),
    ],
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_other_decoders_agree(tmp_path: Path, form: dict[str, int], syntax: str, plugins: list[str]) -> None:
    stored = phantoms.stored_image(*SHAPE, seed=2, form=form)
    path = encoders.write_in(tmp_path / "a.dcm", phantoms.slice_dataset(stored, **form), syntax)
    _, hu = taken(path)
    for plugin in plugins:
        dataset = pydicom.dcmread(path)
        dataset.pixel_array_options(decoding_plugin=plugin)
        np.testing.assert_array_equal(dataset.pixel_array.astype(np.int64) + form["RescaleIntercept"], hu)


NATIVE_FORMS = [
    {"BitsStored": bits_stored, "HighBit": bits_stored - 1, "PixelRepresentation": sign, "RescaleIntercept": -1000}
    for bits_stored, sign in ((16, 0), (16, 1), (12, 0), (12, 1), (8, 0), (8, 1))
]


# OB is for 8 bits in explicit VR (PS3.5 annex A).
NATIVE_CASES = [
    pytest.param(vr, syntax, form, id=f"{vr} {syntax.name} {form['BitsStored']} {form['PixelRepresentation']}")
    for vr in ("OW", "OB")
    for syntax in encoders.NATIVE
    for form in NATIVE_FORMS
    if vr == "OW" or (form["BitsStored"] == 8 and syntax != ImplicitVRLittleEndian)
]


@pytest.mark.parametrize(("vr", "syntax", "form"), NATIVE_CASES)
@pytest.mark.parametrize("columns", [10, 11])
def test_the_uncompressed_path_equals_pydicoms(
    tmp_path: Path, vr: str, syntax: str, form: dict[str, int], columns: int
) -> None:
    kind = ("i" if form["PixelRepresentation"] else "u") + str(1 if form["BitsStored"] == 8 else 2)
    low = -(1 << (form["BitsStored"] - 1)) if form["PixelRepresentation"] else 0
    stored = np.random.default_rng(3).integers(low, low + (1 << form["BitsStored"]), (9, columns)).astype("<" + kind)
    dataset = phantoms.slice_dataset(stored, **form)
    raw = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    if syntax == ExplicitVRBigEndian and vr == "OW":
        raw = np.frombuffer(raw, np.uint16).byteswap().tobytes()
    dataset.PixelData = raw
    dataset["PixelData"].VR = vr
    path = phantoms.write_dicom(tmp_path / "a.dcm", dataset, syntax=syntax)
    _, hu = taken(path)
    for values in (stored, pydicom.dcmread(path).pixel_array):
        np.testing.assert_array_equal(hu, np.clip(values.astype(np.int64) - 1000, -32768, 32767))


@pytest.mark.needs_jpeg
def test_a_series_is_the_same_in_every_lossless_syntax(tmp_path: Path) -> None:
    form = phantoms.UNSIGNED_12
    tables = []
    for number, syntax in enumerate(encoders.LOSSLESS):
        raw, store = tmp_path / f"raw{number}", tmp_path / f"store{number}"
        for index in range(3):
            dataset = phantoms.slice_dataset(
                phantoms.stored_image(*SHAPE, seed=index, form=form),
                SOPInstanceUID=f"1.2.3.{index}",
                ImagePositionPatient=[0, 0, 5.0 * index],
                SliceThickness=5,
                **form,
            )
            encoders.write_in(raw / f"ID_{index}.dcm", dataset, syntax)
        prepare(raw, store, task=ICH, n_jobs=1)
        tables.append(Store.open(store).index)
    names = {"transfer_syntax_uid", "decoder"}
    for name, column in tables[0].items():
        for other in tables[1:]:
            assert name in names or np.array_equal(column, other[name]), name
    assert [table["transfer_syntax_uid"][0] for table in tables] == list(encoders.LOSSLESS)
    assert all((table["decoder"][0] != "") == (i >= len(encoders.NATIVE)) for i, table in enumerate(tables))


READ_ONE = """
import sys
from pathlib import Path
from rsna_e2e import dicom
refusal = dicom.read_slice(Path(sys.argv[1]))
print(refusal.reason, refusal.detail)
"""


@pytest.mark.needs_jpeg
@pytest.mark.parametrize("syntax", NEEDS_JPEG)
def test_without_the_optional_decoder_a_refusal_names_what_to_install(tmp_path: Path, syntax: str) -> None:
    stored = phantoms.stored_image(8, 8, seed=1, form=phantoms.SIGNED_16)
    path = encoders.write_in(tmp_path / "a.dcm", phantoms.slice_dataset(stored), syntax)
    taken(path)
    others = tmp_path / "packages"
    others.mkdir()
    for package in Path(pydicom.__file__).parents[1].iterdir():
        if "libjpeg" not in package.name:
            (others / package.name).symlink_to(package)
    assert not (others / "libjpeg").exists()
    paths = os.pathsep.join(map(str, (others, Path(dicom.__file__).parents[2])))
    told = subprocess.run(
        [sys.executable, "-S", "-c", READ_ONE, str(path)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert told.startswith(f"{Reason.MISSING_DECODER} ")
    assert "pip install 'rsna_e2e[jpeg]'" in told


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.2.4.52", "1.2.840.10008.1.2.4.100", "1.2.3"])
def test_syntaxes_that_nobody_reads(tmp_path: Path, uid: str) -> None:
    path = phantoms.write_dicom(tmp_path / "a.dcm", phantoms.slice_dataset(np.zeros((2, 2), "<i2")))
    raw = path.read_bytes()
    old, new = ExplicitVRLittleEndian.encode() + b"\0", uid.encode() + b"\0" * (len(uid) % 2)
    at = raw.index(b"UI" + len(old).to_bytes(2, "little") + old)
    path.write_bytes(raw[:at] + b"UI" + len(new).to_bytes(2, "little") + new + raw[at + 4 + len(old) :])
    result = dicom.read_slice(path)
    assert isinstance(result, Refusal)
    assert (result.reason, result.detail) == (Reason.UNSUPPORTED_TRANSFER_SYNTAX, uid)


@pytest.mark.needs_jpeg
def test_fragments_of_one_frame_are_joined(tmp_path: Path) -> None:
    stored = phantoms.stored_image(*SHAPE, seed=2, form=phantoms.UNSIGNED_12)
    dataset = phantoms.slice_dataset(stored, **phantoms.UNSIGNED_12)
    frame = encoders.jpeg_lossless(stored, predictor=1)
    path = encoders.write_frames(tmp_path / "a.dcm", dataset, [frame], JPEGLosslessSV1, n_fragments=5)
    _, hu = taken(path)
    np.testing.assert_array_equal(hu, stored.astype(np.int64) - 1024)


def test_a_real_deflated_file_is_inflated_before_it_is_judged() -> None:
    result = dicom.read_slice(PYDICOM_FILES / "image_dfl.dcm")
    assert isinstance(result, Refusal)
    assert result.reason == Reason.NOT_CT  # a capture of a screen; DeflatedExplicitVRLittleEndian is read
    assert pydicom.dcmread(PYDICOM_FILES / "image_dfl.dcm").file_meta.TransferSyntaxUID == (
        DeflatedExplicitVRLittleEndian
    )
