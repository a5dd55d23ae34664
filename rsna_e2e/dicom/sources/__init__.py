"""Where slices come from: DICOM files in a folder, however deep, or in a zip archive, or a folder of HDF5 shards.

In goes a path; out come the files, each with a name, a size and a stamp, what cannot be taken for a file as refusals,
the headers of a file's slices, and streams to read them. Nothing is unpacked to disk, and no link to a folder is
followed."""
