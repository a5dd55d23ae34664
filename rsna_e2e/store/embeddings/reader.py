"""Embeddings of one backbone or several side by side, which a recurrent head is trained on."""

# n rows asked for, D width

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import real_path
from rsna_e2e.core.records import Float32Array, Rows
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings.folder import EmbeddingFolder
from rsna_e2e.store.embeddings.layout import EmbeddingSource

_OTHERS = None  # stands for the folds that no classifier is named for, and for series that belong to none

Backbone = Mapping[int | None, EmbeddingFolder]


class Embeddings:
    """Embeddings of a store by `backbones` side by side; open them with `Embeddings.open`. Threads may share it.

    A backbone is one classifier for all series, or beside it one for every fold: out of fold, a series gets its
    embeddings from the classifier that did not see it. width: of all backbones together. data_hash: stands for the
    store's data and all embeddings.
    """

    def __init__(self, store: Store, backbones: Sequence[Backbone], fold_of_row: Rows) -> None:
        self._backbones, self._fold_of_row = tuple(backbones), fold_of_row
        self.width = sum(folders[_OTHERS].manifest.width for folders in backbones)
        parts = [store.data_hash]
        for folders in backbones:
            parts += [f"{fold} {folder.manifest.data_hash}" for fold, folder in folders.items()]
        self.data_hash = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @classmethod
    def open(
        cls,
        paths: Sequence[Path],
        store: Store,
        *,
        out_of_fold: Mapping[int, Sequence[Path]] | None = None,
        fold_of_series: Sequence[int] | None = None,
    ) -> "Embeddings":
        """Open folders of embeddings of `store`, one for each backbone.

        out_of_fold: for a fold, the folders that its series get their embeddings from instead, in the same order.
        fold_of_series: the fold of every series of the store, needed for that. Raises EmbeddingsError for a folder that
        cannot be used, UsageError for one given twice, for a classifier that did not hold out its fold, and for a fold
        that none held out.
        """
        _check_once(paths)
        backbones: list[dict[int | None, EmbeddingFolder]] = [
            {_OTHERS: EmbeddingFolder.open(path, store)} for path in paths
        ]
        for fold, others in sorted((out_of_fold or {}).items()):
            if len(others) != len(paths):
                raise UsageError(f"fold {fold} has {len(others)} folders of embeddings, expected {len(paths)}")
            for backbone, path in zip(backbones, others, strict=True):
                backbone[fold] = _open_kin(path, store, fold=fold, of=backbone[_OTHERS])
        assert not out_of_fold or fold_of_series is not None
        if out_of_fold and (lacking := {fold for fold in fold_of_series or () if fold >= 0} - set(out_of_fold)):
            raise UsageError(
                "--out-of-fold needs embeddings for every fold, by a classifier that held it out; missing: "
                f"{sorted(lacking)}"
            )
        folds = [-1] * len(store.series) if fold_of_series is None else fold_of_series
        lengths = [span.n_slices for span in store.series]
        return cls(store, backbones, np.repeat(np.array(folds, dtype=np.int64), lengths))

    @property
    def sources(self) -> list[EmbeddingSource]:
        """Where the embeddings of series in no fold of their own come from, backbone by backbone."""
        return [folders[_OTHERS].manifest.source for folders in self._backbones]

    @property
    def classifiers(self) -> list[list[str]]:
        """What stands for the weights of every classifier, backbone by backbone."""
        return [[f.manifest.source.weights_sha256 for f in folders.values()] for folders in self._backbones]

    def read(self, rows: Rows) -> Float32Array:
        """Return the embeddings [n, width] of these rows of the store: per backbone the mean over its views.

        Raises EmbeddingsError for a row that has none, and when they are damaged.
        """
        return np.concatenate([self._read(folders, rows) for folders in self._backbones], axis=1)

    def _read(self, folders: Backbone, rows: Rows) -> Float32Array:
        values_nD = np.empty((len(rows), folders[_OTHERS].manifest.width), dtype=np.float32)
        fold_n = self._fold_of_row[rows]
        for fold in np.unique(fold_n).tolist():
            values_nD[fold_n == fold] = folders.get(fold, folders[_OTHERS]).read(rows[fold_n == fold])
        return values_nD


def _check_once(paths: Sequence[Path]) -> None:
    if not paths or len({real_path(path) for path in paths}) < len(paths):
        raise UsageError("give one or more folders of embeddings, each once")


def _open_kin(path: Path, store: Store, *, fold: int, of: EmbeddingFolder) -> EmbeddingFolder:
    """Open the folder of a classifier of the same kind as another, with `fold` held out."""
    folder = EmbeddingFolder.open(path, store)
    source, other = folder.manifest.source, of.manifest.source
    if source.held_out_fold != fold:
        held_out = "no fold" if source.held_out_fold is None else f"fold {source.held_out_fold}"
        raise UsageError(
            f"{path}: its classifier held out {held_out}, not fold {fold}, so it was trained on these series"
        )
    if folder.manifest.width != of.manifest.width or source.kind != other.kind or source.folds != other.folds:
        raise UsageError(
            f"{path}: by a classifier with other settings than that of {of.path}. Give embeddings by the same settings"
        )
    return folder
