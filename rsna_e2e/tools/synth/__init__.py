"""Simulated studies with known labels. In: a kind, a seed and a number of studies. Out: DICOM files, label files and
ground truth in the competition's layout, made from anatomy in 3D: CT of heads with five kinds of bleeding (`head/`), CT
of chests with pulmonary emboli (`chest/`), radiographs of chests with opacities (`radiograph/`). What kinds share is in
`common/`; `simulate` makes them all.
"""
