"""A file is there whole or not at all, whatever happens to the process that writes it."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from mtlora.base import files
from mtlora.base.errors import UserError
from mtlora.base.files import only_process, replacing, require_writable, write_text
from mtlora.base.paths import REPOSITORY
from mtlora.records.record import find_records


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(UserError, match=r"cannot write .*record\.json \(No space left on device\)"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files cannot grow beyond 64 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda stream: stream.write(bytes(2**20)),
        lambda stream: [stream.write(bytes(1000)) for _ in range(1000)],
        lambda stream: [stream.write(bytes(2**16 + 1)), stream.seek(0)],  # the last byte waits in the buffer
        lambda stream: stream.write(bytes(2**16 + 1)),
        lambda stream: torch.save(torch.zeros(2**18), stream),
        lambda stream: np.savez(stream, zeros=np.zeros(2**18)),
        lambda stream: pyarrow.parquet.write_table(pyarrow.table({"n": np.random.rand(2**16)}), stream),
    ],
    ids=["at once", "in parts", "buffered", "at the end", "torch", "numpy", "pyarrow"],
)
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_one_line(write: Callable[[IO[Any]], object], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_text("old")
    with (
        pytest.raises(UserError, match=r"cannot write .*checkpoint\.pt \(File too large\): buy"),
        replacing(path, "buy") as stream,
    ):
        write(stream)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["checkpoint.pt"]


@pytest.mark.parametrize("wrote", [b"", b"some"])
@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file", "source"), ConnectionError("away"), ValueError()]
)
def test_an_error_that_is_not_of_the_file_passes_through(wrote: bytes, error: Exception, tmp_path: Path) -> None:
    def fail(stream: IO[bytes]) -> None:
        stream.write(wrote)
        raise error

    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(type(error)) as caught, replacing(path) as stream:
        fail(stream)
    assert caught.value is error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "record.json", tmp_path / "file" / "deep" / "record.json"):
        with pytest.raises(
            UserError, match=r"cannot write .*record\.json \((Not a directory|File exists)\): .*results=DIR"
        ):
            write_text(path, "new")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder \(Is a directory\)"):
        write_text(folder, "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from mtlora.base.files import only_process, replacing, write_text\n"
        "os.fsync = lambda fd: os._exit(9)\n"
        "write_text(Path(sys.argv[1]), 'new' * 10000)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False).returncode == 9
    assert path.read_text() == "old"
    assert list(find_records(tmp_path)) == [path], "what the killed process left is not taken for a record"


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    code = (
        "import sys; from pathlib import Path; from mtlora.base.files import only_process\n"
        "with only_process(Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="busy"), only_process(lock, "busy"):
            pass
        other.kill()
    with only_process(lock, "busy"):  # the system has freed it
        pass


def test_a_lock_in_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write .*results=DIR"),
        only_process(tmp_path / "file" / "lock", "busy"),
    ):
        pass


def test_two_commands_may_try_a_folder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def replace_and_lose(source: Path, target: Path) -> None:
        replace(source, target)
        target.unlink()  # as the other command does

    monkeypatch.setattr(os, "replace", replace_and_lose)
    require_writable(tmp_path)
    assert not any(tmp_path.iterdir())
