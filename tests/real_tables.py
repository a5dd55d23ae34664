"""Labels and headers of the 26,684 training images of RSNA Pneumonia 2018, as torchxrayvision 1.5.7 brings them.

It is not imported: its tables are read where they lie. For tests marked needs_xrays.
"""

import csv
import gzip
import importlib.util
import io
import zipfile
from pathlib import Path

LABELS_NAME = "stage_2_train_labels.csv"


def _data() -> Path:
    spec = importlib.util.find_spec("torchxrayvision")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def labels_zip() -> Path:
    """The label table of the competition, packed as it was downloaded: patientId,x,y,width,height,Target."""
    return _data() / "kaggle_stage_2_train_labels.csv.zip"


def read_rows() -> list[dict[str, str]]:
    """The rows of the label table."""
    with zipfile.ZipFile(labels_zip()) as archive, archive.open(LABELS_NAME) as file:
        return list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))


def read_headers() -> list[dict[str, str]]:
    """What the file of each image says, by DICOM's keywords: ViewPosition, PatientSex, PatientAge, PixelSpacing."""
    with gzip.open(_data() / "kaggle_stage_2_train_images_dicom_headers.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))
