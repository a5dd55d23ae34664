"""From the store to batches: threads read int16 slices, one op turns them into network input, in order.

The loader is handed its batches as an iterable and works ahead of its consumer by a few of them.
"""

# N slices (packed), B series

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from rsna_e2e import ops
from rsna_e2e.augment import Boxes, SliceParams, crop_squares, draw_augmentation, series_generator, slice_params
from rsna_e2e.batch import StudyBatch
from rsna_e2e.config import RunConfig
from rsna_e2e.records import Float32Array
from rsna_e2e.sampler import Batch, global_batches, slice_batches
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks import Task

Rows = npt.NDArray[np.int64]


class StudyLoader:
    """Builds `StudyBatch`es of one store for one configuration.

    epoch: the epoch whose augmentation is drawn, or None for none. An error in a worker ends the iteration at once.
    """

    def __init__(self, store: Store, config: RunConfig, *, task: Task, device: torch.device) -> None:
        self._store = store
        self._config = config
        self._device = device
        self._windows = torch.tensor(task.windows_hu, dtype=torch.float32)
        self._mean = torch.tensor(task.channel_mean, dtype=torch.float32)
        self._std = torch.tensor(task.channel_std, dtype=torch.float32)
        index = store.index
        self._content = np.stack([index[f"content_{name}"] for name in ("x0", "y0", "x1", "y1")], axis=1).astype(
            np.int64
        )
        self._series_of_row = np.repeat(np.arange(len(store.series)), [span.n_slices for span in store.series])
        self._shapes = np.stack([index["rows"], index["columns"]], axis=1).astype(np.int64)

    def group(self, positions: Sequence[int], *, epoch: int | None = None) -> list[Batch]:
        """Group series, given by their positions in `store.series`, into batches; shuffled when an epoch is given."""
        batches = global_batches(
            [self._store.series[position].n_slices for position in positions],
            slice_budget=self._config.loader.slices_per_batch,
            seed=None if epoch is None else self._config.seed,
            epoch=epoch or 0,
        )
        return [tuple(positions[i] for i in batch) for batch in batches]

    def group_slices(self, positions: Sequence[int], *, batch_size: int, epoch: int) -> list[Batch]:
        """Group the slices of these series, mixed, into batches of store rows."""
        rows = np.concatenate([self._rows(self._store.series[position]) for position in positions])
        return slice_batches(rows.tolist(), batch_size=batch_size, seed=self._config.seed, epoch=epoch)

    def n_slices(self, batch: Batch) -> int:
        """Number of slices in a batch."""
        return sum(self._store.series[position].n_slices for position in batch)

    def load(self, batches: Iterable[Batch], *, epoch: int | None) -> Iterator[StudyBatch]:
        """Yield the batches, each a tuple of positions in `store.series`, in the given order."""
        return self._ahead(lambda batch: self.build(batch, epoch=epoch), batches)

    def load_slices(self, batches: Iterable[Batch], *, epoch: int) -> Iterator[StudyBatch]:
        """Yield the batches, each a tuple of store rows, in the given order; every slice counts as a series of one."""
        return self._ahead(lambda rows: self.build_slices(rows, epoch=epoch), batches)

    def _ahead(self, build: Callable[[Batch], StudyBatch], batches: Iterable[Batch]) -> Iterator[StudyBatch]:
        waiting: deque[Future[StudyBatch]] = deque()
        with ThreadPoolExecutor(self._config.loader.threads, thread_name_prefix="loader") as pool:
            try:
                for batch in batches:
                    waiting.append(pool.submit(build, batch))
                    if len(waiting) > self._config.loader.prefetch_batches:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def build(self, batch: Batch, *, epoch: int | None) -> StudyBatch:
        """Read and transform the series of one batch."""
        spans = [self._store.series[position] for position in batch]
        rows = np.concatenate([self._rows(span) for span in spans])
        params = [self._series_params(span, epoch) for span in spans]
        affine = np.concatenate([p.affine for p in params])
        source_box = np.concatenate([p.source_box for p in params])
        return self._assemble(rows, affine, source_box, spans, [span.n_slices for span in spans], epoch=epoch)

    def build_slices(self, rows: Batch, *, epoch: int) -> StudyBatch:
        """Read and transform single slices, each with the geometry of its series."""
        spans = [self._store.series[self._series_of_row[row]] for row in rows]
        params = [self._series_params(span, epoch) for span in spans]
        index = [row - span.first_row for row, span in zip(rows, spans, strict=True)]
        affine = np.stack([p.affine[i] for p, i in zip(params, index, strict=True)])
        source_box = np.stack([p.source_box[i] for p, i in zip(params, index, strict=True)])
        return self._assemble(np.array(rows), affine, source_box, spans, [1] * len(rows), epoch=epoch)

    def _assemble(
        self,
        rows: Rows,
        affine: Float32Array,
        source_box: Boxes,
        spans: Sequence[SeriesSpan],
        lengths: Sequence[int],
        *,
        epoch: int | None,
    ) -> StudyBatch:
        values, offsets = self._read(rows)
        image = self._config.image
        heights, widths = self._shapes[rows].T
        images = ops.transform_slices_packed(
            torch.from_numpy(values),
            torch.from_numpy(offsets),
            torch.from_numpy(heights.astype(np.int32)),
            torch.from_numpy(widths.astype(np.int32)),
            torch.from_numpy(affine),
            self._windows,
            size=image.size,
            mean=self._mean,
            std=self._std,
            border="zero" if epoch is None else "replicate",
            source_box=torch.from_numpy(source_box),
            supersample=image.supersample,
            channels_last=True,
        )
        labels = torch.from_numpy(self._store.labels[rows].astype(np.float32))
        return StudyBatch(
            images=images.to(self._device),
            series_lengths=torch.tensor(lengths, dtype=torch.int64),
            labels=labels.nan_to_num(0.0).to(self._device),
            label_mask=~labels.isnan().to(self._device),
            series_keys=tuple(s.series_key for s in spans),
            first_rows=tuple(rows[np.cumsum(lengths) - lengths].tolist()),
        )

    def _read(self, rows: Rows) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        """Return the stored HU of `rows` one after the other, and where each slice begins."""
        sizes = self._shapes[rows].prod(axis=1)
        ends = np.cumsum(sizes)
        values = np.empty(int(ends[-1]), dtype=np.int16)
        for row, start, end in zip(rows, ends - sizes, ends, strict=True):
            values[start:end] = self._store.read_slice(int(row)).ravel()
        return values, ends - sizes

    @staticmethod
    def _rows(span: SeriesSpan) -> Rows:
        return np.arange(span.first_row, span.first_row + span.n_slices)

    def _series_params(self, span: SeriesSpan, epoch: int | None) -> SliceParams:
        rows = self._rows(span)
        image = self._config.image
        augmentation = None
        if epoch is not None:
            rng = series_generator(self._config.seed, epoch, span.series_key)
            augmentation = draw_augmentation(rng, self._config.augment, size=image.size)
        boxes = crop_squares(self._content[rows], self._shapes[rows], image.crop)
        return slice_params(boxes, augmentation, size=image.size)
