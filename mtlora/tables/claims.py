"""The verdicts of a plan's runs on the paper's claims, which are about the protocol `published`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtlora.plan.experiment import Claim
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.aggregate import row_of
from mtlora.tables.comparable import comparable
from mtlora.tables.comparison import Comparison, headlines
from mtlora.tables.statistics import ALPHA, ClaimVerdict, Difference, judge_claim

BOUNDED_ABOVE = (ClaimVerdict.SMALLER, ClaimVerdict.NONE, ClaimVerdict.EXCLUDED)  # they say that a gain is small


@dataclass(frozen=True)
class JudgedClaim:
    """The verdicts on a claim of the paper for one method, or for all methods if none was tested."""

    claim: Claim
    last: ClaimVerdict  # by the experiment's selection, the last epoch
    as_published: ClaimVerdict  # at the epoch that the literature selects
    why: str = ""  # not tested
    comparison: Comparison | None = None
    others: tuple[Comparison, ...] = ()  # of the same method under the other protocols
    level: float = 0.95  # of the intervals

    @property
    def verdict(self) -> str:
        """The verdict if both epochs agree, else both."""
        if self.last == self.as_published:
            return str(self.last)
        return f"{self.last} (best epoch: {self.as_published})"


def claim_verdicts(
    plan: Plan, records: Mapping[str, RunRecord], comparisons: Sequence[Comparison]
) -> list[JudgedClaim]:
    """Judge every claim for every structure of the experiment; the level accounts for all structures and claims."""
    verdicts = []
    heads = headlines(comparisons)
    methods = {str(method) for method in plan.experiment.axes["transform"]}  # the paper's, not other rows of the table
    for claim in plan.experiment.claims:
        fitting = [
            c for c in heads if c.row.model == claim.model and c.row.method in methods and _fits(plan, records, c)
        ]
        if not fitting:
            missing = ClaimVerdict.NOT_TESTED
            verdicts.append(JudgedClaim(claim, missing, missing, _unfit(plan, claim)))
        for c in fitting:
            same = [other for other in heads if other.row._replace(protocol=c.row.protocol) == c.row and other is not c]
            verdicts.append(_judge(claim, c, tuple(same), c.family * len(plan.experiment.claims)))
    return verdicts


def _judge(claim: Claim, c: Comparison, others: tuple[Comparison, ...], family: int) -> JudgedClaim:
    assert c.head is not None
    informative = c.head.informative

    def judged(difference: Difference | None) -> ClaimVerdict:
        if c.head and any(c.head.failed):
            return ClaimVerdict.FAILS
        if difference is None:
            return ClaimVerdict.NOT_TESTED
        verdict = judge_claim(difference, claim.difference, family)
        if verdict not in BOUNDED_ABOVE or not (c.head and c.head.dull):
            return verdict
        # Tasks that a method has not learned say nothing about how small its gain is.
        if informative is not None and judge_claim(informative, claim.difference, family) in BOUNDED_ABOVE:
            return verdict
        return ClaimVerdict.GAIN if verdict is ClaimVerdict.SMALLER else ClaimVerdict.INCONCLUSIVE

    last, published = judged(c.difference), judged(c.head.as_published)
    why = "runs are missing" if ClaimVerdict.NOT_TESTED in (last, published) else ""
    return JudgedClaim(claim, last, published, why, c, others, 1 - ALPHA / family)


def _fits(plan: Plan, records: Mapping[str, RunRecord], c: Comparison) -> bool:
    """Return whether a comparison is about the claim's setting: the paper's profile, data, recipe, rank and all of its tasks."""
    cells = [cell for cell in plan.cells if row_of(plan, cell) in (c.row, c.base)]
    rank = f"r{c.row.rank}" in map(str, plan.experiment.axes["rank"])
    whole = len(plan.columns) == len(plan.experiment.columns)
    return rank and whole and all(comparable(cell, records.get(cell.sha)) for cell in cells)


def _unfit(plan: Plan, claim: Claim) -> str:
    ranks = ", ".join(map(str, plan.experiment.axes["rank"]))
    return f"the claim is about {claim.model}, rank {ranks}, profile paper, protocol published, and all of its data and tasks"
