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
from mtlora.base.messages import as_variable
from mtlora.plan.grid import Plan
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


def build(views: Sequence[View], results: Path, name: str, overrides: Sequence[str] = ()) -> str:
    """Write tables, figures and the report; return the report's HTML. `overrides` are the overrides of the views' plans."""
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
        again=commands([section.view for section in sections], given),
        provenance=provenance(run),
        profile=views[0].plan.profile,
        protocols=[PROTOCOLS[name] for name in dict.fromkeys(p for view in run or views for p in view.plan.protocols)],
    )
    write_text(results / name, text)
    return text


def commands(views: Sequence[View], overrides: Sequence[str]) -> list[str]:
    """Return the commands that tune, train and report the runs of some views, also on another machine.

    Args:
        views: experiments of one report.
        overrides: those of the report's command, without paths.
    """
    lines = []
    for view in views:
        name, own = (
            view.plan.experiment.name,
            _overrides_of_archive(view.plan) if view.plan.archived else list(overrides),
        )
        if "tuned" in view.plan.protocols:
            tuned = view.tuning.overrides if view.plan.archived and view.tuning else own
            tuned = [item for item in map(_portable, tuned) if item.partition("=")[0] not in FINAL]
            lines.append(
                shlex.join(
                    ["python", "-m", "mtlora.tune", name, *tuned] if tuned else ["make", "tune", f"SUITE={name}"]
                )
            )
        lines.append(
            shlex.join(["python", "-m", "mtlora.reproduce", name, *own] if own else ["make", f"reproduce-{name}"])
        )
    if views and views[0].plan.archived:
        named = [f"SUITE={views[0].plan.experiment.name}"] * (len(views) == 1) + [
            as_variable(item) for item in overrides
        ]
        lines.append(shlex.join(["make", "tables", "report", *named, without_paths(f"RUNS={views[0].plan.results}")]))
    elif views and overrides:
        name = "all" if len(views) > 1 else views[0].plan.experiment.name
        lines.append(shlex.join(["python", "-m", "mtlora.report", name, *overrides]))
    else:
        lines.append("make tables report")
    return lines


def _overrides_of_archive(plan: Plan) -> list[str]:
    """Return the overrides that select the runs of an archive where their data are at hand."""
    declared = plan.experiment.axes_of(plan.profile)
    own = {key: values for key, values in plan.axes.items() if values != [str(v) for v in declared.get(key, [])]}
    own.pop("results", None)
    if any(cell.config.data.source == "local" for cell in plan.cells):
        own.setdefault("data.root", ["DIR"])
    return [_portable(f"{key}={','.join(values)}") for key, values in own.items()]


def _portable(override: str) -> str:
    return "data.root=DIR" if override.startswith("data.root=") else without_paths(override)


def _rates(view: View, tuning: Tuning, figures: Path) -> Rates:
    table = choices_table(view.plan, tuning)
    if view.found.started and "tuned" not in view.plan.protocols:
        table.notes.append(f"The runs in the tables above do not use them: protocol {', '.join(view.plan.protocols)}.")
    return Rates(table, draw_all(view, figures, RATES))
