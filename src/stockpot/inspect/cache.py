"""What was read of files, kept for the next time.

An entry belongs to content, not to a name: its key is made of sizes, times of change, and samples
of the bytes, so that renamed, linked and moved files are known, and a file that was changed behind
its time stamp is noticed with near certainty. An entry that cannot be read counts as absent; one
that cannot be written is not. Entries are replaced in one step, so that programs that run at the
same time do not disturb each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import final

from blake3 import blake3

import stockpot
from stockpot.inspect.inspecting import Wanted
from stockpot.inspect.inspection import Inspection

__all__ = ["CACHE_VARIABLE", "Cache", "cache_folder", "fingerprint"]

CACHE_VARIABLE = "STOCKPOT_CACHE"
"""Environment variable that names another folder for the cache; empty means no cache."""

_FORMAT = f"inspect 2 {stockpot.__version__}"
_SAMPLE_BYTES = 4096
_N_SAMPLES = 5
_MOST_ENTRY_BYTES = 256 << 10  # packed
_MOST_UNPACKED_BYTES = 32 << 20
_MOST_SHELF_BYTES = 1 << 20  # of 256 shelves


def cache_folder() -> Path | None:
    """Say where the cache is.

    Returns:
        What `CACHE_VARIABLE` says, else the system's place for such; None for no cache.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "stockpot"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "stockpot"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "stockpot"


def fingerprint(files: Sequence[Path]) -> str | None:
    """Make a short name for what files hold, without reading them whole.

    Args:
        files: All files of a checkpoint.

    Returns:
        Hex digits that change with any size, time of change or sampled byte, and not with names;
        None where a file cannot be read.
    """
    hasher = blake3(_FORMAT.encode())
    # The names of shards are theirs to have: only their number and order count.
    for file in files:
        try:
            descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return None
                size = status.st_size
                hasher.update(struct.pack("<QQ", size, status.st_mtime_ns))
                # The first sample is the start of the header, the last the end of the data.
                for index in range(_N_SAMPLES):
                    place = max(0, size - _SAMPLE_BYTES) * index // (_N_SAMPLES - 1)
                    os.lseek(descriptor, place, os.SEEK_SET)
                    hasher.update(os.read(descriptor, _SAMPLE_BYTES))
            finally:
                os.close(descriptor)
        except (OSError, struct.error):
            return None
    return str(hasher.hexdigest())


@final
class Cache:
    """Findings on disk.

    Args:
        folder: Where; it is made when the first entry is written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = Cache(Path(folder))
        ...     cache.put("ab" * 32, Inspection("a", "lora", "LoRA", "sd1"), Wanted())
        ...     found = cache.get("ab" * 32)
        >>> found[0].kind
        'lora'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inspect"

    def get(self, key: str) -> tuple[Inspection, Wanted] | None:
        """Look up what is known.

        Args:
            key: From `fingerprint`.

        Returns:
            The findings, whose path means nothing, and how much was read for them; None where
            nothing usable is kept.
        """
        try:
            packed = self._place(key).read_bytes()
            unpacker = zlib.decompressobj()
            text = unpacker.decompress(packed, _MOST_UNPACKED_BYTES)
            if not unpacker.eof:
                return None
            plain = json.loads(text)
            if plain["format"] != _FORMAT or plain["key"] != key:
                return None
            wanted = Wanted(**{name: bool(value) for name, value in plain["wanted"].items()})
            return Inspection.from_json(plain["found"]), wanted
        except (OSError, zlib.error, ValueError, KeyError, TypeError, AttributeError,
                RecursionError):  # fmt: skip
            return None

    def put(self, key: str, found: Inspection, wanted: Wanted) -> None:
        """Keep findings; what was kept under the key goes.

        Args:
            key: From `fingerprint`.
            found: The findings.
            wanted: How much was read for them.
        """
        plain = {
            "format": _FORMAT,
            "key": key,
            "wanted": asdict(wanted),
            "found": {**found.to_json(), "path": ""},
        }
        packed = zlib.compress(json.dumps(plain, ensure_ascii=True).encode(), 1)
        if len(packed) > _MOST_ENTRY_BYTES:
            return
        place = self._place(key)
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=place.parent, suffix=".new")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(packed)
                os.replace(name, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
            _clear(place.parent)

    def _place(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}.z"


def _clear(shelf: Path) -> None:
    """Remove the oldest entries of a shelf that has grown too large."""
    entries = []
    with os.scandir(shelf) as listing:
        for entry in listing:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                entries.append((status.st_mtime_ns, status.st_size, entry.path))
    excess = sum(size for _, size, _ in entries) - _MOST_SHELF_BYTES
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            excess -= size
