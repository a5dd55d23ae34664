"""The fused pixel kernel of csrc: torch operators, DALI operators, and the NumPy twin that tests hold both against."""
