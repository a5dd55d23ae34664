"""Tools beside the pipeline: benchmarks, and a simulator of head CT studies. Only `cli` imports this package."""
