"""The verdicts of a report: the answer in a sentence, a card for each comparison, a table of the paper's claims."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mtlora.config.schema import STRUCTURES
from mtlora.tables.captions import method_label, row_labels
from mtlora.tables.claims import JudgedClaim
from mtlora.tables.comparison import Comparison, headlines, needed
from mtlora.tables.layout import TableCell, TextTable, estimate, number, percent
from mtlora.tables.statistics import ALPHA, FEWEST, Difference, Verdict
from mtlora.tables.view import View

DECIDED = (Verdict.BETTER, Verdict.WORSE, Verdict.EQUAL)
CLASSES = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}  # classes of cards in style.css; other verdicts have "open"


@dataclass(frozen=True)
class Answer:
    """The first lines of the report."""

    short: str  # whether MTLoRA beats LoRA in these runs
    open: str = ""  # why it is not decided for some methods
    certain: str = ""  # what a verdict rests on


def answer(views: Sequence[View]) -> Answer:
    """Answer whether MTLoRA beats LoRA in these runs, and how sure that is."""
    main = [view for view in views if not view.plan.experiment.ablation] or views
    shown = [view for view in main if any(c.verdict is not Verdict.NO_DATA for c in headlines(view.comparisons))]
    heads = [c for view in main for c in headlines(view.comparisons)]
    found = [c for c in heads if c.verdict is not Verdict.NO_DATA]
    if not found:
        return Answer("Nothing can be said yet.", "No method has a finished pair of runs with LoRA on every task.")
    parts = {
        p: _counted([c for c in found if c.row.protocol == p]) for p in dict.fromkeys(c.row.protocol for c in found)
    }
    text = "; ".join(f"{p}: {part}" for p, part in parts.items())
    if len(set(parts.values())) == 1:
        same = next(iter(parts.values()))
        text = same if len(parts) == 1 else f"under each protocol ({', '.join(parts)}) {same}"
    titles = ", ".join(dict.fromkeys(map(_scope, shown)))
    seeds = sorted({c.seeds for c in found})
    structures = [c for c in heads if STRUCTURES.get(c.row.method, "none") != "none"]
    margins = " or ".join(f"{margin:g}" for margin in sorted({c.head.margin for c in found if c.head}))
    reasons: dict[str, dict[str, None]] = {}
    for c in found:
        if why := reason(c):
            name = _short(c) if len(parts) == 1 else f"{_short(c)} ({c.row.protocol})"
            reasons.setdefault(why, {})[name] = None
    open_ = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
    groups = {(view.plan.name, c.row.setting) for view in main for c in headlines(view.comparisons) if c.interval}
    intervals = "interval" if len(groups) == 1 else "interval of one table and setting"
    return Answer(
        f"{_first_word(structures)} Compared with LoRA on {titles}: {text}.",
        f"Why not decided: {open_}." if reasons else "",
        f"A method is called better or worse if the whole interval of its difference is on one side of 0, and no different if it "
        f"is shown to be within {margins} of LoRA. This needs at least {FEWEST} seeds of every task, and no run that "
        f"diverged. The intervals are so wide that, nominally, in at most {ALPHA:.0%} of such experiments any {intervals} misses "
        "the true difference. "
        f"Seeds per task: {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}.",
    )


def _short(c: Comparison) -> str:
    return method_label(c.row.method).removeprefix("MTLoRA ")


def _scope(view: View) -> str:
    """Name an experiment, and its tasks if it has further ones that these runs leave out."""
    plan = view.plan
    labels = ", ".join(column.label for column in plan.columns)
    return plan.experiment.title + (f" ({labels} only)" if len(plan.columns) < len(plan.experiment.columns) else "")


def reason(c: Comparison) -> str:
    """Say why a comparison is not decided; empty if it is."""
    assert c.head is not None
    verdict, margin = c.verdict, c.head.margin
    if verdict is Verdict.FAILS:
        return "a divergence blocks the verdict, since a run that diverged has no score"
    if verdict is Verdict.NO_DATA:
        return "a task has no seed with both methods"
    if verdict is Verdict.TOO_FEW:
        return f"so few seeds give an estimate only: train at least {FEWEST} seeds of every task (SEEDS=0,1,2,3,4)"
    if verdict is not Verdict.UNDECIDED or c.interval is None:
        return ""
    low, high = c.interval
    if low < -margin and high > margin:
        return f"the interval spans both a loss and a gain of more than {margin:g}"
    if low < -margin or high > margin:
        return f"the interval spans both 0 and a {'loss' if low < -margin else 'gain'} of more than {margin:g}"
    return "only the tasks on which a method does not beat the majority answer make them look equal, and these show no equality"


def _first_word(structures: Sequence[Comparison]) -> str:
    """Return yes or no only where every structure, under every protocol, has such a verdict; a small gain is not a plain yes."""
    verdicts = [c.judged for c in structures]
    kinds = {verdict for verdict, _ in verdicts}
    if kinds and kinds <= {Verdict.TOO_FEW, Verdict.NO_DATA}:
        return "Too few seeds for a verdict."
    if kinds == {Verdict.BETTER}:
        return "Yes, but by little." if all(size == "less" for _, size in verdicts) else "Yes."
    if kinds and kinds <= {Verdict.WORSE, Verdict.EQUAL}:
        return "No."
    if any(differ(c, other) for c in structures for other in structures if _same_method(c, other)):
        return "It depends on the protocol."
    return "In part." if Verdict.BETTER in kinds else "Undecided."


def _same_method(c: Comparison, other: Comparison) -> bool:
    return c.row._replace(protocol="") == other.row._replace(protocol="")


def differ(c: Comparison, other: Comparison) -> bool:
    """Tell whether two verdicts contradict each other: they are two different ones of better, worse and no difference."""
    return {c.verdict, other.verdict} in (
        {Verdict.BETTER, Verdict.WORSE},
        {Verdict.BETTER, Verdict.EQUAL},
        {Verdict.WORSE, Verdict.EQUAL},
    )


def _counted(found: Sequence[Comparison]) -> str:
    """List the methods by verdict."""
    by_verdict: dict[str, list[str]] = {}
    for c in found:
        by_verdict.setdefault(c.verdict_text, []).append(_short(c))
    return "; ".join(f"{', '.join(dict.fromkeys(names))} {text}" for text, names in by_verdict.items())


def claims_answer(verdicts: Sequence[JudgedClaim]) -> str:
    """Sum up the verdicts on the paper's claims in one sentence."""
    if not any(v.comparison for v in verdicts):
        return "The paper's claims are not tested here: they are about other models, data and recipes than these runs."
    text = "; ".join(f"{count} x {verdict}" for verdict, count in Counter(v.verdict for v in verdicts).items())
    return f"The paper's claims, each for every structure, under the published protocol: {text}. {_agreement(verdicts)}"


