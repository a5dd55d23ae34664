"""What stands beside the way of the data: benchmarks, and the simulator of head CT studies. Only `cli` imports it."""
