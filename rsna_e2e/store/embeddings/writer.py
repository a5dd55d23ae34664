"""Writes a folder of embeddings shard by shard, continuing one that was not finished."""

# n slices of a block, D width

import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np

from rsna_e2e import __version__
from rsna_e2e.config import View
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import entries, lock_folder, make_folder, write_json
from rsna_e2e.core.records import Rows
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings.layout import MANIFEST, EmbeddingsError, EmbeddingSource, Manifest
from rsna_e2e.store.embeddings.shards import Append, Shard, open_shard, shard_writer

SHARD_SLICES = 50_000


class EmbeddingWriter:
    """Context in which one process adds shards of `source` to a folder; `commit` makes the folder whole.

    Whole shards of an earlier process stay. Raises UsageError when the folder holds something else or another source's
    shards, or another process is writing to it; EmbeddingsError for a shard that is damaged.
    """

    def __init__(self, folder: Path, *, source: EmbeddingSource, width: int, store: Store) -> None:
        self._folder, self._source, self._width, self._store = folder, source, width, store
        self._shards: dict[str, Shard] = {}

    def __enter__(self) -> "EmbeddingWriter":
        make_folder(self._folder)
        try:
            self._lock = lock_folder(self._folder)
        except BlockingIOError:
            raise UsageError(f"{self._folder}: another process is writing to it. Wait, or choose another") from None
        try:
            self._take_stock()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def views(self) -> tuple[View, ...]:
        """The views that there are shards of."""
        found = {shard.entry.view for shard in self._shards.values()}
        return tuple(view for view in get_args(View) if view in found)

    def has(self, view: View, block: str, rows: Rows) -> bool:
        """Whether the shard of a block is there. Raises UsageError when a shard holds only some of its rows."""
        name = _name(view, block)
        for other, shard in self._shards.items():
            is_same = other == name and np.array_equal(shard.rows, rows)
            if not is_same and (other == name or (shard.entry.view == view and np.isin(rows, shard.rows).any())):
                raise UsageError(
                    f"{self._folder}: holds embeddings of another selection of slices ({other}). Continue it with the "
                    "options that it was made with (such as --split), or choose another folder"
                )
        return name in self._shards

    def shard(self, view: View, block: str, rows: Rows) -> AbstractContextManager[Append]:
        """Return the context in which the embeddings of these rows are appended; see `shard_writer`."""
        path = self._folder / _name(view, block)
        return shard_writer(path, source=self._source, view=view, store=self._store, rows=rows, width=self._width)

    def commit(self) -> Manifest:
        """Write the manifest of all shards that are there now."""
        self._take_stock()
        manifest = Manifest(
            created_by=f"rsna_e2e {__version__}",
            source=self._source,
            width=self._width,
            views=self.views,
            shards=tuple(shard.entry for _, shard in sorted(self._shards.items())),
        )
        write_json(self._folder / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def _take_stock(self) -> None:
        """Open the shards that are there, and remove unfinished ones of a killed process."""
        for path in entries(self._folder):
            if path.suffix.startswith(".tmp-") and path.stem.endswith(".h5"):
                path.unlink()
            elif path.name == MANIFEST or ".tmp-" in path.name:
                continue
            elif path.suffix == ".h5":
                self._shards[path.name] = self._open(path)
            else:
                raise UsageError(f"{self._folder}: holds other files ({path.name}). Choose another folder")

    def _open(self, path: Path) -> Shard:
        shard = open_shard(path, self._store)
        if shard.source_sha256 != self._source.sha256 or shard.width != self._width:
            raise EmbeddingsError(
                f"{path}: made from another run, epoch, store or precision. Choose another folder, or remove this one"
            )
        return shard


def _name(view: View, block: str) -> str:
    return f"{view}-{block}.h5"
