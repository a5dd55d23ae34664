"""Routes of what is looked at: slices as numbers, maps over them, pictures and the report of a study."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from rsna_e2e.core.files import read_json
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.service.context import (
    LabelName,
    Place,
    SeriesKey,
    not_found,
)
from rsna_e2e.service.folders import HEATMAPS, PICTURES, REPORT, SERIES, STORE, heatmap_name
from rsna_e2e.service.shown import Shown, ShownResult
from rsna_e2e.store import SeriesSpan, Store

router = APIRouter(prefix="/api/v1/studies/{study}")

_BYTES = "application/octet-stream"
_FAST = 1  # gzip's; slower levels gain little on CT
# The report holds its pictures and styles in itself; it may load nothing, and run nothing
_REPORT_CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


def _takes_gzip(accepted: str | None) -> bool:
    """Whether an Accept-Encoding header allows gzip (RFC 9110 12.5.3); without one, anything may be sent."""
    if accepted is None:
        return True
    weights = {}
    for one in accepted.lower().split(","):
        name, _, parameter = one.partition(";")
        weights[name.strip()] = parameter.replace(" ", "").removeprefix("q=") or "1"
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", "0")))
    return weight.strip("0.") != ""


@router.get("/series/{series}")
def get_series(shown: Shown, series: SeriesKey) -> dict[str, Any]:
    """The geometry of a series, its windows, and of which labels there are maps."""
    for found in _json(shown.folder / SERIES):
        if found["key"] == series:
            path = shown.folder / PICTURES / HEATMAPS
            maps = _json(path).get(series, {}) if path.exists() else {}  # they come after the result
            sizes = {label: {"height": one["height"], "width": one["width"]} for label, one in maps.items()}
            return dict(found) | {"heatmaps": sizes}
    raise not_found("series")


@router.get("/series/{series}/slices/{place}")
def get_slice(request: Request, shown: Shown, series: SeriesKey, place: Place) -> Response:
    """A slice as int16, little endian, rows x columns as the headers say: HU, or grey as it is to be presented."""
    with _series(shown, series) as (store, span):
        if place >= span.n_slices:
            raise not_found("slice")
        values = shown_slice(store, span.first_row + place)
    if place == 0:
        shown.note("view")
    rows, columns = values.shape
    headers = {"X-Rows": str(rows), "X-Columns": str(columns), "Vary": "Accept-Encoding"} | shown.caching
    body = values.astype("<i2").tobytes()
    if _takes_gzip(request.headers.get("accept-encoding")):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, _FAST, mtime=0)
    return Response(body, media_type=_BYTES, headers=headers)


@router.get("/series/{series}/heatmaps/{label}/{place}")
def get_heatmap(shown: Shown, series: SeriesKey, label: LabelName, place: Place) -> Response:
    """The map of a slice for a label, height x width of uint8, of which 255 is the brightest of the series.

    X-Affine: six numbers a to f, from a cell of the map at column x, row y, counted at centres from 0, to the slice's
    column a x + b y + c and row d x + e y + f.
    """
    folder = shown.folder / PICTURES
    found = _json(folder / HEATMAPS).get(series, {}).get(label)
    if found is None or place >= len(found["affine"]):
        raise not_found("map")
    n_bytes = found["height"] * found["width"]
    with _open(folder / heatmap_name(series, label)) as file:
        file.seek(place * n_bytes)
        values = file.read(n_bytes)
    headers = {"X-Affine": ",".join(f"{number:.6g}" for number in found["affine"][place])} | shown.caching
    return Response(values, media_type=_BYTES, headers=headers)


@router.get("/series/{series}/pictures/{place}.png")
def get_picture(
    shown: Shown,
    series: SeriesKey,
    place: Place,
    label: Annotated[str, Query(pattern="^[a-z0-9_]{1,64}$")],
    marks: Literal["", "map", "boxes"] = "",
) -> Response:
    """The picture of a key slice of a label, plain, or marked with the map or the boxes."""
    path = shown.folder / PICTURES / f"{label}-{series}-{place:04d}{f'-{marks}' if marks else ''}.png"
    if not path.is_file():
        raise not_found("picture")
    return FileResponse(path, media_type="image/png", headers=shown.caching)


@router.get("/report.html")
def get_report(shown: Shown) -> Response:
    """The report of a study as a page that holds all it shows."""
    path = shown.folder / PICTURES / REPORT
    if not path.is_file():
        raise not_found("report")
    shown.note("download")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_CSP})


@contextmanager
def _series(shown: ShownResult, series: str) -> Iterator[tuple[Store, SeriesSpan]]:
    try:
        with shown.context.stores.read(shown.folder / STORE) as store:
            span = next((span for span in store.series if span.series_key == series), None)
            if span is None:
                raise not_found("series")
            yield store, span
    except FileNotFoundError:
        raise not_found("series") from None


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise not_found("map") from None


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise not_found("result") from None
