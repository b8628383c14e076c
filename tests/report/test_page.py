"""The page of an experiment, read by a parser of HTML: what it shows is what the summary says."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from bs4 import BeautifulSoup

from ssoup_jax.errors import SettingsError
from ssoup_jax.report import charts, contents
from ssoup_jax.report.page import page
from tests.report.summaries import EMPTY, FULL, IMP_ONLY, phase, run, whole
from tests.report.test_html import HOSTILE, texts

SUMMARIES = {"full": FULL, "imp only": IMP_ONLY, "empty": EMPTY, "whole": whole(), "hostile": whole(HOSTILE)}


def made(summary: dict, folder, note: str = "") -> str:
    return page(contents.gather(summary, folder, note))


def parsed(summary: dict, folder, note: str = "") -> BeautifulSoup:
    return BeautifulSoup(made(summary, folder, note), "html.parser")


def rows(found: BeautifulSoup, section: str) -> list[list[str]]:
    return [texts(row.find_all(["th", "td"])) for row in found.select(f"#{section} tbody tr")]


def write_curves(folder, summary: dict, n_epochs: int = 4) -> None:
    """Writes the figures of every epoch where a run writes them."""
    for model in contents.models(contents.typed.experiment(summary)):
        place = folder / "artifacts" / model.artifact
        place.mkdir(parents=True)
        lines = [
            {"epoch": e, "step": 9 * e, "train_loss": 1 / e, "train_accuracy": 0.1 * e, "learning_rate": 0.1}
            | {"seconds": 1.0, "images_per_second": 9.0, "sparsity": {"prunable": 0.5}}
            | {"val": {"loss": 2 / e, "accuracy": 0.05 * e, "seconds": 0.1, "images_per_second": 9.0}}
            for e in range(1, n_epochs + 1)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 9, "tr')


@pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES)
def test_a_page_is_well_formed_and_the_same_every_time(summary, tmp_path):
    text = made(summary, tmp_path)
    ElementTree.fromstring(text)
    assert made(summary, tmp_path) == text
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= set(names)


def test_no_name_in_the_data_is_understood_as_html(tmp_path):
    write_curves(tmp_path, whole(HOSTILE))
    (tmp_path / "barriers.json").write_text(json.dumps({HOSTILE: [HOSTILE]}))
    found = parsed(whole(HOSTILE), tmp_path, HOSTILE)
    assert not found.find_all("script")
    # In the title, a warning, the classes, the settings, a layer, a corruption, a host, a barrier and the note.
    sections = ("data", "settings", "layers", "corruptions", "provenance", "barriers")
    for place in ("title", "h1", ".warning", *(f"#{name}" for name in sections)):
        assert HOSTILE in found.select_one(place).get_text(), place


def test_a_page_fetches_nothing(tmp_path):
    write_curves(tmp_path, whole())
    found = parsed(whole(), tmp_path)
    assert not found.find_all(["script", "link", "img", "iframe", "object", "image", "base"])
    for tag in found.find_all(True):
        for name, value in tag.attrs.items():
            if name.endswith(("href", "src")):
                assert value.startswith("#")
            assert not name.startswith("on")
            assert "url(" not in str(value) or "url(#" in str(value)
    assert "@import" not in found.style.get_text() and "url(" not in found.style.get_text()


def test_the_table_is_that_of_the_terminal(tmp_path):
    found = parsed(FULL, tmp_path)
    heads = texts(found.select("#table thead th"))
    assert heads[3:5] == ["candidates", "meancand."]
    assert rows(found, "table")[3] == [
        *("3", "98.00", "-", "3", "71.56", "71.77", "72.67", "+1.11", "+0.90", "73.50", "3 of 3", "-"),
    ]
    assert texts(found.select(".tiles dd")) == ["72.67 %", "+1.11", "98.00 %", "76.32 %"]


def test_what_a_summary_does_not_have_has_no_section(tmp_path):
    names = {section["id"] for section in parsed(FULL, tmp_path).find_all("section")}
    assert names == {"table", "sparsity", "models", "settings"}
    names = {section["id"] for section in parsed(whole(), tmp_path).find_all("section")}
    assert names == {
        *("table", "sparsity", "models", "corruptions", "greedy", "distances", "layers", "settings", "data"),
        "provenance",
    }


def test_curves_are_drawn_for_every_stage_member_and_figure(tmp_path):
    summary = whole()
    write_curves(tmp_path, summary)
    found = parsed(summary, tmp_path)
    captions = [caption for caption in texts(found.select("#curves figcaption"))]
    stages = ("Dense", "Phase 1", "Phase 2")
    wanted = [f"{stage}: {what}" for what in ("loss", "accuracy in %") for stage in stages]
    more = [f"{stage}: {what}" for what in ("learning rate", "sparsity prunable in %") for stage in stages]
    assert captions == wanted + more
    assert texts(found.select("#curves .legend span")) == ["member 0", "member 1", "member 2"]
    for figure, n_models in zip(found.select("#curves figure")[:3], (1, 3, 3), strict=True):
        # Training and validation; four epochs each. The curves alone are as thick.
        paths = [path for path in figure.select("path") if "stroke-width: 1.4" in path.get("style", "")]
        assert len(paths) == 2 * n_models
        assert sum("stroke-dasharray" in path["style"] for path in paths) == n_models
        assert {len(re.findall(r"[ML]", path["d"])) for path in paths} == {4}
    assert "solid: training; dashed: validation" in found.select_one("#curves").get_text()


def test_every_decision_of_a_greedy_soup_is_listed_in_its_order(tmp_path):
    assert rows(parsed(whole(), tmp_path), "greedy")[:3] == [
        ["1", "member 1", "75.00", "start"],
        ["1", "with member 2", "76.00", "accepted"],
        ["1", "with member 0", "71.00", "rejected"],
    ]


def test_layers_show_what_each_phase_left(tmp_path):
    found = parsed(whole(), tmp_path)
    assert texts(found.select("#layers thead th")) == ["layer", "phase 1", "phase 2"]
    assert rows(found, "layers") == [["plain/kernel", "50.00", "75.00"], ["fc/kernel", "0.00", "0.00"]]
    assert "1 other layers have no zeros" in found.select_one("#layers").get_text()
    assert [bar["style"] for bar in found.select("#layers .bar i")][:2] == ["width: 50.0%", "width: 75.0%"]


def test_provenance_is_told_once_where_it_is_the_same(tmp_path):
    found = parsed(whole(), tmp_path)
    pairs = dict(zip(*(texts(found.select(f"#provenance {tag}")) for tag in ("dt", "dd")), strict=True))
    assert pairs == {"versions.jax": "0.9", "host": "plain"}
    assert texts(found.select("#provenance thead th")) == ["model", "started"]
    assert rows(found, "provenance")[:2] == [["dense", "dense-0"], ["phase 1, member 0", "phase1-imp-0"]]


def test_settings_that_are_not_the_defaults_come_first(tmp_path):
    found = parsed(whole(), tmp_path)
    assert rows(found, "settings") == [["dataset", "plain", "digits"]]
    assert "learning_rate" in found.select_one("#settings details").get_text()
    assert found.select_one("#settings h2").get_text() == "Settings that are not the defaults"
    # An older summary does not say which ones those are.
    assert parsed(FULL, tmp_path).select_one("#settings h2").get_text() == "Settings"


def test_distances_corruptions_and_barriers(tmp_path):
    (tmp_path / "barriers-phase1.json").write_text('{"members": {"0-1": {"loss": 0.25}}}')
    (tmp_path / "barriers-torn.json").write_text('{"members": {')
    found = parsed(whole(), tmp_path)
    # The ingredients are two of three, and have distances of their own.
    assert [row[0] for row in rows(found, "distances")] == [
        f"phase {number}{which}" for number in (1, 2) for which in ("", ", ingredients")
    ]
    assert rows(found, "corruptions") == [["computed:plain", *["75.00"] * 3]]
    assert texts(found.select("#barriers summary")) == ["barriers-phase1.json"]
    assert texts(found.select("#barriers dt")) == ["members.0-1.loss"]


def between(**changes):
    """A file of barriers, as `commands.barriers` writes it."""
    scores = {split: {"loss": [1.0, 1.5, 0.5], "accuracy": [0.5, 0.25, 0.75]} for split in ("train", "test")}
    barrier = {"loss": {"height": 0.75, "position": 0.5}, "error": {"height": 0.375, "position": 0.5}}
    line = {"of": "members", "ends": [0, HOSTILE], "distance": 2.0, "position": [0.0, 0.5, 1.0], "before": scores}
    grid = {"test": {"loss": [[1.0, 2.0], [3.0, 4.0]], "accuracy": [[1.0, 1.0], [1.0, 1.0]]}}
    plane = {"corners": [[0, 0], [1, 0], [0, 1]], "mean": [0.3, 0.3], "x": [0, 1], "y": [0, 1], "before": grid}
    found = {"phase": 1, "title": HOSTILE, "members": [0, 1, HOSTILE], "splits": ["train", "test"]}
    line |= {"after": None, "barrier": {"before": {"test": barrier}, "after": None}}
    return found | {"lines": [line], "plane": plane | {"after": None}} | changes


def test_barriers_are_listed_and_drawn(tmp_path):
    (tmp_path / "barriers-phase1.json").write_text(json.dumps(between()))
    (tmp_path / "barriers-phase2.json").write_text(json.dumps(between(phase=2, plane=None, lines=[])))
    (tmp_path / "barriers-phase3.json").write_text(json.dumps(between(phase=3, lines=[{"of": "none"}])))
    ElementTree.fromstring(made(whole(), tmp_path))
    found = parsed(whole(), tmp_path)
    assert rows(found, "barriers")[0] == [f"phase 1, members 0 to {HOSTILE}", "2", "-", "0.7500", "37.50"]
    captions = [f"Phase 1, between members: {what}" for what in ("loss", "error in %")]
    assert texts(found.select("#barriers figcaption"))[:2] == captions
    assert len(found.select("#barriers figure")) == 3
    # What is of another form is shown as it is.
    assert texts(found.select("#barriers summary")) == ["barriers-phase3.json"]


def test_what_lies_beside_the_same_summary_of_one_experiment_is_found(tmp_path):
    (tmp_path / "artifacts").mkdir()
    for name, summary in (("0123", whole()), ("4567", FULL)):
        place = tmp_path / "experiments" / name
        place.mkdir(parents=True)
        (place / "summary.json").write_text(json.dumps(summary))
        (place / f"barriers-{name}.json").write_text("{}")
    (tmp_path / "summary.json").write_text(json.dumps(whole()))
    assert list(contents.gather(whole(), tmp_path).barriers) == ["barriers-0123.json"]


def test_what_members_have_of_their_own_and_what_weights_they_have(tmp_path):
    summary = whole()
    for index, model in enumerate(summary["phases"][0]["candidates"]):
        model["member"] = {"seed": index, "weight_decay": 0.1 * index}
    summary["phases"][0]["soup"]["weights"] = {"1": 0.25, "2": 0.75}
    found = parsed(summary, tmp_path)
    assert texts(found.select("#settings thead th"))[-3:] == ["member", "seed", "weight decay"]
    assert rows(found, "settings")[1:3] == [["0", "0", "0"], ["1", "1", "0.1"]]
    assert "phase 1, soup: 25.0 % of member 1, 75.0 % of member 2" in texts(found.select("#models .note"))


def test_a_member_that_diverged_is_said(tmp_path):
    summary = whole()
    summary["phases"][0]["candidates"][1]["diverged"] = 17
    assert "phase 1, member 1 diverged at step 17" in texts(parsed(summary, tmp_path).select("#models .warning"))


def test_a_summary_of_an_older_version_is_shown_as_far_as_it_goes(tmp_path):
    old = {"settings": {"dataset": "digits"}, "phases": [{"phase": 1, "candidates": [{"split_val": 0}], "soup": None}]}
    found = parsed(old, tmp_path)
    assert rows(found, "table")[1][:4] == ["1", "-", "-", "1"]
    assert found.title.get_text() == "digits"


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ([], "not a summary: all of it: input should be a valid dictionary"),
        ({"phases": []}, "not a summary: settings: field required"),
        ({"settings": {}, "phases": 3}, "not a summary: phases: input should be a valid list"),
        (
            run(phase(1, 0.5, [0.5], None) | {"sparsity": {"prunable": "0.5"}}),
            "not a summary: phases.0.sparsity.prunable: input should be a valid number",
        ),
        (run(phase(1, 0.5, [0.5], None), m="3"), "not a summary: settings.n_splits_total: input should be a valid int"),
    ],
)
def test_what_cannot_be_a_summary_is_one_line(tmp_path, summary, said):
    with pytest.raises(SettingsError) as error:
        contents.gather(summary, tmp_path)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_an_artifact_of_another_folder_is_not_read(tmp_path):
    summary = whole()
    summary["dense"]["artifact"] = "../../elsewhere"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "metrics.jsonl").write_text('{"epoch": 1, "train_loss": 1.0}\n')
    (tmp_path / "runs" / "artifacts").mkdir(parents=True)
    assert contents.gather(summary, tmp_path / "runs").curves == {}


def test_lines_without_numbers_are_passed_over(tmp_path):
    lines = ['{"epoch": 1, "loss": null, "name": "a"}', "[]", '{"done": true}', "no JSON", '{"loss": 2}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert contents.rows(tmp_path / "a.jsonl") == [{"epoch": 1}, {"loss": 2}]
    assert contents.rows(tmp_path / "missing.jsonl") == []


def test_a_chart_takes_the_colours_and_letters_of_the_page():
    line = charts.Line([1, 2, 3], [1.0, float("nan"), 0.01], "blue")
    text = charts.svg(charts.curves([line], log=True), "a", "a <chart>")
    svg = ElementTree.fromstring(f"<div>{text}</div>")[0]
    assert svg.attrib["aria-label"] == "a <chart>"
    assert "width" not in svg.attrib and "font-family" not in text
    assert "var(--blue)" in text and not re.search(r": #[0-9a-f]{6}", text)
    # The same names in another chart would be mixed up with these.
    other = charts.svg(charts.curves([line], log=True), "b", "")
    names = [set(re.findall(r'\bid="([^"]+)"', one)) for one in (text, other)]
    assert names[0] and not names[0] & names[1]
