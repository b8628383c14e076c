"""`python -m ssoup_jax.store merge`: brings the artifacts of one workdir into another."""

import os
from argparse import Namespace

from ssoup_jax.commands.command_line import Parser, expanded, spelled
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import names
from ssoup_jax.experiment.artifacts import HOW_IT_CAME_ABOUT
from ssoup_jax.report.console import Console
from ssoup_jax.storage import lock, merge
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.merge import Plan
from ssoup_jax.storage.store import Store


def describe(parser: Parser) -> None:
    """Tells a parser of the command's arguments."""
    parser.add_argument("source", type=expanded, metavar="A", help="the workdir whose artifacts are wanted; only read")
    parser.add_argument("target", type=expanded, metavar="B", help="the workdir that they are to be in; may be new")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be copied, and what differs")
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    source, target = Workdir(options.source), Workdir(options.target)
    if not source.artifacts.is_dir():
        raise SettingsError(f"{source.path}: no workdir (no artifacts in it)")
    if target.artifacts.is_dir() and os.path.samefile(source.artifacts, target.artifacts):
        raise SettingsError(f"{target.path}: the same workdir as {source.path}")
    console = Console()
    wanted = _names(source, console)
    with console.stage("comparing", len(wanted)) as update:
        found = merge.plan(source, target, wanted, HOW_IT_CAME_ABOUT, update)
    _say(found, options.dry_run, console)
    if found.refused:
        console.line("nothing is copied: what is refused differs or is damaged")
        return 1
    copies = f"{len(found.new)} artifacts ({spelled(sum(found.new.values()))})"
    if options.dry_run:
        console.line(f"would copy {copies}; without --dry-run it is done")
        return 0
    if found.new or found.ood:
        _copy(found, source, Store(target.path, on_damage=console.line), console)
    console.line(f"merged {source.path} into {target.path}: {copies} copied, {len(found.equal)} were there already")
    return 0


def _names(source: Workdir, console: Console) -> list[str]:
    """Finds what is an artifact; what was set aside or does not belong there is said."""
    folders = sorted(folder.name for folder in source.artifacts.iterdir() if not folder.name.startswith("."))
    wanted = [name for name in folders if names.read(name) is not None]
    if others := [name for name in folders if name not in wanted]:
        console.line(f"left out, being no finished stage: {', '.join(others)}")
    return wanted


def _copy(found: Plan, source: Workdir, store: Store, console: Console) -> None:
    with lock.hold(map(store.workdir.lock, found.new), console.line):
        store.recover()
        if made := [name for name in found.new if os.path.lexists(store.path(name))]:
            raise RunError(f"{made[0]}: was made in {store.workdir.path} meanwhile; nothing is copied, merge again")
        with console.stage("copying", len(found.new)) as update:
            merge.carry_out(found, source, store, update)


def _say(found: Plan, each: bool, console: Console) -> None:
    for name, size in found.new.items() if each else ():
        console.line(f"new: {name} ({spelled(size)})")
    apart = sorted({name for own in found.equal.values() for name in own})
    but = f"; their records tell otherwise of {', '.join(apart)}, which makes no other artifact" if apart else ""
    if found.equal:
        console.line(f"the same in both, bit for bit: {len(found.equal)} artifacts{but}")
    for name, scores in found.ood.items():
        console.line(f"out of distribution: {name}, {len(scores)} corruptions")
    for name, difference in found.refused.items():
        console.line(f"refused: {name}: {difference}")
