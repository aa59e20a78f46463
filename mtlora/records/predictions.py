"""The `predictions.jsonl` of a data-to-text run."""

import json
from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.data.contexts import Group
from mtlora.data.files import numbered_lines, read_text


def read_records(path: Path) -> tuple[list[Group], list[str]]:
    """Read a `predictions.jsonl`: contexts with their references, and the texts.

    Raises:
        UserError: the file cannot be read, or a line is not an object with context, category, references and prediction.
    """
    groups, texts = [], []
    for number, line in numbered_lines(read_text(path)):
        try:
            row = json.loads(line)
            references = tuple(str(reference) for reference in row["references"])
            groups.append(Group(str(row["context"]), references, str(row["category"])))
            texts.append(str(row["prediction"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}:{number}: not a row with context, category, references and prediction ({error})"
            ) from None
    if not groups:
        raise UserError(f"{path} is empty: it should have one text for each context")
    return groups, texts
