"""The verdicts of a report: the answer in a sentence, a card for each comparison, a table of the paper's claims."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mtlora.tables.captions import method_label, row_labels
from mtlora.tables.claims import ClaimVerdict
from mtlora.tables.comparison import Comparison, headlines, needed
from mtlora.tables.layout import MISSING, TableCell, TextTable, estimate, number
from mtlora.tables.statistics import Verdict
from mtlora.tables.view import View

CLASSES = {Verdict.BETTER: "good", Verdict.WORSE: "bad"}  # classes of cards in style.css; other verdicts have "open"


def answer(views: Sequence[View]) -> tuple[str, str]:
    """Answer whether MTLoRA beats LoRA in these runs, and how sure that is."""
    main = [view for view in views if not view.plan.experiment.ablation] or views
    found = [(v, c) for v in main for c in headlines(v.comparisons) if c.difference is not None]
    if not found:
        return _answer_without_headline(main)
    counts = Counter(c.verdict for _, c in found)
    better, worse, equal, undecided = (
        counts[verdict] for verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.EQUAL, Verdict.UNDECIDED)
    )
    if better:
        first = "In part." if better < len(found) else "Yes."
    elif undecided:
        first = "Not shown."
    else:
        first = "No."
    titles = ", ".join(dict.fromkeys(view.plan.experiment.title for view, _ in found))
    seeds = sorted({c.seeds for _, c in found})
    return (
        f"{first} Of {len(found)} comparison{'s' if len(found) > 1 else ''} with LoRA (on {titles}), "
        f"MTLoRA is better in {better}, worse in {worse}, equal within the margin in {equal}; {undecided} "
        f"{'is' if undecided == 1 else 'are'} undecided."
    ), (
        "A method is better or worse if the 95% interval excludes 0 and the exact test over pairs of runs is significant "
        "after Holm's correction. "
        f"Seeds per task: {seeds[0]}{f' to {seeds[-1]}' if len(seeds) > 1 else ''}."
    )


def _answer_without_headline(views: Sequence[View]) -> tuple[str, str]:
    """Answer for single tasks where the headline figure is missing."""
    single = [c for view in views for c in view.comparisons if not c.contrast and c.difference is not None]
    if not single:
        return "Nothing can be said yet.", "No pair of a LoRA and an MTLoRA run is finished."
    tasks = ", ".join(dict.fromkeys(c.label for c in single))
    counts = Counter(c.verdict for c in single)
    return "No verdict yet.", (
        f"No seed has all tasks with LoRA and another method. On {tasks} alone, MTLoRA is better in {counts[Verdict.BETTER]} "
        f"of {len(single)} comparisons, worse in {counts[Verdict.WORSE]}; see the tables of differences."
    )


def claims_answer(verdicts: Sequence[ClaimVerdict]) -> str:
    """Sum up the verdicts on the paper's claims in one sentence."""
    if not any(v.comparison for v in verdicts):
        return "The paper's claims are not tested here: they are about other models, data and recipes than these runs."
    text = ", ".join(f"{count} {verdict}" for verdict, count in Counter(v.verdict for v in verdicts).items())
    return f"The paper's claims, each for every method: {text}."


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
    if c.difference is None:
        text = "no seed has all tasks with both methods"
    else:
        figure = c.label if h.task == "average" else h.metric.upper()
        text = f"{figure} {estimate(c.difference.mean, c.difference.interval(), without=', no interval')}"
        text += f", p = {c.p_holm:.2g} after Holm, {c.seeds} seed{'s' if c.seeds > 1 else ''}"
        if c.verdict is Verdict.UNDECIDED and c.margin:
            text += f"; {needed(c, 2 * c.margin)}"
    return Card(title, c.verdict_text, CLASSES.get(c.verdict, "open"), text)


def claims_table(verdicts: Sequence[ClaimVerdict]) -> TextTable:
    """Return every claim with its verdict for each method."""
    rows = []
    for v in verdicts:
        method, measured = "all", MISSING
        if v.comparison is not None:
            method = f"{method_label(v.comparison.row.method)}, targets {v.comparison.row.targets}"
            if d := v.comparison.difference:
                measured = TableCell(estimate(d.mean, d.interval()), d.mean, v.comparison.runs)
        texts = (f"{v.claim.source}, {v.claim.model}", method, v.verdict)
        claimed = TableCell(number(v.claim.difference, 2, True), v.claim.difference)
        rows.append([*map(TableCell, texts), claimed, measured, TableCell(v.why or "–")])
    header = ["Claim", "Method", "Verdict", "Claimed", "Measured [95%]", "Why"]
    text = "reproduced: above 0, and the interval reaches the claim; contradicted: below 0, or within half the claim"
    return TextTable("claims", "The paper's claims", text, header, rows, labels=3)
