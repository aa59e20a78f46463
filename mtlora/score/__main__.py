"""Score texts that any system wrote for DART, WebNLG or E2E: `python -m mtlora.score TASK PREDICTIONS --data-root DIR`.

PREDICTIONS has one text per line, in the order of `--list-contexts`, or is the `predictions.jsonl` of a run, which contains its
contexts and references and needs no data. The scores are printed as JSON for each part of the test set.
"""

import argparse
import io
import json
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import read_text
from mtlora.base.messages import quoted
from mtlora.data.sources import load_contexts
from mtlora.plan.cell import compose_cell
from mtlora.records.predictions import Context, is_predictions, read_predictions
from mtlora.records.record import RECORD, RunRecord
from mtlora.score.generated import score


def read_texts(path: Path, contexts: list[Context]) -> list[str]:
    """Read one text per line, in the order of `contexts`; an empty line is an empty text.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or has another number of lines.
    """
    content = read_text(path)
    if not content:
        raise UserError(f"{path} is empty: it should have one text for each context")
    lines = content.removesuffix("\n").split("\n")
    while len(lines) > len(contexts) and not lines[-1].strip():  # blank lines at the end
        lines.pop()
    if len(lines) != len(contexts):
        raise UserError(
            f"{path} has {len(lines)} lines, but the test set has {len(contexts)} contexts: one line for each is needed, "
            "in the order that --list-contexts prints"
        )
    return [line.removesuffix("\r") for line in lines]


def holds_records(path: Path) -> bool:
    """Tell whether a file holds the rows of a `predictions.jsonl`, by its content.

    Raises:
        UserError: the file cannot be read, or is JSON of another form.
    """
    if is_predictions(path):
        return True
    with suppress(ValueError, RecursionError):
        if isinstance(json.loads(read_text(path)), (list, dict)):
            raise UserError(f"{path} is one JSON value: give one text a line, or one JSON object a line")
    return False


def check_task(path: Path, task: str) -> None:
    """Raise a UserError if there is a record beside the predictions and it is of another task."""
    record = path.with_name(RECORD)
    if record.exists() and (found := RunRecord.load(record).task) != task:
        raise UserError(f"{path} holds texts for {found}, not {task}: give the task {found}")


def in_order(contexts: list[Context], given: list[Context], texts: list[str], path: Path) -> list[str]:
    """Return the text of each context, found by its facts.

    Raises:
        UserError: a context has no text.
    """
    text_of = {context.facts: text for context, text in zip(given, texts, strict=True)}
    if absent := [context.facts for context in contexts if context.facts not in text_of]:
        raise UserError(f"{path} has no text for {len(absent)} of {len(contexts)} contexts, the first is {absent[0]!r}")
    return [text_of[context.facts] for context in contexts]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.Parser(prog="python -m mtlora.score", description="Score texts for DART, WebNLG or E2E.")
    parser.add_argument("task", choices=["dart", "webnlg", "e2e"])
    parser.add_argument("predictions", nargs="?", type=Path, help="one text per line, or a run's predictions.jsonl")
    parser.add_argument("--data-root", help="folder with the task's files (data.source=local)")
    parser.add_argument("--source", choices=["local", "hub", "builtin"], help="of contexts (local with --data-root)")
    parser.add_argument("--list-contexts", action="store_true", help="print the contexts, one per line, and exit")
    parser.add_argument(
        "--official-ter", action="store_true", help="count one empty text more in TER, as the official script does"
    )
    return parser.parse_args()


def main() -> None:
    """Print the scores, or the contexts."""
    arguments = parse()
    source = arguments.source or ("local" if arguments.data_root else None)
    records = arguments.predictions is not None and holds_records(arguments.predictions)
    if source is None and (arguments.list_contexts or not records):
        raise UserError(
            "the contexts and references are needed: add --data-root DIR (or --source hub, --source builtin)"
        )
    if source != "local" and arguments.data_root:
        raise UserError(f"--data-root is not read with --source {source}: leave one of them out")
    if source == "local" and not arguments.data_root:
        raise UserError("--source local needs --data-root DIR, the folder with the task's files")
    if arguments.predictions is None and not arguments.list_contexts:
        raise UserError("a file of predictions is needed: give it as the second argument, or use --list-contexts")
    overrides = [f"task={arguments.task}", "model=tiny_gpt2", f"data.source={source or 'builtin'}"]
    if arguments.data_root:
        overrides.append(f"data.root={quoted(arguments.data_root)}")
    config = compose_cell(overrides).config
    contexts = load_contexts(config.task, config.data) if source else []
    if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # a file of contexts is data, whatever the terminal can show
    if arguments.list_contexts:
        print("\n".join(" ".join(context.facts.splitlines()) for context in contexts), flush=True)
        return
    if records:
        check_task(arguments.predictions, arguments.task)
        given, texts = read_predictions(arguments.predictions)
        texts = in_order(contexts, given, texts, arguments.predictions) if source else texts
        contexts = contexts or given
    else:
        texts = read_texts(arguments.predictions, contexts)
    if empty := sum(not text.strip() for text in texts):
        Console(stderr=True).print(f"warning: {empty} of {len(texts)} texts are empty")
    scores = score(config.task, contexts, texts, "score", arguments.official_ter)
    parts = {split.removeprefix("test_") if split != "test" else "all": values for split, values in scores.items()}
    print(json.dumps(parts, indent=1))


if __name__ == "__main__":
    cli.run(main)
