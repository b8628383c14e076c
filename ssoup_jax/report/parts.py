"""The parts of an experiment's page: each a pure function from typed values to HTML, empty where there is nothing."""

import re
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from ssoup_jax.report import charts, html, plot
from ssoup_jax.report.summary import GAINS, PhaseResult, Summary, cells, gain, percent, phase_results
from ssoup_jax.report.typed import Change, Experiment, Model, Phase, Scores

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
_METRICS = {
    "accuracy": "accuracy",
    "macro_accuracy": "macro accuracy",
    "worst_class_accuracy": "worst class",
    "ece": "ECE",
    "mce": "MCE",
}
_DISTANCES = {
    "l2": "L2 between\ntwo",
    "angle": "angle between\ntwo, degrees",
    "barycentre": "L2 to\ntheir mean",
}


def head(summary: Summary, dense: float | None) -> Markup:
    """The figures of the last phase."""
    phases: list[PhaseResult] = [phase for phase in phase_results(summary) if phase.mean is not None]
    if not phases:
        return html.tiles([(f"{percent(dense)} %", "dense, test accuracy")] if dense is not None else [])
    last = phases[-1]
    shown = [
        (last.soup, f"{percent(last.soup)} %", "soup, test accuracy"),
        (last.soup, gain(last.soup, last.mean), "points above its candidates' mean"),
        (last.mean if last.soup is None else None, f"{percent(last.mean)} %", "test accuracy"),
        (last.sparsity, f"{percent(last.sparsity)} %", "sparsity of the prunable weights"),
        (dense, f"{percent(dense)} %", "dense, test accuracy"),
        (last.speedup, f"{last.speedup or 0:.1f}x", "fewer multiply-adds than dense"),
    ]
    return html.tiles((figure, what) for value, figure, what in shown if value is not None)


def overview(summary: Summary) -> Markup:
    """The table that a terminal shows."""
    heads, rows = cells(summary)
    # A terminal breaks words for want of room.
    return html.table([re.sub(r"(?<! )-\n", "", name) for name in heads], rows, GAINS)


def accuracy(summary: Summary) -> Markup:
    """Test accuracy against sparsity, drawn."""
    if not phase_results(summary):
        return Markup("")
    figure = plot.figure(summary, size=(5.2, 3.9), titled=False)
    return html.charts([(charts.svg(figure, "accuracy", "test accuracy against sparsity"), "")], large=True)


def models(experiment: Experiment) -> Markup:
    """The figures of every model on every split."""
    rows = list(_every_model(experiment))
    splits = [split for split in ("test", "val", "train", "ood") if any(getattr(model, split) for _, model in rows)]
    tables = []
    for split in splits:
        scores = [(name, getattr(model, split)) for name, model in rows if getattr(model, split)]
        metrics = [metric for metric in _METRICS if any(metric in own for _, own in scores)]
        body = [
            [name, *(percent(own.get(metric)) for metric in metrics), _number(own.get("loss"), ".4f")]
            for name, own in scores
        ]
        title = "mean over the corruptions" if split == "ood" else f"{_SPLITS[split]} images"
        found = html.table(["model", *(f"{_METRICS[metric]} %" for metric in metrics), "loss"], body)
        tables.append(html.folded(title, found) if tables else html.paragraph(title) + found)
    weighted = [
        f"{name}: {', '.join(f'{100 * share:.1f} % of member {member}' for member, share in model.weights.items())}"
        for name, model in rows
        if model.weights
    ]
    diverged = [f"{name} diverged at step {model.diverged}" for name, model in rows if model.diverged is not None]
    notes = [(line, "note") for line in weighted] + [(line, "warning") for line in diverged]
    return html.join([*tables, *(html.paragraph(*note) for note in notes)])


def _every_model(experiment: Experiment) -> Iterable[tuple[str, Model]]:
    if experiment.dense:
        yield "dense", experiment.dense
    for phase in experiment.phases:
        for model in phase.candidates:
            member = "" if model.split_val is None else f", member {model.split_val:g}"
            yield f"phase {phase.phase}{member}", model
        if phase.soup:
            yield f"phase {phase.phase}, soup", phase.soup


def corruptions(experiment: Experiment) -> Markup:
    """Test accuracy on corrupted images, of the dense model and of each phase's result."""
    shown = [(name, model) for name, model in _results(experiment) if model.ood_by_corruption]
    names = list(dict.fromkeys(name for _, model in shown for name in model.ood_by_corruption))
    rows = [
        [name, *(percent((model.ood_by_corruption.get(name) or {}).get("accuracy")) for _, model in shown)]
        for name in names
    ]
    return html.table(["test accuracy %", *(name for name, _ in shown)], rows)


def _results(experiment: Experiment) -> Iterable[tuple[str, Model]]:
    """Yields what each phase led to: its soup, or else its first candidate."""
    if experiment.dense:
        yield "dense", experiment.dense
    for phase in experiment.phases:
        model = phase.soup or next(iter(phase.candidates), None)
        if model:
            yield f"phase {phase.phase}", model


