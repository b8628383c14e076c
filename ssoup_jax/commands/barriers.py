"""`python -m ssoup_jax.barriers`: looks at what lies between the members of a phase, and between soups of different m.

Trains nothing and changes no artifact; what it finds lies beside the summary of the experiment.
"""

import itertools
from argparse import Namespace
from pathlib import Path
from typing import Any

from ssoup_jax import devices, trees
from ssoup_jax.commands.command_line import Parser, answer, expanded
from ssoup_jax.data.feeds import n_batches
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import landscape
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.context import key
from ssoup_jax.experiment.finished import Finished, find
from ssoup_jax.experiment.landscape import Ground
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.report import barriers
from ssoup_jax.report.console import Console
from ssoup_jax.report.summary import title
from ssoup_jax.storage import atomic
from ssoup_jax.storage.json_files import to_json, write_json

_WHOLE = ("moving", 1.0)  # the recalibration where the experiment has none
_ENOUGH_BATCHES = 100
"""Of which recalibration at a point is made: more change a moving average of momentum 0.1 in the fifth digit."""


def main(arguments: list[str]) -> int:
    """Looks at an experiment's phases; returns the exit code: 0 done, 2 something that was given cannot work."""
    parser = Parser(
        prog="python -m ssoup_jax.barriers",
        description="Loss and accuracy between the members of a phase, and between soups of different m.",
    )
    parser.add_argument("workdir", type=expanded, metavar="WORKDIR", help="where an experiment has left its artifacts")
    parser.add_argument("--phase", type=int, nargs="+", metavar="P", help="phases to look at; all that have members")
    parser.add_argument("--experiment", metavar="NAME", help="a folder of WORKDIR/experiments; that of the last start")
    parser.add_argument("--members", type=int, default=3, metavar="N", help="look between the first N members (3)")
    parser.add_argument("--points", type=int, default=11, metavar="N", help="points on a line, with both ends (11)")
    parser.add_argument(
        "--plane", type=int, default=9, metavar="N", help="points of the plane to a side (9); 0: no plane"
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="images of each split that are scored at most (1000)"
    )
    parser.set_defaults(run=_run)
    return answer(parser, arguments)


def _run(options: Namespace) -> int:
    _check(options)
    console = Console()
    devices.start()
    for line in devices.keep_compiled_programs():
        console.line(line)
    found = find(options.workdir, options.experiment, options.images, console)
    phases = range(1, found.settings.n_phases + 1)
    for phase in options.phase or ():
        if phase not in phases:
            raise SettingsError(f"--phase: found {phase}; the experiment has phases 1 to {found.settings.n_phases}")
    able = [phase for phase in options.phase or phases if len(found.candidates(phase)) > 1]
    if not able:
        which = "no phase" if options.phase is None else f"none of the phases {', '.join(map(str, options.phase))}"
        raise SettingsError(f"{options.workdir}: {which} has two finished members, so there is nothing between them")
    for phase in able:
        _look(found, phase, options, console)
    return 0


def _check(options: Namespace) -> None:
    for name, least in (("members", 2), ("points", 3), ("images", 1)):
        if getattr(options, name) < least:
            raise SettingsError(f"--{name}: found {getattr(options, name)}; allowed: {least} or more")
    if options.plane != 0 and options.plane < 3:
        raise SettingsError(f"--plane: found {options.plane}; allowed: 3 or more, or 0 for none")


def _look(found: Finished, phase: int, options: Namespace, console: Console) -> None:
    """Looks at one phase, and writes what it found."""
    members, soups = found.candidates(phase)[: options.members], found.soups(phase)
    called = {stage: stage.label for stage in members} | {stage: f"m = {m}" for m, stage in soups.items()}
    pairs = [("members", *pair) for pair in itertools.combinations(members, 2)]
    pairs += [("soups", *pair) for pair in itertools.pairwise(soups.values())]
    corners = members[:3] if options.plane and len(members) >= 3 else []
    ground, lines, plane = _ground(found, members[0]), [], None
    with console.stage(f"barriers of phase {phase}", len(pairs) + bool(corners) * options.plane) as update:
        for kind, *ends in pairs:
            between = {"of": kind, "ends": [called[stage] for stage in ends]}
            lines.append(between | _line(ground, ends, [found.load(stage) for stage in ends], options.points))
            update(len(lines))
        rows = itertools.count(len(lines) + 1)
        try:
            if corners:
                models = trees.stack([found.load(stage).variables for stage in corners])
                plane = landscape.plane(ground, models, options.plane, lambda: update(next(rows)))
        except SettingsError as error:
            console.line(f"phase {phase}: {error}")
    method, share = ground.recalibration
    content = to_json(
        {
            "phase": phase,
            "title": title(found.summary),
            "members": [called[stage] for stage in members],
            "splits": ground.splits,
            "images": {split: ground.scored.sizes[split] for split in ground.splits},
            "recalibration": {"method": method, "share": share, "batch_size": ground.batch_size},
            "lines": lines,
            "plane": plane,
        }
    )
    for line in _said(content):
        console.line(line)
    console.line(f"barriers: {', '.join(map(str, _write(found, phase, content)))}")


def _ground(found: Finished, member: Stage) -> Ground:
    context, spec = found.context.in_precision(member.use_amp), member.spec
    method, share = spec.recalibration if spec.recalibration and spec.recalibration[1] else _WHOLE
    most = _ENOUGH_BATCHES / n_batches(context.feed.sizes["train"], spec.batch_size)
    return Ground(
        context,
        found.scored,
        # The images of a resident training split are there anyway.
        ("train", "test") if context.feed.whole else ("val", "test"),
        (method, min(share, most)),
        spec.batch_size,
        key(spec.run_id, "Ensemble", spec.phase, "recalibrate"),
    )


def _line(ground: Ground, stages: list[Stage], ends: list[Artifact], n_points: int) -> dict[str, Any]:
    return {
        "artifacts": [stage.name for stage in stages],
        # Between models with different masks fewer weights are zero than in either.
        "same_mask": len({trees.digest(end.mask) for end in ends}) == 1,
        **landscape.line(ground, trees.stack([end.variables for end in ends]), n_points),
    }


def _said(content: dict[str, Any]) -> list[str]:
    """Says the highest barriers on test images."""
    said = []
    for kind in ("members", "soups"):
        lines = [line for line in content["lines"] if line["of"] == kind]
        heights = {
            when: [line["barrier"][when]["test"] for line in lines]
            for when in (landscape.BEFORE, landscape.AFTER)
            if lines and lines[0]["barrier"][when] is not None
        }
        parts = []
        for when, own in heights.items():
            loss, error = (_largest([one[metric]["height"] for one in own]) for metric in ("loss", "error"))
            label = f"{when} recalibration " if len(heights) > 1 else ""
            parts.append(f"{label}loss {loss:.4f}, error {100 * error:.2f} points")
        if parts:
            masks = "" if all(line["same_mask"] for line in lines) else ", whose masks differ,"
            said.append(
                f"phase {content['phase']}: highest barrier between {kind}{masks} on test images: {'; '.join(parts)}"
            )
    return said


def _largest(heights: list[float | None]) -> float:
    return max(float("inf") if height is None else height for height in heights)


def _write(found: Finished, phase: int, content: dict[str, Any]) -> tuple[Path, Path]:
    folder = found.workdir.experiment(found.plan.digest)
    folder.mkdir(parents=True, exist_ok=True)
    data, picture = (folder / f"barriers-phase{phase}.{suffix}" for suffix in ("json", "png"))
    write_json(data, content)
    with atomic.replacing(picture) as beside:
        barriers.plot(content, beside)
    return data, picture
