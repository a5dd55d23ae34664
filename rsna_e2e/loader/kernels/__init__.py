"""The fused pixel kernel of csrc in Python: as torch and DALI operators, and the NumPy twin that tests judge them by.

In: int16 HU slices, and an affine matrix for each. Out: windowed, resampled and normalised images [N, C, S, S]; or the
bounding box of what each slice shows. Kept without imports: each module loads its own compiled library.
"""
