"""Snapshots of the Hugging Face hub, read from this machine or else fetched; uploads. A failure is one line.

A snapshot is the folder of one commit in the cache of the hub's client (HF_HOME). `huggingface_hub.snapshot_download` writes the
commit's list of files beside it, so an interrupted download is recognised without asking the hub.
"""

import errno
import hashlib
import os
import re
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import Literal

from mtlora.base.errors import UserError
from mtlora.base.messages import same_command

# Returns those of a commit's files that are needed; an empty list if the commit lacks any of them.
Choice = Callable[[Sequence[str]], list[str]]

COMMIT = re.compile("[0-9a-f]{40}")
SECONDS_TO_ANSWER = 20.0  # the client's own requests about a repository would wait for ever
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR)
WRITE_TOKEN = "set HF_TOKEN to an access token with the right to write (https://huggingface.co/settings/tokens)"
MESSAGE = "Upload with mtlora.publish"  # of the commit


@dataclass(frozen=True)
class Snapshot:
    """The needed files of one commit, below `folder`; `names` lists all files of the commit that are known."""

    folder: Path
    files: list[str]
    names: list[str]

    @property
    def commit(self) -> str:
        """The commit, 40 hexadecimal digits."""
        return self.folder.name


@dataclass(frozen=True)
class Repository:
    """A repository on the hub at a commit or a branch."""

    kind: Literal["dataset", "model"]
    name: str
    revision: str
    key: str  # the configuration key of the revision
    instead: str  # what works without the hub

    def local(self, choose: Choice) -> Snapshot | None:
        """Return the snapshot that is on this machine; None if there is none, or it is not whole. Never asks the hub."""
        from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

        try:
            folder = self._listed(self.revision, local_files_only=True)
            names = self._names(folder.name)
        except LocalEntryNotFoundError:
            return None
        except CachedRepoTreeNotFoundError:  # another program fetched the files
            names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        files = choose(names)
        whole = bool(files) and all((folder / file).is_file() for file in files)
        return Snapshot(folder, files, names) if whole else None

    def fetch(self, choose: Choice) -> Snapshot:
        """Ask the hub for the revision, and fetch the needed files that are absent or damaged here.

        The files are fetched one after another by the main thread: Ctrl-C would wait for the threads of `snapshot_download`.

        Raises:
            UserError: the hub or the disk refuses; the message has the innermost cause and what to do.
        """
        from huggingface_hub import HfApi, hf_hub_download

        try:
            with _quiet():
                _require_writable_cache()
                # `snapshot_download` takes an older commit of a branch, without a word, where the hub cannot be asked.
                info = HfApi().repo_info(
                    self.name, repo_type=self.kind, revision=self.revision, timeout=SECONDS_TO_ANSWER
                )
                commit = str(info.sha)
                if commit != self.revision:
                    self._listed(self.revision)  # notes the commit of the branch
                folder, names = self._listed(commit), self._names(commit)
        except Exception as error:  # network, repository and file errors share no base class
            raise self.unavailable(error) from None
        files = choose(names)
        try:
            with _quiet(show_bars=sys.stderr.isatty()):
                for file in files:
                    fetch = partial(hf_hub_download, self.name, file, repo_type=self.kind, revision=commit)
                    if is_damaged(Path(fetch())):
                        fetch(force_download=True)
        except Exception as error:
            raise self.unavailable(error) from None
        return Snapshot(folder, files, names)

    def _listed(self, revision: str, local_files_only: bool = False) -> Path:
        """Return the folder of a revision, and keep the list of its files and the commit of a branch; fetch no file."""
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                self.name,
                repo_type=self.kind,
                revision=revision,
                allow_patterns=[],
                local_files_only=local_files_only,
            )
        )

    def _names(self, commit: str) -> list[str]:
        """Return the names of all files of a commit whose list is on this machine."""
        from huggingface_hub import get_cached_repo_tree

        return [file.path for file in get_cached_repo_tree(self.name, repo_type=self.kind, revision=commit)]

    def __str__(self) -> str:
        return f"{self.name} at {self.revision}"

    def unavailable(self, error: BaseException) -> UserError:
        """Describe why the repository cannot be fetched: the innermost cause, and advice for its kind."""
        cause, advice = _explained(error, self._advice)
        return UserError(f"cannot fetch {self} ({cause}): {advice or f'check the network, or use {self.instead}'}")

    def _advice(self, error: BaseException) -> str | None:
        """Return what to do about an exception; None if its cause or its kind is unknown."""
        from huggingface_hub import errors

        page = f"https://huggingface.co/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"
        match error:
            case errors.GatedRepoError():
                return f"it is gated: accept its terms at {page}, and set HF_TOKEN to your access token"
            case errors.RevisionNotFoundError():
                return f"there is no such revision: correct {self.key}"
            case errors.RepositoryNotFoundError():
                return "there is no such repository, or it is private: correct its name, or set HF_TOKEN"
            case errors.OfflineModeIsEnabled():
                return (
                    f"HF_HUB_OFFLINE=1 forbids the network: run {same_command('download')} "
                    f"without it, or use {self.instead}"
                )
            case OSError() if error.errno in FULL_DISK:
                return "the disk is full: free space, or set HF_HOME to a folder on another disk"
            case OSError() if error.errno in UNWRITABLE:
                return "set HF_HOME to a folder that can be written"
        if _status(error) in (401, 403):
            return "access is refused: set HF_TOKEN to a valid access token with the right to read it"
        if _status(error) == 429:
            return "too many requests: wait some minutes, or set HF_TOKEN, and give the same command again"
        if _status(error) >= 500:
            return f"the hub has an error of its own: give the same command again later, or use {self.instead}"
        return _advice_of_any(error)


