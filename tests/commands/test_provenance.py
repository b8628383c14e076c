"""Where artifacts came from is told in full of one, and in groups of many, whatever a record says."""

import pytest

from ssoup_jax.commands import provenance

FOUND = {
    "versions": {"ssoup_jax": "0.1.0", "jax": "0.10.2"},
    "platform": "Linux",
    "host": "node1",
    "devices": {"TPU v4": 8},
    "processes": 2,
    "git": {"commit": "0123abcd", "dirty": True},
    "command": ["launch.py", "--config=a.py"],
    "execution": "2x4:vmap",
    "mesh": [2, 4],
    "started": "2026-01-02T03:04:05+01:00",
    "ended": "2026-01-02T04:04:05+01:00",
}


def test_of_one_all_is_told():
    assert provenance.lines([FOUND]) == [
        "made: 2026-01-02T03:04:05+01:00 to 2026-01-02T04:04:05+01:00, on node1 (8 x TPU v4), execution 2x4:vmap, "
        "2 processes",
        "with: ssoup_jax 0.1.0, jax 0.10.2, Linux",
        "code: commit 0123abcd, changed since",
        "command: launch.py --config=a.py",
    ]


def test_of_many_what_they_have_in_common():
    clean = FOUND | {"git": {"commit": "0123abcd", "dirty": False}}
    bare = FOUND | {"git": None, "started": "later"}
    start = "made on node1 (8 x TPU v4) with ssoup_jax 0.1.0, jax 0.10.2; "
    assert provenance.lines([FOUND, clean, FOUND, bare]) == [
        f"2 stages {start}commit 0123abcd, changed since",
        f"1 stage {start}commit 0123abcd",
        f"1 stage {start}code of no commit",
    ]
    assert provenance.lines([]) == []


@pytest.mark.parametrize(
    "found",
    [
        {},
        {name: "\x1b[2J" for name in FOUND},
        {name: {"\x1b": [1]} for name in FOUND},
        {name: [10**400] for name in FOUND},
        {name: 10**400 for name in FOUND},
        {"command": ["a" * 10**6], "git": {"commit": {}, "dirty": "\n"}, "devices": {"\n": None}},
    ],
)
def test_whatever_a_record_says_is_not_believed(found):
    for lines in (provenance.lines([found]), provenance.lines([found, found])):
        assert all(line.isprintable() and len(line) < 3000 for line in lines)
