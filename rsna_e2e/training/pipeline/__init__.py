"""Whole trainings as chains of commands, resumable at any point, in the modes full, single, fast and joint."""

from typing import Literal

# In the order of the published scripts: 01, 11, 12, 13, 14. Heads are trained and predict in one part.
Part = Literal["prepare", "images", "embeddings", "sequences", "bag"]
PARTS: tuple[Part, ...] = ("prepare", "images", "embeddings", "sequences", "bag")
