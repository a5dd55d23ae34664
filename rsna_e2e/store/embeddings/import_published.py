"""Imports the embeddings of the published solution, `emb*.npz`, into folders of ours, without unpickling anything.

Its files say nothing of which row is which image. Rows of test images follow `test.csv.gz`; those of training and
validation images follow the order in which its machine listed the image folder, restricted to the images outside or
inside the fold, so that order has to be given. Source: darraghdog/rsna, scripts/resnext101v12/trainorig.py.
"""

# n rows of a file, D width

import csv
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy

from rsna_e2e.config import View
from rsna_e2e.core.errors import BadInputError, UsageError
from rsna_e2e.core.records import Float32Array, Progress, Rows, no_progress, printable
from rsna_e2e.core.table_files import table_at
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import SHARD_SLICES, EmbeddingSource, EmbeddingWriter

ImageSet = Literal["train", "val", "test"]

MEMBER = "arr_0.npy"  # what numpy.savez calls an array without a name
FALLBACK_IMAGES = 1000  # where no image is in the fold, the first so many images are the validation set

_WIDEST = 2**16  # numbers of an embedding; no backbone has more
_TOGETHER = 1024  # rows that are read at once
_SHOWN = 3  # ids in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedEmbeddings:
    """What a folder of embeddings holds now, and how many rows of the file went there."""

    folder: Path
    n_rows: int
    views: tuple[View, ...]
    width: int


def import_embeddings(
    npz: Path,
    out: Path,
    *,
    store: Store,
    ids: Path,
    image_set: ImageSet,
    name: str,
    fold: int | None = None,
    epoch: int = 1,
    view: View = "plain",
    order: Path | None = None,
    progress: Progress = no_progress,
) -> ImportedEmbeddings:
    """Add one file of embeddings to the folder `out`, which may hold other images and views of the same classifier.

    ids: CSV with a column Image, and fold for training images. image_set: which images of it these are; fold: that the
    classifier held out (None, or one that no image has: none). order: a text file with an image name a line, in the
    order of the machine that made the file, for train and val. name: of the classifier, to tell it from others. Raises
    UsageError without an order where one is needed, BadInputError for files that are damaged or do not fit each other
    or the store.
    """
    if image_set != "test" and order is None:
        raise UsageError(
            f"rows of {image_set} images are in the order of the file system on which {npz.name} was made, which no "
            "CSV records. Give that order with --order FILE, one image name per line"
        )
    rows = _store_rows(_names(ids, image_set=image_set, fold=fold, order=order), store, ids)
    with (
        _open_array(npz) as array,
        EmbeddingWriter(out, source=_source(store, name, fold, epoch), width=array.width, store=store) as writer,
    ):
        if array.n != len(rows):
            raise BadInputError(
                f"{npz}: {array.n} rows, but {ids.name} has {len(rows)} {image_set} images. Give the CSV, --fold and "
                "--part that it was made with"
            )
        _copy(array, writer, rows, view=view, label=f"{image_set}-{array.crc:08x}", progress=progress)
        manifest = writer.commit()
    return ImportedEmbeddings(folder=out, n_rows=len(rows), views=manifest.views, width=manifest.width)


def _source(store: Store, name: str, fold: int | None, epoch: int) -> EmbeddingSource:
    return EmbeddingSource(
        store_hash=store.data_hash,
        weights_sha256=hashlib.sha256(f"imported {name} {fold} {epoch}".encode()).hexdigest(),
        kind=hashlib.sha256(f"imported {name}".encode()).hexdigest(),
        held_out_fold=fold,
        folds="published",
        epoch=epoch,
        precision="fp32",
    )


def _copy(array: "_Array", writer: EmbeddingWriter, rows: Rows, *, view: View, label: str, progress: Progress) -> None:
    """Write the array's embeddings of these rows of the store as shards; those that are there already are skipped."""
    for start in range(0, array.n, SHARD_SLICES):
        block = rows[start : start + SHARD_SLICES]
        name = f"{label}-{start // SHARD_SLICES:05d}"
        with nullcontext(_drop) if writer.has(view, name, block) else writer.shard(view, name, block) as append:
            for first in range(0, len(block), _TOGETHER):
                append(array.read(min(_TOGETHER, len(block) - first)))
                progress(min(start + first + _TOGETHER, array.n), array.n)


