"""The job of `bench transform`, the same for every contestant: slices, geometry and normalisation.

A slice's job: its windows, a crop square round its content, a resize to `size`, a horizontal flip, a shift, scale and
rotation about the centre with replicated border, a transposition, and normalisation, to float32.
"""

# N slices, C channels, S output size

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rsna_e2e.core.errors import BadInputError, RsnaError
from rsna_e2e.core.records import Float32Array, Float64Array, Int16Image
from rsna_e2e.loader.geometry import Boxes, SliceParams, crop_squares, slice_params
from rsna_e2e.loader.kernels import torch_ops
from rsna_e2e.store import Store
from rsna_e2e.tasks.catalogue import TASKS
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.task import Task

AGREEMENT_LIMIT = 0.02  # mean absolute difference of windowed values in [0, 1]; some contestants resample twice

CROP = "slice"  # a square round the content of each slice, as the published solution cropped

# One draw from the published solution's ranges (augment.draw_augmentation), with everything in it.
ROTATE_DEG = 12.0  # counter-clockwise as seen
SCALE = 1.04
SHIFT = (0.03, -0.02)  # to the right and down, of the image's side

Images = Iterable[torch.Tensor]


class DisagreementError(RsnaError):
    """A contestant's images differ from the job's, so that its speed cannot be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """N slices, [H, W] int16 HU of any sizes, and what to do with each. boxes [N,3]: crop squares (x0, y0, side)."""

    slices: tuple[Int16Image, ...]
    boxes: Boxes
    size: int
    task: Task

    @classmethod
    def of_store(cls, store: Store, *, n_slices: int, size: int) -> "Job":
        """Take `n_slices` of a store's slices that have content, evenly from all of it."""
        task = TASKS.get(store.task_name, ICH)  # of its windows alone
        filled = np.flatnonzero(store.index["content_x1"] > store.index["content_x0"])
        if len(filled) == 0:
            raise BadInputError(f"{store.path}: no slice has any content inside the windows. Give another store")
        rows = filled[np.linspace(0, len(filled) - 1, n_slices).round().astype(int)]
        slices = tuple(store.read_slice(int(row)) for row in rows)
        return cls(slices=slices, boxes=find_squares(slices, task), size=size, task=task)

    def params(self, boxes: Boxes) -> SliceParams:
        """Matrices that do all of the geometry at once, from these crop squares [N,3]."""
        return slice_params(boxes, augmentation(self.size), size=self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """An implementation of the job. run: transforms all slices once, and yields normalised images [C,S,S].

    The images are made one by one and dropped, so that memory can be reused.

    how: its method, in a few words. boxes: the crop squares [N,3] that it uses. cores: CPU cores that it may use.
    copies: how often one run repeats the job.
    """

    name: str
    how: str
    run: Callable[[], Images]
    boxes: Boxes
    cores: int = 1
    copies: int = 1

    @property
    def n_slices(self) -> int:
        """Slices in one run."""
        return len(self.boxes) * self.copies


def forward(size: int) -> Float64Array:
    """3x3 matrix of shift, scale and rotation, from a pixel (x, y) of the resized, flipped image to its new place."""
    centre, angle = (size - 1) / 2, np.deg2rad(ROTATE_DEG)
    cos, sin = SCALE * np.cos(angle), SCALE * np.sin(angle)
    matrix = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    matrix[:2, 2] = centre - matrix[:2, :2] @ (centre, centre) + np.array(SHIFT) * size
    return matrix


def augmentation(size: int) -> Float64Array:
    """3x3 matrix from an output pixel to a pixel of the resized image: inverse of flip, `forward`, transposition."""
    flip = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    transpose = np.eye(3)[[1, 0, 2]]
    matrix: Float64Array = flip @ np.linalg.inv(forward(size)) @ transpose
    return matrix


def find_squares(slices: Sequence[Int16Image], task: Task) -> Boxes:
    """Crop square [N,3] round the content of each slice."""
    content = [torch_ops.content_box(torch.from_numpy(hu)[None], task.inputs.windows_hu)[0] for hu in slices]
    shapes = np.array([hu.shape for hu in slices])
    return crop_squares(torch.stack(content).numpy().astype(np.int64), shapes, CROP)


def check_agreement(contestant: Contestant, job: Job) -> float:
    """Return the largest mean absolute difference of a slice's image from ours, before normalisation.

    Raises DisagreementError above AGREEMENT_LIMIT.
    """
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (job.task.inputs.mean, job.task.inputs.std))
    params = job.params(contestant.boxes)
    images = list(contestant.run())
    if len(images) != contestant.n_slices:
        raise DisagreementError(f"it makes {len(images)} images of {contestant.n_slices} slices")
    differences = []
    for k, (hu, image) in enumerate(zip(job.slices, images, strict=contestant.copies == 1)):
        expected = _windowed(hu, params.affine[k], params.source_box[k], job)
        if image.shape != expected.shape:
            raise DisagreementError(f"it makes an image of {list(image.shape)}, not {list(expected.shape)}")
        windowed = image.detach().cpu().float() * std + mean
        differences.append((windowed - expected).abs().mean().item())
    difference = float(np.max(differences))  # NaN stays NaN, and is refused
    if not difference <= AGREEMENT_LIMIT:
        raise DisagreementError(
            f"its images differ from ours by {difference:.3g} on average (at most {AGREEMENT_LIMIT} is the same job)"
        )
    return difference


def _windowed(hu: Int16Image, affine: Float32Array, box: Boxes, job: Job) -> torch.Tensor:
    images = torch_ops.transform_slices(
        torch.from_numpy(hu)[None],
        torch.from_numpy(affine)[None],
        job.task.inputs.windows_hu,
        size=job.size,
        border="replicate",
        source_box=torch.from_numpy(box)[None],
    )
    return images[0]
