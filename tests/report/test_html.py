"""Parts of pages, read by a parser of HTML; whatever a text is, it stays a text."""

import xml.etree.ElementTree as ElementTree

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.errors import printable
from ssoup_jax.report import html

HOSTILE = "<script>alert('&amp;\"')</script>"


def parsed(markup: str) -> BeautifulSoup:
    return BeautifulSoup(markup, "html.parser")


def texts(tags) -> list[str]:
    return [tag.get_text() for tag in tags]


PARTS = {
    "paragraph": lambda name: html.paragraph(name, "note"),
    "section": lambda name: html.section("a", name, html.paragraph(name)),
    "folded": lambda name: html.folded(name, html.paragraph("b")),
    "table": lambda name: html.table([name, name], [[name, name]], name),
    "bar": lambda name: html.bar(0.5, name),
    "tiles": lambda name: html.tiles([(name, name)]),
    "legend": lambda name: html.legend([("blue", name)]),
    "charts": lambda name: html.charts([(html.Markup("<svg></svg>"), name)]),
    "links": lambda name: html.links({"a": name}),
    "pairs": lambda name: html.pairs({name: name}),
    "nested": lambda name: html.nested({name: [name, {"b": name}]}),
    "nested tables": lambda name: html.nested([{name: name}, {name: name}]),
    "document": lambda name: html.document(name, [html.paragraph(name)], name),
}
every_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)


@every_part
def test_a_text_is_shown_as_it_is_and_never_understood(part):
    found = parsed(part(HOSTILE))
    assert found.find("script") is None
    assert HOSTILE in found.get_text()


@every_part
@settings(max_examples=20, deadline=None)
@given(st.text(min_size=1, max_size=40))
def test_every_part_is_well_formed_whatever_its_texts_are(part, name):
    markup = part(name)
    if not markup.startswith("<!DOCTYPE"):
        markup = f"<div>{markup}</div>"
    shown = "".join(ElementTree.fromstring(markup).itertext())
    # A head of a table keeps its line breaks; anything else has none.
    assert printable(name) in shown or "\n" in name


def test_a_table_has_its_cells_in_their_places():
    found = parsed(html.table(["phase", "mean\ncand."], [["1", "75.0"], ["2", html.bar(0.25, "25")]], "in %"))
    assert texts(found.select("thead th")) == ["phase", "meancand."]
    assert found.select("thead br")
    assert [texts(row.find_all(["th", "td"])) for row in found.select("tbody tr")] == [["1", "75.0"], ["2", "25"]]
    assert found.select_one("td .bar i")["style"] == "width: 25.0%"
    assert texts(found.select("p.note")) == ["in %"]


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0, 17.0])
def test_a_bar_stays_in_its_cell(share):
    width = parsed(html.bar(share, "")).select_one(".bar i")["style"]
    assert width in ("width: 0.0%", "width: 100.0%")


def test_what_is_empty_is_left_out():
    empty = [
        html.table(["a"], []),
        html.section("a", "b", html.table(["a"], [])),
        html.folded("a", html.paragraph("")),
        html.tiles([]),
        html.legend([]),
        html.charts([]),
        html.pairs({}),
    ]
    assert set(empty) == {""}


def test_any_json_is_shown():
    found = parsed(html.nested({"a": {"b": [1, 2.5, None, True]}, "c": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "d": {}}))
    assert texts(found.find_all("dt")) == ["a.b", "c", "d"]
    assert texts(found.find_all("dd"))[0] == "1, 2.5, -, yes"
    assert texts(found.select("thead th")) == ["x", "y"]
    assert texts(found.select("tbody tr")) == ["12", "34"]
    assert texts(found.find_all("dd"))[-1] == "-"


def test_a_document_needs_nothing_else_and_may_do_nothing():
    found = parsed(html.document("A title", [html.section("a", "b", html.paragraph("c")), html.Markup("")], "d"))
    assert found.title.get_text() == "A title" == found.h1.get_text()
    policy = found.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'")
    assert not found.find_all(["script", "link", "img", "iframe"])
    assert "@media print" in found.style.get_text() and "prefers-color-scheme: dark" in found.style.get_text()
