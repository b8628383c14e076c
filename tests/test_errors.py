"""What a user sees of an error is one line."""

import errno
import os

import pytest

from ssoup_jax.errors import SettingsError, one_line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("first\n  second\tthird"), "first second third"),
        (ValueError(), "ValueError"),
        (ValueError("\n"), "ValueError"),
        ("a part\nof a text", "a part of a text"),
        ("", ""),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "a.npz"), "No such file or directory: a.npz"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError("of a library\nof its own"), "of a library of its own"),
        (ValueError("RESOURCE_EXHAUSTED: [a]\n No space left on device [os=28]\n at b.cc"), "No space left on device"),
    ],
)
def test_an_error_is_spelled_in_one_line(error, expected):
    assert one_line(error) == expected


def test_a_long_error_keeps_its_beginning():
    assert one_line(ValueError("x" * 1000), longest=10) == "x" * 10 + " ..."
    assert one_line(ValueError("x" * 10), longest=10) == "x" * 10


def test_no_character_of_an_error_steers_the_terminal():
    assert str(SettingsError("a\x1b[2J\nb")) == r"a\x1b[2J\nb"
