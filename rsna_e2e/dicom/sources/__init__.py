"""Where DICOM files come from: folders and zip archives. In goes a path, out come files that can be opened."""
