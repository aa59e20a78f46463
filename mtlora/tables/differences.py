"""The tables of paired differences: to LoRA, to other settings, by protocol, by task, and over test items."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from mtlora.tables.aggregate import Row
from mtlora.tables.captions import PROTOCOLS, headline_subject, method_label, row_labels, row_names
from mtlora.tables.comparison import (
    CONTROL,
    Comparison,
    against,
    by_task,
    headlines,
    is_between,
    needed,
    seeds_needed,
    seeds_text,
)
from mtlora.tables.items import DRAWS
from mtlora.tables.layout import MISSING, TableCell, TextTable, estimate, number, percent, text_table
from mtlora.tables.statistics import FEWEST, OUTLIER, Verdict, heterogeneity_p, outliers, paired_difference
from mtlora.tables.view import View


def differences(view: View, contrasts: bool) -> TextTable | None:
    """Return the paired differences: to LoRA in the same setting, or (contrasts) to a control or another setting."""
    plan = view.plan
    chosen = [c for c in view.comparisons if bool(c.contrast) == contrasts]
    heads = [c for c in chosen if c.head]
    if not heads:  # nothing to compare, or the headline's task is not among these runs
        return None
    labels = _labels(heads, view.rows)
    columns: dict[str, list[TableCell]] = {}
    for c in chosen:
        if c.head or len(plan.columns) > 1:  # a single task is the average
            columns.setdefault(c.label, []).append(_difference_cell(c))
    first = heads[0].label  # the score with the verdict comes first
    body = {first: columns.pop(first), "Verdict": [TableCell(c.verdict_text, runs=c.runs) for c in heads]}
    if any(c.head and c.head.dull for c in heads):
        body["Informative tasks"] = [_informative_cell(c) for c in heads]
    if any(c.verdict is Verdict.UNDECIDED for c in heads):
        counts = [seeds_needed(c) if c.verdict is Verdict.UNDECIDED and not is_between(c) else None for c in heads]
        for i, name in enumerate(("see", "exclude")):
            body[f"Seeds to {name} {plan.experiment.headline.margin:g}"] = [
                TableCell(seeds_text(found[i]), found[i].seeds, c.runs) if found else MISSING
                for c, found in zip(heads, counts, strict=True)
            ]
    base = "LoRA"
    if contrasts:
        base = "its control" if heads[0].contrast == CONTROL else "the same method in the first setting"
    sizes = sorted({c.family for c in heads})
    meaning = "each by itself"
    if sizes != [1]:
        setting = " of a setting" if len({c.row.setting for c in heads}) > 1 else ""
        family = f"all declared intervals{setting} ({' or '.join(map(str, sizes))})"
        meaning = f"so that nominally in 95% of such experiments {family} contain the true difference"
    text = (
        f"same task and seed, {plan.experiment.selection} epoch; {headline_subject(plan)}: t interval at {_levels(heads)}, "
        f"{meaning}; other columns: 95%, without a verdict{_explained(body)}"
    )
    name = f"{plan.name}-{'contrasts' if contrasts else 'differences'}"
    table = text_table(name, f"{plan.experiment.title}: difference to {base}", text, labels, body | columns)
    for c in heads:
        (title,) = row_names([c.row], [h.row for h in heads])
        table.notes += [f"{title}: {line}." for line in _remarks(c)]
    return table


def _labels(found: Sequence[Comparison], rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the columns that name comparisons: the row, and the base unless all bases are LoRA in the row's setting."""
    labels = row_labels([c.row for c in found], rows)
    if any(c.contrast or c.base.setting != c.row.setting for c in found):
        labels["Against"] = [against(c, method_label) for c in found]
    return labels


def _levels(heads: Iterable[Comparison]) -> str:
    return " or ".join(percent(level) for level in sorted({c.level for c in heads}))


def _explained(columns: Iterable[str]) -> str:
    """Say what the columns of the informative tasks and of the numbers of seeds mean, if they are there."""
    text = ""
    if "Informative tasks" in columns:
        text += (
            "; informative tasks: the difference over the tasks on which both methods beat the majority answer, at the level "
            "of the verdict"
        )
    if any(name.startswith("Seeds to") for name in columns):
        text += (
            "; seeds to see a difference: with so many, 4 of 5 experiments would detect it; to exclude it: 4 of 5 would, "
            "if the methods are equal; in brackets an 80% range"
        )
    return text


def _remarks(c: Comparison) -> list[str]:
    """Return what a reader must know beside the verdict: unsure learning rates, failures, and outliers."""
    assert c.head is not None
    lines = []
    if c.verdict is Verdict.UNDECIDED and is_between(c):
        lines.append(needed(c))
    if c.head.rates > 1:
        lines.append(
            "the learning rate of one of the two methods is uncertain: the difference is a weighted mean over its two best rates"
        )
    if c.head.unconfirmed:
        lines.append(
            "the learning rate of one of the two methods is uncertain, and the runs at its second best rate are missing"
        )
    if c.verdict is Verdict.FAILS and c.difference is not None:
        lines.append(f"{c.verdict_text}; where both train {estimate(c.difference.mean, c.interval)}")
    if c.head.dull:
        lines.append(
            f"on {', '.join(c.head.dull)} one of the two does not beat the majority answer, so that task cannot support equality"
        )
    rate = " (at the best learning rate)" if c.head.rates > 1 else ""
    for task in by_task(c.pairs):
        pairs = [pair for pair in c.pairs if pair.task == task]
        for i in outliers([pair.difference for pair in pairs], c.floors[task]) if len(pairs) >= FEWEST else []:
            lines.append(
                f"on {task} at seed {pairs[i].seed} the difference {number(pairs[i].difference, 2, True)}{rate} is more than "
                f"{OUTLIER:g} deviations from the median"
            )
    return lines


