"""The viewer in a browser: pixels, overlay, geometry, strip, keys, gestures and memory, against numbers from NumPy."""

import base64
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("playwright")

from browsing import PHONE, browser, until, visit
from fake_service import HEAD, XRAY, Studies, serving
from known_studies import LABELS, SUBDURAL
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.needs_browser

BRAIN, SUBDURAL_WINDOW, SOFT, BONE, STROKE = (40, 80), (80, 200), (40, 380), (600, 2800), (32, 8)
STRETCHED = f"/#/study/{HEAD}/a51b00d200000002"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Studies]]:
    with serving() as served:
        yield served


@pytest.fixture
def page(chromium: Browser, service: tuple[str, Studies]) -> Iterator[Page]:
    with visit(chromium, service[0]) as opened:
        yield opened


def open_series(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector(".stage")
    loaded(page)


def loaded(page: Page) -> None:
    """Wait until the slice is drawn."""
    page.evaluate("new Promise(requestAnimationFrame)")  # what a key changed is shown in the next frame
    expect(page.locator(".message")).to_be_empty()


def drawn(page: Page, canvas: str) -> npt.NDArray[np.uint8]:
    """What is on a canvas: [H, W, 4]."""
    width, height, text = page.evaluate(
        """(canvas) => {
          const { width, height } = document.querySelector(canvas);
          const { data } = document.querySelector(canvas).getContext("2d").getImageData(0, 0, width, height);
          let text = "";
          for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
          return [width, height, btoa(text)];
        }""",
        canvas,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def shown_slice(page: Page) -> int:
    return int(page.get_attribute(".plot", "aria-valuenow") or 0)


def test_pixels_are_those_of_numpy(page: Page, service: tuple[str, Studies]) -> None:
    """In each window, of every value, also at the ends of int16; halves go to the even neighbour."""
    open_series(page, f"/#/study/{HEAD}?slice=17")
    hu = service[1].series[HEAD][0].pixels[16].astype(np.float64)
    for center, width in (BRAIN, SUBDURAL_WINDOW, SOFT, BONE, STROKE):
        expect(page.locator(".bottom-left")).to_contain_text(f"C {center}  W {width}")
        grey = np.rint(np.clip((hu - (center - width / 2)) / width, 0, 1) * 255)
        picture = drawn(page, ".slice")
        np.testing.assert_array_equal(picture[..., :3], np.repeat(grey[..., None], 3, axis=2))
        assert (picture[..., 3] == 255).all()
        page.keyboard.press("w")
    expect(page.locator(".bottom-left")).to_contain_text("C 40  W 80")  # the first again


def test_the_overlay_is_where_its_affine_says(page: Page, service: tuple[str, Studies]) -> None:
    series = service[1].series[HEAD][0]
    map_hw = series.maps["subdural"][16].astype(np.float64)
    v, u = np.mgrid[: map_hw.shape[0], : map_hw.shape[1]]
    x, y = (np.average(axis, weights=map_hw) for axis in (u, v))
    a, b, c, d, e, f = series.affine
    open_series(page, f"/#/study/{HEAD}?slice=17&label=subdural")
    assert not drawn(page, ".map").any()  # off at the start
    page.keyboard.press("h")
    until(lambda: drawn(page, ".map").any())
    assert page.evaluate("Number(document.querySelector('.map').style.opacity)") >= 0.85  # plain over bone too
    alpha = drawn(page, ".map")[..., 3].astype(np.float64)
    row, column = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    middle = [np.average(axis, weights=alpha) for axis in (column, row)]
    assert middle == pytest.approx([a * x + b * y + c, d * x + e * y + f], abs=0.3)  # px; drawing interpolates
    strongest = drawn(page, ".map")[alpha == alpha.max()][0, :3]
    assert strongest.tolist() == pytest.approx([0xF7, 0x9B, 0x5A], abs=1)  # vermilion on dark; alpha rounds it
    page.keyboard.press("1")
    expect(page.locator(".top-right")).to_contain_text("no map of epidural")
    assert not drawn(page, ".map").any()


def test_pixels_have_their_shape_and_values_under_the_cursor(page: Page, service: tuple[str, Studies]) -> None:
    """A pixel that is twice as high as wide is drawn so; the value shown is its own, also zoomed and panned."""
    open_series(page, STRETCHED)
    pixels = service[1].series[HEAD][1].pixels[0]
    frame = page.locator(".slice").bounding_box()
    assert frame is not None
    assert frame["height"] / frame["width"] == pytest.approx(64 * 1.0 / (128 * 0.5))

    def at(column: int, row: int) -> str:
        box = page.locator(".slice").bounding_box()
        assert box is not None
        x, y = box["x"] + (column + 0.5) * box["width"] / 128, box["y"] + (row + 0.5) * box["height"] / 64
        page.mouse.move(x, y)
        return page.inner_text(".bottom-right")

    for column, row in ((0, 0), (64, 32), (127, 63), (40, 20)):
        assert at(column, row) == f"{pixels[row, column]} HU\ncolumn {column}  row {row}"
    at(70, 30)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)  # zooms by e, about the pixel
    page.keyboard.up("Control")
    assert page.locator(".slice").bounding_box()["width"] == pytest.approx(frame["width"] * np.e, rel=1e-3)  # type: ignore[index]
    assert at(70, 30) == f"{pixels[30, 70]} HU\ncolumn 70  row 30"
    page.mouse.down(button="middle")
    page.mouse.move(700, 300, steps=3)
    page.mouse.up(button="middle")
    assert at(70, 30) == f"{pixels[30, 70]} HU\ncolumn 70  row 30"
    page.keyboard.press("r")
    assert page.locator(".slice").bounding_box() == frame


def test_orientation_letters_and_flags(page: Page) -> None:
    open_series(page, f"/#/study/{HEAD}")
    sides = ("left", "right", "top", "bottom")
    assert [page.inner_text(f".edge.{side}") for side in sides] == ["R", "L", "AH", "PF"]
    assert "Gaps in which 2 more slices would fit" in page.inner_text(".flags")
    assert "Text burned into the pixels" in page.inner_text(".flags")
    letters = page.evaluate("import('/static/pixels.js').then(({edgeLetters}) => edgeLetters([0, 1, 0], [0, 0, -1]))")
    assert letters == {"left": "A", "right": "P", "top": "H", "bottom": "F"}  # sagittal: PS3.3 C.7.6.2


def test_the_strip_says_where_and_how_probable(page: Page, service: tuple[str, Studies]) -> None:
    probability = service[1].series[HEAD][0].probability
    open_series(page, f"/#/study/{HEAD}?slice=21&label=subdural")
    plot = page.locator(".plot")
    assert plot.get_attribute("aria-valuetext") == f"slice 21 of 37, subdural {probability[20, SUBDURAL]:.2f}"
    plot.focus()
    page.keyboard.press("ArrowRight")
    expect(plot).to_have_attribute("aria-valuetext", f"slice 22 of 37, subdural {probability[21, SUBDURAL]:.2f}")
    box = plot.bounding_box()
    assert box is not None
    # 37 slices of 5 mm and a hole of 10 mm after slice 28, from half a step before the first to half after the last
    for slice_number, place_mm in ((1, 0), (28, 135), (29, 150), (37, 190)):
        page.mouse.click(box["x"] + box["width"] * (place_mm + 2.5) / 195, box["y"] + 100)
        expect(plot).to_have_attribute("aria-valuenow", str(slice_number))
    gap = page.locator(".gap").bounding_box()
    assert gap is not None
    assert (gap["x"] - box["x"]) / box["width"] == pytest.approx(140 / 195, abs=2e-3)
    assert gap["width"] / box["width"] == pytest.approx(10 / 195, abs=2e-3)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 1, box["y"] + 100, steps=4)
    page.mouse.up()
    expect(plot).to_have_attribute("aria-valuenow", "1")
    page.click("text=Probabilities as a table")
    shown = [[float(text) for text in row.split("\t")[2:]] for row in page.inner_text("tbody").splitlines()]
    np.testing.assert_allclose(shown, probability, atol=0.00501)


