"""Fields whose type alone does not limit their values enough, and the limits."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# a keyword of JSON Schema -> whether a value fits its limit
KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "enum": lambda value, choices: value in choices,
    "minimum": operator.ge,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}


@dataclass(frozen=True)
class Rule:
    """The values that a field may have; None is always allowed."""

    limits: dict[str, Any]  # by keyword of JSON Schema
    otherwise: str  # the end of the error message for any other value

    def holds(self, value: Any) -> bool:
        """Tell whether a field may have a value."""
        return all(KEYWORDS[keyword](value, limit) for keyword, limit in self.limits.items())


def _ruled(default: Any, otherwise: str, **limits: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(limits, otherwise)})


def one_of(*choices: str, default: str | None = MISSING) -> Any:
    """Return a string field whose value must be one of `choices`."""
    return _ruled(default, f"is not known: choose one of {', '.join(choices)}", enum=[*choices])


def at_least(least: float, default: float | None = MISSING) -> Any:
    """Return a number field whose value must be at least `least`."""
    return _ruled(default, f"is out of range: it must be at least {least:g}", minimum=least)


def above(limit: float, default: float | None = MISSING) -> Any:
    """Return a number field whose value must be above `limit`."""
    return _ruled(default, f"is out of range: it must be above {limit:g}", exclusiveMinimum=limit)


def share(default: float | None = MISSING) -> Any:
    """Return a number field whose value must be at least 0 and below 1."""
    return _ruled(default, "is out of range: it must be at least 0 and below 1", minimum=0, exclusiveMaximum=1)
