"""A file is there whole or not at all, whatever happens to the process that writes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlora import files
from mtlora.config import REPOSITORY
from mtlora.errors import UserError
from mtlora.files import write_text
from mtlora.record import find_records


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


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from mtlora.files import write_text\n"
        "os.fsync = lambda fd: os._exit(9)\n"
        "write_text(Path(sys.argv[1]), 'new' * 10000)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=REPOSITORY, check=False).returncode == 9
    assert path.read_text() == "old"
    assert list(find_records(tmp_path)) == [path], "what the killed process left is not taken for a record"
