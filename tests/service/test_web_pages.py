"""The service's pages in a browser: login, list, uploads, states, errors, and reading without eyes."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from browsing import DESKTOP, PHONE, browser, until, visit
from fake_service import HEAD, PASSWORD, WAITING, WEB, XRAY, Studies, serving
from known_studies import HOSTILE, RIGHT_TO_LEFT
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.needs_browser

DEAD = "9c1f0a0000000005"
PAGES = ("/login", "/#/", f"/#/study/{HEAD}", f"/#/study/{XRAY}", f"/#/study/{DEAD}")
SEND_FILES, SEND_FOLDER = (
    f"[aria-label='{name}']" for name in ("Send DICOM files, PNG, JPEG or zips", "Send a folder of DICOM files")
)
DICOM = bytes(128) + b"DICM" + bytes(300)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture
def service() -> Iterator[tuple[str, Studies]]:
    with serving() as served:
        yield served


@pytest.fixture
def page(chromium: Browser, service: tuple[str, Studies]) -> Iterator[Page]:
    with visit(chromium, service[0]) as opened:
        yield opened


def settled(page: Page, address: str) -> None:
    """Open a page and wait until its content is there."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("#login, .worklist li, .panel .actions", state="attached")


def test_size_and_source() -> None:
    """Small, and nothing in it that the content security policy or another origin would have to allow."""
    files = {path.name: path.read_bytes() for path in sorted(WEB.iterdir())}
    assert sum(map(len, files.values())) <= 110 * 1024
    assert len(gzip.compress(b"".join(files.values()), mtime=0)) <= 35 * 1024
    for name, content in files.items():
        text = content.decode()
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], name
        assert (
            re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
        ), name
        assert re.findall(r"<script(?! type=\"module\" src=\"/static/)|<style|\bstyle=|\bon\w+=\"", text) == [], name
        if name.endswith(".js"):
            assert len(text.splitlines()) <= 300, name


