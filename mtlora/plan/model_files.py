"""The files of a pretrained model: which files of a repository or a folder are read, where they are, what identifies them."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.base.hashing import file_sha256
from mtlora.base.hub import Repository
from mtlora.config.schema import ModelConfig, RunConfig

SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")  # read only where there are no safetensors
SETTINGS = re.compile(r"[^/]*\.(json|model)|vocab\.(bpe|txt)|merges\.txt")
# Each of these sets is a whole tokenizer. From a part of one, transformers makes an empty or another tokenizer in silence.
TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"})


def needed_files(names: Sequence[str]) -> list[str]:
    """Return the configuration, the tokenizer and the weights among the names of a repository's files.

    The list is empty if one of the three is absent.
    """
    weights = [n for n in names if SAFETENSORS.fullmatch(n)] or [n for n in names if PICKLED.fullmatch(n)]
    settings = [name for name in names if SETTINGS.fullmatch(name)]
    whole = weights and "config.json" in names and has_tokenizer(names)
    return [*settings, *weights] if whole else []


def has_tokenizer(names: Sequence[str]) -> bool:
    """Tell whether files of these names hold a tokenizer."""
    given = set(names)
    return any(files <= given for files in TOKENIZERS) or any(re.fullmatch(r"[^/]*\.(model|gguf)", n) for n in names)


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
    """Hash the names and contents of the files of a local model folder that are read.

    Raises:
        UserError: the folder lacks the configuration, the tokenizer or the weights.
    """
    names = [file.name for file in folder.glob("[!.]*")]  # macOS adds ._config.json beside config.json
    files = sorted(needed_files(names))
    if not files:
        raise UserError(
            f"model.path={folder} holds {_lacking(names)}: save model and tokenizer there with save_pretrained"
        )
    named = (name.encode() + b"\0" + bytes.fromhex(file_sha256(folder / name)) for name in files)
    return hashlib.sha256(b"".join(named)).hexdigest()


def model_folder(model: ModelConfig) -> Path:
    """Return the folder of a hub model's files, fetched only if they are not on this machine.

    Raises:
        UserError: see `fetch_model`.
    """
    snapshot = _repository(model).local(needed_files)
    return fetch_model(model) if snapshot is None else snapshot.folder


def fetch_model(model: ModelConfig) -> Path:
    """Fetch the files of a hub model, and return their folder.

    Raises:
        UserError: the hub or the disk refuses, or the repository lacks the configuration, the tokenizer or the weights.
    """
    snapshot = _repository(model).fetch(needed_files)
    if not snapshot.files:
        raise UserError(
            f"{model.hub} at {model.revision} has {_lacking(snapshot.names)}: correct model.hub, or use model.path=DIR"
        )
    return snapshot.folder


def _lacking(names: Sequence[str]) -> str:
    if "config.json" not in names:
        return "no config.json"
    return "no weights that PyTorch reads" if has_tokenizer(names) else "no tokenizer"


def _repository(model: ModelConfig) -> Repository:
    if not (model.hub and model.revision):
        raise UserError(f"model {model.name} has source=hub: set model.hub and model.revision, or use model.path=DIR")
    return Repository("model", model.hub, model.revision, "model.revision", "model.path=DIR")
