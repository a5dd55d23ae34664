"""Enhanced CT: several slices in a file, each with functional groups of its own and groups shared by all."""

from rsna_e2e.core.reasons import Reason
from rsna_e2e.dicom.elements import DataSet, Elements, RefusedError, items_of
from rsna_e2e.dicom.tags import ALL_TAGS

# Functional groups, and the elements that are theirs: elsewhere in the file these mean nothing (PS3.3 C.7.6.16.2 and
# C.8.15.3).
_GROUPS = {
    "CTImageFrameTypeSequence": ("FrameType",),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth"),
    "FrameContentSequence": (
        "FrameAcquisitionDateTime",
        "FrameAcquisitionNumber",
        "StackID",
        "TemporalPositionIndex",
    ),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
}
_GROUPED = tuple(name for names in _GROUPS.values() for name in names)
_ADVICE_GROUPS = ("FrameContentSequence", "CTReconstructionSequence")


def frame_elements(elements: Elements, n_frames: int) -> list[Elements]:
    """Return the elements of each frame, as if it were a file of its own; those of a missing group are missing.

    Raises RefusedError when groups and NumberOfFrames contradict each other, and for localizers.
    Source: PS3.3 C.7.6.16.1.1 (a group is either shared or per frame, and has one item).
    """
    shared = elements.items("SharedFunctionalGroupsSequence")
    per_frame = elements.items("PerFrameFunctionalGroupsSequence")
    if len(per_frame) != n_frames or len(shared) > 1:
        detail = f"functional groups of {len(per_frame)} frames, {len(shared)} shared; NumberOfFrames {n_frames}"
        raise RefusedError(Reason.BAD_VALUE, detail)
    common = elements.without(_GROUPED)
    frames = []
    for groups in per_frame:
        frame = common
        for name in _GROUPS:
            frame = frame.overlaid(_group(name, groups, shared[0] if shared else {}))
        if "LOCALIZER" in frame.text("FrameType", default="").upper().split("\\"):
            raise RefusedError(Reason.LOCALIZER, "FrameType says LOCALIZER (PS3.3 C.8.15.3.1)")
        frames.append(frame)
    return frames


def _group(name: str, groups: DataSet, shared: DataSet) -> DataSet:
    items = [*items_of(groups, name), *items_of(shared, name)]
    if len(items) > 1 and name not in _ADVICE_GROUPS:
        raise RefusedError(Reason.BAD_VALUE, f"{name} has several items for one frame")
    tags = [ALL_TAGS[keyword] for keyword in _GROUPS[name]]
    return {tag: items[0][tag] for tag in tags if tag in items[0]} if items else {}
