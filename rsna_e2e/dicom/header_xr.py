"""What the header of a radiograph says: how stored values become what is shown, and who stood how at which detector."""

import re
from math import nan
from typing import Any

from rsna_e2e.core.limits import LENGTHS_MM, MAX_AGE_Y, MAX_LUT_ENTRIES, MAX_WINDOW_GREY, XRAY_SIDES_PX
from rsna_e2e.core.reasons import Reason
from rsna_e2e.core.records import SliceRecord, VoiLut, XrayRecord
from rsna_e2e.dicom.common_elements import common_fields, matrix, number_of_frames
from rsna_e2e.dicom.elements import Elements, RefusedError, shown
from rsna_e2e.dicom.repairs import Repair, joined

# PS3.4 B.5
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DIGITAL_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

MODALITIES = ("CR", "DX", "RG")  # PS3.3 C.7.3.1.1.1: computed, digital, and film radiography
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # PS3.3 C.11.2.1.3
NO_PLACE = (nan, nan, nan)

_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}  # PS3.5 6.2, VR AS
_AGE = re.compile(r"(\d{1,4})([DWMY]?)", re.ASCII)  # without a unit in RSNA 2018, and then in years
_VIEW = re.compile(r"[A-Z0-9_ ]{0,16}", re.ASCII)  # PS3.5 6.2, VR CS


def check_is_xray(elements: Elements, sop_class_of_meta: str) -> None:
    """Refuse what is no single grey radiograph. sop_class_of_meta: in the file meta information, which counts where the
    data set has none."""
    sop_class_uid = elements.text("SOPClassUID", default=sop_class_of_meta)
    modality = elements.text("Modality", default="")
    if sop_class_uid not in (
        "",
        COMPUTED_RADIOGRAPHY,
        DIGITAL_FOR_PRESENTATION,
        DIGITAL_FOR_PROCESSING,
        SECONDARY_CAPTURE,
    ):
        raise RefusedError(Reason.NOT_XR, f"SOP class {shown(sop_class_uid)}")
    if modality not in MODALITIES and (modality or sop_class_uid in ("", SECONDARY_CAPTURE)):
        what = f"Modality is {shown(modality)}" if modality else "Modality is missing, and its class is no radiograph's"
        raise RefusedError(Reason.NOT_XR, f"{what}; expected {', '.join(MODALITIES)}")
    n_frames = number_of_frames(elements)
    if n_frames > 1:
        raise RefusedError(Reason.MULTI_FRAME, f"NumberOfFrames {n_frames}; a radiograph is one")
    samples, photometric = elements.unsigned("SamplesPerPixel", default=1), elements.text("PhotometricInterpretation")
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise RefusedError(Reason.COLOUR, f"SamplesPerPixel {samples}, {shown(photometric)}")
    if elements.items("ModalityLUTSequence"):
        detail = "a Modality LUT instead of RescaleSlope and RescaleIntercept (PS3.3 C.11.1)"
        raise RefusedError(Reason.UNSUPPORTED_PIXEL_FORMAT, detail)


def xray_record(elements: Elements, sop_class_of_meta: str, syntax_uid: str, *, image_id: str) -> SliceRecord:
    """Return the record of a radiograph; what is counted of its values is not known yet."""
    rows, columns = matrix(elements, XRAY_SIDES_PX)
    common, repairs = common_fields(elements, syntax_uid)
    slope, intercept = _rescale(elements)
    voi, ignored = _voi(elements)
    is_for_processing = elements.text("SOPClassUID", default=sop_class_of_meta) == DIGITAL_FOR_PROCESSING
    if is_for_processing and not voi["voi_function"]:
        repairs.append(Repair.FOR_PROCESSING)
    is_unsigned_16 = elements.unsigned("BitsStored") == 16 and elements.unsigned("PixelRepresentation") == 0
    return SliceRecord(
        **common,
        image_id=image_id,
        rows=rows,
        columns=columns,
        image_position_mm=NO_PLACE,
        image_orientation=NO_PLACE + NO_PLACE,
        pixel_spacing_mm=(nan, nan),
        slope=slope,
        intercept=intercept,
        window_center_hu=None,
        window_width_hu=None,
        repair=joined([*repairs, *ignored]),
        xray=XrayRecord(
            value_offset=1 << 15 if is_unsigned_16 else 0,
            photometric=elements.text("PhotometricInterpretation"),
            **voi,
            view=_view(elements),
            sex=sex if (sex := elements.advice("PatientSex").upper()) in ("F", "M", "O") else "",
            age_y=_age_y(elements.advice("PatientAge").upper()),
            imager_spacing_mm=_spacing_mm(elements),
        ),
    )


