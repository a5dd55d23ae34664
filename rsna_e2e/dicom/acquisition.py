"""Reads how a slice was acquired and reconstructed, by which the volumes of a series are told apart."""

from rsna_e2e.core.records import Acquisition
from rsna_e2e.dicom.elements import Elements


def read_acquisition(elements: Elements) -> Acquisition:
    """Return what a file, or what applies to one of its frames, says of acquisition and reconstruction.

    Nothing here can refuse a file: what is missing, or not in the form it should be, is empty or None.
    Source: PS3.3 C.7.6.1 (InstanceNumber, AcquisitionNumber, times), C.7.6.16.2.2 (frame content), C.8.2.1 and C.8.15.3
    (reconstruction), C.7.6.16 (temporal position).
    """
    date, time = elements.advice("AcquisitionDate"), elements.advice("AcquisitionTime")
    acquired = elements.advice("FrameAcquisitionDateTime") or elements.advice("AcquisitionDateTime")
    return Acquisition(
        image_type=elements.text("ImageType", default=""),
        frame_type=elements.text("FrameType", default=""),
        stack_id=elements.advice("StackID"),
        convolution_kernel=elements.advice("ConvolutionKernel"),
        reconstruction_diameter=elements.advised_number("ReconstructionDiameter"),
        kvp=elements.advised_number("KVP"),
        acquisition_number=elements.advised_number("AcquisitionNumber"),
        frame_acquisition_number=elements.advised_integer("FrameAcquisitionNumber"),
        temporal_position_identifier=elements.advised_number("TemporalPositionIdentifier"),
        temporal_position_index=elements.advised_integer("TemporalPositionIndex"),
        instance_number=elements.advised_number("InstanceNumber"),
        acquisition_time=acquired or date + time,
        content_time=elements.advice("ContentTime"),
    )
