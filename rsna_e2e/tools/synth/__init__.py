"""Simulated head CT studies with known labels. In: a seed and a number of studies. Out: DICOM files, label files and
ground truth in the competition's layout. `simulate` makes them from anatomy in 3D with five kinds of bleeding.
"""