def voi_lut(elements: Elements) -> VoiLut | None:
    """Return the first VOI LUT of a radiograph; None where there is none, or none that is possible.

    Source: PS3.3 C.11.2.1.1. Where entries have 8 bits, two of them may be packed into a word.
    """
    item = elements.first_item("VOILUTSequence")
    if item is None or len(descriptor := item.words("LUTDescriptor")) != 3:
        return None
    n, first, bits = int(descriptor[0]) or MAX_LUT_ENTRIES, int(descriptor[1]), int(descriptor[2])
    if _is_signed(elements):
        first = int(descriptor[1:2].view("<i2")[0])
    words = item.words("LUTData")
    if bits == 8 and len(words) == -(-n // 2) < n:
        words = words.astype("<u2").view("u1").astype(words.dtype)
    lut = VoiLut(first, bits, words[:n])
    return lut if len(words) >= n and 8 <= bits <= 16 and int(lut.entries.max()) >> bits == 0 else None


def _is_signed(elements: Elements) -> bool:
    """Whether what comes out of the rescale may be below 0, so that where a LUT begins is signed."""
    return elements.unsigned("PixelRepresentation") == 1 or _rescale(elements)[1] < 0


def _voi(elements: Elements) -> tuple[dict[str, Any], list[Repair]]:
    """Return the fields of an `XrayRecord` that say how values are shown, and a repair where something is ignored
    because it cannot be right. Source: PS3.3 C.11.2.1.2 and C.11.2.1.3: without a function it is LINEAR, whose width is
    at least 1."""
    function = elements.text("VOILUTFunction", default="LINEAR").upper()
    center, width = elements.first_window(at_most=MAX_WINDOW_GREY)
    has_window = bool(elements.text("WindowCenter", default="") or elements.text("WindowWidth", default=""))
    if function not in FUNCTIONS or (function == "LINEAR" and width is not None and width < 1):
        center = width = None
    is_ignored = has_window and width is None
    fields: dict[str, Any] = {
        "voi_function": "" if width is None else function,
        "window_center": nan if center is None else center,
        "window_width": nan if width is None else width,
    }
    if elements.items("VOILUTSequence"):
        lut = voi_lut(elements)
        is_ignored |= lut is None
        fields |= {} if lut is None else {"voi_function": "LUT", "voi_lut": lut.sha256}
    return fields, [Repair.VOI_IGNORED] if is_ignored else []


def _rescale(elements: Elements) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept; 1 and 0 where the file has none (PS3.3 C.11.1, C.8.11.3.1.2)."""
    slope, intercept = (
        elements.numbers(name, 1)[0] if elements.text(name, default="") else default
        for name, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope == 0:
        raise RefusedError(Reason.BAD_VALUE, "RescaleSlope is 0")
    return slope, intercept


def _view(elements: Elements) -> str:
    view = elements.advice("ViewPosition").upper()
    return view if _VIEW.fullmatch(view) else ""


def _age_y(text: str) -> float:
    """Return an age in years, `MAX_AGE_Y` where it is higher; NaN for what is none."""
    age = _AGE.fullmatch(text)
    return min(int(age[1]) / _PER_YEAR[age[2] or "Y"], MAX_AGE_Y) if age else nan


def _spacing_mm(elements: Elements) -> float:
    """Return the distance of rows: at the detector, or else as the file calls that of pixels; NaN where it says none.
    Source: PS3.3 C.8.11.7 (ImagerPixelSpacing), 10.7.1.3 (PixelSpacing)."""
    at_detector = elements.advised_first("ImagerPixelSpacing")
    if at_detector is not None and LENGTHS_MM[0] <= at_detector <= LENGTHS_MM[1]:
        return at_detector
    spacing = elements.first_between("PixelSpacing", *LENGTHS_MM)
    return nan if spacing is None else spacing
