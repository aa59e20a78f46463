"""The verdicts of a plan's runs on the paper's claims."""

from collections.abc import Sequence
from dataclasses import dataclass

from mtlora.plan.experiment import Claim
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import row_of
from mtlora.tables.comparable import comparable
from mtlora.tables.comparison import Comparison, headlines, needed
from mtlora.tables.statistics import Verdict, holm, judge_claim


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict of a plan's runs on a claim of the paper, for one method, or for all methods if none was tested."""

    claim: Claim
    verdict: Verdict
    why: str
    comparison: Comparison | None = None


def claim_verdicts(plan: Plan, records: dict[str, RunRecord], comparisons: Sequence[Comparison]) -> list[ClaimVerdict]:
    """Judge every claim for every method and set of target modules, with Holm's correction over the methods."""
    verdicts = []
    for claim in plan.experiment.claims:
        fitting = [c for c in headlines(comparisons) if c.row.model == claim.model and _fits(plan, records, c)]
        if not fitting:
            verdicts.append(ClaimVerdict(claim, Verdict.NOT_TESTED, _unfit(plan, claim)))
        for base in dict.fromkeys(c.base for c in fitting):
            verdicts += _judge(claim, [c for c in fitting if c.base == base])
    return verdicts


def _judge(claim: Claim, family: Sequence[Comparison]) -> list[ClaimVerdict]:
    found = [c.difference for c in family if c.difference is not None]
    same = iter(holm([d.equivalence_p(claim.difference / 2) for d in found], family[0].family))
    verdicts = []
    for c in family:
        if c.difference is None:
            verdicts.append(ClaimVerdict(claim, Verdict.NOT_TESTED, "runs are missing", c))
            continue
        verdict = judge_claim(c.difference, claim.difference, c.p_holm, next(same))
        why = needed(c, claim.difference) if verdict is Verdict.INCONCLUSIVE else ""
        verdicts.append(ClaimVerdict(claim, verdict, why, c))
    return verdicts


def _fits(plan: Plan, records: dict[str, RunRecord], c: Comparison) -> bool:
    """Return whether a comparison is about the claim's setting: the paper's profile, data, recipe, rank and all of its tasks."""
    cells = [cell for cell in plan.cells if row_of(plan, cell) in (c.row, c.base)]
    rank = f"r{c.row.rank}" in map(str, plan.experiment.axes["rank"])
    whole = len(plan.columns) == len(plan.experiment.columns)
    return rank and whole and all(comparable(cell, records.get(cell.sha)) for cell in cells)


def _unfit(plan: Plan, claim: Claim) -> str:
    ranks = ", ".join(map(str, plan.experiment.axes["rank"]))
    return f"the claim is about {claim.model}, rank {ranks}, the profile paper and all of its data and tasks"
