"""Tables: their form, what is bold, holes, the published figures, and every format."""

import csv
import io

import bs4
import pytest

from ssoup_jax.report.console import Console
from ssoup_jax.studies import figure, formats, page, published
from ssoup_jax.studies.cells import Cell
from ssoup_jax.studies.table import Column, tables

STUDY = {"settings": {"dataset": "cifar100", "arch": "WideResNet20"}}
SPARSITY = {1: 0.728, 2: 0.926, 3: 0.98}
# Accuracy of the first run; each later one is a little better, and by how much differs between rows.
ROWS = {"SMS": (0.76, 0.010), "best candidate": (0.75, 0.012), "mean candidate": (0.74, 0.008), "IMP_mx": (0.74, 0.011)}


def cell(row: str, run: int, m: int | None, phase: int, accuracy: float | None, **changes) -> Cell:
    given = {"sparsity": SPARSITY[phase], "test": {"accuracy": accuracy}, "val": {"accuracy": accuracy}}
    place = {"goal": 0.98, "varied": "", "stages": (f"stage-{row}-{run}",)}
    return Cell(row, run, m, phase=phase, **{**place, **(given if accuracy is not None else {}), **changes})


def study(runs: int = 4, **changes) -> list[Cell]:
    cells = []
    for run in range(runs):
        for m in (3, 5):
            cells += [
                cell(row, run, m, phase, first + step * run - 0.01 * phase + 0.002 * m, **changes)
                for row, (first, step) in ROWS.items()
                for phase in SPARSITY
            ]
        cells += [cell("IMP", run, None, phase, 0.72 + 0.01 * run - 0.02 * phase, **changes) for phase in SPARSITY]
    return cells


def test_columns_are_phases_and_members_and_rows_stand_in_the_papers_order():
    (table,) = tables(STUDY, study()[::-1])
    assert table.columns == tuple(Column(phase, m) for phase in (1, 2, 3) for m in (3, 5))
    assert list(table.rows) == ["SMS", "best candidate", "mean candidate", "IMP_mx", "IMP"]
    assert table.sparsities == {phase: pytest.approx(value) for phase, value in SPARSITY.items()}
    imp = table.rows["IMP"]
    assert imp[Column(2, 3)].figures == imp[Column(2, 5)].figures, "it depends on no m"


def test_only_what_beats_every_other_row_by_an_interval_is_bold():
    (table,) = tables(STUDY, study())
    best = {row: entries[Column(3, 3)].is_best for row, entries in table.rows.items()}
    assert best == {"SMS": True, "best candidate": False, "mean candidate": False, "IMP_mx": False, "IMP": False}
    # As good a mean, from runs of which one is far off.
    cells = [
        cell("SMS", one.run, one.m, one.phase, 0.76 + (0.3 if one.run == 0 else -0.05)) if one.row == "SMS" else one
        for one in study()
    ]
    (table,) = tables(STUDY, cells)
    assert table.rows["SMS"][Column(3, 3)].figures.mean > table.rows["best candidate"][Column(3, 3)].figures.mean
    assert not any(entry.is_best for entries in table.rows.values() for entry in entries.values())


def test_nothing_is_bold_of_a_single_run():
    (table,) = tables(STUDY, study(runs=1))
    assert not any(entry.is_best for entries in table.rows.values() for entry in entries.values())
    assert all(entry.figures.std is None for entries in table.rows.values() for entry in entries.values())


def test_the_ensemble_is_a_ceiling_and_no_rival():
    ceiling = [cell("prediction ensemble", run, 3, 3, 0.99) for run in range(4)]
    (table,) = tables(STUDY, study() + ceiling)
    assert list(table.rows)[-1] == "prediction ensemble"
    assert table.rows["SMS"][Column(3, 3)].is_best
    assert not table.rows["prediction ensemble"][Column(3, 3)].is_best


def test_the_dense_models_are_said_below_and_are_no_row():
    dense = [
        Cell("dense", run, None, 0.98, 0, "", ("dense",), 0.0, {"accuracy": 0.7}, {"accuracy": 0.8 + 0.01 * run})
        for run in range(3)
    ]
    (table,) = tables(STUDY, dense + study())
    assert list(table.rows) == list(tables(STUDY, study())[0].rows)
    assert table.columns == tables(STUDY, study())[0].columns
    assert formats.notes(table)[0] == "dense: 81.00 ± 1.00 (n=3)", "of four runs"
    assert formats.as_json([table])[0]["dense"] == {"mean": pytest.approx(0.81), "std": pytest.approx(0.01), "n": 3}
    assert "dense: 81.00 ± 1.00" in page.page(STUDY | {"name": "x", "description": "y"}, [table])
    assert not any("dense" in line for line in formats.notes(tables(STUDY, study())[0]))


def test_a_hole_is_shown_with_its_reason_and_fewer_runs_are_counted():
    cells = [one for one in study() if (one.row, one.run, one.m, one.phase) != ("IMP_mx", 2, 3, 2)]
    cells.append(cell("IMP_mx", 2, 3, 2, None, missing="diverged at step 7"))
    cells.append(cell("IMP-RePrune", 0, 5, 3, None, missing="not finished"))
    cells.append(cell("IMP-RePrune", 1, 5, 3, None, missing="not finished"))
    (table,) = tables(STUDY, cells)
    assert table.missing == (
        "IMP_mx, m = 3, phase 2: diverged at step 7 (run 2)",
        "IMP-RePrune, m = 5, phase 3: not finished (run 0, 1)",
    )
    printed = "\n".join(["|".join(line) for line in formats.figures(table, lambda text: text)])
    assert "(n=3)" in printed
    assert table.rows["IMP-RePrune"][Column(3, 5)].figures is None