def test_keys(page: Page, service: tuple[str, Studies]) -> None:
    keys = sorted(
        key["place"] + 1 for key in service[1].results[HEAD]["labels"][SUBDURAL]["key_slices"] if len(key["series"])
    )
    open_series(page, f"/#/study/{HEAD}?slice=10&label=subdural")
    for key, number in (
        *(("ArrowDown", 11), ("ArrowUp", 10), ("PageDown", 15), ("PageUp", 10), ("End", 37), ("ArrowDown", 37)),
        *(("Home", 1), ("ArrowUp", 1), ("n", keys[0]), ("n", keys[1]), ("p", keys[0]), ("p", keys[-1]), ("n", keys[0])),
    ):
        page.keyboard.press(key)
        expect(page.locator(".plot")).to_have_attribute("aria-valuenow", str(number))
    page.keyboard.press(str(LABELS.index("any") + 1))
    expect(page.locator(".plot")).to_have_attribute("aria-valuetext", re.compile("any"))
    page.keyboard.press("9")  # there is no ninth
    expect(page.locator(".plot")).to_have_attribute("aria-valuetext", re.compile("any"))
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.uncheck("#letters-on")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("w")  # letters are off now
    page.keyboard.press("Home")
    expect(page.locator(".plot")).to_have_attribute("aria-valuenow", "1")
    expect(page.locator(".bottom-left")).to_contain_text("brain")


