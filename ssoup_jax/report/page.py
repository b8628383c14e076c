"""The page of an experiment, in one file that needs no other: `report.html`."""

from pathlib import Path

from ssoup_jax.report import curves, html, parts
from ssoup_jax.report.between import between
from ssoup_jax.report.contents import Contents
from ssoup_jax.report.summary import dig, title
from ssoup_jax.version import VERSION


def write(contents: Contents, path: Path) -> None:
    """Writes the page of an experiment.

    Args:
        contents: what it is made from.
        path: the file; its folder exists.
    """
    path.write_text(page(contents), encoding="utf-8")


def page(contents: Contents) -> str:
    """Makes the page of an experiment; what there is nothing of is left out.

    Args:
        contents: what it is made from.

    Returns:
        HTML: the whole file.
    """
    summary, experiment = contents.summary, contents.experiment
    # The names are the links'.
    sections = {
        "table": ("Test accuracy in %", parts.overview(summary)),
        "sparsity": ("Accuracy against sparsity", parts.accuracy(summary)),
        "curves": ("Training", curves.curves(experiment, contents.curves)),
        "models": ("Every model", parts.models(experiment)),
        "corruptions": ("Corrupted images", parts.corruptions(experiment)),
        "greedy": ("Decisions of the greedy soups", parts.greedy(experiment.phases)),
        "distances": ("Distances between members", parts.distances(experiment.phases)),
        "barriers": ("Between models", between(contents.barriers)),
        "layers": ("Sparsity of every layer", parts.layers(experiment)),
        "settings": ("Settings that are not the defaults", parts.settings(experiment)),
        "data": ("Data", parts.data(experiment)),
        "provenance": ("Where it comes from", parts.provenance(experiment)),
    }
    if experiment.changed is None:
        sections["settings"] = "Settings", sections["settings"][1]
    shown = [name for name, (_, body) in sections.items() if body]
    top = [
        html.paragraph(contents.note, "warning"),
        parts.head(summary, dig(summary, "dense", "test", "accuracy")),
        *(html.paragraph(f"warning: {line}", "warning") for line in experiment.warnings),
        html.links({name: name.capitalize() for name in shown}),
    ]
    return html.document(
        title(summary) or "An experiment",
        [*top, *(html.section(name, *content) for name, content in sections.items())],
        f"made by ssoup_jax {VERSION} from summary.json",
    )