def test_a_denser_average_says_how_dense_it_is():
    cells = study() + [cell("IMP-AVG", run, 3, 3, 0.7, sparsity=0.951) for run in range(4)]
    (table,) = tables(STUDY, cells)
    assert table.sparsities[3] == pytest.approx(0.98)
    assert "(at 95.1 %)" in formats.markdown([table])


def test_published_figures_stand_beside_ours():
    (table,) = tables(STUDY, study())
    assert table.rows["SMS"][Column(3, 3)].published == pytest.approx((0.7267, 0.0029))
    assert table.rows["IMP"][Column(1, 5)].published == pytest.approx((0.7554, 0.0041))
    assert "| published: SMS | 76.50 ± 0.16 | 76.59 ± 0.13 |" in formats.markdown([table])


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("cifar100", "WideResNet20", 0.98, 3, "SMS", 2, 10), (0.7621, 0.0043)),
        (("imagenet2012", "ResNet50", 0.9, 3, "IMP-RePrune", 3, 5), (0.7258, 0.0001)),
        (("imagenet2012", "ResNet50", 0.9, 3, "IMP", 3, None), (0.7359, 0.0004)),
        (("cifar100", "WideResNet20", 0.98, 3, "IMP-RePrune", 1, 3), None),
        (("cifar100", "WideResNet20", 0.98, 3, "SMS", 1, 4), None),
        (("cifar100", "WideResNet20", 0.9, 3, "SMS", 1, 3), None),
        (("cifar100", "WideResNet20", 0.98, 2, "SMS", 1, 3), None),
        (("cifar10", "WideResNet20", 0.98, 3, "SMS", 1, 3), None),
    ],
)
def test_a_published_figure_is_for_its_own_place_only(place, expected):
    found = published.find(*place)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_one_table_for_each_goal_and_whatever_else_differs():
    cells = study() + study(varied="weight_decay=0.1") + study(goal=0.9)
    made = tables(STUDY, cells)
    assert [(table.goal, table.varied) for table in made] == [(0.98, ""), (0.98, "weight_decay=0.1"), (0.9, "")]
    assert made[1].rows["SMS"][Column(3, 3)].published is None
    assert "goal 98 %, weight_decay=0.1: " in formats.title(made[1])


def test_csv_and_json_have_every_figure():
    made = tables(STUDY, study())
    lines = list(csv.DictReader(io.StringIO(formats.as_csv(made))))
    (line,) = (one for one in lines if (one["row"], one["phase"], one["m"]) == ("IMP_mx", "2", "5"))
    values = [0.74 + 0.011 * run - 0.02 + 0.01 for run in range(4)]
    assert float(line["mean"]) == pytest.approx(sum(values) / 4)
    assert (line["n"], float(line["published_mean"])) == ("4", 0.7419)
    assert float(line["low"]) < float(line["ours_minus"]) < float(line["high"])
    (entry,) = (
        one for one in formats.as_json(made)[0]["entries"] if (one["row"], one["phase"], one["m"]) == ("IMP_mx", 2, 5)
    )
    assert list(entry["by_run"].values()) == pytest.approx(values)
    assert entry["figures"]["mean"] == pytest.approx(float(line["mean"]))


def test_latex_escapes_and_marks_the_best():
    text = formats.latex(tables(STUDY, study()))
    assert r"IMP\_mx & " in text and r"98.0 \%, m = 3" in text
    assert r"\textbf{" in text and text.count(r"\begin{tabular}{lrrrrrr}") == 1
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert all(line.count("&") == 6 and line.endswith(r"\\") for line in body)


def test_text_names_the_table_and_fits_a_line():
    printed = io.StringIO()
    (table,) = tables(STUDY, study())
    console = Console(printed, terminal=False)
    for shown in formats.rich_tables(table):
        console.table(shown)
    assert "* 75.10 ± 1.29" in printed.getvalue() and "SMS minus" in printed.getvalue()
    assert formats.title(table) == "goal 98 %: test accuracy in per cent, mean and deviation over 4 runs"


def test_the_figure_has_a_panel_for_each_table_and_m():
    drawn = figure.figure(tables(STUDY, study() + study(goal=0.9)))
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles == ["goal 98 %, m = 3", "goal 98 %, m = 5", "goal 90 %, m = 3", "goal 90 %, m = 5"]
    lines = {line.get_label(): line.get_ydata() for line in drawn.axes[0].get_lines()}
    assert lines["SMS"] == pytest.approx([100 * (0.76 + 0.015 - 0.01 * phase + 0.006) for phase in (1, 2, 3)])


def test_the_page_has_every_figure_and_escapes_what_comes_from_outside():
    made = tables(STUDY, study(varied="<script>alert(1)</script>"))
    about = {"settings": STUDY["settings"], "name": "<b>data</b>", "description": "a & b"}
    text = page.page(about, made)
    soup = bs4.BeautifulSoup(text, "html.parser")
    assert soup.find("script") is None and "a &amp; b" in text
    shown = [cell.get_text() for cell in soup.find_all("td")]
    for row in formats.figures(made[0], lambda text: text):
        assert all(figure.strip() in shown for figure in row[1:])
    assert [one.get_text() for one in soup.find_all("b")] == _bold(made[0]) != []


def _bold(table) -> list[str]:
    marked = [cell for row in formats.figures(table, lambda text: f"<{text}>") for cell in row]
    return [cell[1 : cell.index(">")] for cell in marked if cell.startswith("<")]
