"""Windows of head CT that pages show slices in."""

# Center and width in HU, by the names that radiologists give them
WINDOWS_HU = {"brain": (40.0, 80.0), "subdural": (80.0, 200.0), "soft tissue": (40.0, 380.0)}