def _names(ids: Path, *, image_set: ImageSet, fold: int | None, order: Path | None) -> list[str]:
    """The image of every row."""
    try:
        folds = _read_ids(ids, needs_fold=image_set != "test")
    except csv.Error as error:
        raise BadInputError(f"{ids}: not a readable CSV file: {error}") from None
    if order is None:
        return list(folds)
    listed = [line.strip().removesuffix(".jpg") for line in _read_text(order).splitlines()]
    ordered = [name for name in listed if name in folds]
    if len(set(ordered)) < len(ordered) or len(ordered) < len(folds):
        raise BadInputError(
            f"{order}: does not name every image of {ids.name} exactly once. Give the order of the rows"
        )
    if image_set == "train":
        return [name for name in ordered if folds[name] != fold]
    held_out = [name for name in ordered if folds[name] == fold]
    return held_out or ordered[:FALLBACK_IMAGES]


def _read_ids(path: Path, *, needs_fold: bool) -> dict[str, int | None]:
    """The images of a CSV in its order, with their folds, None where they are not needed. Raises csv.Error."""
    table = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    wanted = ("Image", "fold") if needs_fold else ("Image",)
    missing = [column for column in wanted if column not in (table.fieldnames or ())]
    if missing:
        raise BadInputError(f"{path}: no column {', '.join(missing)}. Give the published train.csv.gz or test.csv.gz")
    folds: dict[str, int | None] = {}
    for row in table:
        name, line = printable(row["Image"] or ""), table.line_num
        if not name or name in folds:
            raise BadInputError(f"{path}, line {line}: no image name, or one that appears twice")
        try:
            folds[name] = int(float(row["fold"])) if needs_fold else None
        except (TypeError, ValueError, OverflowError):
            raise BadInputError(f"{path}, line {line}: the fold is not a number") from None
    return folds


def _read_text(path: Path) -> str:
    file = table_at(path)
    try:
        file.check_utf8()
        with file.open() as stream:
            return stream.read().decode("utf-8-sig")
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file. Check the path") from None
    except OSError as error:
        raise BadInputError(f"{path}: not a readable text file ({type(error).__name__})") from None


def _store_rows(names: Sequence[str], store: Store, ids: Path) -> Rows:
    row_of = {image_id: row for row, image_id in enumerate(store.index["image_id"].tolist())}
    unknown = [name for name in names if name not in row_of]
    if unknown:
        raise BadInputError(
            f"{store.path}: lacks {len(unknown)} of {len(names)} images of {ids.name}, such as "
            f"{', '.join(unknown[:_SHOWN])}. Prepare a store of all the images that the embeddings are of"
        )
    if not names:
        raise BadInputError(f"{ids}: none of its images has this --part and --fold. Check them")
    return np.array([row_of[name] for name in names], dtype=np.int64)


def _drop(values_kD: Float32Array) -> None:
    """Skip embeddings that are stored already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Array:
    """A float32 array [n, width] in an .npz file, read from the first row on. crc: of its bytes, as the file says."""

    n: int
    width: int
    crc: int
    file: IO[bytes]

    def read(self, k: int) -> Float32Array:
        """Return the next k rows. Raises ValueError, among others, where the file is damaged."""
        content = self.file.read(k * self.width * 4)
        if len(content) != k * self.width * 4:
            raise ValueError("truncated")
        return np.frombuffer(content, dtype="<f4").reshape(k, self.width)


@contextmanager
def _open_array(path: Path) -> Iterator[_Array]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
            n, width = _read_header(file)
            info = archive.getinfo(MEMBER)
            if info.file_size != file.tell() + n * width * 4:
                raise ValueError("sizes differ")
            yield _Array(n=n, width=width, crc=info.CRC, file=file)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file. Check the path") from None
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, zlib.error) as error:
        raise BadInputError(
            f"{path}: damaged, or not an .npz file with one float32 array [n, D] called arr_0 ({error}). Pickled "
            "arrays are not loaded"
        ) from None


def _read_header(file: IO[bytes]) -> tuple[int, int]:
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version}")
    shape, is_fortran, dtype = read(file)
    if dtype != np.dtype("<f4") or is_fortran or len(shape) != 2 or min(shape) < 1 or shape[1] > _WIDEST:
        raise ValueError(f"{dtype} {list(shape)}")
    return int(shape[0]), int(shape[1])
