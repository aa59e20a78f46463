"""A file is there whole or not at all, whatever happens to the process that writes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtlora.base import files
from mtlora.base.errors import UserError
from mtlora.base.files import only_process, write_text
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


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from mtlora.base.files import only_process, write_text\n"
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
