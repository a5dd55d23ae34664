"""What a network predicts of a few made-up slices, kept with it, so that another machine can tell that it is right."""

# T made-up slices of one series, A answers of each

from pathlib import Path

import numpy as np
import torch

from rsna_e2e.core.device import Compute, choose_compute
from rsna_e2e.core.errors import BadInputError
from rsna_e2e.core.records import Int16Array
from rsna_e2e.core.weights_file import decode, encode, read_file
from rsna_e2e.inference.trained_model import TrainedModel
from rsna_e2e.loader.kernels.torch_ops import transform_slices
from rsna_e2e.model.network import JointModel

_N_SLICES, _SIDE = 12, 96
# Of probabilities, by networks in float32, and in half precision, on other processors and with other libraries
_TOLERANCE, _TOLERANCE_OF_HALF = 1e-4, 2e-2
_SLICES, _ANSWERS = "slices", "answers"


def known_answers(trained: TrainedModel) -> bytes:
    """Return the content of a safetensors file: made-up slices, int16 HU, and what the network says of them on a CPU
    in float32."""
    slices = torch.from_numpy(_made_up())
    return encode({_SLICES: slices, _ANSWERS: _answers(trained, slices, choose_compute("fp32", "cpu"))})


def check_answers(trained: TrainedModel, known: Path) -> float:
    """Return the largest difference between known answers, probabilities, and those on the device of `trained`.

    Raises BadInputError for a file that holds none of this network, and where they differ by more than rounding.
    """
    tensors = decode(read_file(known), path=known)
    if set(tensors) != {_SLICES, _ANSWERS} or tensors[_SLICES].shape != (_N_SLICES, _SIDE, _SIDE):
        raise BadInputError(f"{trained.named}: holds no known answers. Export the run again")
    answers = _answers(trained, tensors[_SLICES], trained.compute)
    if answers.shape != tensors[_ANSWERS].shape:
        raise BadInputError(f"{trained.named}: holds the answers of another network. Export the run again")
    difference = float((answers - tensors[_ANSWERS]).abs().max())
    is_exact = trained.compute.image_dtype == torch.float32
    tolerance = _TOLERANCE if is_exact else _TOLERANCE_OF_HALF
    if not difference <= tolerance:  # nor where it is no number
        raise BadInputError(
            f"{trained.named}: on {trained.compute} the network answers otherwise than where it was exported, by "
            f"{difference:.2g} of at most {tolerance:g}. Do not use it here; export it again, or use --device cpu"
        )
    return difference


@torch.inference_mode()
def _answers(trained: TrainedModel, slices_THW: torch.Tensor, compute: Compute) -> torch.Tensor:
    """Return the probabilities [T, A] of the labels of slices and of the series, which stand T times; of a network that
    finds boxes, the highest score in each slice, 0 without a box."""
    image, inputs = trained.config.image, trained.task.inputs
    scale = slices_THW.shape[-1] / image.size
    matrix = torch.tensor([[scale, 0.0, scale / 2 - 0.5], [0.0, scale, scale / 2 - 0.5]])
    images = transform_slices(
        slices_THW.to(compute.device),
        matrix.repeat(len(slices_THW), 1, 1),
        inputs.windows_hu,
        size=image.size,
        mean=inputs.mean,
        std=inputs.std,
        supersample=image.supersample,
        dtype=compute.image_dtype,
    )
    network = trained.network.to(compute.device)
    with compute.autocast():
        if not isinstance(network, JointModel):
            scores = [boxes.scores.float().cpu() for boxes in network.find(images)]
            return torch.stack([found.max() if len(found) else torch.tensor(0.0) for found in scores])[:, None]
        embeddings = network.embed(images)
    logits = network.classify(embeddings, torch.tensor([len(images)]))
    of_series = [] if logits.series is None else [logits.series.expand(len(images), -1)]
    return torch.cat([logits.slices, *of_series], dim=1).float().sigmoid().cpu()


def _made_up() -> Int16Array:
    """Return slices [T, H, W] in HU like a head's: bone around brain, with a bleed that grows and shrinks along z."""
    y, x = np.mgrid[:_SIDE, :_SIDE] - (_SIDE - 1) / 2
    radius = np.hypot(x, 1.15 * y)
    slices = []
    for number in range(_N_SLICES):
        head = _SIDE * (0.42 - 0.012 * abs(number - _N_SLICES / 2))
        hu = np.where(radius < head, 1000, -1000)
        hu = np.where(radius < head - 4, 32 + 6 * np.sin(x / 5) * np.cos(y / 7), hu)
        bleed = 9 - 2 * abs(number - _N_SLICES / 2)
        slices.append(np.where(np.hypot(x - 14, y + 8) < bleed, 68, hu))
    return np.stack(slices).round().astype(np.int16)
