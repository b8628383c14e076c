import itertools

import numpy as np
import pytest
from PIL import Image

from ssoup_jax.report.plot import figure, plot
from ssoup_jax.report.summary import mean_and_max
from tests.report.summaries import EMPTY, ENSEMBLE, FULL, IMP_ONLY, candidate, phase, run, settings

ONE_PHASE = run(phase(1, 0.9, [0.7, 0.72, 0.71], 0.73, prediction_ensemble=ENSEMBLE))
SECOND_WITHOUT_SOUP = run(phase(1, 0.7, [0.7, 0.72], 0.73), phase(2, 0.91, [0.6, 0.62], None), dense=None)
BAD_SOUP = run(phase(1, 0.68, [0.99, 0.992], 0.995), phase(2, 0.9, [0.98, 0.985], 0.1), dense=1.0)
TWELVE = run(*(phase(p, 1 - 0.001 ** (p / 12), [0.9 - p / 100, 0.91 - p / 100], 0.92 - p / 100) for p in range(1, 13)))
LONG_TITLE = FULL | {"settings": settings(m=10, arch="AnArchitectureWithAnUnusuallyLongName" * 2)}
NAMES = {"formula": "npz:a$\\frac$b_^.npz", "bytes": "npz:a\udcff\x1b[31m\n.npz", "long": "x/" * 900}
PRUNED_TO_NOTHING = run(phase(1, 1.0, [0.1, 0.1], 0.1))
SUMMARIES = {
    "full": FULL,
    "imp only": IMP_ONLY,
    "empty": EMPTY,
    "one phase": ONE_PHASE,
    "second without soup": SECOND_WITHOUT_SOUP,
    "bad soup": BAD_SOUP,
    "twelve phases": TWELVE,
    "long title": LONG_TITLE,
    "pruned to nothing": PRUNED_TO_NOTHING,
    **{f"{what} name": FULL | {"settings": settings(dataset=name)} for what, name in NAMES.items()},
}
every_summary = pytest.mark.parametrize("summary", SUMMARIES.values(), ids=SUMMARIES)


def lines(summary: dict) -> dict:
    (axes,) = figure(summary).axes
    return {line.get_label(): line for line in axes.lines}


@every_summary
def test_png_is_a_picture(summary, tmp_path):
    plot(summary, tmp_path / "summary.png")
    with Image.open(tmp_path / "summary.png") as image:
        assert image.format == "PNG"
        assert image.size == (1050, 690)
        # The file states dots per metre in whole numbers: 5906 of them are 150.01 to the inch.
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.02)
        grey = np.asarray(image.convert("L"))
    # White paper with ink on it.
    assert np.median(grey) == 255
    assert 0.002 < np.mean(grey < 128) < 0.2


@every_summary
def test_no_labels_overlap_and_all_are_inside(summary):
    result = figure(summary)
    result.canvas.draw()
    (axes,) = result.axes
    shown = [axes.title, axes.xaxis.label, axes.yaxis.label]
    low, high = axes.get_ylim()
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, (low, high))):
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        shown += [label for position, label in ticks if limits[0] <= position <= limits[1]]
    for legend in result.legends:
        shown += legend.get_texts()
    boxes = [text.get_window_extent() for text in shown if text.get_text()]
    assert len(boxes) >= 4
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    for box in boxes:
        assert result.bbox.x0 <= box.x0 and box.x1 <= result.bbox.x1
        assert result.bbox.y0 <= box.y0 and box.y1 <= result.bbox.y1


def test_full_summary_shows_every_series():
    shown = lines(FULL)
    assert set(shown) == {"dense (76.32 %)", "mean candidate", "best candidate", "soup", "prediction ensemble"}
    # Per cent from fractions, to the rounding of a few float64 operations.
    close = {"rtol": 1e-12}
    np.testing.assert_allclose(shown["soup"].get_xdata(), [72.86, 92.63, 98.0], **close)
    np.testing.assert_allclose(shown["soup"].get_ydata(), [76.5, 75.55, 72.67], **close)
    np.testing.assert_allclose(shown["best candidate"].get_ydata(), [75.6, 74.51, 71.77], **close)
    np.testing.assert_allclose(shown["prediction ensemble"].get_ydata(), [77.01, 76.2, 73.5], **close)
    means = [np.mean([75.31, 75.45, 75.6]), np.mean([74.1, 74.45, 74.51]), np.mean([71.4, 71.5, 71.77])]
    np.testing.assert_allclose(shown["mean candidate"].get_ydata(), means, **close)
    np.testing.assert_allclose(shown["dense (76.32 %)"].get_ydata(), [76.32, 76.32], **close)
    widths = {label: line.get_linewidth() for label, line in shown.items()}
    assert max(widths, key=widths.get) == "soup"
    assert min(widths, key=widths.get) == "prediction ensemble"
    assert shown["dense (76.32 %)"].get_linestyle() == "--"
    assert shown["prediction ensemble"].get_linestyle() == ":"


