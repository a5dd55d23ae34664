"""The pages on the service itself: files are sent from the browser, predicted, looked at, and deleted."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("playwright")

from browsing import browser, visit
from playwright.sync_api import Page, expect
from services import Service, write_study

from rsna_e2e.store import Store

pytestmark = [pytest.mark.needs_browser, pytest.mark.needs_serve]


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("service") / "data"
    made = Service(data, bundle, settings="quiet_s: 0.3\nlimits: {free_bytes: 0}\n")
    made.start()
    made.wait_until_ready()
    yield made
    assert made.stop() == 0


def test_from_the_file_to_the_picture(service: Service, tmp_path: Path) -> None:
    """By the token that the service was given; one file is no image."""
    url = str(service.client.base_url).rstrip("/")
    (tmp_path / "notes.txt").write_text("no image")
    files = [*write_study(tmp_path, 1, 7), tmp_path / "notes.txt"]
    with browser() as started, visit(started, url, name="", may_say="status of 422") as page:
        page.goto(f"/login#token={service.token}")
        expect(page.locator(".list-head .note").first).to_contain_text("No studies yet")
        page.set_input_files("[aria-label='Send DICOM files, PNG, JPEG or zips']", files)
        expect(page.locator("#uploads")).to_contain_text("Sent 7 of 8 files, 1 refused.")
        expect(page.locator("#uploads .refused")).to_contain_text("not DICOM, PNG or JPEG")
        page.click("#uploads >> text=Close")
        expect(page.locator(".badge")).to_have_text("Done", timeout=60_000)
        page.click(".who a")
        expect(page.locator("h1")).to_contain_text("p1")
        expect(page.locator(".message")).to_be_empty()
        _see(page, service)
        for name in ("Report", "Picture of this slice", "model card"):
            link = page.get_by_role("link", name=name)
            expect(link).to_be_visible(timeout=60_000)  # pictures come after the result
            assert page.request.get(f"{url}{link.get_attribute('href')}").ok
        page.click("text=Delete…")
        page.click("#confirm-yes")
        expect(page.locator(".list-head .note").first).to_contain_text("No studies yet")


def _see(page: Page, service: Service) -> None:
    """Slices and maps are those of the store and the result."""
    (found,) = service.client.get("/api/v1/studies").json()["items"]
    result = service.client.get(f"/api/v1/studies/{found['study']}/result").json()
    folder = f"{found['content']}-{result['model']['identity']}"
    store = Store.open(service.data / "studies" / found["study"] / folder / "store")
    place = int(page.get_attribute(".plot", "aria-valuenow") or 0) - 1
    label = page.evaluate("document.querySelector('[aria-label=Label]').selectedIndex")
    name, shown = result["labels"][label]["name"], f"{result['series'][0]['probability'][place][label]:.2f}"
    assert page.get_attribute(".slice", "aria-label") == f"Slice {place + 1} of 7, {name} {shown}"
    row, column = 20, 9
    box = page.locator(".slice").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 32, box["y"] + (row + 0.5) * box["height"] / 32)
    hu = int(np.asarray(store.read_slice(place))[row, column])
    assert page.inner_text(".bottom-right") == f"{hu} HU\ncolumn 9  row 20"
    expect(page.get_by_role("link", name="Report")).to_be_visible(timeout=60_000)
    page.keyboard.press("h")
    expect(page.locator(".top-right")).to_contain_text("heatmap")
