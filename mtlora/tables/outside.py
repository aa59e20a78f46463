"""Finished runs that no plan selects, and the command that makes their table."""

import shlex
from collections.abc import Callable, Sequence

from mtlora.base.messages import as_variable
from mtlora.plan.cell import override_key
from mtlora.plan.grid import Plan
from mtlora.records.record import RunRecord
from mtlora.tables.evidence import Evidence

AXES = ("task", "transform", "seed", "rank", "targets", "model", "protocol")  # a table may hold several values of each


def outside(plans: Sequence[Plan], evidence: Evidence, shown: Callable[[str], str] = str) -> list[str]:
    """Return one line, or none, about the finished runs of the plans' profile that no plan selects, with the command for them.

    `shown` changes each argument of the command, as a page that is passed on needs it, without the paths of this machine.
    """
    cells = [cell for plan in plans for stage in plan.stages for cell in stage]
    selected = {cell.sha for cell in cells}
    others = [
        record
        for sha, record in evidence.records.items()
        if sha not in selected
        and record.status == "success"
        and record.profile == plans[0].profile
        and "data.split=tune" not in record.overrides  # the trials of mtlora.tune are no runs of a table
    ]
    if others:  # `problems` reports the runs of the same configuration
        twins = {cell.configuration for cell in cells}
        named = {sha for key, shas in evidence.configurations.items() if key in twins for sha in shas}
        others = [record for record in others if record.config_sha not in named]
    if not others:
        return []
    one = len(others) == 1
    return [
        f"{len(others)} finished run{'' if one else 's'} of this profile {'is' if one else 'are'} in no table here: "
        f"{_command(plans, others, shown)}"
    ]


def _command(plans: Sequence[Plan], others: Sequence[RunRecord], shown: Callable[[str], str]) -> str:
    """Return the command that makes the table of runs outside of it, or of most of them."""
    sweeps: dict[tuple[str, ...], list[RunRecord]] = {}  # by suite and the overrides that are no axis of an experiment
    for record in others:
        sweeps.setdefault((record.suite, *(o for o in record.overrides if override_key(o) not in AXES)), []).append(
            record
        )
    (suite, *fixed), found = max(sweeps.items(), key=lambda sweep: len(sweep[1]))
    values: dict[str, dict[str, None]] = {}
    for override in (o for record in found for o in record.overrides if override_key(o) in AXES):
        values.setdefault(override_key(override), {})[override.partition("=")[2]] = None
    name = plans[0].experiment.name if len(plans) == 1 else suite
    declared = next((p.experiment.axes_of(p.profile) for p in plans if p.experiment.name == name), {})
    narrowed = {key: named for key, named in values.items() if set(named) != {str(v) for v in declared.get(key, ())}}
    words = [f"SUITE={name}", *(f"{key}={','.join(sorted(named, key=_order))}" for key, named in narrowed.items())]
    some = f"for {len(found)} of them, " if len(found) < len(others) else ""
    return f"{some}make tables {shlex.join(shown(as_variable(word)) for word in [*words, *fixed])}"


def _order(value: str) -> tuple[int, str]:
    return len(value), value  # of numbers: by size
