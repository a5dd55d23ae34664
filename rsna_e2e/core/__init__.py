"""What every other package stands on, and what knows nothing of images or labels.

Errors with their exit codes, files written whole or not at all, HDF5 and safetensors files read without trust, reason
codes and plain records, bounds of a slice, the device and the machine of a run, and what a terminal shows meanwhile.
Nothing here imports another package of the project.
"""
