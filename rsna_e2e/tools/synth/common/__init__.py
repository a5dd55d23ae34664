"""What all simulated studies share: shapes, noise, random streams and ids, DICOM files, contact sheets."""