def test_by_keyboard_from_login_to_heatmap_and_back(chromium: Browser, service: tuple[str, Studies]) -> None:
    with visit(chromium, service[0], name="") as page:
        page.goto("/")
        expect(page).to_have_url(re.compile("/login$"))
        page.keyboard.type("reader")  # the field has the focus
        page.keyboard.press("Tab")
        page.keyboard.type(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector(".worklist li")
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches('[data-study=\"{HEAD}\"] a')"):
                break
        page.keyboard.press("Enter")
        page.wait_for_selector(".stage")
        expect(page.locator("h1")).to_be_focused()
        page.keyboard.press("Home")
        expect(page.locator(".plot")).to_have_attribute("aria-valuenow", "1")
        page.keyboard.press("n")
        page.keyboard.press("h")
        drawn = "document.querySelector('.map').getContext('2d').getImageData(0, 0, 256, 256).data.some(Boolean)"
        until(lambda: page.evaluate(drawn))
        page.go_back()  # a key of the browser's own
        page.wait_for_selector(".worklist li")
        page.go_forward()
        page.wait_for_selector(".stage")


def test_planted_texts_are_shown_as_texts(page: Page) -> None:
    """As they are, in an isolation of their own; `visit` sees that no dialog opens and no script runs."""
    settled(page, "/#/")
    texts = page.locator(".who a > bdi").all_text_contents()
    assert HOSTILE in texts
    assert RIGHT_TO_LEFT in texts
    settled(page, f"/#/study/{XRAY}")
    assert page.locator("h1 > bdi").text_content() == HOSTILE
    assert page.locator("img").count() == 0


def test_the_list_orders_filters_and_pages(page: Page, service: tuple[str, Studies]) -> None:
    settled(page, "/#/")
    first = page.locator(".worklist li").first
    expect(first).to_contain_text("0.96")
    page.select_option("[name=sort]", "time")
    expect(first).to_contain_text("PAT-0010")
    page.select_option("[name=state]", "refused")
    expect(page.locator(".worklist li")).to_have_count(1)
    expect(first).to_contain_text("no ct slice")
    expect(page).to_have_url(re.compile(r"#/\?.*state=refused"))
    page.reload()
    expect(page.locator(".worklist li")).to_have_count(1)
    page.select_option("[name=state]", "")
    page.select_option("[name=label]", "subdural")
    page.fill("[name=min]", "0.9")
    expect(page.locator(".worklist li")).to_have_count(1)
    page.select_option("[name=label]", "")
    page.fill("[name=min]", "")
    page.fill("[name=patient]", "PAT-00")
    expect(page.locator(".worklist li")).to_have_count(5)
    page.fill("[name=patient]", "nobody")
    expect(page.locator(".list-head .note").first).to_have_text("No study matches. Change the filters.")
    for number in range(16, 16 + 50):
        service[1].add(f"9c1f0a00000001{number:02x}", f"MANY-{number}", "queued")
    settled(page, "/#/")
    expect(page.locator(".worklist li")).to_have_count(50)
    page.click("text=Next page")
    expect(page.locator(".worklist li")).to_have_count(7)
    page.go_back()
    expect(page.locator(".worklist li")).to_have_count(50)


def test_the_list_and_a_study_follow_what_happens(page: Page, service: tuple[str, Studies]) -> None:
    settled(page, "/#/")
    line = page.locator(f"[data-study='{WAITING}']")
    expect(line).to_contain_text("Running")
    line.locator("a").focus()
    service[1].change(WAITING, state="failed", reason="out_of_memory", attempts=2)
    expect(line).to_contain_text("Failed")
    expect(line.locator("a")).to_be_focused()
    service[1].requests.clear()
    page.wait_for_timeout(1500)
    assert len([asked for asked in service[1].requests if "/studies?" in asked]) <= 1  # it waits, and does not hammer
    settled(page, f"/#/study/{WAITING}")
    expect(page.locator(".state")).to_contain_text("tried again by itself. Reason: out of memory. 2 attempts so far.")
    service[1].change(WAITING, state="dead")
    expect(page.locator(".state")).to_contain_text("by hand")
    page.click("text=Try again")
    expect(page.locator(".state")).to_contain_text("Waiting for its turn")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("not_ct", "this service's models read CT; these files are not CT"),
        ("not_xr", "this service's models read X-rays; these files are not X-rays"),
        ("untold_volumes", "untold volumes"),
    ],
)
def test_a_study_that_is_refused_says_why(page: Page, service: tuple[str, Studies], code: str, said: str) -> None:
    """In words; and it would be refused again."""
    refused = "9c1f0a0000000004"
    service[1].change(refused, reason=code)
    settled(page, "/#/")
    expect(page.locator(f"[data-study='{refused}']")).to_contain_text(said)
    settled(page, f"/#/study/{refused}")
    expect(page.locator(".state")).to_contain_text(f"Reason: {said}.")
    assert page.locator(".actions >> text=Delete…").count() == 1
    assert page.locator("text=Try again").count() == 0


def test_older_results_stay_within_reach(page: Page, service: tuple[str, Studies]) -> None:
    settled(page, f"/#/study/{HEAD}")
    assert page.locator(".state").count() == 0
    page.locator(".plain a[href*='content']").last.click()
    expect(page.locator(".state")).to_contain_text("This is an older result.")
    assert "content=" + "bb" * 8 in page.url
    expect(page.locator(".plain a[aria-current]").last).to_contain_text("ich-demo 1.0")
    expect(page).to_have_url(re.compile("content=.*slice="))
    service[1].requests.clear()
    page.click("[aria-label='Slice 21 of subdural']")
    expect(page.locator(".plot")).to_have_attribute("aria-valuenow", "21")
    expect(page).to_have_url(re.compile("content=.*slice=21"))
    page.wait_for_timeout(300)
    assert not any("/result" in asked for asked in service[1].requests)  # it is the same viewer, with its window


def test_who_may_delete(chromium: Browser, service: tuple[str, Studies]) -> None:
    with visit(chromium, service[0], name="reader") as page:
        settled(page, f"/#/study/{DEAD}")
        assert page.locator("text=Delete…").count() == 0
        assert page.locator("text=Try again").count() == 0
    with visit(chromium, service[0]) as page:
        settled(page, f"/#/study/{DEAD}")
        page.click("text=Delete…")
        expect(page.locator("#confirm")).to_contain_text("cannot be undone")
        page.keyboard.press("Enter")  # on Cancel, which has the focus
        assert DEAD in service[1].items
        page.click("text=Delete…")
        page.click("#confirm-yes")
        page.wait_for_selector(".worklist li")
        assert DEAD not in service[1].items
        expect(page.locator(f"[data-study='{DEAD}']")).to_have_count(0)


