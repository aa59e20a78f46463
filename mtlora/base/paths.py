"""The places of the files that users edit, in the checkout or copied into an installed wheel; and paths inside texts."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
REPOSITORY = PACKAGE.parent  # the root of the checkout; with an installed wheel, the folder that mtlora is installed in
COPIES = PACKAGE / "_files"  # only in a wheel; see tool.hatch.build.targets.wheel in pyproject.toml

NAME = r"[^/\s'\"()\[\]{},;:=]"  # a character of a file's name, as it is found in texts
ABSOLUTE = rf"(?<![\w./~*\\-])/(?!/)(?:{NAME}+/)+{NAME}*"  # an absolute path; the address of a web page does not match


def data_path(name: str) -> Path:
    """Return the path of a file or folder of the repository, such as `conf`."""
    return (COPIES if COPIES.is_dir() else REPOSITORY) / name


CONF = data_path("conf")
EXPERIMENTS = data_path("experiments")
PUBLISHED = data_path("results/published.csv")
