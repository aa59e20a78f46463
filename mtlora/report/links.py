"""Links from a page to the folders of its runs: relative, so that the page and its runs can be moved together."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from mtlora.base.paths import ABSOLUTE
from mtlora.tables.evidence import Evidence

TOKEN = re.compile(rf"({ABSOLUTE}|[\w.=+-]+)")


def relative(path: str | Path, folder: Path) -> str | None:
    """Return a path as seen from a folder, or None if they share only the root: then it would name places of one machine."""
    whole, start = os.path.abspath(path), os.path.abspath(folder)
    return None if os.path.commonpath([whole, start]) == os.path.sep else os.path.relpath(whole, start)


def run_links(evidence: Evidence, folder: Path) -> dict[str, str]:
    """Return by run id the address of the run's folder as seen from a page in `folder`, if the run has a folder."""
    places = {evidence.records[sha].run_id: relative(own, folder) for sha, own in evidence.folders.items()}
    return {run: f"{quote(place)}/" for run, place in places.items() if place is not None}


def linked(line: str, links: Mapping[str, str], folder: Path) -> Markup:
    """Return a line of text as HTML: run ids become links, and absolute paths relative ones."""
    parts = TOKEN.split(line.replace(f"{os.path.abspath(folder)}{os.path.sep}", ""))
    return Markup().join(_linked(part, links, folder) for part in parts)


def _linked(part: str, links: Mapping[str, str], folder: Path) -> str:
    if part in links:
        return Markup('<a href="{}">{}</a>').format(links[part], part)
    if re.fullmatch(ABSOLUTE, part):
        return relative(part, folder) or f"…/{'/'.join(Path(part).parts[-2:])}"
    return part


def without_paths(override: str) -> str:
    """Return an override with DIR in place of an absolute path, which exists on one machine only."""
    return re.sub(r"=[\"']?[/~].*", "=DIR", override, flags=re.DOTALL)
