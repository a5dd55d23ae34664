"""Where the result of a study lies: a folder for each content and model, which appears whole."""

from pathlib import Path

from rsna_e2e.service.settings import Settings

RESULT, SERIES, STORE, PICTURES = "result.json", "series.json", "store", "pictures"
HEATMAPS, REPORT = "heatmaps.json", "report.html"  # in PICTURES


def result_folder(settings: Settings, study: str, content: str, model: str) -> Path:
    """Return the folder of a result: RESULT, SERIES, the STORE with the pixels, and PICTURES once they are made."""
    return settings.studies / study / f"{content}-{model}"


def work_folder(settings: Settings, study: str, owner: str) -> Path:
    """Return the folder in which a worker makes what takes its place later."""
    return settings.studies / study / f".work-{owner}"


def heatmap_name(series: str, label: str) -> str:
    """Return the name of the file with the maps of a series for a label: uint8, [T, h, w]."""
    return f"map-{series}-{label}.u8"
