"""
The pages as HTML, and the check that no link between them is broken.

Markdown in the repository is the source; a page links to files as they lie there.
"""

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ max-width: 46rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui; }}
pre, code {{ background: #f4f2ee; font-size: .9em; }} pre {{ padding: 1em; overflow-x: auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .3em .8em; border: 1px solid #ddd; }}
</style>
{body}</html>
"""


def slug(heading: str) -> str:
    """The anchor that a heading gets, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(tokens: list[Token]) -> Iterator[tuple[Token, str]]:
    """Each heading with its text."""
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            yield opening, "".join(child.content for child in inline.children or [])


def links(tokens: list[Token]) -> Iterator[Token]:
    """Each link to something of ours."""
    for token in tokens:
        for child in token.children or []:
            if child.type == "link_open" and "://" not in str(child.attrs["href"]):
                yield child


def broken(page: Path, parsed: dict[Path, list[Token]]) -> Iterator[str]:
    """What is wrong with the links of one page."""
    for link in links(parsed[page]):
        path, _, anchor = unquote(str(link.attrs["href"])).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{page.relative_to(ROOT)}: no file {path}"
        elif anchor and anchor not in {slug(text) for _, text in headings(parsed.get(target, []))}:
            yield f"{page.relative_to(ROOT)}: no heading #{anchor} in {target.name}"


def render(page: Path, tokens: list[Token], folder: Path, markdown: MarkdownIt) -> None:
    """One page, its links pointing at pages instead of sources."""
    title = page.stem
    for opening, text in headings(tokens):
        opening.attrs["id"] = slug(text)
        title = text if opening.tag == "h1" else title
    for link in links(tokens):
        link.attrs["href"] = re.sub(r"\.md(?=#|$)", ".html", str(link.attrs["href"]))
    target = (folder / page.relative_to(ROOT)).with_suffix(".html")
    target.parent.mkdir(parents=True, exist_ok=True)
    body = markdown.renderer.render(tokens, markdown.options, {})
    target.write_text(PAGE.format(title=title, body=body))


def main(folder: str) -> int:
    """Check everything, then write everything."""
    markdown = MarkdownIt("commonmark").enable("table")
    parsed = {page: markdown.parse(page.read_text()) for page in PAGES}
    problems = [problem for page in PAGES for problem in broken(page, parsed)]
    print("\n".join(problems) or f"{len(PAGES)} pages in {folder}")
    for page in PAGES:
        render(page, parsed[page], Path(folder), markdown)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