def protocols(view: View) -> TextTable | None:
    """Return the difference to LoRA in the headline score, a column for each protocol; None if there is only one."""
    names = view.plan.protocols
    heads = {c.row: c for c in view.comparisons if not c.contrast and c.head}
    rows = list(dict.fromkeys(row._replace(protocol="") for row in heads))
    if len(names) < 2 or not rows:
        return None
    body: dict[str, list[TableCell]] = {}
    for name in names:
        found = [heads.get(row._replace(protocol=name)) for row in rows]
        body[name] = [_verdict_cell(c) if c is not None else MISSING for c in found]
    text = (
        f"{headline_subject(view.plan)}, {view.plan.experiment.selection} epoch, {_levels(heads.values())} t interval and "
        "verdict. " + " ".join(f"{name}: {PROTOCOLS[name].partition(': ')[2]}." for name in names)
    )
    title = f"{view.plan.experiment.title}: difference to LoRA by protocol"
    return text_table(f"{view.plan.name}-by-protocol", title, text, row_labels(rows), body)


def spread(view: View) -> TextTable | None:
    """Return how the difference to LoRA varies over tasks and pairs; None unless the headline is an average over tasks."""
    heads = [c for c in headlines(view.comparisons) if len(by_task(c.pairs)) > 1 and c.verdict is not Verdict.FAILS]
    if not heads:
        return None
    body: dict[str, list[TableCell]] = {
        name: [] for name in ("Smallest", "Largest", "p, tasks alike", "Pairs won", "Correlation")
    }
    for c in heads:
        tasks = by_task(c.pairs)
        means = {task: paired_difference([values], floors=[c.floors[task]]) for task, values in tasks.items()}
        for name, choose in (("Smallest", min), ("Largest", max)):
            task = choose(means, key=lambda task: means[task].mean)
            text = f"{task} {estimate(means[task].mean, means[task].interval())}"
            body[name].append(TableCell(text, means[task].mean, c.runs))
        p = heterogeneity_p(list(tasks.values()))
        body["p, tasks alike"].append(MISSING if p is None else TableCell(_p_text(p), p, c.runs))
        won = sum(pair.difference > 0 for pair in c.pairs) + sum(pair.difference == 0 for pair in c.pairs) / 2
        body["Pairs won"].append(TableCell(f"{won:g} of {len(c.pairs)}", won / len(c.pairs), c.runs))
        body["Correlation"].append(_correlation_cell(c))
    text = (
        f"the tasks with the smallest and the largest mean difference{_rate(view)} (95% t interval of that task alone); p of "
        "Welch's F test that the difference is the same on all tasks that have a spread; pairs in which the method scores higher "
        "(a tie is half a pair); correlation of the method's and LoRA's scores over seeds, within tasks. No verdict rests on "
        "this table."
    )
    title = f"{view.plan.experiment.title}: how the difference varies"
    return text_table(f"{view.plan.name}-spread", title, text, _labels(heads, view.rows), body)


def _rate(view: View) -> str:
    """Name the learning rate of the runs in a table that leaves out those at the second best one."""
    return ", at the best learning rate" if "tuned" in view.plan.protocols else ""


def _correlation_cell(c: Comparison) -> TableCell:
    centred = []
    for task in by_task(c.pairs):
        values = np.array([pair.values for pair in c.pairs if pair.task == task])
        centred.append(values - values.mean(0))
    x, y = np.concatenate(centred).T
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return TableCell(number(float(x @ y) / scale, 2), float(x @ y) / scale, c.runs) if scale > 1e-9 else MISSING


def _verdict_cell(c: Comparison) -> TableCell:
    cell = _difference_cell(c)
    return cell if c.difference is None else replace(cell, text=f"{cell.text}, {c.verdict_text}")


def _informative_cell(c: Comparison) -> TableCell:
    found = c.head.informative if c.head else None
    return MISSING if found is None else TableCell(estimate(found.mean, found.interval(c.level)), found.mean, c.runs)


def _difference_cell(c: Comparison) -> TableCell:
    if c.difference is None:
        return MISSING
    seeds = f" ({c.seeds} seed{'s' if c.seeds > 1 else ''})"
    return TableCell(estimate(c.difference.mean, c.interval, c.digits, without=seeds), c.difference.mean, c.runs)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def items(view: View) -> TextTable | None:
    """Return the intervals and tests over test items."""
    found = view.items[0]
    if not found:
        return None
    body: dict[str, list[TableCell]] = {"Difference": [], "95%, other items": [], "p, items": []}
    for item in found:
        runs, interval = item.comparison.runs, item.interval
        body["Difference"].append(TableCell(number(item.difference, 2, True), item.difference, runs))
        text = f"[{number(interval[0], 2)}, {number(interval[1], 2)}]" if interval else ""
        body["95%, other items"].append(TableCell(text, None, runs) if interval else MISSING)
        body["p, items"].append(TableCell(_p_text(item.p), item.p, runs))
    text = (
        f"{headline_subject(view.plan)}{_rate(view)}. Interval: t, with the variance over seeds and, by a bootstrap, over "
        "test items: what other seeds on other items like these would give. p: the two methods' answers to an item exchanged at "
        f"random, at all seeds together, {DRAWS:,} times: do these trained models differ on such items? Not corrected for the "
        "number of comparisons."
    )
    title = f"{view.plan.experiment.title}: other test items"
    return text_table(
        f"{view.plan.name}-items", title, text, _labels([item.comparison for item in found], view.rows), body
    )
