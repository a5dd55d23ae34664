"""Where DICOM files come from: a folder, however deep, or a zip archive.

In goes a path; out come the files, each with a name, a size and a stamp, what cannot be taken for a file as refusals,
and streams to read them. Nothing is unpacked to disk, and no link to a folder is followed."""