def layers(experiment: Experiment) -> Markup:
    """Sparsity of every layer that is pruned, or could be, after each phase."""
    shown = [(name, model) for name, model in _results(experiment) if model.sparsity.per_layer]
    shares = {layer: None for _, model in shown for layer in model.sparsity.per_layer}
    counted = {layer for _, model in shown for layer in model.flops.per_layer}
    kept = [
        layer
        for layer in shares
        if layer in counted or any(model.sparsity.per_layer.get(layer, 0) > 0 for _, model in shown)
    ]
    pruned = [(name, model) for name, model in shown if any(model.sparsity.per_layer.get(layer, 0) for layer in kept)]
    rows = [[layer, *(_share(model.sparsity.per_layer.get(layer)) for _, model in pruned)] for layer in kept]
    others = len(shares) - len(kept)
    note = f"in %; {others} other layers have no zeros" if others else "in %"
    return html.table(["layer", *(name for name, _ in pruned)], rows if pruned else [], note)


def _share(share: float | None) -> str | Markup:
    return "-" if share is None else html.bar(share, percent(share))


def greedy(phases: Sequence[Phase]) -> Markup:
    """Every decision of greedy soups, in their order."""
    rows = []
    for phase in phases:
        found = phase.soup.greedy if phase.soup else None
        if found is None:
            continue
        refused = {trial.split_val for trial in found.trials}
        first = next((name for name in (phase.soup.ingredients or []) if name not in refused), None)
        if first is not None:
            score = found.scores.get(str(first))
            rows.append([str(phase.phase), f"member {first:g}", percent(score), "start"])
        for trial in found.trials:
            score = (trial.model_extra or {}).get(found.metric)
            score = score if isinstance(score, int | float) else None
            verdict = "accepted" if trial.accepted else "rejected"
            rows.append([str(phase.phase), f"with member {trial.split_val:g}", percent(score), verdict])
    metric = next((phase.soup.greedy.metric for phase in phases if phase.soup and phase.soup.greedy), "")
    heads = ["phase", "soup", f"validation\n{metric.replace('_', ' ')} %", "decision"]
    return html.table(heads, rows, "each starts from the member that is the best alone")


def distances(phases: Sequence[Phase]) -> Markup:
    """How far the members of each phase are from one another: mean, and smallest to largest."""
    rows = []
    for phase in phases:
        rows += _distances(f"phase {phase.phase}", phase.distances)
        chosen = phase.soup.ingredients if phase.soup else None
        if phase.selected and chosen is not None and 1 < len(chosen) < len(phase.candidates):
            rows += _distances(f"phase {phase.phase}, ingredients", phase.selected.distances)
    return html.table(["members of", *_DISTANCES.values()], rows)


def _distances(name: str, found: Scores | None) -> Iterable[list[str]]:
    if not found:
        return
    row = [name]
    for kind in _DISTANCES:
        mean, low, high = (found.get(f"{kind}_{which}") for which in ("mean", "min", "max"))
        around = f"{_number(low, '.3g')} to {_number(high, '.3g')}"
        row.append(around if mean is None else f"{_number(mean, '.3g')} ({around})")
    yield row


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def settings(experiment: Experiment) -> Markup:
    """The settings that differ from the defaults, what members differ in, and all settings folded."""
    every = html.folded("all settings", html.pairs(html.flat(experiment.settings.model_dump())))
    changes = "" if experiment.changed is None else _changes(experiment.changed)
    return html.join([changes, _members(experiment.phases), every])


def _members(phases: Sequence[Phase]) -> Markup:
    own = {model.split_val: model.member for phase in phases for model in phase.candidates if model.member}
    names = list(dict.fromkeys(name for values in own.values() for name in values))
    rows = [[f"{number:g}", *(html.nested(values.get(name)) for name in names)] for number, values in own.items()]
    return html.table(["member", *(name.replace("_", " ") for name in names)], rows)


def _changes(changed: Mapping[str, Change]) -> Markup:
    if not changed:
        return html.paragraph("all as by default")
    rows = [[name, html.nested(change.value), html.nested(change.default)] for name, change in changed.items()]
    return html.table(["setting", "here", "by default"], rows)


def provenance(experiment: Experiment) -> Markup:
    """Where the models come from: what is the same for all of them once, anything else for each."""
    found = {name: html.flat(model.provenance) for name, model in _every_model(experiment) if model.provenance}
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    values = {name: [own.get(name, Markup("-")) for own in found.values()] for name in names}
    same = {name: own[0] for name, own in values.items() if len(set(own)) == 1}
    others = {name: own for name, own in values.items() if name not in same}
    rows = zip(found, *others.values(), strict=True) if others else ()
    return html.pairs(same) + html.folded("of each model", html.table(["model", *others], rows))


def data(experiment: Experiment) -> Markup:
    """What is said of the data, and the names of its classes."""
    if experiment.data is None:
        return Markup("")
    about = experiment.data
    classes = html.folded(f"{len(about.classes)} classes", html.nested(about.classes)) if about.classes else ""
    return html.join([html.paragraph(about.description or ""), *map(html.paragraph, about.notes), classes])
