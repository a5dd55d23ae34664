"""From the store to batches: int16 slices are read and checked, one launch turns a batch into network input."""

from rsna_e2e.loader.study_loader import StudyLoader

__all__ = ["StudyLoader"]
