"""The project's pages, their blocks of code and their tables."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/airflow-provider-importprog/airflow-provider-importprog"
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    """Return the text of each block of a language."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text_of(page), re.MULTILINE | re.DOTALL)
    return [text.replace(f"\n{indent}", "\n").removeprefix(indent) for indent, name, text in found if name == language]


def prose(page: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def table(page: str, first_header: str, nth: int = 0) -> list[list[str]]:
    """Return the rows of the table whose first column has this header."""
    lines = prose(page).splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(f"| {first_header} |")]
    rows = []
    for line in lines[starts[nth] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def unquoted(cell: str) -> str:
    """Return what a cell says, without the marks of code."""
    return cell.replace("`", "")


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
