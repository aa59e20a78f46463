"""Snapshots of the hub, against a stand-in: what is asked, what is kept, and one line for every failure."""

import errno
import os
import signal
import ssl
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from helpers.glue_files import one_line
from helpers.hub_server import COMMIT, OLDER, HubServer

from mtlora.base.errors import UserError
from mtlora.base.hub import Repository, upload

FILES = {"train.parquet": b"rows" * 1000, "README.md": b"a card"}


def repository(revision: str = COMMIT) -> Repository:
    return Repository("dataset", "someone/some", revision, "task.hub.revision", "data.source=local data.root=DIR")


def parquet_files(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".parquet")]


def refusal(hub: HubServer, revision: str = COMMIT) -> str:
    with pytest.raises(UserError) as error:
        repository(revision).fetch(parquet_files)
    one_line(error)
    return str(error.value)


def test_only_what_is_chosen_is_fetched_and_then_the_hub_is_never_asked(hub: HubServer) -> None:
    hub.add("dataset", "someone/some", FILES)
    assert repository().local(parquet_files) is None
    assert hub.asked == []
    fetched = repository().fetch(parquet_files)
    assert (fetched.commit, fetched.files, sorted(fetched.names)) == (COMMIT, ["train.parquet"], sorted(FILES))
    assert not any("README" in path for path in hub.asked)
    hub.asked.clear()
    assert repository().local(parquet_files) == fetched
    assert repository().local(lambda names: ["README.md"]) is None
    assert hub.asked == []


def test_a_branch_is_at_the_commit_of_the_last_fetch(hub: HubServer) -> None:
    hub.add("dataset", "someone/some", FILES, OLDER, "refs/convert/parquet")
    moving = repository("refs/convert/parquet")
    assert moving.fetch(parquet_files).commit == OLDER
    hub.add("dataset", "someone/some", FILES, COMMIT, "refs/convert/parquet")
    assert (found := moving.local(parquet_files)) is not None
    assert found.commit == OLDER
    hub.faults = [(".", 500)]
    assert "error of its own" in refusal(hub, moving.revision), "the older commit is not taken for the branch"
    hub.faults = []
    assert moving.fetch(parquet_files).commit == COMMIT
    assert (found := moving.local(parquet_files)) is not None
    assert found.commit == COMMIT


def test_files_that_another_program_fetched(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "hub/datasets--someone--some/snapshots" / COMMIT
    folder.mkdir(parents=True)
    assert repository().local(parquet_files) is None
    (folder / "train.parquet").write_bytes(b"rows")
    assert (found := repository().local(parquet_files)) is not None
    assert found.files == ["train.parquet"]


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (("resolve", 500), ["500", "error of its own", "data.source=local"]),
        (("resolve", 429), ["429", "too many requests", "HF_TOKEN"]),
        (("revision", 403), ["403", "access is refused", "HF_TOKEN"]),
        (("resolve", 407), ["407", "the proxy needs a login"]),
        (("revision", 429), ["429", "too many requests"]),
        (("resolve", "truncate"), ["received 2000 bytes, expected 4000", "check the network"]),
        ((".", "html"), ["did not come from the hub", "HF_ENDPOINT"]),
    ],
)
def test_faults_of_the_hub(
    hub: HubServer, capfd: pytest.CaptureFixture[str], fault: tuple[str, int | str], parts: list[str]
) -> None:
    hub.add("dataset", "someone/some", FILES)
    hub.faults = [fault]
    line = refusal(hub)
    assert all(part in line for part in parts), line
    assert capfd.readouterr() == ("", ""), "no lines about retries, no progress bars"
    assert repository().local(parquet_files) is None
    hub.faults = []
    assert repository().fetch(parquet_files).folder.joinpath("train.parquet").read_bytes() == FILES["train.parquet"]


def test_causes_and_their_advice(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such repository" in refusal(hub)
    hub.add("dataset", "someone/some", FILES)
    assert "no such revision: correct task.hub.revision" in refusal(hub, "0" * 40)
    assert "no such revision" in refusal(hub, "nowhere")
    hub.gated.add("datasets/someone/some")
    line = refusal(hub)
    assert "gated: accept its terms at https://huggingface.co/datasets/someone/some, and set HF_TOKEN" in line
    monkeypatch.setenv("HF_TOKEN", "a token")
    assert repository().fetch(parquet_files).files == ["train.parquet"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE=1 forbids the network" in refusal(hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "Connection refused): check the network" in refusal(hub)


@pytest.mark.parametrize(
    ("number", "part"), [(errno.ENOSPC, "the disk is full: free space"), (errno.EROFS, "set HF_HOME to a folder")]
)
def test_a_disk_that_refuses(hub: HubServer, monkeypatch: pytest.MonkeyPatch, number: int, part: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    hub.add("dataset", "someone/some", FILES)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    line = refusal(hub)
    assert part in line
    assert os.strerror(number) in line
    assert "network" not in line


def test_a_certificate_that_is_not_trusted(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ssl.SSLCertVerificationError(1, "certificate verify failed")

    hub.add("dataset", "someone/some", FILES)
    monkeypatch.setattr("huggingface_hub.file_download.http_get", refuse)
    assert "set SSL_CERT_FILE" in refusal(hub)


def test_a_bug_of_ours_is_no_network_error(hub: HubServer) -> None:
    hub.add("dataset", "someone/some", FILES)
    with pytest.raises(KeyError, match="oops"):
        repository().fetch(lambda names: {}["oops"])


def test_a_cache_that_cannot_be_made(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("dataset", "someone/some", FILES)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/proc/nowhere/hub")
    assert "set HF_HOME to a folder that can be written" in refusal(hub)


def test_a_damaged_file_is_fetched_again(hub: HubServer) -> None:
    hub.add("dataset", "someone/some", FILES)
    snapshot = repository().fetch(sorted)
    for name, content in FILES.items():
        file = snapshot.folder / name
        file.resolve().write_bytes(bytes(len(content)))
        hub.asked.clear()
        repository().fetch(sorted)
        assert file.read_bytes() == content
        assert [path for path in hub.asked if "resolve" in path] == [
            f"/datasets/someone/some/resolve/{COMMIT}/{name}"
        ] * 2


def test_ctrl_c_ends_a_download_at_once(hub: HubServer) -> None:
    hub.add("dataset", "someone/some", FILES)
    hub.faults = [("resolve", "hang")]
    started = time.monotonic()
    timer = threading.Timer(1.0, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # another test may have left its own
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            repository().fetch(parquet_files)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert any("resolve" in path for path in hub.asked)
    assert time.monotonic() - started < 4.0


@pytest.mark.parametrize(
    ("status", "part"),
    [
        (401, "the access token is not valid: set HF_TOKEN"),
        (403, "no right to write there"),
        (404, "correct the name"),
        (407, "the proxy needs a login"),
        (500, "an error of its own: wait some minutes"),
    ],
)
@pytest.mark.parametrize("where", ["create", "preupload", "batch", "commit"])
def test_refused_uploads(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, status: int, part: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    hub.writers, hub.faults = {"mine"}, [(where, status)]
    (tmp_path / "made").mkdir()
    (tmp_path / "made/weights.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError) as error:
        upload(tmp_path / "made", "model", "someone/some")
    assert part in one_line(error)
    assert "`hf upload someone/some " in one_line(error)
    assert "mine" not in one_line(error)


def test_uploads_without_a_network(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"Connection refused.*: check the network"):
        upload(tmp_path, "dataset", "someone/some")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids the network: unset it"):
        upload(tmp_path, "dataset", "someone/some")
