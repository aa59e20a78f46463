"""The places of the files that users edit, in the checkout or copied into an installed wheel; and paths inside texts."""

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent  # the root of the checkout; with an installed wheel, the folder that mtlora is installed in
COPIES = PACKAGE / "_files"  # only in a wheel; see tool.hatch.build.targets.wheel in pyproject.toml

# An absolute path in a text; the address of a web page does not match.
IN_TEXT = re.compile(r"(?<![\w./~*\\-])/(?!/)(?:[^/\s'\"()\[\]{},;:=]+/)+[^/\s'\"()\[\]{},;:=]*")


def data_path(name: str) -> Path:
    """Return the path of a file or folder of the repository, such as `conf`."""
    return (COPIES if COPIES.is_dir() else REPOSITORY) / name


CONF = data_path("conf")
EXPERIMENTS = data_path("experiments")
PUBLISHED = data_path("results/published.csv")


def last_parts(path: str, number: int = 1) -> str:
    """Return the last parts of an absolute path: enough to recognise a file, and nothing about the machine."""
    return "/".join(path.split("/")[-number:])
