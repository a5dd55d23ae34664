"""A stand-in for the service that answers as it does, with studies of known content, and with faults when asked."""

import gzip
import json
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from known_studies import (
    HOSTILE,
    LABELS,
    MODEL,
    RIGHT_TO_LEFT,
    XRAY_MODEL,
    Series,
    chest,
    head,
    result_json,
    series_json,
    stretched,
)

from rsna_e2e.service.theme_css import theme_css

WEB = Path(__file__).parents[2] / "rsna_e2e" / "service" / "web"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PASSWORD = "correct horse"
HEAD, XRAY, WAITING = "9c1f0a0000000001", "9c1f0a0000000002", "9c1f0a0000000003"

Answer = tuple[int, dict[str, str], bytes]


class Studies:
    """What the service knows; `changed` is notified with each new version."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 1
        self.sessions: dict[str, dict[str, str]] = {}
        self.tokens = {"once-only"}
        self.faults: list[tuple[str, int, dict[str, str]]] = []  # pattern of "METHOD path", status, headers
        self.requests: list[str] = []
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.series: dict[str, list[Series]] = {
            HEAD: [head(37, 256, 256, key="5e485c6d00000001", seed=1), stretched()],
            XRAY: [chest()],
        }
        self.items: dict[str, dict[str, Any]] = {}
        self.add(HEAD, "PAT-0042", "done", headline="any", labels=LABELS, sentence=None)
        self.add(XRAY, HOSTILE, "done", headline="opacity", labels=["opacity"], sentence=HOSTILE)
        self.add(WAITING, RIGHT_TO_LEFT, "running")
        self.add("9c1f0a0000000004", "PAT-0007", "refused", reason="no_ct_slice", refused={"localizer": 2})
        self.add("9c1f0a0000000005", "PAT-0008", "dead", reason="out_of_memory")
        self.add("9c1f0a0000000006", "PAT-0009", "queued")
        self.add("9c1f0a0000000007", "PAT-0010", "arriving")

    def add(self, study: str, patient: str, state: str, *, labels: Sequence[str] = (), **given: Any) -> None:
        series = self.series.get(study, [])
        model = MODEL if study == HEAD else XRAY_MODEL
        self.results = getattr(self, "results", {})
        scores = {}
        if series:
            self.results[study] = result_json(study, model, list(labels), series)
            scores = {label["name"]: label["probability"] for label in self.results[study]["labels"]}
        generation = {"content": "aa" * 8, "model": model, "superseded": False, "finished": "2026-11-30T09:20:05Z"}
        generation["pictures"] = "done"
        old = generation | {"content": "bb" * 8, "superseded": True, "finished": "2026-11-29T18:03:00Z"}
        self.items[study] = {
            "study": study,
            "identity": {"patient_id": patient, "accession": f"A{study[-3:]}", "study_date": "20261129"},
            "state": state,
            "received": f"2026-11-30T09:1{int(study[-1], 16) % 10}:00Z",
            "n_files": 38,
            "n_slices": sum(len(one.pixels) for one in series) or None,
            "scores": scores,
            "above": [label["name"] for label in self.results[study]["labels"] if label["above"]] if series else [],
            "headline": given.pop("headline", "any"),
            "sentence": given.pop("sentence", None) or (self.results[study]["sentence"] if series else None),
            "superseded": False,
            "reason": given.pop("reason", None),
            "refused": given.pop("refused", {"localizer": 1} if series else {}),
            "generations": [generation, old] if series else [],
            "attempts": 3 if state == "dead" else 1,
            "timing_s": {},
        }

    def change(self, study: str, **values: Any) -> None:
        with self.changed:
            self.items[study] |= values
            self.version += 1
            self.changed.notify_all()

    def page(self, asked: dict[str, str]) -> dict[str, Any]:
        """Items that match, the requested ones of them, after a change where the query wants to wait for one."""
        with self.changed:
            if asked.get("after"):
                self.changed.wait_for(lambda: self.version != int(asked["after"]), timeout=float(asked.get("wait", 0)))
            label, least = asked.get("label"), float(asked.get("min") or 0)
            items = [
                item
                for item in self.items.values()
                if item["state"] == (asked.get("state") or item["state"])
                and item["scores"].get(label or item["headline"], -1) >= (least or (0 if label else -1))
                and asked.get("patient", "") in item["identity"]["patient_id"]
            ]
            by_score = asked.get("sort") != "time"
            items.sort(key=lambda i: i["scores"].get(i["headline"], -1) if by_score else i["received"], reverse=True)
            start, limit = int(asked.get("cursor") or 0), int(asked.get("limit", 50))
            following = start + limit if start + limit < len(items) else None
            return {"items": items[start : start + limit], "next": following, "version": self.version}


class Server(ThreadingHTTPServer):
    """One thread a request, as a page asks for several things at once."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of browsers that leave in the middle of an answer, and all of other faults."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other. `studies` is set by `serving`."""

    studies: Studies
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  # names that http.server asks for

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(url.path)
        line = f"{self.command} {self.path}"
        self.studies.requests.append(line)
        status, headers, body = self._faulty(line) or self._routed(path)
        self.send_response(status)
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _faulty(self, line: str) -> Answer | None:
        for fault in self.studies.faults:
            if re.search(fault[0], line):
                self.studies.faults.remove(fault)
                return problem(fault[1], "made_up", "a fault that the test asked for", **fault[2])
        return None

    def _routed(self, path: str) -> Answer:
        if path == "/static/theme.css":
            return 200, {"Content-Type": "text/css"}, theme_css().encode()
        if path.startswith("/static/"):
            return self._file(path.removeprefix("/static/"))
        cookie = re.search(r"session=(\w+)", self.headers.get("Cookie", ""))
        session = self.studies.sessions.get(cookie[1]) if cookie else None
        if path == "/login":
            return self._file("login.html")
        if path == "/":
            return self._file("index.html") if session else (303, {"Location": "/login"}, b"")
        if path == "/api/v1/login":
            return self._log_in()
        if session is None:
            return problem(401, "not_logged_in", "log in first")
        if self.command != "GET" and self.headers.get("X-Requested-With") != "rsna_e2e":
            return problem(403, "cross_site", "X-Requested-With is missing")
        for method, pattern, answer in ROUTES:
            if method == self.command and (match := re.fullmatch(f"/api/v1{pattern}", path)):
                return answer(self, session, *match.groups())
        return problem(404, "not_found", "no such thing")

    def _file(self, name: str) -> Answer:
        path = WEB / Path(name).name
        return (
            (200, {"Content-Type": TYPES[path.suffix]}, path.read_bytes()) if path.is_file() else problem(404, "", "")
        )

    def _log_in(self) -> Answer:
        given = json.loads(self.body)
        if given.get("token") in self.studies.tokens:
            self.studies.tokens.discard(given["token"])
            name = "admin"
        elif given.get("password") == PASSWORD:
            name = given["name"]
        else:
            return problem(401, "wrong_credentials", "name or password is wrong")
        key = secrets.token_hex(16)
        self.studies.sessions[key] = {"name": name, "role": "admin" if name == "admin" else "read"}
        cookie = {"Set-Cookie": f"session={key}; HttpOnly; SameSite=Strict; Path=/"}
        return as_json(self.studies.sessions[key], **cookie)

    def _log_out(self, session: dict[str, str]) -> Answer:
        self.studies.sessions = {key: own for key, own in self.studies.sessions.items() if own is not session}
        return 204, {}, b""

    def _me(self, session: dict[str, str]) -> Answer:
        return as_json(session | {"csrf": "unused"})

    def _models(self, session: dict[str, str]) -> Answer:
        ct = MODEL | {"labels": LABELS, "headline": "any"}
        xray = XRAY_MODEL | {"labels": ["opacity"], "headline": "opacity"}
        return as_json([ct, xray])

    def _list(self, session: dict[str, str]) -> Answer:
        return as_json(self.studies.page(self.asked))

    def _study(self, session: dict[str, str], study: str) -> Answer:
        if study not in self.studies.items:
            return problem(404, "no_such_study", "no study of that name")
        with self.studies.changed:
            version = self.studies.version
            self.studies.changed.wait_for(
                lambda: self.studies.version != version, timeout=float(self.asked.get("wait", 0))
            )
        return as_json(self.studies.items[study])

    def _result(self, session: dict[str, str], study: str) -> Answer:
        return as_json(self.studies.results[study])

    def _series(self, session: dict[str, str], study: str, key: str) -> Answer:
        return as_json(series_json(self._found(study, key)))

    def _found(self, study: str, key: str) -> Series:
        return next(one for one in self.studies.series[study] if one.key == key)

    def _slice(self, session: dict[str, str], study: str, key: str, place: str) -> Answer:
        packed = gzip.compress(self._found(study, key).pixels[int(place)].tobytes(), compresslevel=1)
        return 200, BINARY | {"Content-Encoding": "gzip"}, packed

    def _map(self, session: dict[str, str], study: str, key: str, label: str, place: str) -> Answer:
        series = self._found(study, key)
        if label not in series.maps:
            return problem(404, "no_map", f"no map of {label}")
        affine = ",".join(f"{value:g}" for value in series.affine)
        return 200, BINARY | {"X-Affine": affine}, series.maps[label][int(place)].tobytes()

    def _upload(self, session: dict[str, str]) -> Answer:
        upload = f"u_{secrets.token_hex(8)}"
        self.studies.uploads[upload] = {}
        return as_json({"upload": upload}, status=201)

    def _put(self, session: dict[str, str], upload: str, number: str) -> Answer:
        if b"DICM" not in self.body:
            return problem(422, "refused_file", "not_dicom")
        self.studies.uploads[upload][int(number)] = self.body
        return as_json({"study": WAITING})

    def _accepted(self, session: dict[str, str], *_: str) -> Answer:
        time.sleep(0.05)
        return as_json({"studies": [{"study": WAITING, "state": "queued", "url": ""}], "refused": {}}, status=202)

    def _retry(self, session: dict[str, str], study: str) -> Answer:
        self.studies.change(study, state="queued", reason=None)
        return as_json({}, status=202)

    def _delete(self, session: dict[str, str], study: str) -> Answer:
        if session["role"] != "admin":
            return problem(403, "role", "needs the role admin")
        self.studies.items.pop(study)
        with self.studies.changed:
            self.studies.version += 1
            self.studies.changed.notify_all()
        return 204, {}, b""


BINARY = {"Content-Type": "application/octet-stream", "Cache-Control": "private, max-age=31536000, immutable"}
_S = "/studies/([0-9a-f]{8,64})"
_K = f"{_S}/series/([0-9a-f]{{8,64}})"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/me", Handler._me),
    ("POST", "/logout", Handler._log_out),
    ("GET", "/models", Handler._models),
    ("GET", "/studies", Handler._list),
    ("POST", "/studies", Handler._accepted),
    ("GET", _S, Handler._study),
    ("DELETE", _S, Handler._delete),
    ("POST", f"{_S}/retry", Handler._retry),
    ("GET", f"{_S}/result", Handler._result),
    ("GET", _K, Handler._series),
    ("GET", f"{_K}/slices/(\\d+)", Handler._slice),
    ("GET", f"{_K}/heatmaps/([^/]+)/(\\d+)", Handler._map),
    ("POST", "/uploads", Handler._upload),
    ("PUT", "/uploads/(u_[0-9a-f]{16})/files/(\\d+)", Handler._put),
    ("POST", "/uploads/(u_[0-9a-f]{16})/complete", Handler._accepted),
]


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


def problem(status: int, code: str, detail: str, **headers: str) -> Answer:
    body = {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail, "instance": ""}
    return status, {"Content-Type": "application/problem+json", **headers}, json.dumps(body).encode()


@contextmanager
def serving(port: int = 0) -> Iterator[tuple[str, Studies]]:
    """Serve in a thread on the loopback interface; yield the address and what can be changed behind it."""
    studies = Studies()
    server = Server(("127.0.0.1", port), type("Own", (Handler,), {"studies": studies}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", studies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
