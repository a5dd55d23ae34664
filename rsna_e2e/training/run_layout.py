"""Names of the files and folders in a run folder. Imports nothing, so that `launch` can read them at once."""

CONFIG = "config.yaml"  # all settings; last to be written, it makes a folder a run
TASK = "task.json"  # the task that the run learns, whole
MANIFEST = "manifest.json"  # code, data, environment, and each time that the run was resumed
SUMMARY = "summary.json"  # how the run ended; the last file that it writes
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
OPERATING_POINTS = "operating_points.json"  # thresholds of labels or boxes, of the best epoch on the held-out fold
CALIBRATION = "calibration.json"  # maps to calibrated probabilities, of the best epoch on the held-out fold
DEBUG = "debug"  # what is known of a run that diverged
PREEMPTION_MARKER = "preempted"  # empty file: the run stopped because of a signal, after saving
