"""Positional reads and writes, renames and folder syncs, on every system.

The one module that knows how operating systems differ. Reads and writes are continued until done:
one call to the system may move fewer bytes than asked (Linux stops at 2,147,479,552).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import final

from stockpot.errors import OutputError, TruncatedFileError

__all__ = [
    "DiskReader",
    "can_rename_open",
    "drop_cache",
    "free_bytes",
    "is_at",
    "lock",
    "open_for_reading",
    "open_for_writing",
    "read_at",
    "replace",
    "reserve",
    "sync",
    "sync_data",
    "sync_folder",
    "write_at",
]

_MOST_BYTES = 1 << 30
_PAGE_BYTES = 1 << 12
_HAS_POSITIONAL = hasattr(os, "preadv") and hasattr(os, "pwrite")
# Without pread (Windows), the offset belongs to the descriptor: seek and read must not be parted.
_seek_lock = threading.Lock()


def open_for_reading(path: Path) -> int:
    """Open a file for positional reads.

    Args:
        path: The file.

    Returns:
        A descriptor for `read_at`; close it with `os.close`.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))


def open_for_writing(path: Path) -> int:
    """Open a file for positional reads and writes, making it if need be.

    Args:
        path: The file. What it held stays until written over.

    Returns:
        A descriptor for `write_at` and `read_at`.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    # A link could lead to a file that is none of ours.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def read_at(descriptor: int, offset: int, out: memoryview, name: str) -> None:
    """Fill a buffer from a place in a file.

    Args:
        descriptor: From `open_for_reading` or `open_for_writing`.
        offset: First byte.
        out: Writable bytes; all are filled.
        name: The file's name, for the message.

    Raises:
        TruncatedFileError: The file ends first.
    """
    done = 0
    while done < out.nbytes:
        piece = out[done : done + _MOST_BYTES]
        if _HAS_POSITIONAL:
            got = os.preadv(descriptor, [piece], offset + done)
        else:
            with _seek_lock:
                os.lseek(descriptor, offset + done, os.SEEK_SET)
                data = os.read(descriptor, piece.nbytes)
            got = len(data)
            piece[:got] = data
        if got == 0:
            raise TruncatedFileError(
                f"{name}: the file ends at byte {offset + done}, but {out.nbytes - done} more "
                "bytes were promised; it was cut off or changed while it was read: get it again"
            )
        done += got


@final
class DiskReader:
    """Reads a file past the system's cache where that can be done, to see what the disk holds.

    It also costs less than filling the cache anew. Where it cannot be done the cache is asked to
    forget the file, and reading goes on as usual. For one thread.

    Args:
        path: A synced file.
        most_bytes: Longest piece that will be read.
        direct: Whether to go past the cache at all.
    """

    def __init__(self, path: Path, most_bytes: int, direct: bool = True) -> None:
        self._path = path
        # Mapped memory begins at a page, as direct reads want it.
        self._buffer = memoryview(_pages(most_bytes + 2 * _PAGE_BYTES))
        if not direct:
            self._descriptor = open_for_reading(path)
            return
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
        except OSError:
            self._descriptor = open_for_reading(path)
        drop_cache(self._descriptor)

    def read(self, offset: int, n_bytes: int, name: str) -> memoryview:
        """Read a piece.

        Args:
            offset: First byte.
            n_bytes: How many.
            name: The file's name, for the message.

        Returns:
            The bytes; they change with the next call.

        Raises:
            TruncatedFileError: The file ends first.
        """
        begin = offset // _PAGE_BYTES * _PAGE_BYTES
        end = offset + n_bytes
        whole = self._buffer[: -(-(end - begin) // _PAGE_BYTES) * _PAGE_BYTES]
        wanted = self._buffer[offset - begin : end - begin]
        try:
            # The last page of a file may be short; all that is wanted must come at once.
            if _HAS_POSITIONAL and os.preadv(self._descriptor, [whole], begin) >= end - begin:
                return wanted
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        os.close(self._descriptor)
        self._descriptor = open_for_reading(self._path)
        read_at(self._descriptor, offset, wanted, name)
        return wanted

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _pages(n_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, n_bytes)
    return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def write_at(descriptor: int, offset: int, data: memoryview) -> None:
    """Write all bytes at a place in a file.

    Args:
        descriptor: From `open_for_writing`.
        offset: First byte.
        data: What to write.
    """
    done = 0
    while done < data.nbytes:
        piece = data[done : done + _MOST_BYTES]
        if _HAS_POSITIONAL:
            done += os.pwrite(descriptor, piece, offset + done)
        else:
            with _seek_lock:
                os.lseek(descriptor, offset + done, os.SEEK_SET)
                done += os.write(descriptor, piece)


def reserve(descriptor: int, n_bytes: int) -> None:
    """Take a file's whole space now, so that a full disk shows before any work is done.

    Args:
        descriptor: From `open_for_writing`.
        n_bytes: The final size.

    Raises:
        OSError: There is no room.
    """
    os.ftruncate(descriptor, n_bytes)
    if hasattr(os, "posix_fallocate") and n_bytes:
        try:
            os.posix_fallocate(descriptor, 0, n_bytes)
        except OSError as error:
            # A file system without allocation ahead of use still works; it finds out later.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise


def sync(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk.

    Args:
        descriptor: From `open_for_writing`.
    """
    if sys.platform == "darwin":
        import fcntl

        # fsync on macOS stops at the drive's cache.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_data(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk, whatever its dates.

    Args:
        descriptor: From `open_for_writing`.
    """
    getattr(os, "fdatasync", os.fsync)(descriptor)


def drop_cache(descriptor: int) -> None:
    """Ask the system to forget cached pages, so that a re-read comes from the disk.

    Args:
        descriptor: A file that was synced. Nothing happens where the system has no such call.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def can_rename_open() -> bool:
    """Whether a file can be renamed or removed while it is open; on Windows it cannot.

    Returns:
        True on POSIX systems.
    """
    return os.name != "nt"


def replace(source: Path, target: Path) -> None:
    """Give a complete file its final name in one step, and make the name last.

    Args:
        source: The complete, synced file.
        target: Its name from now on, in the same folder.
    """
    os.replace(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Args:
        folder: The folder. Windows cannot sync one and needs not; there nothing happens.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path, name: str, owner: Callable[[], str] = lambda: "") -> None:
    """Claim a file for this process; the claim ends with the process, however it ends.

    Args:
        descriptor: From `open_for_writing`.
        path: What was opened.
        name: The output's name, for the message.
        owner: Finds out who holds it, where it is held; empty where nobody knows.

    Raises:
        OutputError: Another process holds it.
    """

    def held() -> str:
        return (
            f"{name}: {owner() or 'another process'} is writing this output; wait for it, or "
            "choose another name"
        )

    try:
        if os.name == "nt":
            import msvcrt

            # Byte ranges past the end can be locked, and data stay readable.
            os.lseek(descriptor, 1 << 62, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network disks know no locks; there, two writers are the user's to avoid.
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise OutputError(held()) from error
    # Whoever held the file may have finished and renamed it between our opening and our claim.
    if not is_at(descriptor, path):
        raise OutputError(held())


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name.

    Args:
        descriptor: An open file.
        path: The name it was opened by.

    Returns:
        False where the name is gone, or another file's.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def free_bytes(folder: Path) -> int:
    """How many bytes a folder's disk can take.

    Args:
        folder: An existing folder.

    Returns:
        Free bytes for this user.
    """
    return shutil.disk_usage(folder).free
