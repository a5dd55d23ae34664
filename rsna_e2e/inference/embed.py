"""Embeds a store's slices with a trained backbone, in every view asked for, and stores the embeddings in shards."""

# N slices, C windows, S image side, F features

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from rsna_e2e.config import RunConfig, View
from rsna_e2e.config.effects import Effect, fields_with
from rsna_e2e.core.errors import UsageError
from rsna_e2e.core.files import as_json
from rsna_e2e.core.records import Float32Array, Progress, Rows, no_progress
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.model.views import turned
from rsna_e2e.store import Store, rows_of
from rsna_e2e.store.embeddings import SHARD_SLICES, EmbeddingSource, EmbeddingWriter
from rsna_e2e.store.embeddings.shards import Append
from rsna_e2e.training.run_folder import read_config

Split = Literal["all", "train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What a folder of embeddings holds after a call of `extract`.

    damaged: messages about checkpoints that were passed over. n_embedded: embeddings made by this call, over all views.
    """

    folder: Path
    checkpoint: Path
    damaged: tuple[str, ...]
    n_slices: int
    views: tuple[View, ...]
    width: int
    n_embedded: int


class Extractor:
    """A trained backbone made ready to embed slices of a store.

    trained: the run it is of. source: identifies these embeddings among others. width: features of an embedding, F.
    Raises BadInputError when run, checkpoint or store are damaged or do not fit each other, UsageError for a run
    without a backbone.
    """

    def __init__(self, run: Path, store: Store, *, checkpoint: str = "auto", device: str = "auto") -> None:
        if read_config(run).model.backbone == "none":
            raise UsageError(f"{run}: has no backbone, it learned from embeddings. Give the run of an image classifier")
        self.trained = TrainedModel.open(run, checkpoint, device=device)
        loader = self.trained.loader(store)
        assert isinstance(loader, ImageLoader)
        self._loader = loader
        self.compute = self.trained.compute
        self.width = self.trained.joint.n_features
        self.source = _source(self.trained, store)

    def images(self, rows: Rows) -> Iterator[torch.Tensor]:
        """Yield the images [n, C, S, S] of these rows of the store, `EMBED_TOGETHER` at a time, un-augmented."""
        batches = [tuple(rows[i : i + EMBED_TOGETHER].tolist()) for i in range(0, len(rows), EMBED_TOGETHER)]
        for batch in self._loader.load_slices(batches, epoch=None):
            yield batch.images[:]

    @torch.inference_mode()
    def embed(self, images_NCSS: torch.Tensor) -> torch.Tensor:
        """Return embeddings [N, F], float32, in the precision of the run."""
        with self.compute.autocast():
            return self.trained.joint.embed(images_NCSS)

    def embed_views(self, images_NCSS: torch.Tensor, views: Sequence[View]) -> list[Float32Array]:
        """Return the embeddings [N, F] of the same images in each of the views."""
        made = [self.embed(turned(images_NCSS, view)) for view in views]
        return [embeddings.cpu().numpy() for embeddings in made]


def extract(
    run: Path,
    store: Store,
    out: Path,
    *,
    checkpoint: str = "auto",
    views: Sequence[View] = ("plain",),
    split: Split = "all",
    device: str = "auto",
    progress: Progress = no_progress,
) -> Extracted:
    """Store the embeddings of every slice of a split in the folder `out`, in each of `views`.

    Shards of an earlier call with the same run, epoch and store stay; a complete folder is left as it is. One batch is
    in memory at a time. Raises what `Extractor` and `EmbeddingWriter` raise, UsageError for an empty split and for
    views in the folder that were not asked for.
    """
    rows = _rows(store, split)
    extractor = Extractor(run, store, checkpoint=checkpoint, device=device)
    with EmbeddingWriter(out, source=extractor.source, width=extractor.width, store=store) as writer:
        _check_views(writer, views, out)
        blocks = list(_missing_blocks(writer, rows, views))
        total = sum(len(block.rows) * len(block.views) for block in blocks)
        done = 0
        for block in blocks:
            with ExitStack() as shards:
                appends = [shards.enter_context(writer.shard(view, block.name, block.rows)) for view in block.views]
                for n in embed_block(extractor, block.rows, block.views, appends):
                    done += n
                    progress(done, total)
        manifest = writer.commit()
    return Extracted(
        folder=out,
        checkpoint=extractor.trained.checkpoint,
        damaged=extractor.trained.damaged,
        n_slices=len(rows),
        views=manifest.views,
        width=manifest.width,
        n_embedded=total,
    )


def _check_views(writer: EmbeddingWriter, views: Sequence[View], out: Path) -> None:
    missing = [view for view in writer.views if view not in views]
    if missing:
        raise UsageError(
            f"{out}: already holds the views {', '.join(writer.views)}. Continue it with --views "
            f"{','.join((*views, *missing))}, or choose another folder"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Rows of the store that go into one shard for each of `views`."""

    name: str
    rows: Rows
    views: list[View]


def _missing_blocks(writer: EmbeddingWriter, rows: Rows, views: Sequence[View]) -> Iterator[_Block]:
    """Yield the blocks of `rows`, each with the views whose shard the folder has not got yet, if there are such."""
    for start in range(0, len(rows), SHARD_SLICES):
        name, of_block = f"{start // SHARD_SLICES:05d}", rows[start : start + SHARD_SLICES]
        missing = [view for view in views if not writer.has(view, name, of_block)]
        if missing:
            yield _Block(name=name, rows=of_block, views=missing)


def embed_block(extractor: Extractor, rows: Rows, views: Sequence[View], appends: Sequence[Append]) -> Iterator[int]:
    """Embed the slices of a shard; yield after each batch how many embeddings it gave."""
    for images in extractor.images(rows):
        for append, embeddings in zip(appends, extractor.embed_views(images, views), strict=True):
            append(embeddings)
        yield len(images) * len(views)


def _rows(store: Store, split: Split) -> Rows:
    spans = [span for span in store.series if split in ("all", span.split)]
    if not spans:
        raise UsageError(f"{store.path}: no series in split {split!r}. Use --split all")
    return rows_of(spans)


def _source(trained: TrainedModel, store: Store) -> EmbeddingSource:
    config = trained.config
    learned = config.model_dump(mode="json", exclude=fields_with(RunConfig, {Effect.RUN, Effect.NONE}))
    return EmbeddingSource(
        store_hash=store.data_hash,
        weights_sha256=trained.weights_sha256,
        kind=hashlib.sha256(as_json(learned, sort_keys=True).encode()).hexdigest(),
        held_out_fold=config.validation_fold,
        folds=config.folds,
        epoch=trained.epoch,
        precision=trained.compute.precision,
    )
