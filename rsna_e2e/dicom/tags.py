"""The tags that are read of a file, by modality; the values of no others are ever looked at."""

from dataclasses import dataclass

from rsna_e2e.core.records import Modality

# PS3.6 section 6: with `ADVICE` the only tags that are read of CT. Names and free text are not.
TAGS = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "FrameType": 0x00089007,
    "PatientID": 0x00100020,
    "SliceThickness": 0x00180050,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "BurnedInAnnotation": 0x00280301,
    "WindowCenter": 0x00281050,
    "WindowWidth": 0x00281051,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
}

# Read of X-rays beside them: how values become what is shown (PS3.3 C.11.2)
XRAY_TAGS = {
    "VOILUTFunction": 0x00281056,
    "LUTDescriptor": 0x00283002,
    "LUTData": 0x00283006,
}

# What tells volumes of a series apart (PS3.3 C.7.6.1, C.7.6.16.2.2, C.8.2.1, C.8.15.3). It is advice: a malformed one
# is ignored, and refuses no file.
ADVICE = {
    "AcquisitionDate": 0x00080022,
    "AcquisitionDateTime": 0x0008002A,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
    "KVP": 0x00180060,
    "ReconstructionDiameter": 0x00181100,
    "ConvolutionKernel": 0x00181210,
    "FrameAcquisitionDateTime": 0x00189074,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "TemporalPositionIdentifier": 0x00200100,
    "StackID": 0x00209056,
    "TemporalPositionIndex": 0x00209128,
    "FrameAcquisitionNumber": 0x00209156,
}


# Of X-rays, read instead: view, person and detector (PS3.3 C.7.1.1, C.7.2.2, C.8.1, C.8.11.7)
XRAY_ADVICE = {
    "PatientSex": 0x00100040,
    "PatientAge": 0x00101010,
    "ImagerPixelSpacing": 0x00181164,
    "ViewPosition": 0x00185101,
}

# Read of files that are sent to the service, beside UIDs and PatientID: what a study is looked up by
ARRIVAL_ADVICE = {
    "StudyDate": 0x00080020,
    "AccessionNumber": 0x00080050,
}

# Those of 16 bits, of VR US or SS; the others are text.
BINARY = (
    "SamplesPerPixel",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)

# Tables of such numbers, of VR US, SS or OW
BINARY_TABLES = ("LUTDescriptor", "LUTData")

# Sequences that hold some of these, in files of several frames (PS3.3 C.7.6.16 and C.8.15.3)
SEQUENCES = {
    "CTImageFrameTypeSequence": 0x00189329,
    "CTReconstructionSequence": 0x00189314,
    "FrameContentSequence": 0x00209111,
    "PlanePositionSequence": 0x00209113,
    "PlaneOrientationSequence": 0x00209116,
    "PixelMeasuresSequence": 0x00289110,
    "FrameVOILUTSequence": 0x00289132,
    "PixelValueTransformationSequence": 0x00289145,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
}

# Of X-rays (PS3.3 C.11.1 and C.11.2)
XRAY_SEQUENCES = {
    "ModalityLUTSequence": 0x00283000,
    "VOILUTSequence": 0x00283010,
}

ALL_ADVICE = ADVICE | XRAY_ADVICE | ARRIVAL_ADVICE
ALL_TAGS = TAGS | XRAY_TAGS | ALL_ADVICE
ALL_SEQUENCES = SEQUENCES | XRAY_SEQUENCES


@dataclass(frozen=True, slots=True)
class AllowList:
    """The tags that are read of files of one modality: of single elements, those of them that are advice, and of
    sequences."""

    elements: frozenset[int]
    advice: frozenset[int]
    sequences: frozenset[int]


ALLOWED: dict[Modality, AllowList] = {
    "ct": AllowList(
        frozenset((*TAGS.values(), *ADVICE.values())), frozenset(ADVICE.values()), frozenset(SEQUENCES.values())
    ),
    "xr": AllowList(
        frozenset((*TAGS.values(), *XRAY_TAGS.values(), *XRAY_ADVICE.values())),
        frozenset(XRAY_ADVICE.values()),
        frozenset(XRAY_SEQUENCES.values()),
    ),
}

ARRIVAL = AllowList(
    frozenset(
        (
            *(TAGS[name] for name in ("SOPInstanceUID", "PatientID", "StudyInstanceUID")),
            *ARRIVAL_ADVICE.values(),
        )
    ),
    frozenset(ARRIVAL_ADVICE.values()),
    frozenset(),
)

_NAMES = {tag: name for name, tag in (ALL_TAGS | ALL_SEQUENCES).items()}


def label(tag: int) -> str:
    """Return the name and number of a tag on the allow-list."""
    return f"{_NAMES[tag]} ({tag >> 16:04x},{tag & 0xFFFF:04x})"
