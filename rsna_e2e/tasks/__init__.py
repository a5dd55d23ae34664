"""What is predicted: labels with their weights and levels, how label files spell them, and what predictions score.

In comes the name of a task; out come its labels and their order, label files and submissions read and written in its
layout, and the numbers that judge predictions against the truth. Only this package knows label names.
"""