def test_from_what_is_gone_a_link_leads_to_the_list(chromium: Browser, service: tuple[str, Studies]) -> None:
    del service[1].items[DEAD]
    with visit(chromium, service[0], may_say="404") as page:
        page.goto(f"/#/study/{DEAD}")
        expect(page.locator("#notice")).to_contain_text("not any more")
        page.click("main a")
        page.wait_for_selector(".worklist li")


def test_labels_above_their_thresholds_are_first_and_marked(page: Page, service: tuple[str, Studies]) -> None:
    """Also where their probability is low, and where there are more of them than are shown of others."""
    settled(page, "/#/")
    chips = page.locator(f"[data-study='{HEAD}'] .chip")
    scores = {"any": 0.9, "a": 0.8, "b_c": 0.1, "d": 0.7, "e": 0.6, "f": 0.5, "g": 0.4}
    service[1].change(HEAD, scores=scores, above=["b_c"])
    expect(chips).to_have_text(["▲ b c 0.10", "a 0.80", "d 0.70", "e 0.60"])
    expect(page.locator(f"[data-study='{HEAD}'] .more")).to_have_text("+2")
    expect(page.locator(f"[data-study='{HEAD}'] .score")).to_contain_text("any")
    service[1].change(HEAD, above=["any", "a", "b_c", "d", "e", "f"])
    expect(chips).to_have_text(["▲ a 0.80", "▲ d 0.70", "▲ e 0.60", "▲ f 0.50", "▲ b c 0.10", "g 0.40"])
    expect(page.locator(f"[data-study='{HEAD}'] .score")).to_contain_text("▲ any")


def test_a_folder_without_a_file_says_so(page: Page, tmp_path: Path) -> None:
    settled(page, "/#/")
    page.set_input_files(SEND_FOLDER, tmp_path)
    expect(page.locator("#notice")).to_contain_text("The folder holds no file.")
    expect(page.locator("#uploads")).to_be_hidden()


def test_readers_are_offered_no_sending(chromium: Browser, service: tuple[str, Studies]) -> None:
    """Neither buttons nor a place to drop files."""
    drag = """() => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["x"], "x.dcm"));
      dispatchEvent(new DragEvent("dragover", {dataTransfer}));
    }"""
    for name, may_send in (("reader", False), ("admin", True)):
        with visit(chromium, service[0], name=name) as page:
            settled(page, "/#/")
            assert page.locator("input[type=file]").count() == 2 * may_send
            assert page.get_by_text("Drop anything anywhere").count() == may_send
            page.evaluate(drag)
            assert page.locator("#veil").is_visible() == may_send


