"""The identity of a model's weights."""

import hashlib
from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.base.hashing import file_sha256
from mtlora.config.schema import RunConfig

# The files of a local model folder that from_pretrained reads.
SNAPSHOT_FILES = (
    "*config.json",
    "token*.json",
    "*tokens*.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.safetensors",
    "*.bin",
)


def model_content(config: RunConfig) -> str:
    """Return an identifier of the weights: a pinned revision, a checksum, or (for a local folder) a hash of its files."""
    model = config.model
    if model.path is not None:
        return folder_sha256(Path(model.path))
    if model.source == "hub":
        return f"{model.hub}@{model.revision}"
    if model.source == "package":
        return str(model.weights_sha256)
    return "random"


def folder_sha256(folder: Path) -> str:
    """Hash the names and contents of the configuration, tokenizer and weight files of a local model folder.

    Raises:
        UserError: the folder has no config.json.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model.path={folder} holds no config.json: name a folder written by save_pretrained, or a snapshot"
        )
    found = sorted(file for pattern in SNAPSHOT_FILES for file in folder.glob(pattern))
    files = [file for file in found if not file.name.startswith(".")]  # macOS adds ._config.json beside config.json
    named = (file.name.encode() + b"\0" + bytes.fromhex(file_sha256(file)) for file in files)
    return hashlib.sha256(b"".join(named)).hexdigest()
