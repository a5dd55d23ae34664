"""Enhanced CT: several slices in one file, with functional groups."""

# F frames

from typing import Any

import numpy.typing as npt
import phantoms
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage

GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "CTImageFrameTypeSequence": ("FrameType",),
}


def enhanced_dataset(
    stored_FHW: npt.NDArray[Any],
    *,
    form: dict[str, int] = phantoms.SIGNED_16,
    per_frame: tuple[str, ...] = (),
    spacing_mm: float = 5.0,
    **tags: Any,
) -> Dataset:
    """Return slices `spacing_mm` apart, head first, as one instance; frame f has window center 40 + f.

    per_frame: groups that each frame has of its own, beside its position and window; `tags` override, None removes.
    """
    n_frames = len(stored_FHW)
    dataset = phantoms.slice_dataset(
        stored_FHW[0], SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=n_frames, SliceThickness=5, **form
    )
    dataset.RescaleType, dataset.FrameType = "HU", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    own = {"PlanePositionSequence", "FrameVOILUTSequence", *per_frame}
    shared, frames = Dataset(), [Dataset() for _ in range(n_frames)]
    for name in GROUPS:
        for number, frame in enumerate(frames):
            if name in own or number == 0:
                dataset.ImagePositionPatient = [-125, -125, 100 - spacing_mm * number]
                dataset.WindowCenter = 40 + number
                setattr(frame if name in own else shared, name, [_group(dataset, name)])
    for name in (name for names in GROUPS.values() for name in names):
        delattr(dataset, name)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = stored_FHW.tobytes() + b"\0" * (stored_FHW.nbytes % 2)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    return dataset


def _group(dataset: Dataset, name: str) -> Dataset:
    group = Dataset()
    for keyword in GROUPS[name]:
        setattr(group, keyword, dataset[keyword].value)
    return group
