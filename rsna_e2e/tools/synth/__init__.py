"""Simulated CT studies with known labels. In: a kind, a seed and a number of studies. Out: DICOM files, label files and
ground truth in the competition's layout, made from anatomy in 3D: of heads with five kinds of bleeding (`head/`), or of
chests with pulmonary emboli (`chest/`). What kinds share is in `common/`; `simulate` makes them all.
"""
