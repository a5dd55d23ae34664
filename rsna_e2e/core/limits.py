"""Bounds on sizes, positions and counts, shared by the readers of DICOM files and stores and by the image
transforms."""

# Rows and columns: no CT matrix is larger, and absurd claims would fill the memory. Interpolation takes pairs of
# pixels.
SIDES_PX = (1, 4096)
XRAY_SIDES_PX = (1, 6144)  # of radiographs: 43 cm of a detector at 0.07 mm
LEAST_PIXELS = 2
MAX_FRAMES = 4096
# CT tables move some 2 m, and the origin lies within their reach; beyond 5 times that nothing was measured.
MAX_POSITION_MM = 10_000.0
# Along a normal, of stores that anybody made: no scanner's table moves a hundred metres
FARTHEST_MM = 1e5
# Pixels and slices from those of microscopes to a tenth of the widest field of view, which is under 1 m
LENGTHS_MM = (0.001, 100.0)
MAX_WINDOW_HU = 65536.0  # HU have 16 bits here: a wider window shows no more
MAX_WINDOW_GREY = 1e9  # after a rescale, which may have any slope
MAX_AGE_Y = 90.0  # as an age above 89 may tell who it is (45 CFR 164.514(b)(2)(i)(C))
MAX_LUT_ENTRIES = 65536  # of a VOI LUT, each of 16 bits (PS3.3 C.11.2.1.1)
ROUNDED_AXES = 0.01  # how far direction cosines may be from those of orthogonal unit vectors
# Of images: no larger than slices; kernels take as much and more (csrc/ct_params.cpp)
MAX_IMAGE_SIZE_PX = 4096
MAX_SUPERSAMPLE = 16
# Of a member of a zip archive
MAX_MEMBER_BYTES = 512 << 20  # larger than any CT file; guards memory, as a deflated member is held whole
# Text and images deflate some 10-fold. A slice of one value does so 1,000-fold and is harmless, so small members may.
MAX_RATIO = 200
HARMLESS_BYTES = 4 << 20
# Of a probability in a bag to 0 and 1, once, after the mean. Source: darraghdog/rsna, bagged_submission.py
CLIP = 1e-5
