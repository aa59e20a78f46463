"""The verdicts of a report: the answer in a sentence, a card for each comparison, a table of the paper's claims."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mtlora.tables.captions import method_label, row_labels
from mtlora.tables.claims import JudgedClaim
from mtlora.tables.comparison import Comparison, headlines, needed
from mtlora.tables.layout import MISSING, TableCell, TextTable, estimate, number
from mtlora.tables.statistics import Verdict
from mtlora.tables.view import View

CLASSES = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}  # classes of cards in style.css; other verdicts have "open"


def answer(views: Sequence[View]) -> tuple[str, str]:
    """Answer whether MTLoRA beats LoRA in these runs, and how sure that is."""
    main = [view for view in views if not view.plan.experiment.ablation] or views
    found = [(v, c) for v in main for c in headlines(v.comparisons) if c.verdict not in (None, Verdict.NO_DATA)]
    if not found:
        return "Nothing can be said yet.", "No method has a finished pair of runs with LoRA on every task."
    protocols = list(dict.fromkeys(c.row.protocol for _, c in found))
    parts = [_counted([c for _, c in found if c.row.protocol == protocol]) for protocol in protocols]
    text = parts[0] if len(parts) == 1 else "; ".join(f"{p}: {part}" for p, part in zip(protocols, parts, strict=True))
    titles = ", ".join(dict.fromkeys(view.plan.experiment.title for view, _ in found))
    seeds = sorted({c.seeds for _, c in found})
    return f"{_first_word([c for _, c in found], protocols)} Compared with LoRA on {titles}: {text}.", (
        "Each verdict is the position of one interval, whose level accounts for all methods that the experiment declares. "
        f"Seeds per task: {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}."
    )


def _first_word(found: Sequence[Comparison], protocols: Sequence[str]) -> str:
    """Return yes or no only where every comparison, under every protocol, allows it; a small gain is not a plain yes."""
    verdicts = [c.judged() for c in found]
    kinds = {verdict for verdict, _ in verdicts}
    if kinds == {Verdict.TOO_FEW}:
        return "Too few seeds for a verdict."
    if kinds == {Verdict.BETTER}:
        return "Yes, but by little." if all(size == "less" for _, size in verdicts) else "Yes."
    if Verdict.BETTER in kinds:
        by_protocol = [any(c.verdict is Verdict.BETTER for c in found if c.row.protocol == p) for p in protocols]
        return "In part." if all(by_protocol) else "It depends on the protocol."
    return "No." if kinds <= {Verdict.WORSE, Verdict.EQUAL} else "Not shown."


def _counted(found: Sequence[Comparison]) -> str:
    """List the methods by verdict."""
    by_verdict: dict[str, list[str]] = {}
    for c in found:
        by_verdict.setdefault(c.verdict_text, []).append(method_label(c.row.method).removeprefix("MTLoRA "))
    return "; ".join(f"{', '.join(dict.fromkeys(names))} {text}" for text, names in by_verdict.items())


def claims_answer(verdicts: Sequence[JudgedClaim]) -> str:
    """Sum up the verdicts on the paper's claims in one sentence."""
    if not any(v.comparison for v in verdicts):
        return "The paper's claims are not tested here: they are about other models, data and recipes than these runs."
    text = ", ".join(f"{count} {verdict}" for verdict, count in Counter(v.verdict for v in verdicts).items())
    return f"The paper's claims, each for every method, under the published protocol: {text}. {_agreement(verdicts)}"


def _agreement(verdicts: Sequence[JudgedClaim]) -> str:
    """Say whether the other protocols agree, without which a claim says nothing about the method."""
    tested = [v for v in verdicts if v.comparison is not None]
    if not any(v.others for v in tested):
        return "These runs are of one protocol, so they cannot tell the method's effect from that of its step or learning rate."
    differing = [v for v in tested if any(o.verdict != v.comparison.verdict for o in v.others if v.comparison)]
    if differing:
        return (
            "Under the other protocols the verdict differs for some: there the effect is one of step or learning rate."
        )
    return "The other protocols agree."


@dataclass(frozen=True)
class Card:
    """One verdict in a few words."""

    title: str
    verdict: str
    css_class: str
    detail: str


def cards(view: View) -> list[Card]:
    """Describe the comparisons with LoRA in the headline figure."""
    return [_card(view, c) for c in headlines(view.comparisons)]


def _card(view: View, c: Comparison) -> Card:
    others = [values[0] for name, values in row_labels([c.row], view.rows).items() if name != "Method"]
    h = view.plan.experiment.headline
    title = f"{view.plan.experiment.title}, {', '.join([method_label(c.row.method), *others])}"
    verdict, _ = c.judged()
    if c.difference is None:
        text = "a task has no seed with both methods"
    else:
        figure = c.label if h.task == "average" else h.metric.upper()
        text = f"{figure} {estimate(c.difference.mean, c.interval, without=', no interval')}"
        text += f" at {c.level:.2%}, {c.seeds} seed{'s' if c.seeds > 1 else ''}"
        if verdict is Verdict.FAILS:
            text = f"where both train: {text}"
        if verdict in (Verdict.UNDECIDED, Verdict.TOO_FEW):
            text += f"; {needed(c)}"
    return Card(title, c.verdict_text, CLASSES.get(verdict, "open"), text)


def claims_table(verdicts: Sequence[JudgedClaim]) -> TextTable:
    """Return every claim with its verdict for each method."""
    rows = []
    for v in verdicts:
        claimed = TableCell(number(v.claim.difference, 2, True), v.claim.difference)
        name = TableCell(f"{v.claim.source}, {v.claim.model}")
        if v.comparison is None:
            rows.append([name, TableCell("all"), TableCell(v.verdict), claimed, MISSING, MISSING, TableCell(v.why)])
            continue
        c = v.comparison
        others = "; ".join(f"{o.row.protocol}: {_measured(o, o.level)}, {o.verdict_text}" for o in v.others)
        rows.append(
            [
                name,
                TableCell(f"{method_label(c.row.method)}, targets {c.row.targets}"),
                TableCell(v.verdict),
                claimed,
                TableCell(_measured(c, v.level), c.difference.mean if c.difference else None, c.runs),
                TableCell(_share(c, v)),
                TableCell(v.why or others or "–"),
            ]
        )
    header = ["Claim", "Method", "Verdict", "Claimed", "Measured", "Measured / claimed", "Other protocols"]
    level = f"{min((v.level for v in verdicts), default=0.95):.2%}"
    text = (
        f"protocol published; {level} t interval [low, high] of the last epoch, and of the epoch that the literature selects. At "
        "least half: low is at least half of the claim; a gain: low is above 0, smaller than claimed if high is below the claim; "
        "practically none: within half of the claim; a loss: high is below 0; claimed size excluded: high is below the claim."
    )
    return TextTable("claims", "The paper's claims", text, header, rows, labels=3)


def _measured(c: Comparison, level: float) -> str:
    return "–" if c.difference is None else estimate(c.difference.mean, c.difference.interval(level))


def _share(c: Comparison, v: JudgedClaim) -> str:
    """Return the measured share of the claim with its interval."""
    interval = c.difference.interval(v.level) if c.difference else None
    if c.difference is None or interval is None:
        return "–"
    low, high = (bound / v.claim.difference for bound in interval)
    return f"{number(c.difference.mean / v.claim.difference, 2)} [{number(low, 2)}, {number(high, 2)}]"