def test_uploads_are_repeated_and_refusals_listed(chromium: Browser, service: tuple[str, Studies]) -> None:
    """One file meets a full service, one a broken connection, one is no DICOM, one is in a zip."""
    studies = service[1]
    studies.faults += [("POST .*/uploads$", 429, {"Retry-After": "1"}), ("PUT .*/files/1$", 503, {})]
    with visit(chromium, service[0], may_say="Failed to load resource") as page:
        settled(page, "/#/")
        broken = []
        page.route("**/files/2", lambda route: (broken.append(1), route.abort()) if not broken else route.continue_())
        page.route("**/files/5", lambda route: route.fulfill(status=403, body=json.dumps({"detail": "role"})))
        files: list[Any] = [{"name": f"{n}.dcm", "mimeType": "", "buffer": DICOM + bytes([n])} for n in range(6)]
        files += [
            {"name": "<b>notes</b>.txt", "mimeType": "", "buffer": b"no image"},
            {"name": "more.zip", "mimeType": "", "buffer": b"PK"},
            {"name": ".hidden", "mimeType": "", "buffer": b""},
        ]
        page.set_input_files(SEND_FILES, files)
        expect(page.locator("#uploads")).to_contain_text("Sent 6 of 8 files, 1 refused, 1 failed.", timeout=9000)
        expect(page.locator("#uploads .refused")).to_have_text("<b>notes</b>.txtnot DICOM, PNG or JPEG")
        expect(page.locator("#uploads .failed")).to_contain_text("Your account may not do this (role)")
        expect(page.locator("#live")).to_have_text("Sent 6 of 8 files, 1 refused, 1 failed.")
        (kept,) = studies.uploads.values()
        assert kept == {n: DICOM + bytes([n]) for n in range(5)}
        assert broken == [1]
        assert sum("/complete" in line for line in studies.requests) == 1
        page.unroute("**/files/5")
        page.click("text=Send failed ones again")
        expect(page.locator("#uploads")).to_contain_text("Sent 1 of 1 file.")
        page.click("#uploads >> text=Close")
        expect(page.locator("#uploads")).to_be_hidden()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_stays_under_the_card_of_uploads(
    chromium: Browser, service: tuple[str, Studies], size: tuple[int, int]
) -> None:
    """What stands last can be scrolled from under it, until it is closed."""
    for number in range(16, 16 + 30):
        service[1].add(f"9c1f0a00000001{number:02x}", f"MANY-{number}", "queued")
    with visit(chromium, service[0], size=size, may_say="422") as page:
        settled(page, "/#/")
        files: list[Any] = [{"name": f"{n}.txt", "mimeType": "", "buffer": b"no image"} for n in range(9)]
        page.set_input_files(SEND_FILES, files)
        card = page.locator("#uploads")
        expect(card).to_contain_text("9 refused")
        for last in (".worklist li:last-child", ".panel .actions"):
            page.locator(last).scroll_into_view_if_needed()
            end = (
                "for (const one of [document.scrollingElement, document.querySelector('.panel')]) one?.scrollTo(0, 1e6)"
            )
            page.evaluate(end)
            bottom, top = page.locator(last).bounding_box(), card.bounding_box()
            assert bottom is not None
            assert top is not None
            assert bottom["y"] + bottom["height"] <= top["y"]
            page.evaluate(f"location.hash = '#/study/{HEAD}'")
            page.wait_for_selector(".panel .actions")
        page.click("#uploads >> text=Close")
        expect(card).to_be_hidden()
        until(lambda: page.evaluate("getComputedStyle(document.querySelector('.panel'), '::after').height") == "0px")


def test_a_dropped_folder_is_read_whole(page: Page) -> None:
    """A reader of entries gives a hundred at a time."""
    page.goto("/login")
    names = page.evaluate("""async () => {
      const file = (name) => ({ name, isFile: true, file: (found) => found(new File(["x"], name)) });
      const folder = (name, entries) => ({ name, isFile: false, createReader: () => {
        const left = [...entries];
        return { readEntries: (found) => found(left.splice(0, 100)) };
      } });
      const many = Array.from({ length: 250 }, (_, n) => file(`${n}.dcm`));
      const items = [folder("a", [folder("b", many), file("c")]), file("d"), null];
      const { dropped } = await import("/static/upload.js");
      const found = await dropped({ items: items.map((entry) => ({ webkitGetAsEntry: () => entry })) });
      return found.map(({ name }) => name);
    }""")
    assert names == [*(f"a/b/{n}.dcm" for n in range(250)), "a/c", "d"]


def test_a_session_that_ends_leads_to_login_and_back(chromium: Browser, service: tuple[str, Studies]) -> None:
    with visit(chromium, service[0], may_say="401") as page:
        settled(page, f"/#/study/{DEAD}")
        service[1].sessions.clear()
        page.evaluate(f"setTimeout(() => (location.hash = '#/study/{XRAY}'))")
        expect(page).to_have_url(re.compile(r"/login#/study/[0-9a-f]{16}$"))  # a poll of the page before may be first
        address = page.url.partition("#")[2]
        page.fill("#name", "reader")
        page.fill("#password", "wrong")
        page.click("button")
        expect(page.locator("#notice-text")).to_contain_text("is not right")
        page.fill("#password", PASSWORD)
        page.click("button")
        expect(page).to_have_url(re.compile(f"/#{address}"))
        page.wait_for_selector("h1")
        page.click("text=Log out")
        expect(page).to_have_url(f"{service[0]}/login")
        page.goto("/")
        expect(page).to_have_url(f"{service[0]}/login")


