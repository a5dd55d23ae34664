"""Which pictures the console shows: a slice of a series in a window, with the heatmap of one model or of all."""

# S side of a picture

from rsna_e2e.core.records import Float32Array, Int16Image
from rsna_e2e.evaluation.report.thumbnails import windowed
from rsna_e2e.inference.activation_maps import Label
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.store import SeriesSpan
from rsna_e2e.tasks.windows import sharpest_window
from rsna_e2e.terminal.picture import overlay
from rsna_e2e.terminal.session import Session


def slice_of(session: Session, span: SeriesSpan, place: int) -> Int16Image:
    """Return slice number `place` of a series, from 0: HU, or a radiograph as it is shown."""
    return shown_slice(session.store, span.first_row + place)


def grey_picture(hu: Int16Image, window_hu: tuple[float, float], *, side: int) -> Float32Array:
    """Return a slice in one window (center, width), fitted into a square of values in [0, 1] [S, S]."""
    picture: Float32Array = windowed(hu, [window_hu], side=side)[0]
    return picture


def share_picture(
    session: Session, number: int, span: SeriesSpan, place: int, label: Label, *, shape: tuple[int, int], side: int
) -> Float32Array:
    """Return the heatmap of model `number` for a label on such a picture [S, S], 0 to 1. shape: of the slice."""
    found: Float32Array = session.maps(number, span, label).on_picture(place, shape, side=side)
    return found


def overlay_picture(
    session: Session,
    span: SeriesSpan,
    place: int,
    label: Label,
    *,
    side: int,
    window_hu: tuple[float, float] | None = None,
) -> Float32Array:
    """Return the overlay of all models for a label on a slice [S, S, 3], by default in the task's narrowest window."""
    hu = slice_of(session, span, place)
    shares = [
        share_picture(session, number, span, place, label, shape=hu.shape, side=side)
        for number in range(len(session.models))
    ]
    return overlay(grey_picture(hu, window_hu or sharpest_window(session.task)[1], side=side), shares)
