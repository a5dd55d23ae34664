"""A folder of HDF5 shards as a source: the layout of the EC601 solution of RSNA-STR Pulmonary Embolism 2020.

`npy-<k>.hdf5` holds groups named by StudyInstanceUIDs, and in them int16 HU [rows, columns] named by SOPInstanceUIDs.
There is no header: where a slice lies in space is not known, and a study is its own patient and its only series. Its
slices are in the order in which they were written, file by file. `npy-pe-pos.hdf5` repeats positive slices and is left
aside. Nothing in a shard is believed: a file is taken whole, or refused.
"""

import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import BinaryIO

from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.hdf5 import HDF5_ERRORS, Int16Place, NotPlainError, int16_places
from rsna_e2e.core.limits import LEAST_PIXELS, SIDES_PX
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import Acquisition, Modality, RawFile, Refusal, SliceRecord, printable
from rsna_e2e.core.table_files import is_table
from rsna_e2e.dicom.elements import RefusedError
from rsna_e2e.dicom.header import SliceHeader
from rsna_e2e.dicom.image_ids import image_id_of
from rsna_e2e.dicom.refuse import refuse_on_error
from rsna_e2e.dicom.repairs import Repair

SHARD = re.compile(r"npy-([1-9]\d{0,5})\.hdf5", re.ASCII)
POSITIVES = "npy-pe-pos.hdf5"
MANIFEST = "shards.json"  # of `export-shards`
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)  # a UID has up to 64 characters (PS3.5 9.1)
MOST_SLICES = 250_000  # of a shard, and studies: the published ones have 100,000; a million would fill the memory

_SIGNATURE = b"\x89HDF\r\n\x1a\n"  # HDF5 File Format Specification, II.A
_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"  # as the values lie there
_NO_ACQUISITION = Acquisition()


def has_shards(folder: Path) -> bool:
    """Whether a folder holds shards, by their names."""
    try:
        with os.scandir(folder) as found:
            return any(SHARD.fullmatch(entry.name) for entry in found)
    except OSError:
        return False  # whoever lists it says so


@dataclass(frozen=True, slots=True)
class RawShards:
    """A folder of shards, read in the order of their numbers. Slices are files in it: `npy-1.hdf5/<study>/<SOP>`."""

    path: Path

    @property
    def stamp(self) -> tuple[int, ...]:
        """None: its files have their own."""
        return ()

    @property
    def has_shards(self) -> bool:
        """True: each of its files holds up to 100,000 slices."""
        return True

    def find(self) -> tuple[Sequence[RawFile], Sequence[Refusal]]:
        """Return the shards, by number, and files that are none; not the label tables and what `export-shards` writes
        besides.

        Raises BadInputError for a shard that is no file.
        """
        files: dict[int, RawFile] = {}
        refusals: list[Refusal] = []
        for entry in sorted(os.scandir(self.path), key=lambda entry: entry.name):
            shard = SHARD.fullmatch(entry.name)
            if shard is None:
                if entry.name not in (POSITIVES, MANIFEST) and not is_table(entry.name):
                    detail = "stands among HDF5 shards and is none by its name: npy-<number>.hdf5"
                    refusals.append(Refusal(printable(entry.name), Reason.NOT_DICOM, detail))
                continue
            status = entry.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BadInputError(f"{self.path / entry.name}: not a regular file, but has the name of a shard")
            files[int(shard[1])] = RawFile(entry.name, status.st_size, status.st_mtime_ns)
        return [files[number] for number in sorted(files)], refusals

    def find_tables(self, *, depth: int) -> list[tuple[RawFile, str]]:
        """Return the tables beside the shards, sorted by name; all may be opened."""
        entries = sorted(os.scandir(self.path), key=lambda entry: entry.name)
        tables = [(entry.name, entry.stat()) for entry in entries if is_table(entry.name) and entry.is_file()]
        return [(RawFile(name, status.st_size, status.st_mtime_ns), "") for name, status in tables]

    def open(self, raw_file: RawFile, *, head: bool = False) -> AbstractContextManager[BinaryIO]:
        """Open the shard of a slice for reading. Raises OSError when it cannot be read."""
        return (self.path / raw_file.name.partition("/")[0]).open("rb")

    def read_headers(
        self, raw_file: RawFile, still_alive: Callable[[], None], modality: Modality
    ) -> list[tuple[RawFile, SliceHeader]] | Refusal:
        """Return the slices of a shard, those of a study as they were written, or why the shard is refused.

        still_alive: is called before each slice. The HDF5 library may end the process on a damaged file. modality:
        "ct", as all shards are.
        """
        return refuse_on_error(raw_file.name, lambda: self._read(raw_file, still_alive))

    def _read(self, raw_file: RawFile, still_alive: Callable[[], None]) -> list[tuple[RawFile, SliceHeader]]:
        with self.open(raw_file) as stream:
            if stream.read(len(_SIGNATURE)) != _SIGNATURE:
                raise RefusedError(Reason.MALFORMED, "no HDF5 file")
        try:
            places = int16_places(real_path(self.path / raw_file.name), most=MOST_SLICES, still_alive=still_alive)
        except NotPlainError as error:
            raise RefusedError(Reason.MALFORMED, printable(str(error))) from None
        except HDF5_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the library
                raise
            raise RefusedError(Reason.MALFORMED, "damaged, or cut short") from None
        if not places:
            raise RefusedError(Reason.MALFORMED, "holds no slices")
        return [(_file_of(raw_file, place), _header(place)) for place in places]


def _file_of(shard: RawFile, place: Int16Place) -> RawFile:
    for name in (place.group, place.name):
        if not KEY.fullmatch(name):
            raise RefusedError(Reason.MALFORMED, f"{name[:80]!r} is no UID")
    return RawFile(f"{shard.name}/{place.group}/{place.name}", shard.n_bytes, shard.stamp)


def _header(place: Int16Place) -> SliceHeader:
    """Return a slice as the header of an uncompressed file whose stored values are HU."""
    if len(place.shape) != 2 or not _fits(*place.shape):
        detail = f"{place.name} has shape {place.shape}; expected sides up to {SIDES_PX[1]}, and more than one pixel"
        raise RefusedError(Reason.MALFORMED, detail)
    rows, columns = place.shape
    record = SliceRecord(
        image_id=image_id_of(place.name),
        patient_id=place.group,
        study_uid=place.group,
        series_uid=place.group,
        sop_uid=place.name,
        rows=rows,
        columns=columns,
        image_position_mm=(nan, nan, nan),
        image_orientation=(nan, nan, nan, nan, nan, nan),
        pixel_spacing_mm=(nan, nan),
        slope=1.0,
        intercept=0.0,
        bits_stored=16,
        pixel_representation=1,
        window_center_hu=None,
        window_width_hu=None,
        transfer_syntax_uid=_EXPLICIT_LITTLE_ENDIAN,
        repair=Repair.PATIENT_BY_STUDY,
    )
    return SliceHeader(
        record=record,
        bits_allocated=16,
        pixel_offset=place.offset,
        pixel_length=place.end - place.offset,
        is_swapped=False,
        is_monochrome1=False,
        padding_low=None,
        padding_high=None,
        acquisition=_NO_ACQUISITION,
    )


def _fits(rows: int, columns: int) -> bool:
    return SIDES_PX[0] <= min(rows, columns) and max(rows, columns) <= SIDES_PX[1] and rows * columns >= LEAST_PIXELS
