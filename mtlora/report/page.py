"""The page of a report: verdicts, tables, figures, learning rates, missing runs, provenance, and the commands that reproduce it.

The page loads nothing from the network. Tables and figures are written beside it.
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mtlora.base.files import write_text
from mtlora.plan.cell import override_key
from mtlora.plan.tuning import Tuning
from mtlora.report.links import linked, run_links, without_paths
from mtlora.report.plots import RATES, Plot, draw_all
from mtlora.report.provenance import provenance
from mtlora.report.verdicts import Card, answer, cards, claims_answer, claims_table
from mtlora.tables.captions import PROTOCOLS
from mtlora.tables.claims import claim_verdicts
from mtlora.tables.command import outside, split_by_runs
from mtlora.tables.formats import render
from mtlora.tables.layout import TextTable
from mtlora.tables.tuning import choices_table
from mtlora.tables.view import View
from mtlora.tables.write import write_tables

log = logging.getLogger(__name__)

FINAL = ("protocol", "seed")  # overrides of final runs, which mtlora.tune sets itself
TEMPLATE = Path(__file__).parent / "templates" / "report.html"


@dataclass(frozen=True)
class Rates:
    """The trials of learning rates of one experiment, and the choices."""

    table: TextTable
    plots: list[Plot]


@dataclass(frozen=True)
class Section:
    """One experiment in the report; without a result it has no tables and figures."""

    view: View
    tables: list[TextTable]
    plots: list[Plot]
    cards: list[Card]


def build(
    views: Sequence[View], results: Path, name: str, overrides: Sequence[str] = (), runs: Path | None = None
) -> str:
    """Write tables, figures and the report; return the report's HTML.

    Args:
        views: the experiments.
        results: the folder to write into.
        name: of the report's file.
        overrides: those of the report's command.
        runs: its `--runs`.
    """
    sections, rates = [], []
    evidence = views[0].evidence
    console = Console(stderr=True)
    run, absent = split_by_runs(views)
    for view in track(views, "report", console=console, disable=not console.is_terminal):
        if view in run:
            tables = write_tables(view, results / "tables")[1] if view.has_results else []
            sections.append(Section(view, tables, draw_all(view, results / "figures"), cards(view)))
        if view.tuning is not None:
            rates.append(_rates(view, view.tuning, results / "figures"))
    links = run_links(evidence, results)
    verdicts = [v for view in views for v in claim_verdicts(view.plan, view.records, view.comparisons)]
    given = [without_paths(item) for item in overrides if item != "profile=mini"]
    text = render(
        TEMPLATE,
        answer=answer(run),
        claims_answer=claims_answer(verdicts),
        claims=claims_table(verdicts),
        sections=sections,
        rates=rates,
        absent=[view.plan for view in absent],
        links=links,
        linked=partial(linked, links=links, folder=results),
        unreadable=[*evidence.problems, *outside(views, without_paths)],
        again=report_command(run or views, given, runs),
        train=training_commands(run, given),
        archived=views[0].plan.archived,
        provenance=provenance(run),
        profile=views[0].plan.profile,
        protocols=[PROTOCOLS[name] for name in dict.fromkeys(p for view in run or views for p in view.plan.protocols)],
    )
    write_text(results / name, text)
    return text


def training_commands(views: Sequence[View], overrides: Sequence[str]) -> list[str]:
    """Return the commands that tune and train the runs of some views; those of an archive need its data, in DIR.

    Args:
        views: experiments of one report.
        overrides: those of the report's command.
    """
    lines = []
    for view in views:
        name, (final, tuned) = view.plan.experiment.name, _selection(view, overrides)
        if "tuned" in view.plan.protocols:
            words = [item for key, item in tuned.items() if key not in FINAL]
            lines.append(_line("mtlora.tune", name, words) if words else f"make tune SUITE={name}")
        lines.append(_line("mtlora.reproduce", name, list(final.values())) if final else f"make reproduce-{name}")
    return lines


def _selection(view: View, overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return by key the overrides that train the runs of a view, and those that tune them."""
    final = _by_key(overrides)
    if not view.plan.archived:
        return final, final
    declared = view.plan.experiment.axes_of(view.plan.profile)
    own = [
        f"{key}={','.join(values)}"
        for key, values in view.plan.axes.items()
        if key != "results" and values != [str(value) for value in declared.get(key, [])]
    ]
    is_local = any(cell.config.data.source == "local" for cell in view.plan.cells)
    data = {"data.root": "data.root=DIR"} if is_local else {}
    final = _by_key(own) | final | data
    return final, final | _by_key(view.tuning.overrides if view.tuning else ()) | data


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return {override_key(item): without_paths(item) for item in overrides}


def report_command(views: Sequence[View], overrides: Sequence[str], runs: Path | None) -> str:
    """Return the command that makes the report of some views; `runs` is its `--runs`."""
    words = [*overrides, *(["--runs", "DIR" if runs.is_absolute() else str(runs)] if runs is not None else [])]
    if not words:
        return "make tables report"
    return _line("mtlora.report", "all" if len(views) > 1 else views[0].plan.experiment.name, words)


def _line(module: str, experiment: str, words: Sequence[str]) -> str:
    return shlex.join(["python", "-m", module, experiment, *words])


def _rates(view: View, tuning: Tuning, figures: Path) -> Rates:
    table = choices_table(view.plan, tuning)
    if view.found.started and "tuned" not in view.plan.protocols:
        table.notes.append(f"The runs in the tables above do not use them: protocol {', '.join(view.plan.protocols)}.")
    return Rates(table, draw_all(view, figures, RATES))
