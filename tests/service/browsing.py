"""A browser for tests of the service's pages, which notes what must not happen in any of them."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fake_service import PASSWORD
from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP, PHONE = (1440, 900), (390, 844)

# Violations of the content security policy are kept where the test can read them.
_NOTE_VIOLATIONS = """
window.violations = [];
addEventListener("securitypolicyviolation", (e) => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@contextmanager
def visit(
    started: Browser,
    url: str,
    *,
    name: str = "admin",
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    touch: bool = False,
    may_say: str = "no error",
) -> Iterator[Page]:
    """Open a page as `name`, nobody where that is empty. At the end: no dialog was shown, no script failed, nothing was
    asked of another origin, no rule of the policy was broken, and the console has no error but those with `may_say`."""
    context = started.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=touch, base_url=url
    )
    context.add_init_script(_NOTE_VIOLATIONS)
    if name:
        given = {"name": name, "password": PASSWORD}
        assert context.request.post("/api/v1/login", data=given, headers={"X-Requested-With": "rsna_e2e"}).ok
    page = context.new_page()
    seen: list[str] = []
    page.on("dialog", lambda dialog: (seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: seen.append(f"error {error}"))
    page.on("console", lambda line: seen.append(f"console {line.text}") if line.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(f"{url}/") else seen.append(f"asked {asked.url}"))
    yield page
    broken = page.evaluate("window.violations")
    context.close()
    assert broken == []
    unexpected = [line for line in seen if may_say not in line]
    assert unexpected == [], unexpected


def until(true: Callable[[], Any], *, seconds: float = 5) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
    return value
