"""The picture of what lies between models shows what was found, and no more."""

import numpy as np
import pytest
from PIL import Image

from ssoup_jax.report import barriers

POSITION = [0.0, 0.5, 1.0]


def scores(shape, value, splits=("train", "test")):
    return {split: {name: np.full(shape, value).tolist() for name in ("loss", "accuracy")} for split in splits}


def line(of="members", after=True):
    found = {"of": of, "ends": [0, 1], "position": POSITION, "before": scores(3, 0.5)}
    return found | {"after": scores(3, 0.75) if after else None}


def plane(after=True):
    grid = {"corners": [[0, 0], [2, 0], [1, 1]], "mean": [1, 1 / 3], "x": [-1, 1, 3], "y": [-1, 0, 2]}
    bowl = {"test": {name: [[3.0, 2, 3], [2, 1, 2], [4, 3, None]] for name in ("loss", "accuracy")}}
    return grid | {"before": bowl, "after": bowl if after else None}


def content(*lines, **more):
    return {"phase": 2, "title": "digits", "members": [0, 1, 2, 3], "splits": ["train", "test"], "lines": lines, **more}


def panels(found):
    figure = barriers.figure(found)
    return figure, [axes for axes in figure.axes if axes.get_label() != "<colorbar>" and axes.axison]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (content(line(), line(), plane=plane()), ["loss", "error (%)", "", ""]),
        (content(line(), line("soups"), plane=None), ["loss", "error (%)", "loss", "error (%)"]),
        (content(line(after=False), plane=plane(after=False)), ["loss", "error (%)", ""]),
    ],
)
def test_a_row_for_each_kind_of_lines_and_one_for_the_plane(found, expected, tmp_path):
    _, drawn = panels(found)
    assert [axes.get_ylabel() for axes in drawn] == expected
    barriers.plot(found, tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as image:
        assert image.width == 1140


def test_lines_are_shown_in_the_units_of_their_axes():
    _, (loss, error, *_) = panels(content(line(), line(), plane=None))
    drawn = {one.get_label(): one.get_ydata().tolist() for one in loss.lines if not one.get_label().startswith("_")}
    assert drawn == {
        "BatchNorm mixed, test": [0.5] * 3,
        "BatchNorm mixed, train": [0.5] * 3,
        "BatchNorm recalibrated, test": [0.75] * 3,
        "BatchNorm recalibrated, train": [0.75] * 3,
    }
    assert {tuple(one.get_ydata()) for one in error.lines} == {(50,) * 3, (25,) * 3}


def test_a_network_without_batchnorm_has_one_curve():
    figure, (loss, _) = panels(content(line(after=False), plane=None))
    assert [one.get_label() for one in loss.lines] == ["all points, test", "all points, train"]
    assert figure.get_suptitle() == "digits: phase 2"


def test_both_planes_have_the_same_levels_and_three_names():
    _, (left, right) = panels(content(plane=plane()))
    texts = [text.get_text() for text in left.texts]
    assert texts == ["0", "1", "2", "mean"]
    levels = [axes.collections[0].levels.tolist() for axes in (left, right)]
    assert levels[0] == levels[1]
    assert levels[0][0] == 1


def test_what_is_not_finite_is_left_white(tmp_path):
    found = content(line(), plane=plane() | {"before": {"test": {"loss": [[None] * 3] * 3}}, "after": None})
    barriers.plot(found, tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size > 10_000