def test_wheel_and_drag(page: Page) -> None:
    open_series(page, f"/#/study/{HEAD}?slice=10")
    page.mouse.move(500, 400)
    for _ in range(3):
        page.mouse.wheel(0, 100)
    page.mouse.wheel(0, -30)  # less than a notch
    expect(page.locator(".plot")).to_have_attribute("aria-valuenow", "13")
    page.mouse.down()
    page.mouse.move(550, 380, steps=1)
    page.mouse.up()
    page.mouse.move(100, 100)
    # 50 px to the right: 80 e^(50/250); 20 px up: 40 + 20 * 80 / 250
    expect(page.locator(".bottom-left")).to_have_text(f"own\nC 46.4  W {80 * np.exp(0.2):.1f}")
    page.fill("[aria-label='Window width']", "-5")
    page.keyboard.press("Tab")
    expect(page.locator(".bottom-left")).to_contain_text("W 1")


def test_touch(chromium: Browser, service: tuple[str, Studies]) -> None:
    """One finger goes through slices, after a long press it sets the window, two zoom."""
    with visit(chromium, service[0], size=PHONE, touch=True) as page:
        open_series(page, f"/#/study/{HEAD}?slice=10")
        devtools = page.context.new_cdp_session(page)
        stage = page.locator(".stage").bounding_box()
        assert stage is not None

        def touch(kind: str, *points: tuple[float, float]) -> None:
            fingers = [{"x": stage["x"] + x, "y": stage["y"] + y, "id": n} for n, (x, y) in enumerate(points)]
            devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": fingers})

        touch("Start", (200, 100))
        for y in range(110, 180, 10):
            touch("Move", (200, y))
        touch("End")
        until(lambda: shown_slice(page) == 15)  # 70 px, 14 px a slice
        touch("Start", (200, 100))
        page.wait_for_timeout(500)
        touch("Move", (250, 100))
        touch("End")
        expect(page.locator(".bottom-left")).to_contain_text(f"W {80 * np.exp(0.2):.1f}")
        assert shown_slice(page) == 15
        before = page.locator(".slice").bounding_box()
        touch("Start", (150, 150), (250, 150))
        touch("Move", (100, 150), (300, 150))
        touch("End")
        after = page.locator(".slice").bounding_box()
        assert before is not None
        assert after is not None
        assert after["width"] / before["width"] == pytest.approx(2, rel=0.02)
        assert shown_slice(page) == 15


