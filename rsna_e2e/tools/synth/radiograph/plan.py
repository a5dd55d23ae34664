"""The plan of a data set of radiographs: who is in which split, seen from where, and which images are there twice."""

from dataclasses import dataclass, replace
from typing import Literal

from rsna_e2e.core.errors import UsageError
from rsna_e2e.tools.synth.common.plan import PREVALENCES, Request, scatter, stream
from rsna_e2e.tools.synth.radiograph.findings import ADDED, BALANCED_RATE, OPACITY_RATE

Split = Literal["train", "test", "balanced"]
AP_RATE = 12_173 / 26_684  # in the competition's data
COPY_RATE = 0.015  # of training images: the same pixels under another name
SIZE_PX = 1024
MIN_SIZE_PX, MAX_SIZE_PX = 128, 4096
FORMATS = ("dicom", "png")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """One image. source: the index whose pixels it has, its own unless it is a copy; opacity_rate: P(opacity).

    added: range of the density of opacities, of water's.
    """

    seed: int
    index: int
    patient: int
    source: int
    split: Split
    view: str
    opacity_rate: float
    added: tuple[float, float]
    size_px: int
    file_format: str

    @property
    def is_test(self) -> bool:
        """Whether it is held out."""
        return self.split != "train"


def plan_images(request: Request) -> tuple[ImagePlan, ...]:
    """Plan all images: of those held out every second one is in the split `balanced`, where the view says nothing."""
    request.refuse_thick()
    request.refuse_context()
    size, file_format = request.size_px or SIZE_PX, request.file_format or FORMATS[0]
    if not MIN_SIZE_PX <= size <= MAX_SIZE_PX:
        raise UsageError(f"radiographs of {size} pixels asked for; give {MIN_SIZE_PX} to {MAX_SIZE_PX}")
    if file_format not in FORMATS:
        raise UsageError(f"unknown format {file_format!r}; known: {', '.join(FORMATS)}")
    n, seed = request.n_studies, request.seed
    order = sorted(range(n), key=lambda number: scatter(seed, "split", number))
    held = order[: min(round(request.test_fraction * n), n - 1)]
    splits: dict[int, Split] = {index: "balanced" if i % 2 else "test" for i, index in enumerate(held)}
    column = PREVALENCES.index(request.prevalence)
    plans: list[ImagePlan] = []
    originals: list[ImagePlan] = []
    for index in range(n):
        split = splits.get(index, "train")
        rng = stream(seed, "plan", index)
        view = "AP" if rng.random() < AP_RATE else "PA"
        if split == "train" and originals and rng.random() < COPY_RATE:
            plans.append(replace(originals[int(rng.integers(len(originals)))], index=index))
            continue
        plan = ImagePlan(
            seed=seed,
            index=index,
            patient=index,
            source=index,
            split=split,
            view=view,
            opacity_rate=(BALANCED_RATE if split == "balanced" else OPACITY_RATE[view])[column],
            added=ADDED[column],
            size_px=size,
            file_format=file_format,
        )
        plans.append(plan)
        if split == "train":
            originals.append(plan)
    return tuple(plans)
