"""The text metrics as `evaluate.Metric` classes. Import this only to score: `evaluate` takes seconds to load."""

import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from mtlora.score import text


class TextMetric(evaluate.Metric):
    """Base of the classes below: one number from n predictions and n lists of references."""

    function: ClassVar[Any]  # of mtlora.score.text

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("string")
        return evaluate.MetricInfo(
            description=self.function.__doc__,
            citation="LoRA, arXiv 2106.09685 (DART, WebNLG); the E2E NLG challenge, arXiv 1706.09254",
            inputs_description="predictions: n texts; references: n lists of texts",
            features=datasets.Features({"predictions": value, "references": datasets.List(value)}),
        )

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, float]:
        return {self.name: self.function(list(predictions), [list(group) for group in references], **options)}


class Bleu(TextMetric):
    """BLEU, 0 to 100."""

    function = staticmethod(text.bleu)


class Nist(TextMetric):
    """NIST."""

    function = staticmethod(text.nist)


class Meteor(TextMetric):
    """METEOR 1.5."""

    function = staticmethod(text.meteor)


class Ter(TextMetric):
    """Translation edit rate; takes the option `official_off_by_one`."""

    function = staticmethod(text.ter)


class RougeL(TextMetric):
    """ROUGE-L of tokenised texts."""

    function = staticmethod(text.rouge_l)


class Cider(TextMetric):
    """CIDEr of tokenised texts."""

    function = staticmethod(text.cider)


CLASSES: dict[str, type[TextMetric]] = {
    "bleu": Bleu, "nist": Nist, "meteor": Meteor, "ter": Ter, "rouge_l": RougeL, "cider": Cider,
}  # fmt: skip


def compute(
    names: Sequence[str],
    hypotheses: list[str],
    references: list[list[str]],
    tokenised: Sequence[str],
    experiment_id: str,
    official_ter: bool,
) -> dict[str, float]:
    """Return the named metrics of treated texts; those in `tokenised` see them after the PTB tokenizer."""
    plain = (hypotheses, references)
    tokens = _tokenise(*plain) if set(names) & set(tokenised) else plain
    values = {}
    with tempfile.TemporaryDirectory() as folder:  # a Metric makes a folder even if it keeps everything in memory
        for name in names:
            metric = CLASSES[name](keep_in_memory=True, cache_dir=folder, experiment_id=experiment_id)
            options = {"official_off_by_one": official_ter} if name == "ter" else {}
            predictions, groups = tokens if name in tokenised else plain
            result = metric.compute(predictions=predictions, references=groups, **options)
            values[name] = float(result[metric.name])
    return values


def _tokenise(hypotheses: list[str], references: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Tokenise both sides in one go each, as coco-caption does."""
    rest = iter(text.ptb_tokenise([reference for group in references for reference in group]))
    return text.ptb_tokenise(hypotheses), [[next(rest) for _ in group] for group in references]
