"""The manifest of a folder of embeddings, for its readers and its writer."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rsna_e2e.config import FoldRule, Frozen, View
from rsna_e2e.config.limits import Times, Width
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.files import as_json, read_json

MANIFEST = "manifest.json"
FORMAT = "rsna_e2e embeddings"
FORMAT_VERSION = 1


class EmbeddingsError(BadInputError):
    """A folder of embeddings that is missing, unfinished, of another source or version, or damaged."""


class EmbeddingSource(Frozen):
    """What embeddings were made from; those of two sources are never mixed.

    store_hash: of the store's data. weights_sha256: of the classifier's. kind: sha256 of its configuration apart from
    the fold that it held out, the same for the classifiers of all folds, which are told apart by `held_out_fold` (None:
    it saw all). folds: the rule by which series belong to folds. epoch: at whose end the weights were taken.
    """

    store_hash: str
    weights_sha256: str
    kind: str
    held_out_fold: int | None
    folds: FoldRule
    epoch: int
    precision: str

    @property
    def sha256(self) -> str:
        """Identifies the source."""
        return hashlib.sha256(as_json(self.model_dump(), sort_keys=True).encode()).hexdigest()


class ShardEntry(Frozen):
    """One file: checksum is the xxh3_64 of all that it holds beside the embeddings, whose own checksums that covers."""

    name: str
    view: View
    n_slices: Times
    n_bytes: Times
    checksum: str


class Manifest(Frozen):
    """The content of manifest.json. width: numbers of an embedding, D."""

    format: Literal["rsna_e2e embeddings"] = "rsna_e2e embeddings"
    format_version: Literal[1] = 1
    created_by: str
    source: EmbeddingSource
    width: Width
    views: tuple[View, ...]
    shards: tuple[ShardEntry, ...]

    @property
    def data_hash(self) -> str:
        """Return the sha256 of source, views, width and the checksums of all shards."""
        return hashlib.sha256(self.model_dump_json(exclude={"created_by"}).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest. Raises EmbeddingsError when there is none, or it is not one that this program reads."""
    if not folder.is_dir():
        raise EmbeddingsError(f"{folder}: no such folder. Make embeddings with: rsna-e2e embed RUN STORE {folder}")
    path = folder / MANIFEST
    if not path.is_file():
        raise EmbeddingsError(f"{folder}: not a finished folder of embeddings (no {MANIFEST}). Run embed again")
    try:
        content = read_json(path)
    except (OSError, ValueError):
        raise damaged(path) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EmbeddingsError(f"{path}: not the {MANIFEST} of a folder of embeddings")
    if content.get("format_version") != FORMAT_VERSION:
        raise EmbeddingsError(
            f"{folder}: embeddings of version {content.get('format_version')!r:.20}, this program reads "
            f"{FORMAT_VERSION}. Run embed again with this program"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError:
        raise damaged(path) from None
    names = [shard.name for shard in manifest.shards]
    is_plain = all(Path(name).name == name and name.endswith(".h5") and "\0" not in name for name in names)
    if not is_plain or len(set(names)) < len(names) or {shard.view for shard in manifest.shards} != set(manifest.views):
        raise damaged(path)
    return manifest


def damaged(path: Path) -> EmbeddingsError:
    """Return the error for a damaged file."""
    return EmbeddingsError(f"{path}: missing or damaged. Remove it, and run what made it again")
