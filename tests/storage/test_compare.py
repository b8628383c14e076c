"""Artifacts are the same if their arrays and figures are, however they came about."""

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.storage import artifact_folder, manifest
from ssoup_jax.storage.compare import Compared, compare, json_differences

TREE = {"params": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "mask": {"kernel": np.ones((2, 3), bool)}}
RECORD = {"metrics": {"test": {"loss": 0.25}}, "training": {"seconds": 3.5, "losses": [1.0, 0.5]}, "split_val": 0}
MAY_DIFFER = {"seconds", "split_val"}


def made(folder, tree=TREE, record=RECORD, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    artifact_folder.write(folder, tree, record)
    return folder


def changed(kernel=TREE["params"]["kernel"], mask=TREE["mask"]["kernel"]):
    return {"tree": {"params": {"kernel": kernel}, "mask": {"kernel": mask}}}


def told(**entries):
    return {"record": RECORD | entries}


def test_a_copy_is_the_same(tmp_path):
    one = made(tmp_path / "one")
    shutil.copytree(one, tmp_path / "other")
    assert compare(one, tmp_path / "other", MAY_DIFFER) == Compared(None)


def test_what_is_stored_twice_is_the_same_but_for_how_it_came_about(tmp_path):
    other = RECORD | {"split_val": 1, "training": RECORD["training"] | {"seconds": 4.0}}
    one, again = made(tmp_path / "one"), made(tmp_path / "again", record=other)
    assert compare(one, again, MAY_DIFFER) == Compared(None, ("seconds", "split_val"))
    logs = ['{"loss": 1.0, "seconds": 2}\n', '{"loss": 1.0, "seconds": 3}\n']
    one, again = (made(tmp_path / f"log{i}", metrics_jsonl=text) for i, text in enumerate(logs))
    assert compare(one, again, MAY_DIFFER) == Compared(None, ("seconds",))


KERNEL = TREE["params"]["kernel"]
ONE_BIT = np.nextafter(KERNEL, np.float32(np.inf), where=KERNEL == 4, out=KERNEL.copy())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (changed(ONE_BIT), "state: params/kernel has other values, 1 of 6, the largest by 4.8e-07"),
        (changed(-KERNEL * (KERNEL == 0)), "state: params/kernel has other values, 6 of 6"),
        (changed(mask=KERNEL > 3), "state: mask/kernel has other values, 4 of 6"),
        (changed(KERNEL[:1]), "state: params/kernel is float32[1, 3], where float32[2, 3] is wanted"),
        ({"tree": {"params": {"bias": KERNEL}}}, "state: mask/kernel is nothing, where bool[2, 3] is wanted"),
        (told(metrics={"test": {"loss": 0.5}}), "record.json: metrics/test/loss is 0.5, where 0.25 is wanted"),
        (told(metrics=None), "record.json: metrics is nothing, where {"),
        (told(more=True), "record.json: more is true, where nothing is wanted"),
        (told(training={"seconds": 3.5, "losses": [1.0]}), "record.json: training/losses is [1.0], where"),
        ({"metrics_jsonl": '{"loss": 2}\n'}, "only one of them has metrics.jsonl"),
        ({"notes_txt": "x"}, "only one of them has notes.txt"),
    ],
)
def test_the_first_difference_is_named(tmp_path, given, expected):
    found, wanted = made(tmp_path / "found", **given), made(tmp_path / "wanted")
    difference, _ = compare(found, wanted, MAY_DIFFER)
    assert difference.startswith(expected)


def test_a_file_of_other_content_differs(tmp_path):
    found, wanted = (made(tmp_path / text, notes_txt=text) for text in ("a", "b"))
    assert compare(found, wanted, MAY_DIFFER) == Compared("notes.txt has other content")


@pytest.mark.parametrize("which", ["found", "wanted"])
def test_what_is_damaged_is_no_difference(tmp_path, which):
    for name in ("found", "wanted"):
        made(tmp_path / name)
    (tmp_path / which / "record.json").write_text("{}")
    with pytest.raises(manifest.Damaged, match=r"record\.json"):
        compare(tmp_path / "found", tmp_path / "wanted", MAY_DIFFER)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from(["a", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)),
    max_leaves=8,
)


def at(value, path):
    for key in path:
        value = value[int(key)] if isinstance(value, list) else (value or {}).get(key)
    return value


@settings(max_examples=200, deadline=None)
@given(JSON, JSON)
def test_json_differs_exactly_where_it_says(found, wanted):
    differences = list(json_differences(found, wanted))
    for path, a, b in differences:
        assert (at(found, path), at(wanted, path)) == (a, b)
        assert a != b or isinstance(a, bool) != isinstance(b, bool)
    assert not list(json_differences(found, found))
    assert [(path, b, a) for path, a, b in differences] == sorted_like(differences, json_differences(wanted, found))


def sorted_like(differences, others):
    """The differences the other way round, in the order of the first ones."""
    order = [path for path, _, _ in differences]
    return sorted(others, key=lambda one: order.index(one[0]))
