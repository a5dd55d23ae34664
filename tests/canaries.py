"""CT files full of words that must not get out: in names, dates, free text, private tags, overlays, reports, paths."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import pyarrow as pa
import pyarrow.parquet as pq
from pages import pictures
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.labels import write_labels

# Identifiers, which a store holds on purpose unless names are hashed.
PATIENT = "CANARY-PATIENT"
UIDS = ("1.2.826.7777.1", "1.2.826.7777.2", "1.2.826.7777.3")  # of studies, series, instances: what they begin with
IMAGE = "CANARY-IMAGE"  # what file names begin with
FOLDER = "CANARY-FOLDER"  # that holds them
REFUSED = "CANARY-REFUSED"  # what names of files begin with that are not taken
IDENTIFIERS = (PATIENT, *UIDS, IMAGE)

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ResponsiblePerson",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "OperatorsName",
)
TEXTS = (
    "AccessionNumber",
    "StudyID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "Occupation",
    "EthnicGroup",
    "MilitaryRank",
    "MedicalAlerts",
    "AdditionalPatientHistory",
    "PatientComments",
    "ImageComments",
    "AdmittingDiagnosesDescription",
    "InstitutionName",
    "InstitutionAddress",
    "InstitutionalDepartmentName",
    "StationName",
    "DeviceSerialNumber",
    "ProtocolName",
    "StudyDescription",
    "SeriesDescription",
    "DerivationDescription",
)
DATES = ("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")

SECRETS = {
    **{tag: f"CANARY{i:02d}PN" for i, tag in enumerate(NAMES)},
    **{tag: f"CANARY{i:02d}TX" for i, tag in enumerate(TEXTS)},
    **{tag: f"1931020{i + 1}" for i, tag in enumerate(DATES)},
    "private": "CANARY-PRIVATE",
    "nested": "CANARY-NESTED",
    "overlay": "CANARY-OVERLAY-BITS",
    "overlay text": "CANARY-OVERLAY-TX",
    "report": "CANARY-REPORT",
    "preamble": "CANARY-PREAMBLE",
    "code": "CANARY-CODE",  # where a code should stand, which refusals quote
}
EVERY_CANARY = (*SECRETS.values(), *IDENTIFIERS, FOLDER, REFUSED)

LENGTHS = (5, 3, 4, 4)  # slices of a series, one patient each; the last has no labels


def write_raw(folder: Path) -> Path:
    """Write the files, with labels beside them, and return where they are."""
    raw = folder / "raw"
    ids: list[str] = []
    for series, length in enumerate(LENGTHS):
        for index in range(length):
            image_id = f"{IMAGE}{series}{index}"
            _write(raw / FOLDER / f"{image_id}.dcm", _slice(series, index))
            ids += [image_id] if series < len(LENGTHS) - 1 else []
    values = np.zeros((len(ids), len(ICH.slices.names)))
    values[::2, ICH.headline_index] = values[::2, 0] = 1
    write_labels(raw / "train.csv", ICH, ids, values)
    _write_refused(raw / FOLDER)
    return raw


def found_in(paths: Iterable[Path], words: Iterable[str]) -> dict[str, set[str]]:
    """Return for each file below `paths` the words in it, as bytes or in what it packs."""
    found: dict[str, set[str]] = {}
    for path in sorted(file for top in paths for file in ([top] if top.is_file() else top.rglob("*"))):
        if path.is_file():
            text = b"\n".join([path.name.encode(), *_contents(path)]).lower()
            spelled = {word: (word.lower().encode(), word.lower().encode("utf-16-le")) for word in words}
            hits = {word for word, spellings in spelled.items() if any(spelling in text for spelling in spellings)}
            if hits:
                found[path.name] = found.get(path.name, set()) | hits
    return found


def _contents(path: Path) -> Iterable[bytes]:
    yield path.read_bytes()
    if path.suffix in (".parquet", ".arrow"):
        table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
        yield repr(table.schema.metadata).encode()
        for name in table.column_names:
            yield "\n".join([name, *map(str, table[name].to_pylist())]).encode()
    elif path.suffix == ".html":
        yield from pictures(path.read_text())


def _slice(series: int, index: int, **tags: Any) -> Dataset:
    stored = np.random.default_rng(series * 10 + index).integers(0, 80, size=(32, 32)).astype("<i2")
    dataset = phantoms.slice_dataset(
        stored,
        PatientID=f"{PATIENT}-{series}",
        StudyInstanceUID=f"{UIDS[0]}.{series}",
        SeriesInstanceUID=f"{UIDS[1]}.{series}",
        SOPInstanceUID=f"{UIDS[2]}.{series}.{index}",
        ImagePositionPatient=[-125.0, -125.0, 5.0 * index],
        **{tag: SECRETS[tag] for tag in (*NAMES, *TEXTS, *DATES)},
        **tags,
    )
    block = dataset.private_block(0x0011, SECRETS["private"], create=True)
    block.add_new(0x01, "LO", SECRETS["private"])
    nested = Dataset()
    nested.ScheduledProcedureStepDescription = SECRETS["nested"]
    dataset.RequestAttributesSequence = [nested]
    for element, vr, value in (
        (0x0010, "US", 32),
        (0x0011, "US", 32),
        (0x0022, "LO", SECRETS["overlay text"]),
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x3000, "OW", SECRETS["overlay"].encode().ljust(128, b"\0")),
    ):
        dataset.add_new(Tag(0x6000, element), vr, value)
    return dataset


def _write(path: Path, dataset: Dataset) -> None:
    dataset.preamble = SECRETS["preamble"].encode().ljust(128, b"\0")
    phantoms.write_dicom(path, dataset)


def _write_refused(folder: Path) -> None:
    """A report, a scout, a file that was cut, one that lacks a tag, one of bad numbers, and a text."""
    report = _slice(8, 0)
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.11", "SR"  # Basic Text SR
    item = Dataset()
    item.ValueType, item.TextValue = "TEXT", SECRETS["report"]
    report.ContentSequence = [item]
    _write(folder / f"{REFUSED}-report.dcm", report)
    _write(folder / f"{REFUSED}-scout.dcm", _slice(8, 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    _write(folder / f"{REFUSED}-tag.dcm", _slice(8, 2, RescaleSlope=None))
    _write(folder / f"{REFUSED}-slope.dcm", _slice(8, 3, RescaleSlope=0))
    spoiled = (folder / f"{REFUSED}-tag.dcm").read_bytes().replace(b"MONOCHROME2 ", b"CANARY-CODE ")
    (folder / f"{REFUSED}-code.dcm").write_bytes(spoiled)
    (folder / f"{REFUSED}-cut.dcm").write_bytes((folder / f"{REFUSED}-slope.dcm").read_bytes()[:-100])
    (folder / f"{REFUSED}-text.txt").write_text("\n".join(SECRETS.values()))
