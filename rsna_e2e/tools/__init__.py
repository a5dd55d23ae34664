"""Tools beside the pipeline: benchmarks, a simulator of studies, and the comparison of ways to train.

Only `cli` imports this package.
"""
