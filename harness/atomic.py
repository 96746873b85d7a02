"""Files that exist whole or not at all, on a local disk or a shared file system with many writers.

A file is written under a temporary name in its own folder, synced, renamed into place, and the folder is synced. A kill
at any moment leaves the old file, the new file, or a `*.tmp-*` orphan that no reader looks at. Every step goes through
`os.write`, `os.fsync`, `os.replace` and `os.link`, so that a test can stop the process before and after each one.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable (a no-op where a file system refuses to sync a directory)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems answer EINVAL: their rename is durable, or nothing we can do is
        return
    finally:
        os.close(descriptor)


def write_temporary(path: Path, content: bytes | Iterable[bytes | memoryview]) -> Path:
    """Write and sync `content`, whole or in chunks, beside `path` under a name nobody else uses; returns that name."""
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for chunk in [content] if isinstance(content, bytes) else content:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    return temporary


def write(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Put `content` at `path` atomically, replacing what is there. Raises OSError (full disk, read-only folder)."""
    temporary = write_temporary(path, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def create(path: Path, content: bytes) -> bool:
    """Put `content` at `path` only if nothing is there: exactly one of many contenders gets True."""
    temporary = write_temporary(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def to_json(value: Any) -> bytes:
    """Readable, stable JSON: sorted keys, and no NaN (which is not JSON: a caller must say null and why)."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()
