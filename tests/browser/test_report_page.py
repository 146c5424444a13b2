"""The report's page in Chromium: sorting, filtering, widths, dark mode, hostile names, and that nothing is fetched."""

import json
import os
import shutil
from collections.abc import Iterator

import pytest
from pages import HOSTILE, page, sweep, with_picture
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver are missing; scripts/browser installs them")
        pytest.skip("chromium and chromedriver are not installed (scripts/browser)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    with_picture(folder / "10")
    path = folder / "report.html"
    path.write_text(page(sweep(), folder), encoding="utf-8")
    return path.as_uri()


def show(browser: webdriver.Chrome, address: str, width: int = 1280, scheme: str = "light") -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    preference = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})
    browser.get(address)


def column(browser: webdriver.Chrome, number: int, table: str = "settings-table") -> list[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr")
    return [row.find_elements(By.TAG_NAME, "td")[number].text for row in rows if row.is_displayed()]


def test_no_error_and_no_request_but_for_the_page(browser: webdriver.Chrome, address: str) -> None:
    browser.get("about:blank")  # away from the browser's own first page, which asks for much
    for kind in ("performance", "browser"):
        browser.get_log(kind)
    show(browser, address)
    for details in browser.find_elements(By.TAG_NAME, "summary"):
        details.click()
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in requested if not url.startswith("data:")} == {address}


def test_headings_sort_by_click_and_by_key(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    headings = browser.find_elements(By.CSS_SELECTOR, "#settings-table thead th")
    place = next(i for i, heading in enumerate(headings) if heading.text.startswith("accuracy"))
    button = headings[place].find_element(By.TAG_NAME, "button")
    button.click()
    assert headings[place].get_attribute("aria-sort") == "ascending"
    means = [float(text.split()[0]) for text in column(browser, place)]
    assert means == sorted(means)
    assert len(means) == 4
    button.send_keys(Keys.ENTER)
    assert headings[place].get_attribute("aria-sort") == "descending"
    assert [float(text.split()[0]) for text in column(browser, place)] == means[::-1]
    headings[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert headings[0].get_attribute("aria-sort") == "ascending"
    assert headings[place].get_attribute("aria-sort") is None
    assert column(browser, 0) == ["1", "1", "5", "5"]


def test_what_has_no_figure_comes_last_either_way(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    browser.find_element(By.CSS_SELECTOR, "section[aria-labelledby=runs] summary").click()
    headings = browser.find_elements(By.CSS_SELECTOR, "#runs-table thead th")
    place = next(i for i, heading in enumerate(headings) if heading.text.startswith("accuracy"))
    for first in ("52.0", "85.0"):
        headings[place].find_element(By.TAG_NAME, "button").click()
        shown = column(browser, place, "runs-table")
        assert (shown[0], shown[-1]) == (first, "")


def test_the_box_filters_rows(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    box = browser.find_element(By.ID, "settings-table-filter")
    assert browser.find_element(By.CSS_SELECTOR, "label[for=settings-table-filter]").is_displayed()
    box.send_keys("FINE 85")
    assert column(browser, 1) == []
    box.clear()
    box.send_keys("FINE_T")
    assert column(browser, 1) == ["fine_tune", "fine_tune"]
    assert browser.find_element(By.ID, "settings-table-count").text == "2 of 4"


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_the_window(browser: webdriver.Chrome, address: str, width: int) -> None:
    show(browser, address, width)
    for details in browser.find_elements(By.TAG_NAME, "summary"):
        if details.find_element(By.XPATH, "..").get_attribute("open") is None:
            details.click()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    too_wide = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert too_wide == []


def luminance(browser: webdriver.Chrome, selector: str, what: str) -> float:
    """Relative luminance of a colour, as the Web Content Accessibility Guidelines 2.1 define it."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    text = browser.execute_script(script, selector, what)
    channels = [float(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_scheme_and_stand_out(browser: webdriver.Chrome, address: str, scheme: str) -> None:
    show(browser, address, scheme=scheme)
    paper = luminance(browser, "body", "backgroundColor")
    assert (paper > 0.5) is (scheme == "light")
    wanted = {"body": 4.5, "figcaption": 4.5, "nav a": 4.5, ".gain-up": 4.5, "svg .axis-title": 4.5, "svg .s0 .line": 3}
    for selector, contrast in wanted.items():
        what = "stroke" if selector.endswith(".line") else "fill" if selector.startswith("svg") else "color"
        ink = luminance(browser, selector, what)
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= contrast, selector


def test_hostile_names_stay_text(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    assert browser.execute_script("return window.hacked") is None
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, ".confusion td.text")]
    assert HOSTILE in cells
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_pictures_of_errors_are_shown(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address)
    assert browser.execute_script("return document.querySelector('.confusion img').naturalWidth") == 60
