"""What the header of a CT file says of its slices: place, orientation and spacing, and the rescale to HU."""

import math

from rsna_e2e.core.limits import (
    LENGTHS_MM,
    MAX_POSITION_MM,
    MAX_WINDOW_HU,
    ROUNDED_AXES,
    SIDES_PX,
)
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import SliceRecord
from rsna_e2e.dicom.common_elements import common_fields, matrix, number_of_frames
from rsna_e2e.dicom.elements import Elements, RefusedError, shown
from rsna_e2e.dicom.repairs import Repair, joined

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"  # PS3.4 B.5
ENHANCED_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"


def check_is_ct(elements: Elements, sop_class_of_meta: str) -> int | None:
    """Return the number of frames of a file of enhanced CT, and None for one that holds a single slice.

    sop_class_of_meta: in the file meta information. The 2019 competition's files have it there only.
    """
    sop_class_uid = elements.text("SOPClassUID", default=sop_class_of_meta)
    modality = elements.text("Modality", default="")
    if sop_class_uid not in ("", CT_IMAGE_STORAGE, ENHANCED_CT_IMAGE_STORAGE):
        raise RefusedError(Reason.NOT_CT, f"SOP class {shown(sop_class_uid)}")
    if modality != "CT" and (modality or not sop_class_uid):
        raise RefusedError(
            Reason.NOT_CT, f"Modality is {shown(modality)}" if modality else "neither SOPClassUID nor Modality says CT"
        )
    if "LOCALIZER" in elements.text("ImageType", default="").upper().split("\\"):
        raise RefusedError(Reason.LOCALIZER, "ImageType says LOCALIZER (PS3.3 C.8.2.1.1.1)")
    n_frames = number_of_frames(elements)
    if sop_class_uid == ENHANCED_CT_IMAGE_STORAGE:
        return n_frames
    if n_frames > 1:
        raise RefusedError(Reason.MULTI_FRAME, f"NumberOfFrames {n_frames} in a single-frame SOP class")
    return None


def ct_record(elements: Elements, syntax_uid: str, *, image_id: str, number: int) -> SliceRecord:
    """Return the record of a slice, the `number`-th of its file."""
    rows, columns = matrix(elements, SIDES_PX)
    pixel_spacing_mm = _pixel_spacing(elements)
    slope, intercept, unit = _rescale(elements)
    image_position_mm, image_orientation = _image_position(elements), _image_orientation(elements)
    window_center, window_width = elements.first_window(at_most=MAX_WINDOW_HU)
    common, repairs = common_fields(elements, syntax_uid)
    return SliceRecord(
        **common,
        image_id=image_id,
        frame_number=number,
        rows=rows,
        columns=columns,
        image_position_mm=image_position_mm,
        image_orientation=image_orientation,
        pixel_spacing_mm=pixel_spacing_mm,
        slope=slope,
        intercept=intercept,
        window_center_hu=window_center,
        window_width_hu=window_width,
        slice_thickness_mm=elements.first_between("SliceThickness", *LENGTHS_MM),
        repair=joined([*repairs, *unit]),
    )


def _pixel_spacing(elements: Elements) -> tuple[float, float]:
    """Return PixelSpacing, between rows and between columns, in mm and in bounds."""
    between_rows, between_columns = elements.numbers("PixelSpacing", 2)
    if min(between_rows, between_columns) < LENGTHS_MM[0] or max(between_rows, between_columns) > LENGTHS_MM[1]:
        raise RefusedError(Reason.BAD_VALUE, f"PixelSpacing {between_rows:g} x {between_columns:g} mm")
    return between_rows, between_columns


def _image_position(elements: Elements) -> tuple[float, float, float]:
    """Return ImagePositionPatient, in mm and in bounds."""
    x, y, z = elements.numbers("ImagePositionPatient", 3)
    if max(abs(x), abs(y), abs(z)) > MAX_POSITION_MM:
        detail = f"ImagePositionPatient lies more than {MAX_POSITION_MM:,.0f} mm from the origin"
        raise RefusedError(Reason.BAD_VALUE, detail)
    return x, y, z


def _rescale(elements: Elements) -> tuple[float, float, list[Repair]]:
    """Return slope and intercept of the rescale to HU, and a repair where the unit is unspecified.

    GDCM, and so SimpleITK, writes US (unspecified) for every CT; scanners write it for perfusion maps, and name these
    in ImageType or FrameType. `pixels` checks in addition that the slice has air at about -1000. Source: PS3.3 C.11.1,
    C.8.15.3.10, and C.8.16.1.3 (image flavor).
    """
    (slope,) = elements.numbers("RescaleSlope", 1)
    if slope == 0:
        raise RefusedError(Reason.BAD_VALUE, "RescaleSlope is 0")
    (intercept,) = elements.numbers("RescaleIntercept", 1)
    # Perfusion maps, electron density and more are stored as CT too; the unit alone tells them apart.
    unit = elements.text("RescaleType", default="HU")
    if unit == "HU":
        return slope, intercept, []
    is_map = any("PERFUSION" in elements.text(name, default="").upper() for name in ("ImageType", "FrameType"))
    if unit == "US" and slope == 1 and intercept.is_integer() and not is_map:
        return slope, intercept, [Repair.UNSPECIFIED_UNIT]
    detail = "" if unit != "US" else f" (unspecified), {'of PERFUSION' if is_map else f'RescaleSlope {slope:g}'}"
    raise RefusedError(Reason.NOT_HOUNSFIELD, f"RescaleType is {shown(unit)}{detail}")


def _image_orientation(elements: Elements) -> tuple[float, float, float, float, float, float]:
    """Return ImageOrientationPatient: two orthogonal unit vectors, but for rounding (PS3.3 C.7.6.2.1.1)."""
    a, b, c, d, e, f = elements.numbers("ImageOrientationPatient", 6)
    row, column = (a, b, c), (d, e, f)
    lengths = math.hypot(*row), math.hypot(*column)
    product = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(product)) > ROUNDED_AXES:
        detail = "ImageOrientationPatient is not two orthogonal unit vectors"
        raise RefusedError(Reason.BAD_VALUE, detail)
    return a, b, c, d, e, f
