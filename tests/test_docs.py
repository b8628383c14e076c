"""Links in the documentation lead somewhere, and what it says twice it says alike."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "benchmarks", "scripts", "tests")
PAGES = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).glob("**/*.md"))]
LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")


def anchors(page: Path) -> set[str]:
    """Returns what the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    wrong = []
    for path, anchor in LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        if not path.startswith(("http://", "https://")) and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            wrong.append(f"{path}#{anchor}")
    assert wrong == []


def test_the_documentation_is_there():
    assert ROOT / "README.md" in PAGES and len(PAGES) > 10


def test_the_settings_of_the_readme_are_those_of_their_page():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/settings.md"))
    _, _, table = readme.partition("| to do this | set |\n| --- | --- |\n")
    rows = table.partition("\n\n")[0].splitlines()
    assert len(rows) > 5 and [row for row in rows if row.removesuffix(" |") not in page] == []
