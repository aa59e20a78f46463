"""Hashes: equal for equal content, and read again after a change."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from mtlora.base.hashing import digest, file_sha256


def test_digest_is_the_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a": [1, null], "b": 0.5}').hexdigest()
    assert digest({"b": 0.5, "a": (1, None)}) == digest({"a": [1, None], "b": 0.5}) == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest([float("nan")])


def test_a_file_and_its_compressed_copy_have_one_hash(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_bytes(b"text")
    packed.write_bytes(gzip.compress(b"text"))
    unnamed = tmp_path / "c.txt"
    unnamed.write_bytes(packed.read_bytes())
    assert {file_sha256(path) for path in (plain, packed, unnamed)} == {hashlib.sha256(b"text").hexdigest()}


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = file_sha256(path)
    path.write_bytes(b"two")  # of the same size
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest() != first