def _agreement(verdicts: Sequence[JudgedClaim]) -> str:
    """Say whether the other protocols agree, without which a claim says nothing about the method."""
    pairs = [(v.comparison, other) for v in verdicts if v.comparison for other in v.others]
    if not pairs:
        return "All runs follow one protocol, so they do not separate the method's effect from that of step or learning rate."
    if any(differ(c, other) for c, other in pairs):
        return "Another protocol gives another verdict, so the effect depends on the step size or the learning rate."
    if any(c.verdict not in DECIDED or other.verdict not in DECIDED for c, other in pairs):
        return "It is undecided whether the other protocols agree."
    return "The other protocols agree."


@dataclass(frozen=True)
class Card:
    """One verdict in a few words."""

    title: str
    verdict: str
    css_class: str
    detail: str  # the difference, with its interval
    why: str  # it is not decided, and the seeds that would decide; else empty


def cards(view: View) -> list[Card]:
    """Describe the comparisons with LoRA in the headline score."""
    return [_card(view, c) for c in headlines(view.comparisons)]


def _card(view: View, c: Comparison) -> Card:
    others = [values[0] for name, values in row_labels([c.row], view.rows).items() if name != "Method"]
    h = view.plan.experiment.headline
    title = f"{view.plan.experiment.title}, {', '.join([method_label(c.row.method), *others])}"
    verdict, text, why = c.verdict, "", [reason(c)]
    if c.difference is not None:
        name = c.label if h.task == "average" else h.metric.upper()
        text = f"{name} {estimate(c.difference.mean, c.interval, without=', no interval')}"
        text += f" at {percent(c.level)}, {c.seeds} seed{'s' if c.seeds > 1 else ''}"
        if verdict is Verdict.FAILS:
            text = f"where both train: {text}"
    if verdict is Verdict.UNDECIDED:
        why.append(needed(c))
        if c.head and c.head.rates > 1:
            why.append("the learning rate of one of the two methods is uncertain, which widens the interval")
    assert verdict is not None
    return Card(title, c.verdict_text, CLASSES.get(verdict, "open"), text, "; ".join(filter(None, why)))


def claims_table(verdicts: Sequence[JudgedClaim]) -> TextTable | None:
    """Return every claim that was tested with its verdict for each method, or None if none was."""
    rows = []
    notes = [f"Not tested here: {v.claim.source} ({v.why})." for v in verdicts if v.comparison is None]
    for v in verdicts:
        if (c := v.comparison) is None:
            continue
        published = c.head.as_published if c.head else None
        others = "; ".join(f"{o.row.protocol}: {_measured(o.difference, o.level)}, {o.verdict_text}" for o in v.others)
        claimed, method = v.claim.difference, f"{method_label(c.row.method)}, targets {c.row.targets}"
        rows.append(
            [
                TableCell(f"{v.claim.source}, {v.claim.model}"),
                TableCell(method),
                TableCell(v.verdict),
                TableCell(number(claimed, 2, True), claimed),
                TableCell(_measured(c.difference, v.level), c.difference.mean if c.difference else None, c.runs),
                TableCell(_measured(published, v.level), published.mean if published else None, c.runs),
                TableCell(_share(c.difference, v)),
                TableCell(v.why or others or "–"),
            ]
        )
    if not rows:
        return None
    header = [
        "Claim",
        "Method",
        "Verdict",
        "Claimed",
        "Last epoch",
        "Best epoch",
        "Last epoch / claimed",
        "Other protocols",
    ]
    levels = "".join(sorted({f"{percent(v.level)} " for v in verdicts if v.comparison}))
    text = (
        f"protocol published; {levels}t interval [low, high] of the last epoch, and of the epoch that the literature selects. "
        "At least half: low is at least half of the claim; a gain: low is above 0, smaller than claimed if high is below the "
        "claim; practically none: within half of the claim; a loss: high is below 0; claimed size excluded: high is below the "
        "claim."
    )
    return TextTable("claims", "The paper's claims", text, header, rows, labels=3, notes=notes)


def _measured(difference: Difference | None, level: float) -> str:
    return "–" if difference is None else estimate(difference.mean, difference.interval(level))


def _share(difference: Difference | None, v: JudgedClaim) -> str:
    """Return the measured share of the claim with its interval."""
    interval = difference.interval(v.level) if difference else None
    if difference is None or interval is None:
        return "–"
    low, high = (bound / v.claim.difference for bound in interval)
    return f"{number(difference.mean / v.claim.difference, 2)} [{number(low, 2)}, {number(high, 2)}]"
