"""Write what can be published of a run or a study: `python -m mtlora.publish RUN|STUDY --out DIR [--push REPO]`.

RUN is the folder of a finished run: its adapter is written as MTLoRA and as plain LoRA, with a model card. STUDY is a folder with
a `records.jsonl`: its records and tables are written as a data set with its card. No text of a data set is written, and no path
of this machine. `--push` uploads the written folder.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.hub import upload
from mtlora.publish.adapter import write_adapter
from mtlora.publish.study import write_study
from mtlora.records.record import RECORD
from mtlora.tables.command import RECORDS

CONTENT = {
    "model": "the adapter as it was trained and as plain LoRA, its record and predictions as numbers",
    "dataset": "all records, their metrics as a flat file, and the tables",
}


def main() -> None:
    """Parse the command line, write the folder, and upload it if that is wanted."""
    parser = _parser()
    arguments = parser.parse_intermixed_args()
    if arguments.out is None:  # argparse would report it alone where SOURCE is missing, too
        parser.error("the following arguments are required: --out")
    cli.configure_logging()
    source, out = arguments.source.expanduser(), arguments.out.expanduser()
    kind = _kind(source)
    if kind == "model" and arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: only the tables of a study take overrides, not a run")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder: name another one")
    if out.resolve() == Path.cwd():  # which cannot be replaced
        raise UserError(f"--out {out} is the folder from which this command runs: name another one")
    if arguments.push and not arguments.license:
        raise UserError(
            "--push needs --license NAME, such as apache-2.0: only you know under which licence you may publish"
        )
    name, licence = arguments.push or out.name, arguments.license or "unknown"
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # Beside DIR, which appears only when it is whole.
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with temporary as folder:
        made = Path(folder, out.name)
        made.mkdir()
        if kind == "model":
            write_adapter(source, made, name, licence)
        else:
            write_study(source, made, name, licence, arguments.overrides)
        with _writing(out):
            for path in (made, *made.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors lets only the owner read its files
            made.rename(out)
    number = sum(path.is_file() for path in out.rglob("*"))
    print(f"written to {out}: {CONTENT[kind]} ({number} files; README.md is the card)", file=sys.stderr)
    if arguments.push:
        print(upload(out, kind, arguments.push, arguments.private))
    else:
        print(next_step(out, arguments.license), file=sys.stderr)


def next_step(out: Path, licence: str | None) -> str:
    """Return the line about what to check in a written folder, and the command that uploads it."""
    options = ["--push", "USER/NAME", *([] if licence else ["--license", "NAME"])]
    again = shlex.join(["python", "-m", "mtlora.publish", *sys.argv[1:], *options])
    return (
        f"next: read {out / 'README.md'}, and look for a path or text that you would not publish; then "
        f"`rm -r {shlex.quote(str(out))} && {again}` writes it again, with the repository's name in the card, and uploads it"
    )


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}): choose another folder with --out DIR"
        ) from None


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m mtlora.publish",
        description="Write the adapter of a run, or the records of a study, with a card for the Hugging Face hub.",
    )
    parser.add_argument("source", type=Path, help="the folder of a finished run, or of a study (with records.jsonl)")
    parser.add_argument("overrides", nargs="*", help="of a study: the overrides that its tables need")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder to write, new or empty; required")
    parser.add_argument("--push", metavar="REPO", type=_repository, help="upload it there, such as name/rte-shim")
    parser.add_argument(
        "--private", action="store_true", help="make a new repository private (default: as your account)"
    )
    parser.add_argument("--license", help="the licence on the card, such as apache-2.0; needed for --push")
    return parser


def _repository(text: str) -> str:
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise argparse.ArgumentTypeError(f"not the name of a repository: {error}") from None
    return text


def _kind(source: Path) -> Literal["model", "dataset"]:
    """Tell whether a folder is that of a run, which the hub calls a model, or of a study, a data set."""
    if (source / RECORD).is_file():
        return "model"
    if (source / RECORDS).is_file():
        return "dataset"
    raise UserError(
        f"{source} has neither {RECORD} nor {RECORDS}: name the folder of a run (below results/runs), or of a study"
    )


if __name__ == "__main__":
    cli.run(main)
