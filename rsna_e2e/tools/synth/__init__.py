"""Simulated head CT studies with known truth: anatomy in 3D, five kinds of bleeding, the competition's files."""
