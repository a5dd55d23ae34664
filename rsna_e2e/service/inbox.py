"""The inbox: every file that was acknowledged lies there under a name of its bytes, in the folder of its study.

A file is acknowledged once it is synced, renamed into its folder, the folder synced, and the file noted in the
database. What lies there without being noted, as after a power cut, is noted at the next start.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rsna_e2e.core.files import entries, make_folder, sync
from rsna_e2e.core.records import Refusal
from rsna_e2e.dicom.arrival import read_arrival
from rsna_e2e.dicom.rasters import is_raster
from rsna_e2e.service.arrivals import Arrived, arrive, drop_files, noted_files
from rsna_e2e.service.database import Database
from rsna_e2e.serving.study_key import study_key
from rsna_e2e.store.pseudonyms import Pseudonyms

DICOM, RASTER = ".dcm", ".image"


@dataclass(frozen=True, slots=True)
class Inbox:
    """The inbox of a service; names in it are hashed with the service's key."""

    database: Database
    pseudonyms: Pseudonyms

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.database.settings.inbox

    def accept(self, paths: Sequence[Path]) -> list[Arrived | Refusal]:
        """Take files over, each whole at its path on the same disk, and acknowledge them when this returns.

        Returns for each what it is, or why it was refused; a refused file is removed. Equal files are kept once.
        Raises OSError and sqlite3.Error: then nothing is acknowledged.
        """
        found = [self._identify(path) for path in paths]
        arrived: list[tuple[Path, Arrived]] = []
        for path, file in zip(paths, found, strict=True):
            if isinstance(file, Refusal):
                path.unlink()
            else:
                sync(path)
                arrived.append((path, file))
        if arrived:
            with self.database.change() as version:  # meanwhile nobody deletes or sweeps these studies
                self._move_in(arrived)
                arrive(self.database, [file for _, file in arrived], version=version)
        return found

    def _move_in(self, arrived: Sequence[tuple[Path, Arrived]]) -> None:
        for path, file in arrived:
            folder = self.folder / file.study
            folder.mkdir(mode=0o700, exist_ok=True)
            path.replace(folder / file.name)
        for folder in (*{self.folder / file.study for _, file in arrived}, self.folder):
            sync(folder)

    def recover(self) -> int:
        """Bring database and disk together after an end of any kind, and empty the folder of what was being received.

        What lies here and was not noted is noted; what was noted and does not lie here is forgotten. Returns how many
        files were noted. To be called while nothing else uses the inbox.
        """
        for folder in (self.folder, self.database.settings.studies):
            make_folder(folder)
        self.empty_incoming()
        n_noted = 0
        for folder in filter(Path.is_dir, entries(self.folder)):
            known = set(self.database.names(folder.name))
            unknown = [path for path in entries(folder) if path.name not in known and path.is_file()]
            found = [self._identify(path) for path in unknown]
            with self.database.change() as version:
                noted = [file for file in found if isinstance(file, Arrived)]
                arrive(self.database, noted, version=version)
            n_noted += len(noted)
        with self.database.change():
            for study, names in noted_files(self.database).items():
                drop_files(self.database, study, names - self.names_on_disk(study))
        return n_noted

    def empty_incoming(self) -> None:
        """Remove what was being received when its receiver ended, and make the folder for it."""
        shutil.rmtree(self.database.settings.incoming, ignore_errors=True)
        make_folder(self.database.settings.incoming)

    def names_on_disk(self, study: str) -> set[str]:
        """Return the names of a study's files that lie here."""
        folder = self.folder / study
        return set(os.listdir(folder)) if folder.is_dir() else set()

    def remove(self, study: str, names: Iterable[str]) -> None:
        """Remove files of a study, and its folder when none is left; within `Database.change`, so that none arrives."""
        folder = self.folder / study
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()

    def _identify(self, path: Path) -> Arrived | Refusal:
        """Return where a file belongs, by its header alone; of PNG and JPEG files each is a study."""
        with path.open("rb") as stream:
            if is_raster(stream):
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                name = f"{digest[:32]}{RASTER}"
                return Arrived(study=self._study(name), name=name, n_bytes=path.stat().st_size)
            found = read_arrival(stream)
            if isinstance(found, Refusal):
                return found
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        instance = hashlib.sha256(self.pseudonyms.of("instance", found.sop_uid).encode()).hexdigest()
        identity = (found.patient_id, found.accession, found.study_date)
        return Arrived(
            study=self._study(found.study_uid),
            name=f"{instance[:16]}-{digest[:16]}{DICOM}",
            n_bytes=path.stat().st_size,
            identity=identity if self.database.settings.has_identities else None,
        )

    def _study(self, study_uid: str) -> str:
        """Return the key of a study as results have it, whose stores hold hashed names."""
        return study_key(self.pseudonyms.of("study", study_uid))
