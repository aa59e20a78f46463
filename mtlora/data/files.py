"""The file that holds a split, in a local folder or in the built-in data, and a hash of its content.

The YAML file of a task lists the candidates for each split; each may also be compressed with gzip.
"""

from pathlib import Path

from mtlora.base.errors import UserError
from mtlora.base.files import readable, visible_files
from mtlora.base.hashing import digest, file_sha256
from mtlora.config.schema import DataConfig, LocalFile, TaskConfig

BUILTIN = Path(__file__).parent / "builtin"  # a folder for each suite; `python -m tools.builtin_text` makes the files


def find_file(task: TaskConfig, data: DataConfig, split: str) -> tuple[LocalFile, Path]:
    """Return the first candidate of a split that exists, and its path (with `.gz` if the file is compressed).

    Raises:
        UserError: no candidate exists, or the only one is a part of the split and `data.subset` is false.
    """
    file, path = _first_existing(task, data, split)
    if not file.subset:
        return file, path
    if not data.subset:
        raise UserError(
            f"{path} holds only a part of the {split} split of {task.name}: "
            "add data.subset=true to use it (the run is then labelled low-resource)"
        )
    if split != "train":
        train, train_path = _first_existing(task, data, "train")
        if not train.subset:
            raise UserError(
                f"{path} is held out from a smaller training file, but {train_path} is the full one and contains it: "
                f"add the official {split} file {task.local[split][0].file}"
            )
    return file, path


def _first_existing(task: TaskConfig, data: DataConfig, split: str) -> tuple[LocalFile, Path]:
    root = _root(task, data)
    tried = []
    for file in task.local.get(split, []):
        for name in (file.file, f"{file.file}.gz"):
            if (root / name).is_file() or (file.format == "webnlg_xml" and (root / name).is_dir()):
                return file, root / name
            tried.append(name)
    if data.source == "builtin":
        raise UserError(
            f"the built-in data have no split {split} of {task.name}: use data.source=local data.root=DIR, or data.source=hub"
        )
    if not tried:
        raise UserError(
            f"task {task.name} declares no local file for split {split}: add one to conf/task/{task.name}.yaml"
        )
    raise UserError(f"no file for split {split} of {task.name} in data.root={data.root}: looked for {', '.join(tried)}")


def _root(task: TaskConfig, data: DataConfig) -> Path:
    if data.source == "builtin":
        return BUILTIN / task.suite
    if data.root is None:
        files = ", ".join(items[0].file for items in task.local.values() if items)
        raise UserError(
            f"data.source=local needs data.root=DIR, the folder that holds {files or 'the files'} (of task {task.name}, "
            "and likewise those of the other tasks)"
        )
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={data.root} is not a folder: name the folder that holds the suite's files")
    return root


def xml_files(path: Path) -> list[Path]:
    """Return the XML files of a folder at any depth, in a fixed order, or the file itself."""
    return visible_files(path, "*.xml") if path.is_dir() else [path]


def content_digest(path: Path) -> str:
    """Return the sha256 of `read_content(path)`; a compressed file and its plain copy have the same hash.

    For a folder the hash covers the relative names and the contents of its XML files.
    """
    if path.is_dir():
        files = [(str(file.relative_to(path)), content_digest(file)) for file in xml_files(path)]
        return digest(files)
    with readable(path):
        return file_sha256(path)
