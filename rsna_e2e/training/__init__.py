"""Training runs: from a configuration and a study store to a run folder with checkpoints, metrics and a manifest.

The loop and its steps, on one device or many ranks, validation, checkpoints and resumption; chains of whole runs are in
`pipeline`. Kept without imports: `launch` starts before anything heavy may be loaded.
"""
