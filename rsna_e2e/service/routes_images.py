"""Routes of what is looked at: slices as numbers, maps over them, pictures and the report of a study."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from rsna_e2e.core.files import read_json
from rsna_e2e.loader.present import shown_slice
from rsna_e2e.service.catalogue import find_result
from rsna_e2e.service.context import (
    Context,
    LabelName,
    Place,
    Reader,
    SeriesKey,
    StudyKey,
    audited,
    context_of,
    not_found,
)
from rsna_e2e.service.folders import HEATMAPS, PICTURES, REPORT, SERIES, STORE, heatmap_name, result_folder
from rsna_e2e.service.routes_studies import Content
from rsna_e2e.store import SeriesSpan, Store

router = APIRouter(prefix="/api/v1/studies/{study}")

_FOR_EVER = "private, max-age=31536000, immutable"  # a year, RFC 9111's customary longest
_BYTES = "application/octet-stream"
_FAST = 1  # gzip's; slower levels gain little on CT
# The report holds its pictures and styles in itself; it may load nothing, and run nothing
_REPORT_CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


def _folder(context: Context, study: str, model: str, content: str) -> Path:
    found = find_result(context.database, study, content=content, model=model)
    if found is None:
        raise not_found("result")
    return result_folder(context.settings, study, *found)


def _caching(content: str, model: str) -> dict[str, str]:
    """Return headers by which an answer is kept, if its address says of which content and by which model it is: that
    never changes."""
    return {"Cache-Control": _FOR_EVER} if content and model else {}


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
def get_series(
    request: Request, caller: Reader, study: StudyKey, series: SeriesKey, model: Content = "", content: Content = ""
) -> dict[str, Any]:
    """The geometry of a series, its windows, and of which labels there are maps."""
    folder = _folder(context_of(request), study, model, content)
    for found in _json(folder / SERIES):
        if found["key"] == series:
            path = folder / PICTURES / HEATMAPS
            maps = _json(path).get(series, {}) if path.exists() else {}  # they come after the result
            sizes = {label: {"height": one["height"], "width": one["width"]} for label, one in maps.items()}
            return dict(found) | {"heatmaps": sizes}
    raise not_found("series")


@router.get("/series/{series}/slices/{place}")
def get_slice(
    request: Request,
    caller: Reader,
    study: StudyKey,
    series: SeriesKey,
    place: Place,
    model: Content = "",
    content: Content = "",
) -> Response:
    """A slice as int16, little endian, rows x columns as the headers say: HU, or grey as it is to be presented."""
    context = context_of(request)
    with _series(context, _folder(context, study, model, content), series) as (store, span):
        if place >= span.n_slices:
            raise not_found("slice")
        values = shown_slice(store, span.first_row + place)
    rows, columns = values.shape
    if place == 0:
        audited(context, request, caller, "view", study)
    headers = {"X-Rows": str(rows), "X-Columns": str(columns), "Vary": "Accept-Encoding"} | _caching(content, model)
    body = values.astype("<i2").tobytes()
    if _takes_gzip(request.headers.get("accept-encoding")):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, _FAST, mtime=0)
    return Response(body, media_type=_BYTES, headers=headers)


@router.get("/series/{series}/heatmaps/{label}/{place}")
def get_heatmap(
    request: Request,
    caller: Reader,
    study: StudyKey,
    series: SeriesKey,
    label: LabelName,
    place: Place,
    model: Content = "",
    content: Content = "",
) -> Response:
    """The map of a slice for a label, height x width of uint8, of which 255 is the brightest of the series.

    X-Affine: six numbers a to f, from a cell of the map at column x, row y, counted at centres from 0, to the slice's
    column a x + b y + c and row d x + e y + f.
    """
    context = context_of(request)
    folder = _folder(context, study, model, content) / PICTURES
    found = _json(folder / HEATMAPS).get(series, {}).get(label)
    if found is None or place >= len(found["affine"]):
        raise not_found("map")
    n_bytes = found["height"] * found["width"]
    with _open(folder / heatmap_name(series, label)) as file:
        file.seek(place * n_bytes)
        values = file.read(n_bytes)
    headers = {"X-Affine": ",".join(f"{number:.6g}" for number in found["affine"][place])} | _caching(content, model)
    return Response(values, media_type=_BYTES, headers=headers)


@router.get("/series/{series}/pictures/{place}.png")
def get_picture(
    request: Request,
    caller: Reader,
    study: StudyKey,
    series: SeriesKey,
    place: Place,
    label: Annotated[str, Query(pattern="^[a-z0-9_]{1,64}$")],
    has_map: bool = False,
    model: Content = "",
    content: Content = "",
) -> Response:
    """The picture of a key slice of a label, plain or with the map over it."""
    folder = _folder(context_of(request), study, model, content) / PICTURES
    name = f"{label}-{series}-{place:04d}{'-map' if has_map else ''}.png"
    if not (folder / name).is_file():
        raise not_found("picture")
    return FileResponse(folder / name, media_type="image/png", headers=_caching(content, model))


@router.get("/report.html")
def get_report(
    request: Request, caller: Reader, study: StudyKey, model: Content = "", content: Content = ""
) -> Response:
    """The report of a study as a page that holds all it shows."""
    context = context_of(request)
    path = _folder(context, study, model, content) / PICTURES / REPORT
    if not path.is_file():
        raise not_found("report")
    audited(context, request, caller, "download", study)
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": _REPORT_CSP})


@contextmanager
def _series(context: Context, folder: Path, series: str) -> Iterator[tuple[Store, SeriesSpan]]:
    try:
        with context.stores.read(folder / STORE) as store:
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
