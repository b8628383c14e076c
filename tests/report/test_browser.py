"""The page in a real browser: wide and narrow, light and dark, on paper. The pictures that it makes were looked at."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ssoup_jax.report import contents, page
from tests.report import browser
from tests.report.summaries import whole
from tests.report.test_html import HOSTILE
from tests.report.test_page import write_curves

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Debian's chromium")

PHONE, DESK = (390, 844), (1280, 900)

# Colours of every text that is seen, with what it stands on, and its size in pixels.
TEXTS = """[...document.querySelectorAll('h1, p, th, td, dt, dd, a, summary, figcaption, svg text')]
.filter(tag => tag.textContent.trim() && tag.checkVisibility() && tag.getBoundingClientRect().width)
.map(tag => {
  const own = getComputedStyle(tag), svg = tag.ownerSVGElement;
  let below = tag;
  while (below && /^rgba\\(.*, 0\\)$/.test(getComputedStyle(below).backgroundColor)) below = below.parentElement;
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  return [svg ? own.fill : own.color, getComputedStyle(below).backgroundColor, scale * parseFloat(own.fontSize)];
})"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A browser, and the page of an experiment whose names are hostile."""
    folder = tmp_path_factory.mktemp("runs")
    write_curves(folder, whole(HOSTILE))
    (folder / "barriers.json").write_text(json.dumps({"name": HOSTILE}))
    page.write(contents.gather(whole(HOSTILE), folder), folder / "report.html")
    with browser.running(tmp_path_factory.mktemp("browser")) as opened:
        yield opened, folder / "report.html"


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_fits_its_screen_and_can_be_read(shown, tmp_path, size, dark):
    opened, path = shown
    opened.open(path, *size, dark)
    assert opened.ask("document.documentElement.scrollWidth") == size[0]
    found = opened.ask(TEXTS)
    assert len(found) > 200
    for colour, below, pixels in found:
        assert pixels >= 8.5
        # What the accessibility guidelines (WCAG 2.2, 1.4.3) ask for of small text.
        assert contrast(colour, below) >= 4.5, (colour, below)
    opened.picture(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == size[0] and image.height > 2 * size[1]
        grey = np.asarray(image.convert("L"))
    assert (np.median(grey) < 40) if dark else (np.median(grey) > 240)


def contrast(one: str, other: str) -> float:
    """Ratio of luminances, as the accessibility guidelines (WCAG 2.2) define it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_nothing_runs_nothing_is_fetched_and_nothing_is_complained_of(shown):
    opened, path = shown
    opened.requests.clear()
    opened.open(path, *DESK)
    assert opened.ask("document.scripts.length") == 0
    assert set(opened.requests) == {path.as_uri()}
    assert opened.problems == []
    assert HOSTILE in opened.ask("document.querySelector('#data').textContent")


def test_links_lead_to_their_sections(shown):
    opened, path = shown
    opened.open(path, *DESK)
    lost = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
    counts = [opened.ask(f"document.querySelectorAll('{what}').length") for what in ("nav a", "section")]
    assert counts[0] == counts[1] > 5
    assert opened.ask(lost) == 0


def test_what_is_folded_is_printed(shown, tmp_path):
    opened, path = shown
    opened.open(path, *DESK, dark=True)
    height = "document.querySelector('#settings details').getBoundingClientRect().height"
    one_line = opened.ask(height)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.ask(height) > 2 * one_line > 0
    # Paper is white, whatever the screen is.
    assert opened.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.call("Emulation.setEmulatedMedia", media="")
    opened.pdf(tmp_path / "page.pdf")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


def test_tables_scroll_by_themselves(shown):
    opened, path = shown
    opened.open(path, *PHONE)
    wide = "document.querySelector('#table .wide')"
    assert opened.ask(f"{wide}.scrollWidth > {wide}.clientWidth")
    first = f"{wide}.querySelector('tbody th').getBoundingClientRect().left"
    before = opened.ask(first)
    opened.ask(f"{wide}.scrollLeft = 200")
    assert opened.ask(f"{wide}.scrollLeft") == 200
    assert opened.ask(first) == before
