import copy
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.report.console import Console
from ssoup_jax.report.summary import mean_and_max, table, title
from tests.report.summaries import EMPTY, FULL, IMP_ONLY, candidate, phase, run


def rows(summary: dict) -> dict[str, list[str]]:
    """The printed rows of the table by their first cell."""
    stream = io.StringIO()
    Console(stream).table(table(summary))
    lines = [re.split(r" {2,}", line.strip()) for line in stream.getvalue().splitlines()]
    return {line[0]: line[1:] for line in lines if line[0] == "dense" or line[0].isdigit()}


def test_mean_and_max_keep_splits_and_metrics():
    candidates = [
        {"split_val": 0, "test": {"accuracy": 0.5, "loss": 3.0}, "val": {"accuracy": 0.25}, "flops": {"speedup": 2.0}},
        {"split_val": 1, "test": {"accuracy": 0.75, "loss": 1.0}, "val": {"accuracy": 0.5}},
    ]
    mean, best = mean_and_max(candidates)
    assert mean == {"test": {"accuracy": 0.625, "loss": 2.0}, "val": {"accuracy": 0.375}}
    assert best == {"test": {"accuracy": 0.75, "loss": 3.0}, "val": {"accuracy": 0.5}}


def test_mean_and_max_pass_over_what_is_missing():
    candidates = [
        {"test": {"accuracy": 0.5, "loss": None, "ece": float("nan")}, "val": None},
        {"test": {"accuracy": None, "loss": None, "ece": 0.25}},
        {"split_val": 2},
    ]
    expected = {"test": {"accuracy": 0.5, "loss": None, "ece": 0.25}}
    assert mean_and_max(candidates) == (expected, expected)
    assert mean_and_max([]) == ({}, {})


@settings(max_examples=50, deadline=None)
@given(st.permutations([0.1, 0.7, 0.2, 0.30000000000000004]))
def test_mean_and_max_do_not_depend_on_the_order(accuracies):
    assert mean_and_max([candidate(i, accuracy) for i, accuracy in enumerate(accuracies)]) == mean_and_max(
        [candidate(i, accuracy) for i, accuracy in enumerate(sorted(accuracies))]
    )


def test_table_tells_what_the_soups_gained():
    assert rows(FULL) == {
        "dense": ["0.00", "76.32", *["-"] * 9],
        "1": ["72.86", "-", "3", "75.45", "75.60", "76.50", "+1.05", "+0.90", "77.01", "3 of 3", "-"],
        "2": ["92.63", "-", "3", "74.35", "74.51", "75.55", "+1.20", "+1.04", "76.20", "3 of 3", "-"],
        "3": ["98.00", "-", "3", "71.56", "71.77", "72.67", "+1.11", "+0.90", "73.50", "3 of 3", "-"],
    }


def test_table_without_soups():
    assert rows(IMP_ONLY) == {
        "dense": ["0.00", "76.32", *["-"] * 9],
        "1": ["70.00", "-", "1", "75.00", "75.00", *["-"] * 6],
        "2": ["90.00", "-", "1", "74.00", "74.00", *["-"] * 6],
    }


def test_table_without_anything():
    assert rows(EMPTY) == {"dense": ["0.00", *["-"] * 10]}
    bare = {"phase": 1, "sparsity": None, "candidates": [{"split_val": 0}], "soup": None}
    assert rows({"phases": [bare]})["1"] == ["-", "-", "1", *["-"] * 8]


def test_table_of_a_greedy_soup_that_lost():
    lost = phase(1, 0.9, [0.5, 0.6, 0.7], 0.55)
    lost["soup"]["ingredients"] = [2]
    cells = rows(run(lost))["1"]
    assert cells[6:8] == ["-5.00", "-15.00"]
    assert cells[9] == "1 of 3"


def test_table_knows_no_negative_zero():
    assert rows(run(phase(1, 0.9, [0.500001], 0.5)))["1"][6:8] == ["+0.00", "+0.00"]


@pytest.mark.parametrize("owner", ["soup", "candidate"])
def test_table_shows_the_speed_up_of_the_soup_or_else_of_a_candidate(owner):
    summary = run(phase(1, 0.9, [0.5, 0.5], 0.5))
    first = summary["phases"][0]
    first["candidates"][1]["flops"] = {"speedup": 4.0}
    if owner == "soup":
        first["soup"]["flops"] = {"speedup": 8.125}
    assert rows(summary)["1"][-1] == {"soup": "8.12x", "candidate": "4.00x"}[owner]


def test_table_computes_mean_and_best_where_the_summary_lacks_them():
    summary = copy.deepcopy(FULL)
    for entry in summary["phases"]:
        del entry["candidates_mean"], entry["candidates_max"]
    assert rows(summary) == rows(FULL)


def test_table_is_narrow_enough_for_a_usual_terminal():
    stream = io.StringIO()
    Console(stream).table(table(FULL))
    assert max(len(line) for line in stream.getvalue().splitlines()) <= 100


SEVERAL = run(phase(1, 0.7, [0.75, 0.76], None), m=2, members=[{"seed": 1, "weight_decay": 0.0}, {"seed": 2}])
for place, member in enumerate(SEVERAL["settings"]["members"]):
    SEVERAL["phases"][0]["candidates"][place]["member"] = member


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (FULL, "cifar100, WideResNet20, m = 3 by pruned_seed"),
        (SEVERAL, "cifar100, WideResNet20, m = 2 by seed, weight_decay"),
        (run(m=2, pool="seed:0..9"), "cifar100, WideResNet20, m = 2"),
        (IMP_ONLY, "cifar100, WideResNet20, m = 1"),
        (EMPTY, ""),
        ({"settings": {"dataset": "mnist"}}, "mnist"),
    ],
)
def test_title(summary, text):
    assert title(summary) == text
    stream = io.StringIO()
    Console(stream).table(table(summary))
    assert stream.getvalue().splitlines()[0].strip().endswith(f"{text}: test accuracy in %".removeprefix(": "))
