"""What every other package stands on: errors, files, plain records, and what is known of the machine.

Errors with their exit codes; files written whole or not at all; HDF5 and safetensors files read without trust; reason
codes, records and bounds of slices; the device and the machine of a run; what a terminal shows while a verb works.
Nothing here imports another package of the project.
"""
