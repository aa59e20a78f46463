"""Where the repository and its data files are."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


CONF = REPOSITORY / "conf"


EXPERIMENTS = REPOSITORY / "experiments"
