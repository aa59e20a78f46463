"""Parquet files that all runs share: written atomically, read with checksums."""

import logging
from pathlib import Path
from typing import Any

from mtlora.base.files import replacing
from mtlora.base.hashing import digest

log = logging.getLogger(__name__)


def cache_key(*parts: Any) -> str:
    """Return 24 hexadecimal digits that identify `parts` (JSON values), the same in every process."""
    return digest(parts)[:24]


def store_table(table: Any, path: Path) -> None:
    """Write a pyarrow table so that other processes, which may write it too, see either nothing or the whole file.

    Raises:
        UserError: the folder cannot be written.
    """
    import pyarrow.parquet as pq

    with replacing(path) as stream:
        pq.write_table(table, stream, write_page_checksum=True)


def load_table(path: Path, schema: Any) -> Any:
    """Read a pyarrow table written by `store_table`.

    Returns:
        None if there is no such file, or, after a warning, if it is damaged: a page checksum is wrong, or the columns differ
        from `schema`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return None
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)
        readable = table.schema.equals(schema)
    except (OSError, ValueError, pa.ArrowException):  # ValueError: damaged column names
        readable = False
    if not readable:
        log.warning("the cache file %s is corrupt: it is made again from the data", path)
        return None
    return table
