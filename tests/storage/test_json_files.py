import json
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.storage.json_files import JsonLines, to_json, write_json


class Point(NamedTuple):
    x: int
    y: int


CASES = {
    "plain": ({"a": [1, "b", None, True, 0.5]}, {"a": [1, "b", None, True, 0.5]}),
    "not finite": ([math.nan, math.inf, -math.inf, 1e308], [None, None, None, 1e308]),
    "numpy scalars": (
        [np.float64(0.5), np.float32("nan"), np.int8(-3), np.bool_(True), np.str_("s")],
        [0.5, None, -3, True, "s"],
    ),
    "numpy arrays": ([np.eye(2), np.array(7), np.array([1.0, np.inf], np.float16)], [[[1, 0], [0, 1]], 7, [1, None]]),
    "jax arrays": ({"a": jnp.arange(3), "b": jnp.float32(0.5)}, {"a": [0, 1, 2], "b": 0.5}),
    "narrow types": ([jnp.array([1.5, jnp.nan], jnp.bfloat16), jnp.array([1], jnp.int4)], [[1.5, None], [1]]),
    "wide types": (np.longdouble(0.5), 0.5),
    "tuples": ((1, Point(2, 3)), [1, [2, 3]]),
    "keys": ({1: "a", np.int64(2): "b"}, {"1": "a", "2": "b"}),
    "paths": (Path("a") / "b", "a/b"),
}


@pytest.mark.parametrize(("obj", "expected"), CASES.values(), ids=CASES)
def test_to_json(obj, expected):
    result = to_json(obj)
    assert result == expected
    assert json.loads(json.dumps(result, allow_nan=False)) == expected


def test_to_json_leaves_plain_types_only():
    result = to_json([np.float64(1), np.int32(1), np.bool_(1), np.str_("1"), jnp.int32(1)])
    assert [type(value) for value in result] == [float, int, bool, str, int]


@pytest.mark.parametrize("obj", [object(), {1, 2}, 1j, np.complex64(1), b"bytes", np.array([None])])
def test_to_json_refuses_what_json_cannot_hold(obj):
    with pytest.raises(TypeError, match="as JSON"):
        to_json({"a": [obj]})


def test_to_json_fetches_under_a_transfer_guard():
    values = jnp.arange(2)
    with jax.transfer_guard("disallow"):
        assert to_json(values) == [0, 1]


records = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(records)
def test_to_json_is_strict_and_idempotent(record):
    result = to_json(record)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert to_json(result) == result


def _records(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_are_flushed_one_by_one_and_appended(tmp_path):
    path = tmp_path / "logs" / "train.jsonl"
    with JsonLines(path) as log:
        log.write({"step": 1, "loss": np.float32(0.5)})
        assert _records(path) == [{"step": 1, "loss": 0.5}]
        log.write({"step": 2, "loss": math.nan, "text": "two\nlines"})
        assert _records(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "text": "two\nlines"}]
    with JsonLines(path) as log:
        log.write({"step": 3})
    assert [record["step"] for record in _records(path)] == [1, 2, 3]


def test_json_lines_start_afresh_after_a_torn_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    with JsonLines(path) as log:
        log.write({"step": 2})
    assert path.read_text() == '{"step": 1}\n{"ste\n{"step": 2}\n'


def test_json_lines_write_nothing_of_a_bad_record(tmp_path):
    path = tmp_path / "train.jsonl"
    with JsonLines(path) as log:
        with pytest.raises(TypeError):
            log.write({"good": 1, "bad": object()})
        log.write({"good": 2})
    assert _records(path) == [{"good": 2}]
    with pytest.raises(ValueError, match="closed"):
        log.write({})


def test_write_json_replaces_the_file_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "summary.json"
    for value in (0.5, np.float32(0.25)):
        write_json(path, {"value": value})
    assert json.loads(path.read_text()) == {"value": 0.25}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["to_json", "fsync"])
def test_write_json_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch, failing):
    path = tmp_path / "summary.json"
    write_json(path, "old")

    def full(_):
        raise OSError("disk full")

    if failing == "fsync":
        monkeypatch.setattr("os.fsync", full)
    with pytest.raises((TypeError, OSError)):
        write_json(path, object() if failing == "to_json" else "new")
    assert json.loads(path.read_text()) == "old"
    assert list(tmp_path.iterdir()) == [path]
