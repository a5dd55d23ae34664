"""Class-activation maps: how much each place of a slice speaks for a label, in what the backbone sees last.

The map of a slice is the sum of the backbone's last feature maps, each times the gradient of the label's logit for its
channel, summed over places (Grad-CAM, Selvaraju et al. 2017, arXiv:1610.02391, before its ReLU). For a backbone that
averages or takes the maximum over places, that is the gradient for the embedding, which a head on whole series gives
too; where it averages and the head is linear, the mean of the map and the bias are the logit (Zhou et al. 2016,
arXiv:1512.04150).
"""

# T slices of a series, n of them shown, F features, K channels of the last feature maps, h, w their sides

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample

from rsna_e2e.core.records import Float32Array, Float64Array, Progress, Rows, no_progress
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.image_loader import ImageLoader
from rsna_e2e.model.forward import EMBED_TOGETHER
from rsna_e2e.model.network import JointModel
from rsna_e2e.store import SeriesSpan, Store
from rsna_e2e.tasks.task import Level

_MOST_VALUES = 2**22  # of embeddings whose gradients are computed together; a head keeps some fifty numbers for each


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationMaps:
    """Maps of n slices of a series for one label.

    logits [n]: of each slice, or of the series n times. maps [n, h, w]: how much each place speaks for the label.
    affine [n, 2, 3]: from a pixel of the network's image, of `size` px, to one of the slice, both counted at pixel
    centres from 0.
    """

    logits: Float64Array
    maps: Float32Array
    affine: Float32Array
    size: int

    def on_picture(self, place: int, to_slice_23: Float32Array, *, side: int) -> Float32Array:
        """Return the map of slice number `place` on a square picture [side, side], 0 where the network sees nothing.

        to_slice_23: the matrix from a pixel of the picture to one of the slice.
        """
        to_image = np.linalg.inv(_square(self.affine[place])) @ _square(to_slice_23)
        x, y = np.meshgrid(np.arange(side), np.arange(side))
        image_xy = np.stack([x, y, np.ones_like(x)], axis=-1) @ to_image[:2].T
        grid = torch.from_numpy((image_xy + 0.5) * (2 / self.size) - 1).float()  # -1 and 1: the edges of the image
        map_hw = torch.from_numpy(self.maps[place])
        shown = grid_sample(map_hw[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        is_inside = (grid.abs() <= 1).all(dim=-1)
        values: Float32Array = torch.where(is_inside, shown, 0.0).numpy()
        return values


def activation_maps(
    trained: TrainedModel,
    store: Store,
    span: SeriesSpan,
    *,
    places: Sequence[int],
    level: Level,
    label: int,
    progress: Progress = no_progress,
) -> ActivationMaps:
    """Return the maps of the slices at `places` in a series for a label, given by its level and position there.

    A label of slices is explained by each slice's own logit, one of series by the logit of the series. The backbone
    goes over the slices twice, so that only `EMBED_TOGETHER` of them have feature maps in memory. Raises UsageError for
    a backbone without feature maps.
    """
    loader, network, total = trained.loader(store), trained.joint, span.n_slices + len(places)
    assert isinstance(loader, ImageLoader)
    embeddings: list[torch.Tensor] = []
    for first, images_NCSS, _ in _images(loader, np.arange(span.n_slices) + span.first_row):
        with trained.compute.autocast(), torch.no_grad():
            embeddings.append(network.embed(images_NCSS))
        progress(first + len(images_NCSS), total)
    gradients = _of_slices if level == "slice" else _of_series
    with torch.backends.cudnn.flags(enabled=False):  # cuDNN has gradients of LSTMs in train mode alone
        logits_n, gradients_nF = gradients(network, torch.cat(embeddings), label, torch.tensor(places))
    maps: list[torch.Tensor] = []
    affine: list[Float32Array] = []
    for first, images_NCSS, affine_N23 in _images(loader, np.array(places) + span.first_row):
        with trained.compute.autocast(), torch.no_grad():
            maps_NKhw = network.feature_maps(images_NCSS)
        maps.append(weigh(network, maps_NKhw, gradients_nF[first : first + len(images_NCSS)]))
        affine.append(affine_N23)
        progress(span.n_slices + first + len(images_NCSS), total)
    return ActivationMaps(
        logits=logits_n.double().cpu().numpy(),
        maps=torch.cat(maps).cpu().numpy(),
        affine=np.concatenate(affine),
        size=trained.config.image.size,
    )


def weigh(network: JointModel, maps_NKhw: torch.Tensor, gradients_NF: torch.Tensor) -> torch.Tensor:
    """Return the maps [N, h, w] of slices from their feature maps and the gradient of a logit for their embeddings."""
    leaf_NKhw = maps_NKhw.detach().requires_grad_()
    (gradients_NKhw,) = torch.autograd.grad(network.embed_maps(leaf_NKhw), leaf_NKhw, gradients_NF)
    weights_NK11 = gradients_NKhw.sum(dim=(2, 3), keepdim=True)
    weighted: torch.Tensor = (weights_NK11 * maps_NKhw).sum(dim=1)
    return weighted


def _images(loader: ImageLoader, rows: Rows) -> Iterator[tuple[int, torch.Tensor, Float32Array]]:
    """Yield images [N, C, S, S] of these rows of the store, with the number of those before and the affine of each."""
    batches = [tuple(rows[i : i + EMBED_TOGETHER].tolist()) for i in range(0, len(rows), EMBED_TOGETHER)]
    for k, (plan, images_NCSS) in enumerate(loader.images_of(batches)):
        yield k * EMBED_TOGETHER, images_NCSS[:], plan.affine


def _of_slices(
    network: JointModel, embeddings_TF: torch.Tensor, label: int, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits [n] of the slices at `at`, and the gradient [n, F] of each for that slice's embedding.

    Each logit depends on all embeddings of the series: for each, the head runs on a copy, many side by side.
    """
    n_slices = len(embeddings_TF)
    logits, gradients = [], []
    for some in torch.split(at, max(1, _MOST_VALUES // embeddings_TF.numel())):
        copies_nTF = embeddings_TF.repeat(len(some), 1, 1).requires_grad_()
        of_all = network.classify(copies_nTF.flatten(0, 1), torch.full((len(some),), n_slices)).slices
        own = torch.arange(len(some)), some
        logits_n = of_all.view(len(some), n_slices, -1)[(*own, label)]
        (gradients_nTF,) = torch.autograd.grad(logits_n.sum(), copies_nTF)
        logits.append(logits_n.detach())
        gradients.append(gradients_nTF[own])
    return torch.cat(logits), torch.cat(gradients)


def _of_series(
    network: JointModel, embeddings_TF: torch.Tensor, label: int, at: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logit of the series, n times, and its gradient [n, F] for the embeddings of the slices at `at`."""
    leaf_TF = embeddings_TF.clone().requires_grad_()
    logits_BM = network.classify(leaf_TF, torch.tensor([len(leaf_TF)])).series
    assert logits_BM is not None, "a model without a series head has no logits of series"
    (gradients_TF,) = torch.autograd.grad(logits_BM[0, label], leaf_TF)
    return logits_BM.detach()[0, label].expand(len(at)), gradients_TF[at]


def _square(matrix_23: Float32Array) -> Float64Array:
    return np.vstack([matrix_23.astype(np.float64), [0.0, 0.0, 1.0]])
