"""Parts of a page, each a pure function from values to HTML; texts are escaped, because only `Markup` is not.

What is returned is well-formed XML, too. Nothing is fetched and nothing runs: the page forbids itself both.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from ssoup_jax.errors import printable

Cell = str | Markup

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_NOTHING = Markup("")


def join(parts: Iterable[Cell], between: str = "") -> Markup:
    """Puts parts one after another; texts are escaped."""
    return Markup(between).join(map(text, parts))


def text(value: object) -> Markup:
    """Escapes a value; one that is HTML already stays. What no encoding has, and control characters, are spelt out."""
    if isinstance(value, Markup):
        return value
    return Markup.escape(printable(str(value)))


def document(title: str, parts: Sequence[Markup], foot: Cell = "") -> Markup:
    """Makes a whole page, with links to its sections.

    Args:
        title: what it is about.
        parts: sections and whatever stands between them, in their order; empty ones are left out.
        foot: the last line.

    Returns:
        The page, which needs no other file.
    """
    style = Markup(resources.files("ssoup_jax.report").joinpath("page.css").read_text(encoding="utf-8"))
    return Markup(
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta http-equiv="Content-Security-Policy" content="{policy}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        "<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n"
        "<footer>{foot}</footer>\n</body>\n</html>\n"
    ).format(policy=_POLICY, title=text(title), style=style, body=join(filter(None, parts), "\n"), foot=text(foot))


def section(name: str, heading: str, *parts: Markup) -> Markup:
    """Makes a section; without any content there is none.

    Args:
        name: of the anchor; one word.
        heading: what stands above it.
        parts: its content.
    """
    body = join(filter(None, parts), "\n")
    if not body:
        return _NOTHING
    return Markup('<section id="{}">\n<h2>{}</h2>\n{}\n</section>').format(name, text(heading), body)


def links(sections: Mapping[str, str]) -> Markup:
    """Lists links to sections: anchor to heading."""
    return Markup("<nav>{}</nav>").format(
        join((Markup('<a href="#{}">{}</a>').format(name, text(head)) for name, head in sections.items()), " ")
    )


def paragraph(content: Cell, kind: str = "") -> Markup:
    """Makes a paragraph; `kind` is 'note' or 'warning', or nothing."""
    return Markup('<p class="{}">{}</p>').format(kind, text(content)) if content else _NOTHING


def folded(heading: str, *parts: Markup) -> Markup:
    """Makes what a reader has to unfold; in print it is unfolded. Without any content there is none."""
    body = join(filter(None, parts), "\n")
    return Markup("<details>\n<summary>{}</summary>\n{}\n</details>").format(text(heading), body) if body else _NOTHING


def table(heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], caption: Cell = "") -> Markup:
    """Makes a table that scrolls by itself where it is wider than the screen; without rows there is none.

    Args:
        heads: of its columns; a line break stays one. The first column names the rows, and stays in sight.
        rows: a cell for every head.
        caption: what stands below it.
    """
    body = join(map(_row, rows), "\n")
    if not body:
        return _NOTHING
    head = join(Markup('<th scope="col">{}</th>').format(_lines(cell)) for cell in heads)
    table = Markup(
        '<div class="wide" tabindex="0"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>'
    )
    return table.format(head, body) + paragraph(caption, "note")


def _lines(cell: Cell) -> Markup:
    return cell if isinstance(cell, Markup) else join(cell.split("\n"), "<br/>")


def _row(cells: Sequence[Cell]) -> Markup:
    name, *others = map(text, cells)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(
        name, join(Markup("<td>{}</td>").format(c) for c in others)
    )


def bar(share: float, label: Cell) -> Markup:
    """Shows a share of a whole as a bar behind a label; for cells of a table."""
    width = f"{100 * min(max(share, 0.0), 1.0):.1f}%"
    return Markup('<span class="bar"><i style="width: {}"></i>{}</span>').format(width, text(label))


def tiles(figures: Iterable[tuple[Cell, Cell]]) -> Markup:
    """Shows the few figures that matter most: pairs of a figure and what it is."""
    shown = (Markup("<div><dd>{}</dd><dt>{}</dt></div>").format(text(f), text(what)) for f, what in figures)
    body = join(shown)
    return Markup('<dl class="tiles">{}</dl>').format(body) if body else _NOTHING


def legend(entries: Iterable[tuple[str, Cell]]) -> Markup:
    """Explains colours: pairs of the name of a colour, one of `charts.COLOURS`, and what has it."""
    shown = (
        Markup('<span><i style="background: var(--{})"></i>{}</span>').format(colour, text(what))
        for colour, what in entries
    )
    body = join(shown, " ")
    return Markup('<p class="legend">{}</p>').format(body) if body else _NOTHING


def charts(figures: Iterable[tuple[Markup, Cell]], large: bool = False) -> Markup:
    """Puts charts beside one another as far as there is room, or larger ones below one another.

    Args:
        figures: pairs of an SVG and what stands above it, or nothing.
        large: whether they are the larger ones.
    """
    above = Markup("<figcaption>{}</figcaption>")
    shown = (
        Markup("<figure>{}{}</figure>").format(above.format(text(what)) if what else "", svg) for svg, what in figures
    )
    body = join(shown, "\n")
    return Markup('<div class="charts{}">{}</div>').format(" large" * large, body) if body else _NOTHING


def pairs(values: Mapping[str, Cell]) -> Markup:
    """Lists names and values in as many columns as there is room for; without any there is nothing."""
    shown = (Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(text(name), text(own)) for name, own in values.items())
    body = join(shown, "\n")
    return Markup('<dl class="pairs">{}</dl>').format(body) if body else _NOTHING


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Markup]:
    """Spells nested mappings as one for `pairs`: `{'a': {'b': 1}}` is `{'a.b': '1'}`."""
    found = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": nested(value)}
    return found


def nested(value: Any) -> Markup:
    """Shows any JSON: mappings as pairs, lists of mappings as tables where all have the same keys, others as lists."""
    match value:
        case Mapping():
            return pairs(flat(value)) or text("-")
        case [Mapping() as first, *_] if all(isinstance(one, Mapping) and one.keys() == first.keys() for one in value):
            return table(list(map(text, first)), [[nested(one[name]) for name in first] for one in value])
        case list() | tuple():
            return join(map(nested, value), ", ") if value else text("-")
        case None:
            return text("-")
        case bool():
            return text("yes" if value else "no")
        case float():
            return text(f"{value:.6g}")
    return text(value)