def upload(folder: Path, kind: Literal["dataset", "model"], name: str, private: bool = False) -> str:
    """Upload the files of a folder to a repository on the hub, which is made if it does not exist; return its page.

    Files that the repository has and the folder lacks stay there.

    Raises:
        UserError: the hub refuses, or cannot be reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi, get_token

    option = " --repo-type dataset" if kind == "dataset" else ""
    later = f"; then `hf upload {name} {folder}{option}` uploads what is written"
    if get_token() is None:
        raise UserError(f"cannot upload to {name} (no access token): {WRITE_TOKEN}{later}")
    try:
        with _quiet(show_bars=sys.stderr.isatty()):
            page = HfApi().create_repo(name, repo_type=kind, exist_ok=True, private=private or None)
            HfApi().upload_folder(repo_id=page.repo_id, repo_type=kind, folder_path=folder, commit_message=MESSAGE)
    except Exception as error:  # network and repository errors share no base class
        cause, advice = _explained(error, _advice_of_upload)
        raise UserError(f"cannot upload to {name} ({cause}): {advice or 'check the network'}{later}") from None
    return str(page)


def _advice_of_upload(error: BaseException) -> str | None:
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE=1 forbids the network: unset it"
    if status == 401:
        return f"the access token is not valid: {WRITE_TOKEN}"
    if status == 403:
        return "the access token has no right to write there: use one that has, or name another repository"
    if status == 404:
        return "there is no such user, organisation or repository: correct the name"
    if status == 429 or status >= 500:
        return "the hub has too many requests, or an error of its own: wait some minutes"
    return _advice_of_any(error)


def _explained(error: BaseException, advice_for: Callable[[BaseException], str | None]) -> tuple[str, str | None]:
    """Return the innermost cause of an exception as a text, and the advice for the first link of the chain that has one."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        if isinstance(inner, StopIteration):  # says nothing, inside a parser
            break
        chain.append(inner)
    text = str(chain[-1]).partition(" for url ")[0]  # of an answer, its status
    cause = " ".join(text.split())[:200] or type(chain[-1]).__name__
    return cause, next((found for link in chain if (found := advice_for(link))), None)


def _status(error: BaseException) -> int:
    """Return the status of the answer that an exception is about; 0 if it is about none."""
    return getattr(getattr(error, "response", None), "status_code", None) or 0


def _advice_of_any(error: BaseException) -> str | None:
    """Return what to do about an exception of any request, in either direction."""
    from huggingface_hub import errors

    match error:
        case errors.FileMetadataError() | JSONDecodeError():
            return "the answer did not come from the hub: check HF_ENDPOINT, and whether this network needs a login"
        case ssl.SSLError():
            return "the certificate is not trusted: behind a proxy, set SSL_CERT_FILE to the proxy's certificates"
    if _status(error) == 407:
        return "the proxy needs a login: set HTTPS_PROXY with user and password"
    return None


def is_damaged(file: Path) -> bool:
    """Tell whether the content of a cached file differs from the hash that is its name in the cache: git's, or sha256."""
    blob = file.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        with blob.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() != blob.name
    if COMMIT.fullmatch(blob.name):
        content = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob.name
    return False  # a cache without links


def _require_writable_cache() -> None:
    """Raise OSError if the cache of the hub's client cannot be written, which the client would ignore at first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    os.makedirs(HF_HUB_CACHE, exist_ok=True)
    if not os.access(HF_HUB_CACHE, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), HF_HUB_CACHE)


@contextmanager
def _quiet(show_bars: bool = False) -> Iterator[None]:
    """Silence the hub's client, which would print a dozen lines about retries; its progress bars are for large files."""
    import huggingface_hub
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    verbosity, bars = huggingface_hub.logging.get_verbosity(), not are_progress_bars_disabled()
    huggingface_hub.logging.set_verbosity_error()
    if bars and not show_bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a full disk, before the error
            yield
    finally:
        huggingface_hub.logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()
