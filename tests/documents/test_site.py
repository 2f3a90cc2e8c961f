"""The pages as a site: every page is in it, every link leads somewhere, every class it quotes is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from djinn_fx.passes.pipeline import DEFAULT

REPO = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="sphinx, which builds the site, is not installed (extra [docs])")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    made = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    pages = [page.relative_to(REPO / "docs").with_suffix(".html") for page in (REPO / "docs").rglob("*.md")]
    missing = [page for page in pages if page.name != "0000-template.html" and not (tmp_path / page).exists()]
    assert not missing


def test_every_pass_of_the_pipeline_has_a_page() -> None:
    pages = {page.stem for page in (REPO / "docs" / "concepts").glob("*.md")}
    assert {one.name.replace("-", "_") for one in DEFAULT} <= pages


@pytest.mark.parametrize(
    "page",
    [*sorted((REPO / "docs").rglob("*.md")), REPO / "README.md", REPO / "CONTRIBUTING.md"],
    ids=lambda page: page.name,
)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
