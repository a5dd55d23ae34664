"""End-to-end training of a CNN and a recurrent head over whole CT series. For research use only."""

__version__ = "0.1.0"
