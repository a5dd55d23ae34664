"""Made-up embeddings of a small store, in which the labels can be seen, and a head that learns them in seconds."""

from pathlib import Path

import numpy as np

from rsna_e2e.config import RunConfig, load_config
from rsna_e2e.core.records import Float32Array
from rsna_e2e.store import Store
from rsna_e2e.store.embeddings import Embeddings, EmbeddingSource, EmbeddingWriter

WIDTH = 8


def values(store: Store, *, seed: int = 0) -> Float32Array:
    """Embeddings [N, WIDTH]: the labels of a slice, or 0, two more numbers, and noise."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(store), WIDTH), scale=0.2).astype(np.float32)
    noise[:, :6] += np.nan_to_num(store.labels)
    return noise


def write_embeddings(folder: Path, store: Store, *, seed: int = 0, weights: str = "a", fold: int = 0) -> Embeddings:
    """Write and open them."""
    source = EmbeddingSource(
        store_hash=store.data_hash,
        weights_sha256=weights,
        kind="made up",
        held_out_fold=fold,
        folds="store",
        epoch=1,
        precision="fp32",
    )
    with EmbeddingWriter(folder, source=source, width=WIDTH, store=store) as writer:
        with writer.shard("plain", "00000", np.arange(len(store))) as append:
            append(values(store, seed=seed))
        writer.commit()
    return Embeddings.open([folder], store)


def config(*overrides: str) -> RunConfig:
    """A head on embeddings, with every epoch kept."""
    return load_config(
        "demo",
        [
            "model.backbone=none",
            "model.backbone_arguments={}",
            "model.embedding_width=null",
            "model.slice_loss_weight=0",
            "slice_phase=null",
            "image.size=1",
            "loader.series_per_batch=2",
            "checkpoint.keep_epochs=true",
            "precision=fp32",
            "epochs=3",
            *overrides,
        ],
    )
