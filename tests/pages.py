"""What holds of every page: nothing from outside, and every number as in the JSON file beside it."""

import base64
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any


class PageParser(HTMLParser):
    """Collects every attribute that could load something, and every marked number."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.numbers: list[tuple[str, str, str]] = []
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")
        self._open = dict(attrs) if tag == "data" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.numbers.append((self._open["title"] or "", self._open["value"] or "", data))
            self._open = None


def parsed(page: str) -> PageParser:
    """Return a page's sources and numbers."""
    parser = PageParser()
    parser.feed(page)
    return parser


def pictures(page: str) -> list[bytes]:
    """Return the images inside a page."""
    return [base64.b64decode(source.split(",", 1)[1]) for source in parsed(page).sources]


def assert_self_contained(page: str) -> None:
    """Nothing of the page comes from outside, and it forbids that anything should."""
    for source in parsed(page).sources:
        assert source.startswith("data:image/")
    for picture in pictures(page):
        if not picture.startswith(b"<svg"):
            continue
        drawn = re.sub(r"data:image/[a-z]+;base64,[\w+/=\s]+", "", picture.decode())  # of pictures in it
        outside = re.findall(r"(?:https?:)?//[^\s\"'<>]+", drawn)
        assert {url.rstrip(")") for url in outside} <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert b"@import" not in picture
    assert "http" not in re.sub(r"http-equiv|data:[^\"]+", "", page)
    assert "url(" not in page
    assert "default-src 'none'" in page


def assert_numbers_are_those_of(content: Any, numbers: Iterable[tuple[str, str, str]]) -> None:
    """Every marked number is the one at its place in `content`, and is shown rounded, not changed."""
    for path, value, shown in numbers:
        assert float(value) == look_up(content, path)
        digits = shown.replace(",", "").rstrip("%")
        unit = 100 if shown.endswith("%") else 1
        decimals = len(digits.partition(".")[2])
        margin = 0.5001 * 10.0**-decimals if "e" not in digits else 0.0
        assert abs(float(digits) - unit * float(value)) <= margin, path


def look_up(content: Any, path: str) -> float:
    """Return the number at a dotted path."""
    for key in path.split("."):
        content = content[int(key)] if isinstance(content, list) else content[key]
    return float(content)