def test_boxes_and_grey_values(page: Page, service: tuple[str, Studies]) -> None:
    chest = service[1].series[XRAY][0]
    open_series(page, f"/#/study/{XRAY}")
    assert page.locator(".box").count() == 0  # as all overlays, off at the start
    assert page.locator(".plot").count() == 0  # one slice has no strip
    page.keyboard.press("h")
    expect(page.locator(".box")).to_have_count(2)
    frame = page.locator(".slice").bounding_box()
    assert frame is not None
    for number, box in enumerate(chest.boxes[:2]):  # the third is below the threshold
        outline = page.locator(".box").nth(number)
        assert outline.inner_text() == f"opacity {box['score']:.2f}"
        found = outline.bounding_box()
        assert found is not None
        scale = frame["width"] / 400
        expected = [
            frame["x"] + box["x"] * scale,
            frame["y"] + box["y"] * scale,
            box["width"] * scale,
            box["height"] * scale,
        ]
        assert [found[side] for side in ("x", "y", "width", "height")] == pytest.approx(expected, abs=0.1)
    page.mouse.move(frame["x"] + 100.5 * frame["width"] / 400, frame["y"] + 50.5 * frame["height"] / 480)
    assert page.inner_text(".bottom-right") == f"{chest.pixels[0, 50, 100]} grey\ncolumn 100  row 50"
    low, high = chest.pixels.min(), chest.pixels.max()
    assert page.inner_text(".bottom-left") == f"full range\nC {(low + high) / 2:g}  W {high - low}"


MEMORY = "import('/static/viewer.js').then(({slices}) => [slices.bytes, [...slices.entries.keys()]])"


def place_of(path: str) -> int:
    return int(re.findall(r"/slices/(\d+)", path)[0])


def test_slices_are_fetched_outward(page: Page, service: tuple[str, Studies]) -> None:
    """The current one, key slices by distance, then the others by distance, each once."""
    page.goto("/")
    order = page.evaluate("import('/static/slices.js').then(({fetchOrder}) => fetchOrder(4, 8, [6, 1]))")
    assert order == [4, 6, 1, 5, 3, 2, 7, 0]
    sent: list[str] = []  # in the order of the page, which the server's threads may change
    page.on("request", lambda request: sent.append(request.url))
    open_series(page, f"/#/study/{HEAD}?slice=19&label=subdural")
    until(lambda: len(page.evaluate(MEMORY)[1]) == 37)
    assert page.evaluate(MEMORY)[0] == 37 * 256 * 256 * 2
    asked = [place_of(url) for url in sent if "/slices/" in url]
    assert sorted(asked) == list(range(37))
    keys = {key["place"] for key in service[1].results[HEAD]["labels"][SUBDURAL]["key_slices"]}
    assert set(asked[:6]) == {18} | set(sorted(keys - {18}, key=lambda place: (abs(place - 18), -place))[:5])


def test_memory_is_bounded(page: Page, service: tuple[str, Studies]) -> None:
    """With room for five slices it holds the five that are wanted, and fetches none over and over."""
    size = 256 * 256 * 2
    page.goto("/")
    page.evaluate(f"import('/static/viewer.js').then(({{slices}}) => slices.capacity = {5 * size + 1})")
    service[1].requests.clear()
    page.evaluate(f"location.hash = '#/study/{HEAD}?slice=19&label=epidural'")
    page.wait_for_selector(".stage")
    for key in ("Home", "End", "PageUp"):
        page.keyboard.press(key)
        loaded(page)
    until(lambda: sorted(map(place_of, page.evaluate(MEMORY)[1])) == [15, 30, 31, 32, 33])
    assert page.evaluate(MEMORY)[0] == 5 * size  # 15 is the key slice of epidural
    assert len([line for line in service[1].requests if "/slices/" in line]) <= 4 * 5 + 6


def test_a_slice_that_fails_says_so_and_comes_when_asked_again(chromium: Browser, service: tuple[str, Studies]) -> None:
    service[1].faults.append((r"GET .*/slices/16\b", 503, {}))
    with visit(chromium, service[0], may_say="503") as page:
        page.goto(f"/#/study/{HEAD}?slice=17&label=subdural")
        expect(page.locator(".message")).to_contain_text("The service failed, error 503")
        assert not drawn(page, ".slice").any()  # no other slice stands in its place
        page.click(".message button")
        loaded(page)
        assert drawn(page, ".slice").any()
