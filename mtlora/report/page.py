"""One self-contained page from records: `python -m mtlora.report EXPERIMENT|all [overrides] [--runs PATH]`.

Verdicts first, then tables, figures, where the runs come from, what is missing, how to make it again; nothing is fetched when it
is opened. Tables and figures are written beside it.
"""

import base64
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from mtlora.base.files import write_text
from mtlora.report.plots import Plot, draw_all
from mtlora.tables.captions import average_column, method_label, row_labels
from mtlora.tables.comparison import ClaimVerdict, Comparison, claim_verdicts, headlines, needed, runs_of
from mtlora.tables.evidence import Evidence, outside
from mtlora.tables.formats import render
from mtlora.tables.layout import MISSING, TableCell, TextTable, number
from mtlora.tables.view import View
from mtlora.tables.write import write_tables

KINDS = {"better": "good", "worse": "bad", "reproduced": "good", "contradicted": "bad"}  # verdict -> class of its card


@dataclass(frozen=True)
class Card:
    """One verdict in a few words."""

    title: str
    verdict: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Section:
    """One experiment in the report."""

    view: View
    tables: list[TextTable]
    figures: list[tuple[Plot, str]]  # with the image as a data URI
    cards: list[Card]


def answer(views: Sequence[View]) -> tuple[str, str]:
    """Answer whether MTLoRA beats LoRA in these runs, and say how sure that is."""
    main = [view for view in views if not view.plan.experiment.ablation] or views
    heads = [(view, c) for view in main for c in headlines(view.plan, view.comparisons)]
    found = [(view, c) for view, c in heads if c.difference is not None]
    if not found:
        return _no_headline(main)
    counts = Counter(c.verdict.split(" ")[0] for _, c in found)  # better, worse, no (difference), undecided
    titles = ", ".join(dict.fromkeys(view.plan.experiment.title for view, _ in found))
    better, worse, same, open_ = (counts[word] for word in ("better", "worse", "no", "undecided"))
    if better:
        first = "In part." if worse or same or open_ else "Yes."
    elif open_:
        first = "Not shown."
    else:
        first = "No."
    first += f" Of {len(found)} comparison{'s' if len(found) > 1 else ''} with LoRA (structures of T on {titles}), "
    first += f"MTLoRA is better in {better}, worse in {worse}, equal within the margin in {same}; {open_} "
    first += f"{'is' if open_ == 1 else 'are'} undecided."
    sure = "Certain means: the 95% interval excludes 0, and the exact test over pairs of runs holds after Holm's correction."
    seeds = sorted({c.seeds for _, c in found})
    sure += f" Seeds per task: {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}."
    return first, sure


def _no_headline(views: Sequence[View]) -> tuple[str, str]:
    """Say that the figure that counts is missing, and what single tasks say."""
    single = [c for view in views for c in view.comparisons if not c.contrast and c.difference is not None]
    if not single:
        return "Nothing can be said yet.", "No pair of a LoRA and an MTLoRA run is finished."
    tasks = ", ".join(dict.fromkeys(c.label for c in single))
    counts = Counter(c.verdict.split(" ")[0] for c in single)
    return "No verdict yet.", (
        f"No seed has all tasks with LoRA and a structure. On {tasks} alone, MTLoRA is better in {counts['better']} "
        f"of {len(single)} comparisons, worse in {counts['worse']}; see the tables of differences."
    )


def claims_answer(verdicts: Sequence[ClaimVerdict]) -> str:
    """Say in one sentence what became of the paper's claims."""
    counts = Counter(v.verdict for v in verdicts)
    if not any(v.comparison for v in verdicts):
        return "The paper's claims are not tested here: they are about other models, data and recipes than these runs."
    text = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"The paper's claims, one for each structure: {text}."


