"""What bin/demo_serve.sh does: serves the model of a demo, sends it studies, takes pictures of its pages, and stops it.

Usage: demo_serve.py OUT PORT. Whatever fails, the service is stopped, the end of its log is shown, and the exit code is
not 0.
"""

import io
import os
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from browser import Browser, BrowserError, find_browser
from demo_service import LOOK_S, PATIENCE_S, Client, Service, StepError, end_session, run_verb

from rsna_e2e.core.errors import RsnaError
from rsna_e2e.core.files import lock_folder
from rsna_e2e.store import Store

N_STUDIES = 5
WIDTHS = {1440: 900, 390: 844}  # px of a page, and its height: a laptop and a telephone
MAP_S = 5.0  # for a map, of which a study where nothing is found has none
BAD_INPUT = 3  # as the program itself ends where input is missing

# In the pages: all studies are done; the slice is there; the overlay is on, and the map, if the label has one, drawn
LISTED = "document.querySelectorAll('.worklist [data-study] .badge.done').length === {n}"
SHOWN = (
    "document.querySelector('.viewer .message')?.textContent === ''"
    " && document.querySelector('.viewer .top-left').textContent !== ''"
)
OVERLAID = "document.querySelector('.viewer [aria-pressed=true]') !== null"
MAP = "document.querySelector('.viewer canvas.map')"
MAPPED = f"{MAP}.getContext('2d').getImageData(0, 0, {MAP}.width, {MAP}.height).data.some((value) => value)"
PRESS_H = "void document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'h', bubbles: true}))"


def main(out: Path, port: str) -> None:
    """Go through all steps. Raises StepError."""
    for name in ("raw", "store", "run"):
        if not (out / name).exists():
            raise StepError(f"{out / name} is missing. Make it: bin/demo.sh {out}", BAD_INPUT)
    studies = studies_of(out)
    bundle, data, served = out / "model.rsna", out / "service", out / "served"
    run_verb("export", str(out / "run"), "--out", str(bundle), "--licence", "Apache-2.0")
    make_anew(data)
    shutil.rmtree(served, ignore_errors=True)
    served.mkdir()
    with Service(bundle, data, port, log=served / "service.log") as service:
        token = run_verb("serve-admin", "--data", str(data), "token", "add", "demo", "--role", "upload").strip()
        client = Client(service.address, token)
        service.wait_until_ready(client)
        for files in studies:
            print(send(client, files), flush=True)
        worst = wait_for_pictures(client)
        (served / "report.html").write_bytes(client.ask(f"/api/v1/studies/{worst}/report.html"))
        take_pictures(service, worst, len(studies), served)
    print(f"demo_serve: stopped, and nothing of it is left running. {served} has the report, the log and the pictures.")
    print(f"To look at these studies yourself: rsna-e2e serve {bundle} --data {data}")


def studies_of(out: Path) -> list[list[Path]]:
    """Return the files of the first studies of the test split, study by study. Raises StepError."""
    images: dict[str, list[str]] = {}
    try:
        with closing(Store.open(out / "store")) as store:
            for span in store.series:
                if span.split == "test":
                    rows = slice(span.first_row, span.first_row + span.n_slices)
                    images.setdefault(span.study_uid, []).extend(store.index["image_id"][rows])
    except RsnaError as error:
        raise StepError(str(error), error.exit_code) from None
    files = {path.stem: path for path in (out / "raw").rglob("*.dcm")}
    wanted = list(images.values())[:N_STUDIES]
    missing = [name for names in wanted for name in names if name not in files]
    if missing or not wanted:
        why = f"lacks {len(missing)} files of the test split of {out / 'store'}" if missing else "has no test split"
        raise StepError(f"{out / 'raw'}: {why}. Make both anew: bin/demo.sh", BAD_INPUT)
    return [[files[name] for name in names] for names in wanted]


def make_anew(data: Path) -> None:
    """Remove what an earlier demo left in the service's folder. Raises StepError while a service runs with it."""
    if data.exists():
        try:
            os.close(lock_folder(data))
        except BlockingIOError:
            raise StepError(f"{data}: a service runs with these data. Stop it first", BAD_INPUT) from None
        shutil.rmtree(data)


def send(client: Client, files: list[Path]) -> str:
    """Send a study as a zip archive, wait for its result, and return a line on both. Raises StepError."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in files:
            archive.write(path, path.name)
    started_s = time.monotonic()
    (taken,) = client.ask_json("/api/v1/studies?wait=60", content.getvalue())["studies"]
    found = client.ask_json(f"{taken['url']}?wait=60")
    elapsed_s = time.monotonic() - started_s
    if found["state"] != "done":
        raise StepError(
            f"study {taken['study']}: {found['state']} after {elapsed_s:.1f} s, {found['reason'] or 'no result'}"
        )
    size = f"{found['n_slices']} slices, {len(content.getvalue()) / 2**20:.1f} MiB"
    return f"study {taken['study']}: {size}, from upload to result {elapsed_s:.1f} s\n  {found['sentence']}"


def wait_for_pictures(client: Client) -> str:
    """Wait for the pictures and the page of every study; return the study with the highest score. Raises StepError."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        items = client.ask_json("/api/v1/studies?sort=score")["items"]
        states = [item["pictures"] for item in items]
        if all(state == "done" for state in states):
            return str(items[0]["study"])
        if "failed" in states or time.monotonic() > until_s:
            raise StepError(f"pictures of studies were not made: {', '.join(states)}")
        time.sleep(LOOK_S)


def take_pictures(service: Service, study: str, n_studies: int, folder: Path) -> None:
    """Log in by the link and save pictures of the list and of a study, without and with the map. Raises StepError."""
    program = find_browser()
    if program is None:
        print("demo_serve: no chromium is installed, so there are no pictures of the pages")
        return
    browser = Browser(program, Path(tempfile.mkdtemp(prefix="rsna_e2e-browser-")))
    try:
        with browser:
            browser.visit(service.link)
            browser.wait(LISTED.format(n=n_studies))
            for width, height in WIDTHS.items():
                browser.resize(width, height)
                browser.visit(f"{service.address}/#/")
                browser.wait(LISTED.format(n=n_studies))
                browser.save(folder / f"list-{width}.png")
                browser.visit(f"{service.address}/#/study/{study}")
                browser.wait(SHOWN)
                browser.save(folder / f"series-{width}.png")
                browser.value(PRESS_H)
                browser.wait(OVERLAID)
                browser.comes_to(MAPPED, within_s=MAP_S)
                browser.save(folder / f"map-{width}.png")
    except BrowserError as error:
        raise StepError(f"no picture of a page: {error}") from None
    finally:
        n_left = end_session(browser.process.pid)
    if n_left:
        raise StepError(f"{n_left} processes of the browser had to be killed")


def stop(number: int, *_: object) -> NoReturn:
    """End as after an error, so that the service is stopped; a further signal does not disturb that."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise StepError("stopped by a signal", 128 + number)


if __name__ == "__main__":
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, stop)
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except StepError as error:
        print(f"demo_serve: {error}", file=sys.stderr)
        sys.exit(error.code)