def test_a_token_logs_in_once_and_leaves_the_address(chromium: Browser, service: tuple[str, Studies]) -> None:
    with visit(chromium, service[0], name="", may_say="401") as page:
        page.goto("/login#token=once-only")
        page.wait_for_selector(".worklist li")
        assert page.url == f"{service[0]}/"
        page.go_back()
        assert "token" not in page.url
    with visit(chromium, service[0], name="", may_say="401") as page:
        page.goto("/login#token=once-only")
        expect(page.locator("#notice-text")).to_contain_text("is not right")
        assert page.url == f"{service[0]}/login"
    assert not any("once-only" in line for line in service[1].requests)


ERRORS = {
    403: "Your account may not do this (a fault that the test asked for). Ask who runs the service for another role.",
    404: "This is not here, or not any more",
    409: "Not now",
    429: "The service is asked too often (a fault that the test asked for). Try again in 7 s.",
    500: "The service failed, error 500",
    507: "disk is full",
}


def test_errors_say_what_to_do(chromium: Browser, service: tuple[str, Studies]) -> None:
    with visit(chromium, service[0], may_say="Failed to load resource") as page:
        for status, line in ERRORS.items():
            service[1].faults.append((f"GET .*/studies/{HEAD}$", status, {"Retry-After": "7"}))
            page.goto("about:blank")
            page.goto(f"/#/study/{HEAD}")
            expect(page.locator("#notice")).to_contain_text(line)
        settled(page, "/#/")
        page.context.set_offline(True)
        service[1].change(WAITING, state="queued")
        expect(page.locator("#notice")).to_contain_text("The service cannot be reached. Check the network")
        page.context.set_offline(False)
        expect(page.locator("#notice")).to_be_hidden(timeout=9000)
        expect(page.locator(f"[data-study='{WAITING}']")).to_contain_text("Queued")


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        pytest.param("light", DESKTOP, id="light-desktop"),
        pytest.param("dark", PHONE, id="dark-phone"),
        pytest.param("light", PHONE, id="light-phone", marks=pytest.mark.slow),
        pytest.param("dark", DESKTOP, id="dark-desktop", marks=pytest.mark.slow),
    ],
)
def test_everybody_can_read_it(
    chromium: Browser, service: tuple[str, Studies], size: tuple[int, int], scheme: str
) -> None:
    """Every control has a name, every text a contrast of 4.5, the page fits, its notice is always there."""
    script = (Path(__file__).parent / "readable.js").read_text()
    with visit(chromium, service[0], size=size, scheme=scheme) as page:
        for address in PAGES:
            settled(page, address)
            if page.locator(".stage").count():
                page.keyboard.press("h")
                page.click("summary")
            assert page.evaluate(script) == [], address
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0], address
            page.mouse.wheel(0, 9000)
            banner = page.locator("#banner")
            assert banner.inner_text() == "Research use only. Not for diagnosis."
            expect(banner).to_be_in_viewport()


def test_maps_come_after_the_result(page: Page, service: tuple[str, Studies]) -> None:
    """They are there without a new look at the study, whose window stays."""
    series = service[1].series[HEAD][0]
    maps, series.maps = series.maps, {}
    newest = service[1].items[HEAD]["generations"][0]
    newest["pictures"] = "running"
    settled(page, f"/#/study/{HEAD}?label=subdural")
    page.keyboard.press("w")
    page.keyboard.press("h")
    expect(page.locator(".top-right")).to_contain_text("no map of subdural")
    assert page.get_by_role("link", name="Report").count() == 0
    series.maps = maps
    newest["pictures"] = "done"
    service[1].change(HEAD)
    expect(page.locator(".top-right")).to_contain_text("heatmap")
    expect(page.get_by_role("link", name="Report")).to_be_visible()
    expect(page.locator(".bottom-left")).to_contain_text("subdural")