def test_every_candidate_is_a_dot():
    (axes,) = figure(FULL).axes
    (dots,) = axes.collections
    assert dots.get_label() == "candidates"
    assert dots.get_alpha() < 0.5
    expected = [
        (100 * entry["sparsity"]["prunable"], 100 * one["test"]["accuracy"])
        for entry in FULL["phases"]
        for one in entry["candidates"]
    ]
    np.testing.assert_array_equal(dots.get_offsets(), expected)


def test_axes_and_title():
    result = figure(FULL)
    (axes,) = result.axes
    assert axes.get_title() == "cifar100, WideResNet20, m = 3 by pruned_seed"
    assert axes.get_xlabel() == "sparsity of the prunable weights (%)"
    assert axes.get_ylabel() == "test accuracy (%)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "72.9", "92.6", "98.0"]
    assert len(result.legends[0].get_texts()) == 6


def test_a_name_in_the_title_is_no_formula_and_holds_nothing_that_cannot_be_drawn():
    def shown(name: str) -> str:
        (axes,) = figure(FULL | {"settings": {"dataset": NAMES[name]}}).axes
        return axes.get_title()

    assert shown("formula") == NAMES["formula"]
    assert shown("bytes") == "npz:a\\udcff\\x1b[31m\\n.npz"
    assert len(shown("long")) < 130


def test_characters_that_the_font_lacks_are_no_matter(tmp_path):
    plot(FULL | {"settings": {"dataset": "npz:漢字.npz"}}, tmp_path / "summary.png")
    assert (tmp_path / "summary.png").stat().st_size > 10_000


def test_single_models_make_one_line_and_no_dots():
    (axes,) = figure(IMP_ONLY).axes
    assert set(lines(IMP_ONLY)) == {"dense (76.32 %)", "IMP"}
    assert not axes.collections


def test_a_missing_soup_breaks_its_line():
    shown = lines(SECOND_WITHOUT_SOUP)
    assert set(shown) == {"mean candidate", "best candidate", "soup"}
    np.testing.assert_array_equal(np.isnan(shown["soup"].get_ydata()), [False, True])


def test_partial_candidates_are_passed_over():
    partial = phase(1, 0.9, [0.7, 0.8], None)
    partial["candidates"] += [{"split_val": 2}, candidate(3, 0.75)]
    partial["candidates_mean"], partial["candidates_max"] = mean_and_max(partial["candidates"])
    (axes,) = figure(run(partial)).axes
    assert len(axes.collections[0].get_offsets()) == 3


@pytest.mark.parametrize(
    ("sparsities", "labels"),
    [
        ([0.5358, 0.7845, 0.9], ["0", "53.6", "78.5", "90.0"]),
        ([0.99, 0.9999], ["0", "99.00", "99.99"]),
        # A tick without room for its label gives way to the sparser one.
        ([0.9, 0.901], ["0", "90.1"]),
    ],
)
def test_sparsity_ticks(sparsities, labels):
    (axes,) = figure(run(*(phase(i + 1, sparsity, [0.7], None) for i, sparsity in enumerate(sparsities)))).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == labels


@every_summary
def test_every_value_is_inside_tidy_limits(summary):
    (axes,) = figure(summary).axes
    low, high = axes.get_ylim()
    drawn = [axes.dataLim.y0, axes.dataLim.y1] if axes.has_data() else [0, 100]
    assert low <= min(drawn) and max(drawn) <= high
    assert not [tick for tick in axes.get_yticks() if low <= tick <= high and not 0 <= tick <= 100]
    # At least two fifths of the height belong to the values, unless they are nearly equal.
    assert max(drawn) - min(drawn) >= 0.4 * (high - low) or high - low < 1
