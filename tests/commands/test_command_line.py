"""Whatever goes wrong in a command is one line and exit code 2."""

import errno
import os

import pytest

from ssoup_jax.commands.command_line import Parser, answer
from ssoup_jax.errors import RunError, SettingsError


def parser_of(run):
    parser = Parser(prog="command")
    parser.add_argument("number", type=int)
    parser.set_defaults(run=run)
    return parser


def test_a_command_is_given_its_options_and_gives_the_exit_code(capsys):
    assert answer(parser_of(lambda options: options.number + 1), ["6"]) == 7
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [[], ["many"], ["1", "2"], ["--fast", "1"]])
def test_a_mistake_in_the_arguments_is_one_line(capsys, arguments):
    assert answer(parser_of(lambda options: pytest.fail("was run")), arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith("error: command line: ") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SettingsError("a: found b"), "error: a: found b\n"),
        (RunError("a: damaged"), "error: a: damaged\n"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a\x1b[2J\n"), "error: Permission denied: a\\x1b[2J\\n\n"),
    ],
)
def test_what_fails_is_one_line(capsys, error, expected):
    def fail(_):
        raise error

    assert answer(parser_of(fail), ["1"]) == 2
    assert capsys.readouterr() == ("", expected)


def test_a_defect_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        answer(parser_of(lambda options: 1 // 0), ["1"])
