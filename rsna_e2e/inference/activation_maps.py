"""Class-activation maps: how much each place of a slice speaks for a label, through the recurrent head.

Of a label of slices, the sum of its logits over the series is explained, and of one of series its logit: its gradient
for each embedding comes by one backward pass through the head over the whole series. Chunk by chunk, the backbone then
runs again to have that gradient for the maps of a stage in the middle (`model/stages.py`). So nothing is approximated,
and of feature maps those of one chunk are in memory.
"""

# G labels, T slices of a series, n of them explained together, F features, h, w sides of a map

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import grid_sample

from rsna_e2e.core.records import BoolImage, Float32Array, Float64Array, Progress, Rows, no_progress
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.model.network import JointModel
from rsna_e2e.model.stages import find_stage, layer_maps
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.task import Level

Label = tuple[Level, int]  # and its position among the labels of that level
Target = Literal["sum", "slice"]  # of a label of slices: the sum of its logits over the series, or each slice's own

_MOST_VALUES = 2**22  # of embeddings whose gradients are computed together; a head keeps some fifty numbers for each
_BRIGHTEST = 0.999  # the quantile of a series' values that is drawn brightest: a few cells may be far above all others


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationMaps:
    """Maps of the T slices of a series for one label.

    logits [T]: of each slice, or of the series T times. maps [T, h, w]: how much each place speaks for the label.
    affine [T, 2, 3]: from a pixel of the network's image, of `size` px, to one of the slice, both counted at pixel
    centres from 0.
    """

    logits: Float64Array
    maps: Float32Array
    affine: Float32Array
    size: int

    @property
    def probabilities(self) -> Float64Array:
        """Those of the logits [T], before what a task's rules or other views make of them."""
        found: Float64Array = (1 + np.tanh(self.logits / 2)) / 2
        return found

    @property
    def brightest(self) -> float:
        """The value to draw brightest, the same for all slices of the series, so that those without a finding stay
        dark."""
        return float(np.quantile(self.maps, _BRIGHTEST))

    def on_picture(self, place: int, to_slice_23: Float32Array, *, side: int) -> Float32Array:
        """Return the map of slice number `place` on a square picture [side, side], 0 where the network sees nothing.

        to_slice_23: the matrix from a pixel of the picture to one of the slice.
        """
        grid = self._grid(place, to_slice_23, side)
        map_hw = torch.from_numpy(self.maps[place])
        shown = grid_sample(map_hw[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        values: Float32Array = torch.where(_is_inside(grid), shown, 0.0).numpy()
        return values

    def seen_on_picture(self, place: int, to_slice_23: Float32Array, *, side: int) -> BoolImage:
        """Return which pixels of such a picture [side, side] the network sees."""
        seen: BoolImage = _is_inside(self._grid(place, to_slice_23, side)).numpy()
        return seen

    def _grid(self, place: int, to_slice_23: Float32Array, side: int) -> torch.Tensor:
        """Return where the pixels of such a picture are on the network's image, whose edges are -1 and 1."""
        to_image = np.linalg.inv(_square(self.affine[place])) @ _square(to_slice_23)
        x, y = np.meshgrid(np.arange(side), np.arange(side))
        image_xy = np.stack([x, y, np.ones_like(x)], axis=-1) @ to_image[:2].T
        return torch.from_numpy((image_xy + 0.5) * (2 / self.size) - 1).float()


def shares_of(values: Float32Array, brightest: float) -> Float32Array:
    """Return values of maps as shares, 0 to 1, of the brightest; none of maps that are 0 or below everywhere."""
    shares: Float32Array = np.clip(values / brightest, 0, 1) if brightest > 0 else np.zeros_like(values)
    return shares


def activation_maps(
    trained: TrainedModel,
    store: Store,
    span: SeriesSpan,
    *,
    labels: Sequence[Label],
    target: Target = "sum",
    progress: Progress = no_progress,
) -> list[ActivationMaps]:
    """Return the maps of all slices of a series for each of these labels.

    The backbone goes over the slices twice, so that only `EMBED_TOGETHER` of them have feature maps in memory. Raises
    UsageError for a backbone without feature maps.
    """
    loader, network, rows = trained.loader(store), trained.joint, np.arange(span.n_slices) + span.first_row
    assert isinstance(loader, ImageLoader)
    embeddings: list[torch.Tensor] = []
    for first, images_NCSS, _ in _images(loader, rows):
        with trained.compute.autocast(), torch.no_grad():
            embeddings.append(network.embed(images_NCSS))
        progress(first + len(images_NCSS), 2 * len(rows))
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN has gradients of LSTMs in train mode alone
        explained = [_explain(network, torch.cat(embeddings), label, target) for label in labels]
    maps: list[torch.Tensor] = []
    affine: list[Float32Array] = []
    for first, images_NCSS, affine_N23 in _images(loader, rows):
        images = images_NCSS.float()  # not in half precision, where small gradients are 0
        if not maps:
            stage = find_stage(network, images)
        some = slice(first, first + len(images))
        maps.append(layer_maps(network, stage, images, [gradient_TF[some] for _, gradient_TF in explained]).cpu())
        affine.append(affine_N23)
        progress(len(rows) + some.stop, 2 * len(rows))
    size, affine_T23 = trained.config.image.size, np.concatenate(affine)
    return [
        ActivationMaps(logits=logits_T.double().cpu().numpy(), maps=maps_Thw.numpy(), affine=affine_T23, size=size)
        for (logits_T, _), maps_Thw in zip(explained, torch.cat(maps, dim=1), strict=True)
    ]


def _images(loader: ImageLoader, rows: Rows) -> Iterator[tuple[int, torch.Tensor, Float32Array]]:
    """Yield images [N, C, S, S] of these rows of the store, with the number of those before and the affine of each."""
    batches = [tuple(rows[i : i + EMBED_TOGETHER].tolist()) for i in range(0, len(rows), EMBED_TOGETHER)]
    for k, (plan, images_NCSS) in enumerate(loader.images_of(batches)):
        yield k * EMBED_TOGETHER, images_NCSS[:], plan.affine


def _explain(
    network: JointModel, embeddings_TF: torch.Tensor, label: Label, target: Target
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [T] of a label, and the gradient [T, F] of what is explained for each slice's embedding."""
    level, index = label
    if level == "slice" and target == "slice":
        return _own(network, embeddings_TF, index)
    leaf_TF = embeddings_TF.clone().requires_grad_()
    logits = network.classify(leaf_TF, torch.tensor([len(leaf_TF)]))
    if level == "slice":
        logits_T = logits.slices[:, index]
        explained = logits_T.sum()
    else:
        assert logits.series is not None, "a model without a series head has no logits of series"
        explained = logits.series[0, index]
        logits_T = explained.expand(len(leaf_TF))
    (gradient_TF,) = torch.autograd.grad(explained, leaf_TF)
    return logits_T.detach(), gradient_TF


def _own(network: JointModel, embeddings_TF: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [T], and the gradient [T, F] of each for its own slice's embedding.

    Each logit depends on all embeddings of the series: for each, the head runs on a copy, many side by side.
    """
    n_slices = len(embeddings_TF)
    logits, gradients = [], []
    for some_n in torch.split(torch.arange(n_slices), max(1, _MOST_VALUES // embeddings_TF.numel())):
        copies_nTF = embeddings_TF.repeat(len(some_n), 1, 1).requires_grad_()
        of_all = network.classify(copies_nTF.flatten(0, 1), torch.full((len(some_n),), n_slices)).slices
        own = torch.arange(len(some_n)), some_n
        logits_n = of_all.view(len(some_n), n_slices, -1)[(*own, index)]
        (gradients_nTF,) = torch.autograd.grad(logits_n.sum(), copies_nTF)
        logits.append(logits_n.detach())
        gradients.append(gradients_nTF[own])
    return torch.cat(logits), torch.cat(gradients)


def _is_inside(grid: torch.Tensor) -> torch.Tensor:
    return (grid.abs() <= 1).all(dim=-1)


def _square(matrix_23: Float32Array) -> Float64Array:
    return np.vstack([matrix_23.astype(np.float64), [0.0, 0.0, 1.0]])
