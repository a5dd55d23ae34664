"""The table of suspicious labels, and the page that shows the first of them between their neighbours."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rsna_e2e.core.files import without_nan
from rsna_e2e.evaluation.compare.table import as_csv
from rsna_e2e.evaluation.report.examples import series_name
from rsna_e2e.evaluation.report.pages import check_folder, render, write_texts
from rsna_e2e.evaluation.report.thumbnails import Thumbnails
from rsna_e2e.evaluation.suspects.find import Found, Suspect
from rsna_e2e.store import Store
from rsna_e2e.tasks.task import Task
from rsna_e2e.tasks.windows import sharpest_window

PAGE, TABLE = "suspects.html", "suspects.csv"


def check_out(out: Path) -> None:
    """Raise BadInputError when `out` cannot take the page and the table."""
    check_folder(out, example=f"{PAGE} and {TABLE}")


def write_suspects(found: Found, store: Store, task: Task, *, out: Path, n_pictures: int) -> None:
    """Write the table of all suspects, and a page with pictures of the first `n_pictures`, into the folder `out`.

    Files of these names are replaced, each whole or not at all.
    """
    shown = found.suspects[:n_pictures]
    name, window_hu = sharpest_window(task)
    thumbnails = Thumbnails(store, window_hu)
    content: dict[str, Any] = {
        "n_images": found.n_images,
        "suspects": [_row(rank, suspect) for rank, suspect in enumerate(shown, start=1)],
    }
    page = render(
        "suspects.html.j2",
        content,
        unknown="there is no neighbour",
        title="Suspicious labels",
        window=f"{name}, {window_hu[0]:g} ± {window_hu[1] / 2:g}",
        names=[series_name(suspect.series) for suspect in shown],
        pictures=[[image and thumbnails.data_uri(image) for image in suspect.images] for suspect in shown],
    )
    rows = [_row(rank, suspect) for rank, suspect in enumerate(found.suspects, start=1)]
    write_texts(out, {TABLE: as_csv(rows), PAGE: page})


def _row(rank: int, suspect: Suspect) -> dict[str, Any]:
    """A row of the table: what is known of a suspect, without the images of its neighbours."""
    fields = {name: without_nan(value) for name, value in asdict(suspect).items() if name != "images"}
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}
    return {"rank": rank, "image_id": suspect.images[1], **rounded}
