"""List the commands: `python -m mtlora`.

This imports nothing of the harness, so it runs where only the adapter is installed, too.
"""

import re
import sys
from pathlib import Path

COMMANDS = ("*/__main__.py", "plan/download.py", "[!_]*.py")


def lines() -> list[str]:
    """Return a line for each command, from the first line of its module: how to call it, and its purpose."""
    folder = Path(__file__).parent
    first = [path.read_text(encoding="utf-8").split("\n")[0] for pattern in COMMANDS for path in folder.glob(pattern)]
    found = sorted((match[2], match[1]) for line in first if (match := re.match('"""(.+?): `(python -m .+?)`', line)))
    width = max(len(command) for command, _ in found)
    return [f"{command:{width}}  {purpose}" for command, purpose in found]


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--help"], ["-h"]):
        sys.exit(
            f"error: `python -m mtlora` only lists the commands: write `python -m mtlora.{sys.argv[1]}` if it is one"
        )
    print("\n".join(lines()))