def card(view: View, c: Comparison) -> Card:
    """Describe a headline comparison."""
    others = [t for name, (t,) in row_labels([c.row], view.rows).items() if name != "Method"]
    h = view.plan.experiment.headline
    figure = average_column(view.plan).label if h.task == "average" else h.metric.upper()
    title = f"{view.plan.experiment.title}, {', '.join([method_label(c.row[1]), *others])}"
    if c.difference is None:
        return Card(title, c.verdict, "open", "no seed has all tasks with both methods")
    interval = c.difference.interval()
    text = f"{figure} {number(c.difference.mean, 2, True)}"
    text += f" [{number(interval[0], 2)}, {number(interval[1], 2)}]" if interval else ", no interval"
    text += f", p = {c.p_holm:.2g} after Holm, {c.seeds} seed{'s' if c.seeds > 1 else ''}"
    if c.verdict == "undecided" and c.margin:
        text += f"; {needed(c, 2 * c.margin)}"
    return Card(title, c.verdict, KINDS.get(c.verdict, "open"), text)


def claims_table(verdicts: Sequence[ClaimVerdict]) -> TextTable:
    """Return every claim with its verdict for each structure."""
    rows = []
    for v in verdicts:
        d = v.comparison.difference if v.comparison else None
        interval = d.interval() if d else None
        measured = MISSING
        if d is not None and v.comparison is not None:
            text = number(d.mean, 2, True)
            text += f" [{number(interval[0], 2)}, {number(interval[1], 2)}]" if interval else ""
            measured = TableCell(text, d.mean, runs_of(v.comparison))
        setting = f", targets {v.comparison.row[3]}" if v.comparison else ""
        rows.append(
            [
                TableCell(f"{v.claim.source}, {v.claim.model}"),
                TableCell(method_label(v.method) + setting if v.method else "all"),
                TableCell(v.verdict),
                TableCell(number(v.claim.difference, 2, True), v.claim.difference),
                measured,
                TableCell(v.why or "–"),
            ]
        )
    header = ["Claim", "Structure", "Verdict", "Claimed", "Measured [95%]", "Why"]
    text = "reproduced: above 0, and the interval reaches the claim; contradicted: below 0, or within half the claim"
    return TextTable("claims", "The paper's claims", text, header, rows, labels=3)


def provenance(views: Sequence[View]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Count the runs by code, software, machine and data: (what, [(value, number of runs)])."""
    kinds: dict[str, Counter[str]] = {}
    seen: set[str] = set()
    for view in views:
        for sha, record in view.records.items():
            if sha in seen:
                continue
            seen.add(sha)
            p = record.provenance
            git, packages = p.get("git") or {}, p.get("packages") or {}
            state = {True: " with uncommitted changes", False: "", None: ""}[git.get("dirty")]
            software = ", ".join(f"{name} {packages.get(name)}" for name in ("torch", "transformers", "peft"))
            values = {
                "code": f"commit {str(git.get('commit'))[:12]}{state}",
                "software": f"Python {p.get('python')}, {software}",
                "machine": f"{p.get('os')}, {p.get('device')}, {p.get('threads')} threads, fp32 products: {p.get('fp32_matmul')}",
                "data": f"{record.task}: {str(p.get('data_content'))[:12]}",
            }
            for kind, value in values.items():
                kinds.setdefault(kind, Counter())[value] += 1
    return [(kind, sorted(counter.items())) for kind, counter in kinds.items()]


def build(views: Sequence[View], evidence: Evidence, results: Any, name: str, overrides: Sequence[str] = ()) -> str:
    """Write tables, figures and the report; return the report's HTML. `overrides` are those that made the views."""
    sections, absent = [], []
    console = Console(stderr=True)
    for view in track(views, "report", console=console, disable=not console.is_terminal):
        _, tables = write_tables(view, results / "tables")
        if not view.touched:
            absent.append(view.plan)
            continue
        plots = draw_all(view, results / "figures")
        figures = [(plot, "data:image/svg+xml;base64," + base64.b64encode(plot.svg).decode()) for plot in plots]
        cards = [card(view, c) for c in headlines(view.plan, view.comparisons)]
        sections.append(Section(view, tables, figures, cards))
    verdicts = [v for view in views for v in claim_verdicts(view.plan, view.comparisons)]
    text = render(
        "report.html",
        answer=answer([section.view for section in sections]),
        claims_answer=claims_answer(verdicts),
        claims=claims_table(verdicts),
        sections=sections,
        absent=absent,
        unreadable=[*evidence.problems, *outside([view.plan for view in views], evidence)],
        overrides=shlex.join(item for item in overrides if item != "profile=mini"),
        provenance=provenance([section.view for section in sections]),
        profile=views[0].plan.profile,
    )
    write_text(results / name, text)
    return text
