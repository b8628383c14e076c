"""The script of the README runs exactly as it is written, and the documentation shows the same one."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import ssoup_jax

ROOT = Path(__file__).parents[1]


def script(file):
    text = (ROOT / file).read_text()
    return textwrap.dedent(re.search(r"^    import jax, numpy.*?^    print\([^\n]*\n", text, re.M | re.S)[0])


def test_the_script_of_the_readme_runs_as_it_is_written():
    found = subprocess.run([sys.executable, "-c", script("README.md")], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    zeros, loss = re.fullmatch(r"(\d+)% zeros, training loss (\d\.\d+)\n", found.stdout).groups()
    assert zeros == "90"
    assert float(loss) < 1, "ln 10 = 2.3 is chance"


def test_the_documentation_shows_the_script_of_the_readme():
    assert script("docs/library.md") == script("README.md")


def test_the_documentation_names_every_public_name():
    text = (ROOT / "docs/library.md").read_text()
    assert [name for name in ssoup_jax.__all__ if name not in text] == []
