"""From the store to batches: int16 slices are read and checked, one launch turns a batch into network input.

Or stored embeddings are read in their place.
"""

from rsna_e2e.loader.choice import choose_loader, count_channels
from rsna_e2e.loader.embedding_loader import EmbeddingLoader
from rsna_e2e.loader.series_loader import SeriesLoader
from rsna_e2e.loader.study_loader import StudyLoader

__all__ = ["EmbeddingLoader", "SeriesLoader", "StudyLoader", "choose_loader", "count_channels"]
