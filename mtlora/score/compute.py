"""The scores of predictions, for training and for the scoring command; heavy packages are imported inside functions."""

import importlib.util
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtlora.base.errors import UserError
from mtlora.base.extras import needs
from mtlora.score import text

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

TEXT_PACKAGES = ("sacrebleu", "pyter", "rapidfuzz", "pycocoevalcap")  # the packages of the extra `metrics`
# By scoring, the metrics that are computed on the tokens of the PTB tokenizer, a Java program.
TOKENISED: dict[str, tuple[str, ...]] = {"triples": (), "e2e": ("meteor", "rouge_l", "cider")}


def compute(
    names: list[str], predictions: "np.ndarray", references: "np.ndarray", experiment_id: str
) -> dict[str, float]:
    """Return the named metrics on their raw scale: 0 to 1, correlations and Matthews -1 to 1, always finite.

    Args:
        names: keys of `METRICS`.
        predictions: (n,) class indices, or scores of a regression task.
        references: (n,) of the same kind.
        experiment_id: one per run, so that runs in parallel never share state.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    from mtlora.score.metric import measure  # imports `evaluate`, which takes seconds

    return {name: measure(name, predictions, references, experiment_id) for name in names}


def compute_texts(
    names: Sequence[str],
    scoring: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    experiment_id: str,
    official_ter: bool = False,
) -> dict[str, float]:
    """Return the named metrics of generated texts on the scale of publications: BLEU 0 to 100, the others raw.

    Args:
        names: text metrics of `METRICS`; those that need Java are left out, with a warning, if it does not start.
        scoring: `triples` (DART, WebNLG: both sides are trimmed, lower-cased and split) or `e2e` (both sides are only
            trimmed; METEOR, ROUGE-L and CIDEr are computed on the tokens of coco-caption's tokenizer).
        hypotheses: n texts as they were decoded.
        references: n lists of texts; empty texts among them are ignored.
        experiment_id: one per run, so that runs in parallel never share state.
        official_ter: count the blank last line that the official TER script reads: (sum + 1) / (n + 1).

    Raises:
        UserError: the extra `metrics` is not installed, there are no texts, a text has no reference, or
            a Java program ends early.
    """
    require_text_packages()
    if not hypotheses or len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} texts for {len(references)} lists of references: give one text for each")
    treat = text.treat(scoring)
    groups = [[treated for treated in map(treat, group) if treated] for group in references]
    if lone := [number for number, group in enumerate(groups, 1) if not group]:
        raise UserError(f"text {lone[0]} has only empty references: complete the test data or remove the text")
    needing = needing_java(names, scoring)
    if needing and not text.java_works():
        log.warning(
            "left out %s: Java is missing or does not start; install it (e.g. `apt install default-jre-headless`)",
            ", ".join(needing),
        )
        names = [name for name in names if name not in needing]
    from mtlora.score.metric import measure  # imports `evaluate`, which takes seconds

    plain = [treat(hypothesis) for hypothesis in hypotheses], groups
    tokens = _tokenise(*plain) if set(names) & set(TOKENISED[scoring]) else plain
    options = {"ter": {"official_off_by_one": official_ter}}
    return {
        name: measure(name, *(tokens if name in TOKENISED[scoring] else plain), experiment_id, **options.get(name, {}))
        for name in names
    }


def _tokenise(hypotheses: list[str], references: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Tokenise each side in one call, as coco-caption does."""
    rest = iter(text.ptb_tokenise([reference for group in references for reference in group]))
    return text.ptb_tokenise(hypotheses), [[next(rest) for _ in group] for group in references]


def needing_java(names: Sequence[str], scoring: str) -> list[str]:
    """Return the metrics among `names` that need a Java program."""
    return [name for name in names if name == "meteor" or name in TOKENISED[scoring]]


def require_text_packages() -> None:
    """Raise a UserError if the extra `metrics` is not installed; imports nothing, so that a run can call it before training."""
    if missing := [name for name in TEXT_PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(needs("a text metric", ", ".join(missing), "metrics"))


def baseline(name: str, references: "np.ndarray") -> float:
    """Return the score of always answering the most frequent class of `references` (n,); 0 for correlations.

    F1 is the F1 of class 1, which is 0 unless class 1 is the most frequent one. A tie goes to the lower class.
    """
    if name not in ("accuracy", "f1"):
        return 0.0
    import numpy as np

    counts = np.bincount(references)
    majority = int(counts.argmax())
    share = float(counts[majority] / counts.sum())
    if name == "accuracy":
        return share
    return 2 * share / (1 + share) if majority == 1 else 0.0  # precision = share, recall = 1
