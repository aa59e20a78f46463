"""The tables of paired differences: between methods over seeds, and between two runs over test items."""

from collections.abc import Sequence
from dataclasses import replace

from mtlora.tables.captions import PROTOCOLS, method_label, row_labels
from mtlora.tables.comparison import Comparison, against, needed
from mtlora.tables.families import CONTROL
from mtlora.tables.items import TRIALS
from mtlora.tables.layout import MISSING, TableCell, TextTable, estimate, number, text_table
from mtlora.tables.statistics import ALPHA, Verdict, pairs_needed
from mtlora.tables.view import View


def differences(view: View, contrasts: bool) -> TextTable | None:
    """Return the paired differences: to LoRA in the same setting, or (contrasts) to a control or another setting."""
    plan = view.plan
    chosen = [c for c in view.comparisons if bool(c.contrast) == contrasts]
    heads = [c for c in chosen if c.margin is not None]
    if not heads:  # nothing to compare, or the headline's task is not among these runs
        return None
    labels = row_labels([c.row for c in heads], view.rows)
    if contrasts:
        labels["Against"] = [method_label(c.base.method) if c.contrast == CONTROL else against(c) for c in heads]
    columns: dict[str, list[TableCell]] = {}
    for c in chosen:
        columns.setdefault(c.label, []).append(_difference_cell(c))
    first = heads[0].label  # the figure of the verdict comes first
    body = {first: columns.pop(first)}
    body["p"] = [TableCell(_p_text(c.difference.p), c.difference.p, c.runs) if c.difference else MISSING for c in heads]
    body["p, Holm"] = [TableCell(_p_text(c.p_holm), c.p_holm, c.runs) if c.difference else MISSING for c in heads]
    body["Verdict"] = [TableCell(c.verdict_text, runs=c.runs) for c in heads]
    body |= columns
    base = "LoRA"
    if contrasts:
        base = "its control" if heads[0].contrast == CONTROL else "the same method in the first setting"
    h = plan.experiment.headline
    subject = first if h.task == "average" else f"{h.metric} on {h.split}"
    table = text_table(
        f"{plan.name}-{'contrasts' if contrasts else 'differences'}",
        f"{plan.experiment.title}: difference to {base}",
        f"same task and seed, {plan.experiment.selection} epoch; 95% t interval; p (two-sided sign flips) and verdict: {subject}",
        labels,
        body,
    )
    table.notes += _reach(heads)
    return table


def protocols(view: View) -> TextTable | None:
    """Return the difference to LoRA in the headline figure, a column for each protocol; None if there is only one."""
    names = view.plan.protocols
    heads = {c.row: c for c in view.comparisons if not c.contrast and c.margin is not None}
    rows = list(dict.fromkeys(row._replace(protocol="") for row in heads))
    if len(names) < 2 or not rows:
        return None
    body: dict[str, list[TableCell]] = {}
    for name in names:
        found = [heads.get(row._replace(protocol=name)) for row in rows]
        body[name] = [_verdict_cell(c) if c is not None else MISSING for c in found]
    h = view.plan.experiment.headline
    subject = "average over tasks" if h.task == "average" else f"{h.metric} on {h.split}"
    text = f"{subject}, {view.plan.experiment.selection} epoch, 95% t interval and verdict. " + " ".join(
        f"{name}: {PROTOCOLS[name].partition(': ')[2]}." for name in names
    )
    title = f"{view.plan.experiment.title}: difference to LoRA by protocol"
    return text_table(f"{view.plan.name}-by-protocol", title, text, row_labels(rows), body)


def _verdict_cell(c: Comparison) -> TableCell:
    cell = _difference_cell(c)
    return cell if c.difference is None else replace(cell, text=f"{cell.text}, {c.verdict_text}")


def _difference_cell(c: Comparison) -> TableCell:
    if c.difference is None:
        return MISSING
    text = estimate(c.difference.mean, c.difference.interval(), c.digits, " (1 seed)")
    return TableCell(text, c.difference.mean, c.runs)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _reach(heads: Sequence[Comparison]) -> list[str]:
    """Return notes: whether the number of pairs permits significance at all, and how many seeds would decide."""
    found = [c for c in heads if c.difference is not None]
    if not found:
        return []
    few = min((c for c in found if c.difference), key=lambda c: c.difference.pairs if c.difference else 0)
    notes = []
    if few.difference and few.difference.attainable_p * few.family > ALPHA:
        notes.append(
            f"The number of pairs ({few.difference.pairs}) cannot decide: no p below {few.difference.attainable_p:.2g} is "
            f"possible; after Holm over {few.family}, at least {pairs_needed(few.family)} pairs are needed for significance."
        )
    for c in found:
        if c.verdict is Verdict.UNDECIDED and c.margin is not None:
            name = " ".join(values[0] for values in row_labels([c.row], [h.row for h in heads]).values())
            notes.append(f"{name}: {needed(c, 2 * c.margin)} (a true difference of 0, or of {2 * c.margin:g}).")
    return notes


def items(view: View) -> TextTable | None:
    """Return the paired test over test items, a column per seed."""
    frame = view.items[0]
    if frame.empty:
        return None
    rows = list(dict.fromkeys(frame["row"]))
    found = {(item["row"], item["seed"]): item for item in frame.to_dict("records")}
    body: dict[str, list[TableCell]] = {}
    for seed in sorted(set(frame["seed"])):
        cells = [found.get((row, seed)) for row in rows]
        body[f"seed {seed}"] = [
            TableCell(
                f"{number(c['difference'], 2, True)} (p = {_p_text(c['p'])})",
                c["difference"],
                tuple(c["run_ids"].split(" ")),
            )
            if c
            else MISSING
            for c in cells
        ]
    text = (
        f"BLEU on {frame['split'].iloc[0]}, {frame['items'].iloc[0]} items; p of paired approximate "
        f"randomisation, {TRIALS} trials: it tests whether these two models differ on such texts, not whether the "
        "methods do; p is not corrected for the number of tests"
    )
    name, title = f"{view.plan.name}-items", f"{view.plan.experiment.title}: one run against one run"
    return text_table(name, title, text, row_labels(rows, view.rows), body)
