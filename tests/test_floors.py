"""Imports run downward only: a module imports from its own room and from lower floors.

A room is a package or a module directly under `ssoup_jax`. Rooms of one floor do not know each other. What people and
`launch.py` start stands on top, and nothing imports it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "ssoup_jax"

FLOORS = (
    {"errors", "streams", "version"},
    {"identity", "keys", "ranges", "trees"},
    {"own", "pod", "rows"},
    {"data", "devices", "models", "pruning", "schedules", "soups", "storage", "variants"},
    {"interop", "metrics", "pools", "report", "stack"},
    {"training"},
    {"config"},
    {"experiment"},
    {"library", "studies"},
    {"commands"},
)
DOORS = {PACKAGE, *(f"{PACKAGE}.{name}" for name in ("barriers", "inspect", "store"))}  # and every `__main__`

SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in ROOT.glob(f"{PACKAGE}/**/*.py")}


def name_of(path: str) -> str:
    """Returns a file's name as a module: `'ssoup_jax/data/__init__.py'` is `'ssoup_jax.data'`."""
    return ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__")


def imports(path: str, text: str, modules: set[str]) -> Iterator[str]:
    """Yields the modules of the package that a file imports, wherever in it that is written."""
    package = name_of(path) if path.endswith("__init__.py") else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            members = [f"{origin}.{alias.name}" for alias in node.names]
            found = [member if member in modules else origin for member in members]
        else:
            continue
        yield from (name for name in found if name.partition(".")[0] == PACKAGE)


def is_door(module: str) -> bool:
    return module in DOORS or module.endswith(".__main__")


def room_of(module: str) -> str:
    return module.split(".")[1]


def wrong(sources: dict[str, str]) -> list[str]:
    """Returns a line for every import that does not run downward, and for every room that stands on no floor."""
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    modules = {name_of(path) for path in sources}
    rooms = {room_of(module) for module in modules if not is_door(module)}
    lines = [f"{room} is on no floor" for room in sorted(rooms - floor_of.keys())]
    for path, text in sorted(sources.items()):
        module = name_of(path)
        for imported in sorted(set(imports(path, text, modules))):
            if is_door(imported):
                lines.append(f"{module} imports {imported}, which nothing imports")
            elif not is_door(module) and room_of(module) != room_of(imported):
                own, other = (floor_of.get(room_of(one), -1) for one in (module, imported))
                if other >= own:
                    lines.append(f"{module} imports {imported}, which is not below it")
    return lines


def test_imports_run_downward_only():
    assert wrong(SOURCES) == []


def test_the_floors_name_what_is_there():
    rooms = {room_of(name_of(path)) for path in SOURCES if not is_door(name_of(path))}
    assert set().union(*FLOORS) == rooms
    assert sum(map(len, FLOORS)) == len(rooms), "a room stands on one floor"


@pytest.mark.parametrize(
    ("path", "text", "imported"),
    [
        ("storage/wrong.py", "from ssoup_jax.experiment.plan import Stage", "ssoup_jax.experiment.plan"),
        ("storage/wrong.py", "from ssoup_jax.experiment import plan", "ssoup_jax.experiment.plan"),
        ("storage/wrong.py", "from ssoup_jax import experiment", "ssoup_jax.experiment"),
        ("storage/wrong.py", "import ssoup_jax.experiment.plan as p", "ssoup_jax.experiment.plan"),
        ("storage/wrong.py", "from ..experiment import plan", "ssoup_jax.experiment.plan"),
        ("storage/wrong.py", "from .. import report", "ssoup_jax.report"),
        ("storage/__init__.py", "from ..report import summary", "ssoup_jax.report.summary"),
        ("training/wrong.py", "def f():\n    from ssoup_jax import config", "ssoup_jax.config"),
        (
            "interop/wrong.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssoup_jax.experiment import artifacts",
            "ssoup_jax.experiment.artifacts",
        ),
        ("metrics/wrong.py", "from ssoup_jax.interop import fits", "ssoup_jax.interop.fits"),
        ("errors.py", "from ssoup_jax import trees", "ssoup_jax.trees"),
        ("experiment/wrong.py", "from ssoup_jax.commands import inspect", "ssoup_jax.commands.inspect"),
    ],
)
def test_an_import_that_points_up_is_found(path, text, imported):
    path = f"{PACKAGE}/{path}"
    assert wrong(SOURCES | {path: text}) == [f"{name_of(path)} imports {imported}, which is not below it"]


@pytest.mark.parametrize(
    ("text", "door"),
    [
        ("from ssoup_jax.interop import __main__", "ssoup_jax.interop.__main__"),
        ("from ssoup_jax.interop.__main__ import main", "ssoup_jax.interop.__main__"),
        ("from ssoup_jax import inspect", "ssoup_jax.inspect"),
        ("from ssoup_jax import something", "ssoup_jax"),
    ],
)
def test_an_import_of_what_people_start_is_found(text, door):
    found = wrong(SOURCES | {f"{PACKAGE}/commands/wrong.py": text})
    assert found == [f"ssoup_jax.commands.wrong imports {door}, which nothing imports"]


def test_a_room_on_no_floor_is_found():
    assert "cellar is on no floor" in wrong(SOURCES | {f"{PACKAGE}/cellar/wine.py": ""})


@pytest.mark.parametrize(
    "text", ["import os.path", "from ssoup_jax.errors import one_line", "from . import lock", "from .lock import hold"]
)
def test_an_import_that_runs_downward_is_none_of_them(text):
    assert wrong(SOURCES | {f"{PACKAGE}/storage/right.py": text}) == []
