"""Reason codes of refused files and slices, as they stand in `refusals.parquet` and in counts."""

from enum import StrEnum


class Reason(StrEnum):
    """Code of a refusal. A code, once published, keeps its meaning; the detail beside it is for people."""

    # the file
    NOT_REGULAR_FILE = "not_regular_file"  # a FIFO, socket or device: never opened
    LINKED_FOLDER = "linked_folder"  # a symbolic link to a folder: never followed
    UNREADABLE_FILE = "unreadable_file"  # the operating system does not give its bytes
    ENCRYPTED_MEMBER = "encrypted_member"  # of an archive, as are the next four
    UNSUPPORTED_COMPRESSION = "unsupported_compression"  # neither stored nor deflated
    INFLATES_TOO_FAR = "inflates_too_far"  # beyond a size, or a share of its own, that no slice has
    DAMAGED_MEMBER = "damaged_member"  # its bytes, size or place are not what the archive says
    DUPLICATE_NAME = "duplicate_name"  # another member has this name: the same file, or it is unknown which is right
    NOT_DICOM = "not_dicom"  # no DICOM preamble and prefix (PS3.10 7.1)
    NO_TRANSFER_SYNTAX = "no_transfer_syntax"  # file meta information without TransferSyntaxUID
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    MISSING_DECODER = "missing_decoder"  # something that is not installed is needed, which the detail names
    MALFORMED = "malformed"  # elements that cannot be parsed
    TOO_LARGE = "too_large"  # more elements, frames, fragments or inflated bytes than any real file has
    INTERNAL_ERROR = "internal_error"  # a bug of this program, not a fault of the file
    # what the file says
    NOT_CT = "not_ct"  # another SOP class or modality
    NOT_XR = "not_xr"  # the same, of a file that is to be an X-ray
    LOCALIZER = "localizer"  # a scout image, not a slice
    MULTI_FRAME = "multi_frame"  # several frames in a class of single slices, or several images in a PNG file
    MISSING_TAG = "missing_tag"
    BAD_VALUE = "bad_value"  # an element with an impossible value
    NOT_HOUNSFIELD = "not_hounsfield"  # values in another unit, a perfusion map for one
    UNSUPPORTED_PIXEL_FORMAT = "unsupported_pixel_format"  # not one grey sample of 8 or 16 bits
    COLOUR = "colour"  # several samples of a pixel, which differ
    # its pixels
    NO_PIXEL_DATA = "no_pixel_data"  # none, or the file ends before it
    TRUNCATED = "truncated"  # the file, or a compressed frame in it, ends inside the pixel data
    WRONG_PIXEL_LENGTH = "wrong_pixel_length"  # pixel data that does not fit Rows x Columns
    CODESTREAM_MISMATCH = "codestream_mismatch"  # compressed pixels that contradict the elements around them
    DECODER_FAILED = "decoder_failed"
    DECODER_CRASHED = "decoder_crash"  # reading it ended its process, twice
    TIMEOUT = "timeout"  # reading it took too long
    # its place in the series
    MIXED_ORIENTATION = "mixed_orientation"  # another orientation than most of its series
    DUPLICATE_SOP_UID = "duplicate_sop_uid"  # the instance was already seen in its series
    CONFLICTING_SOP_UID = "conflicting_sop_uid"  # instances of one UID differ: none of them is taken
    SAME_POSITION = "same_position"  # another slice of the series lies at the same place
    UNTOLD_VOLUMES = "untold_volumes"  # several slices at several places, and nothing tells which belong together
    FORMULA_NAME = "formula_name"  # a spreadsheet would run its image id; refused only if that is asked for
