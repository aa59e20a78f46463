"""Write the built-in data, and the tokenizers of the random models, into the package: `python -m tools.builtin_text`.

`--check` writes nothing, and compares the existing data with the output of the generator. It compares the decompressed text,
because another version of zlib compresses the same text to other bytes.
"""

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path

from mtlora.base import cli
from mtlora.base.errors import UserError
from mtlora.base.files import read_content
from mtlora.base.paths import REPOSITORY
from mtlora.data.files import BUILTIN

from .layouts import all_files
from .tokenizers import byte_tokenizer, word_tokenizer

TOKENIZERS = REPOSITORY / "mtlora" / "train" / "model" / "pretrained"


def write() -> None:
    """Write all files."""
    for name, text in all_files().items():
        path = BUILTIN / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    for name, tokenizer in (("tiny", word_tokenizer()), ("tiny_gpt2", byte_tokenizer())):
        tokenizer.save_pretrained(str(TOKENIZERS / name))


def differing() -> Iterator[Path]:
    """Yield the data files that are missing, have another text than the generator's output, or are not part of that output."""
    made = {BUILTIN / f"{name}.gz": text.encode() for name, text in all_files().items()}
    for path in sorted({*made, *(path for path in BUILTIN.rglob("*") if path.is_file())}):
        if not path.is_file() or path not in made or read_content(path) != made[path]:
            yield path


def main() -> None:
    """Parse the command line and write or compare."""
    parser = argparse.ArgumentParser(prog="python -m tools.builtin_text", description="Write the built-in data.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a data file differs")
    if not parser.parse_args().check:
        write()
    elif paths := list(differing()):
        raise UserError(
            f"{paths[0]} and {len(paths) - 1} other files differ from the output of the generator: "
            "run `python -m tools.builtin_text`"
        )


if __name__ == "__main__":
    cli.run(main)
