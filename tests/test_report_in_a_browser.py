"""The report's page in a real browser: sorting, filtering, charts, details, both themes, a phone's width, and no network."""

import re
import shutil

import pytest
from reported import DIVERGED, MISSING, RESULTS, benchmark_with_holes

from dgd.read import report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
OPTIONS += ["--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed"),
    pytest.mark.filterwarnings("error::UserWarning"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: it is in the extra dev")

CELL = "decay-small/cifar10/cifar_resnet8/grafting/seed1"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    made = report.write([RESULTS / "decay-small", benchmark_with_holes(folder)], folder / "report.html")
    return made.as_uri()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Return what opens the page, at a place of it; in the end nothing was said on the console, and nothing asked for."""
    contexts, said = [], []

    def open_page(place="", width=1400, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request.url))
        page.goto(address + place)
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def column(page, table, place):
    """Return the texts of a column, as the table stands."""
    return page.eval_on_selector_all(f"[id='{table}'] tbody tr", f"rows => rows.map(row => row.cells[{place}].textContent)")


def test_tables_sort_as_numbers_and_filter(opened):
    page = opened()
    table = "t/decay-small/results"
    headers = page.eval_on_selector_all(f"[id='{table}'] thead th", "cells => cells.map(cell => cell.textContent)")
    place = headers.index("gain")
    page.locator(f"[id='{table}']").get_by_role("button", name="gain: Activate to sort", exact=True).focus()
    for direction in (1, -1):
        page.keyboard.press("Enter")
        page.wait_for_selector(f"[id='{table}'] th[aria-sort={'ascending' if direction > 0 else 'descending'}]")
        values = [float(text.split()[0]) for text in column(page, table, place) if text]
        assert len(values) > 5
        assert values == sorted(values, reverse=direction < 0)
    before = len(column(page, table, 0))
    page.get_by_label("Filter: Ours beside the published numbers", exact=False).first.fill("grafting")
    page.wait_for_function(f"document.getElementById('{table}').tBodies[0].rows.length < {before}")
    assert all("grafting" in " ".join(row) for row in zip(column(page, table, 0)))


def test_a_number_leads_to_its_cells_and_each_of_them_to_all_that_is_known_of_it(opened):
    page = opened()
    row = page.locator("[id='t/decay-small/results'] tbody tr", has_text="grafting").first
    row.locator("td.num a").first.click()
    dialog = page.locator("#dialog")
    dialog.get_by_role("heading", name="Cells that these numbers come from").wait_for()
    assert "minimum_detectable_effect" in dialog.inner_text()
    dialog.get_by_role("link", name="seed 1").first.click()
    dialog.get_by_role("heading", name=CELL).wait_for()
    for heading in ("Curve", "Config", "Command", "Provenance"):
        assert dialog.get_by_role("heading", name=heading, exact=True).is_visible()
    assert page.url.endswith(f"#cell/{CELL}")
    dialog.locator(".chart svg").wait_for()
    page.go_back()
    dialog.get_by_role("heading", name="Cells that these numbers come from").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#dialog:not([open])", state="attached")
    assert "#row" not in page.url
    # A shared link opens the same; a failed cell says why, and its log is text.
    failed = opened(f"#cell/{DIVERGED}")
    text = failed.locator("#dialog").inner_text()
    assert "diverged" in text
    assert text.count("the loss is not finite </script>") == 2, "as its error, and in its log"
    assert failed.title() == "dgd-bench: decay-small | cifar10-small"
    assert "missing" in opened(f"#cell/{MISSING}").locator("#dialog").inner_text()


def test_each_link_leads_somewhere(opened):
    page = opened()
    lost = page.evaluate(
        """async () => {
          const links = new Set([...document.querySelectorAll("a[href^='#']")].map((link) => link.getAttribute("href")));
          const lost = [];
          for (const link of links) {
            location.hash = link;
            await new Promise((done) => setTimeout(done));
            const dialog = document.getElementById("dialog"), id = decodeURIComponent(link.slice(1));
            const shown = /^(cell|row)\\//.test(id) ? dialog.open && dialog.querySelector("h2") : document.getElementById(id);
            if (!shown || (id.startsWith("cell/") && dialog.querySelector("h2").textContent !== id.slice(5))) lost.push(link);
          }
          return [links.size, lost];
        }"""
    )
    assert lost[1] == []
    assert lost[0] > 150


def lines(page, chart):
    return page.locator(f"[id='{chart}'] .mark-line path").count()


def test_charts_are_drawn_toggled_and_zoomed(opened):
    page = opened()
    charts = page.locator("figure .chart")
    assert charts.count() > 15
    for place in range(charts.count()):
        charts.nth(place).scroll_into_view_if_needed()
        charts.nth(place).locator("svg").wait_for()
    assert page.locator("figure .chart svg").count() == charts.count()
    assert all(page.eval_on_selector_all("figure .chart svg", "all => all.map(one => one.getAttribute('width') > 200)"))
    chart, end = (f"c/decay-small/curves/cifar10-cifar_resnet8/{name}" for name in ("all", "end"))
    group = page.locator("[id='g/decay-small/curves/cifar10-cifar_resnet8']")
    before = lines(page, chart)
    button = group.locator("button[data-method=grafting]")
    button.focus()
    page.keyboard.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    for each in (chart, end):
        page.wait_for_function(f"document.getElementById('{each}').querySelectorAll('.mark-line path').length == {before - 1}")
    group.get_by_role("button", name="none").click()
    page.wait_for_function(f"!document.getElementById('{chart}').querySelector('.mark-line path')")
    group.get_by_role("button", name="all", exact=True).click()
    page.wait_for_function(f"document.getElementById('{chart}').querySelectorAll('.mark-line path').length == {before}")

    def ticks():
        return page.locator(f"[id='{chart}'] .role-axis-label").first.text_content()

    whole = ticks()
    slider = group.get_by_label("from epoch")
    slider.focus()
    page.keyboard.press("End")
    page.wait_for_function(f"document.getElementById('{chart}').querySelector('.role-axis-label').textContent != {whole!r}")
    page.keyboard.press("Home")
    page.wait_for_function(f"document.getElementById('{chart}').querySelector('.role-axis-label').textContent == {whole!r}")
    page.locator(f"[id='{chart}'] svg").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_function(f"document.getElementById('{chart}').querySelector('.role-axis-label').textContent != {whole!r}")
    # Those who cannot see a chart are told what it shows.
    assert "grafting" in page.locator("[id^='c/decay-small/forest'] svg").first.locator("xpath=..").inner_html()


def test_both_themes_and_the_one_that_was_chosen_is_remembered(opened):
    def colours(page):
        found = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        return [sum(map(int, re.findall(r"\d+", text)[:3])) / 765 for text in found]

    light, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    assert colours(light)[0] > 0.9 > 0.2 > colours(light)[1]
    assert colours(dark)[0] < 0.15 < 0.8 < colours(dark)[1]
    dark.locator("[id^='c/decay-small/forest'] svg").first.wait_for()
    label = dark.locator("[id^='c/decay-small/forest'] .role-axis-label text").first.get_attribute("fill")
    assert int(label[1:3], 16) > 200, "labels of a chart are light on a dark page"
    for name in ("light", "dark"):
        light.get_by_role("button", name="Theme").click()
        assert light.get_by_role("button", name="Theme").text_content() == f"Theme: {name}"
    light.reload()
    light.wait_for_selector("html[data-ready]")
    assert colours(light)[0] < 0.15
    assert light.get_by_role("button", name="Theme").text_content() == "Theme: dark"


def test_a_phone_scrolls_down_only(opened):
    page = opened(width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    chart = page.locator("figure .chart").first
    chart.scroll_into_view_if_needed()
    chart.locator("svg").wait_for()
    page.locator("nav summary").first.click()
    page.locator("nav").get_by_text("decay-small").click()
    page.locator("nav").get_by_role("link", name="Results").first.click()
    assert page.locator("[id='t/decay-small/results']").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("[id='t/decay-small/results']").locator("xpath=ancestor::*[@class='table-box']")
    assert box.evaluate("box => box.scrollWidth > box.clientWidth"), "a wide table scrolls in its own box"


def test_without_javascript_the_tables_are_there_and_a_link_leads_to_its_cell(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("[id='t/decay-small/results']").is_visible()
    page.locator(f"[id='t/decay-small/results'] a[href='#cell/{CELL}']").first.click()
    assert page.url.endswith(f"#cell/{CELL}")
    box = page.locator(f"[id='cell/{CELL}']").bounding_box()
    assert 0 <= box["y"] < 900, "its row is in sight"


def test_the_page_can_be_used_by_keyboard_and_read_aloud(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the answer"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, a, table, nav, dialog, [role=group]")].filter((node) =>
          !(node.textContent.trim() || node.getAttribute("aria-label") || node.labels?.length)).map((node) => node.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("document.documentElement.lang") == "en"
