"""Records as they are published: without the paths of the machine on which they were made."""

import os
import re
from dataclasses import asdict
from typing import Any

from mtlora.base.paths import ABSOLUTE, NAME
from mtlora.records.record import RunRecord


def portable(record: RunRecord) -> dict[str, Any]:
    """Return the values of a record; of each absolute path only its last part is left.

    The config_sha stays valid, because no path is a part of a run's identity.
    """
    config = record.config
    places = (config["data"].get("root"), config["model"].get("path"), config.get("results"))
    # Longer ones first, since a path may lie inside another; by name, because a folder's name may have blanks.
    known = sorted((place for place in places if place and os.path.isabs(place)), key=len, reverse=True)

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shortened(item) for key, item in value.items()}
        if isinstance(value, list):
            return [shortened(item) for item in value]
        if not isinstance(value, str):
            return value
        for place in known:  # whole names only: /work is no part of /workspace
            name = os.path.basename(place.rstrip("/")).replace("\\", r"\\")
            value = re.sub(re.escape(place.rstrip("/")) + f"(?!{NAME})", name, value)
        return re.sub(ABSOLUTE, lambda path: path[0].rpartition("/")[2], value)

    return dict(shortened(asdict(record)))
