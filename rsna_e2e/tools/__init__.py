"""Tools beside the pipeline: benchmarks, and a simulator of CT studies. Only `cli` imports this package."""
