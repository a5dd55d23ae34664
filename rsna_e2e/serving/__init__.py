"""Models that serve: a bundle applied to studies as they come, and what it says of each."""
