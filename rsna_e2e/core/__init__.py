"""What every other package builds on: errors, files, plain records, and facts about the machine.

In go paths and values; out come errors with their exit codes, files written whole or not at all, HDF5 and safetensors
files read without trust, reason codes, records and bounds of slices, the device of a run, and terminal output. Nothing
here imports another package of the project.

Errors with their exit codes; files written whole or not at all; HDF5 and safetensors files read without trust; reason
codes, records and bounds of slices; the device and the machine of a run; what a terminal shows while a verb works.
Nothing here imports another package of the project.
"""
