"""Positional reads and writes, renames and folder syncs, on every system.

The one module that knows how operating systems differ. Reads and writes are continued until done:
one call to the system may move fewer bytes than asked (Linux stops at 2,147,479,552).

All calls to the system go through this module's name `os`. `through` lets another object stand
there: a disk that fails, or another system's manners, without a check on the way of real calls.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

from stockpot.errors import OutputError, TruncatedFileError, UnconfirmedError

__all__ = [
    "DiskReader",
    "can_rename_open",
    "check_name",
    "drop_cache",
    "free_bytes",
    "is_at",
    "lock",
    "open_for_reading",
    "open_for_writing",
    "read_at",
    "replace",
    "reserve",
    "stamp",
    "sync",
    "sync_data",
    "sync_folder",
    "through",
    "write_at",
    "write_whole",
]

_MOST_BYTES = 1 << 30
_DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"]
)
_AT_ONCE, _EXCLUSIVE, _LOCK_VIOLATION = 1, 2, 33
_FORBIDDEN = '<>:"|?*'
_LONGEST_PATH = 260
_PAGE_BYTES = 1 << 12
_HAS_POSITIONAL = hasattr(os, "preadv") and hasattr(os, "pwrite")
# Without pread (Windows), the offset belongs to the descriptor: seek and read must not be parted.
_seek_lock = threading.Lock()


@contextlib.contextmanager
def through(system: Any) -> Iterator[None]:
    """Let another object stand for the operating system; for tests and `bench/faults.py`.

    Args:
        system: Has what this module calls of `os`; what it lacks, the system is taken to lack.

    Yields:
        Nothing; afterwards the real system is back.
    """
    global os, _HAS_POSITIONAL
    real = os
    os = system
    _HAS_POSITIONAL = hasattr(os, "preadv") and hasattr(os, "pwrite")
    try:
        yield
    finally:
        os = real
        _HAS_POSITIONAL = hasattr(os, "preadv") and hasattr(os, "pwrite")


def open_for_reading(path: Path, more: int = 0) -> int:
    """Open a file for positional reads.

    Args:
        path: The file.
        more: Flags besides those that every reading needs.

    Returns:
        A descriptor for `read_at`; close it with `os.close`.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | more)


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
        whole = not done and out.nbytes <= _MOST_BYTES
        piece = out if whole else out[done : done + _MOST_BYTES]
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
        self._direct = direct and _HAS_POSITIONAL
        try:
            more = getattr(os, "O_DIRECT", 0) if self._direct else 0
            self._descriptor = open_for_reading(path, more)
        except OSError:
            self._descriptor = open_for_reading(path)
        if direct:
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
            if self._direct and os.preadv(self._descriptor, [whole], begin) >= end - begin:
                return wanted
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if self._direct:
            self._direct = False
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


def check_name(path: Path) -> None:
    """Refuse a name that Windows takes for something else than a file; elsewhere all will do.

    Args:
        path: Of an output.

    Raises:
        OutputError: It is a device's, a stream's, ends so that the end is dropped, or is too long.
    """
    if os.name != "nt":
        return
    name = path.name
    fault = ""
    if name.split(".")[0].strip().upper() in _DEVICES:
        fault = "is a device's on Windows"
    elif any(character in _FORBIDDEN or character < " " for character in name):
        fault = f"holds one of {_FORBIDDEN}, which Windows does not allow"
    elif name.endswith((".", " ")):
        fault = "ends with a dot or a blank, which Windows drops"
    elif len(str(path.absolute())) + len(".partial.journal") >= _LONGEST_PATH:
        fault = f"makes a path of more than {_LONGEST_PATH} characters, which Windows does not open"
    if fault:
        raise OutputError(f"{path}: the name {fault}; choose another")


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

    Raises:
        UnconfirmedError: It has its name, but the disk did not confirm it.
    """
    os.replace(source, target)
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise UnconfirmedError(
            f"{target}: it is complete and has its name, but the disk did not confirm the name: "
            f"{error.strerror}; a power failure now could take it away: look at the disk"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file that has its name only when complete, such as a page or a picture.

    Such a file can be made again in no time: it is not synced, and read back from wherever the
    system has it.

    Args:
        path: Where to; what is there is replaced.
        data: What.

    Raises:
        OutputError: It cannot be written; what was there before is still there.
    """
    check_name(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: an output must be a file, but something else stands there")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = open_for_writing(part)
        try:
            os.ftruncate(descriptor, 0)
            write_at(descriptor, 0, memoryview(data))
            found = memoryview(bytearray(len(data)))
            read_at(descriptor, 0, found, str(path))
            if found != data:
                raise OutputError(
                    f"{path}: what stands there is not what was written; the disk or the memory "
                    "is failing; nothing was saved"
                )
        finally:
            os.close(descriptor)
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Args:
        folder: The folder. Windows cannot sync one and needs not; there nothing happens.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
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
            _lock_on_windows(descriptor)
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


def _lock_on_windows(descriptor: int) -> None:
    """Lock one byte far past the end: whoever holds a byte keeps all others from reading it.

    Not by `msvcrt.locking`, which counts places in 31 bits, so that the byte would be one of the
    data of a large file.
    """
    import ctypes
    import msvcrt

    class Place(ctypes.Structure):
        _fields_ = [("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("low", ctypes.c_uint32),
                    ("high", ctypes.c_uint32), ("event", ctypes.c_void_p)]  # fmt: skip

    windows: Any = ctypes
    system = windows.WinDLL("kernel32", use_last_error=True)
    number, handle = ctypes.c_uint32, ctypes.c_void_p
    system.LockFileEx.argtypes = [handle, number, number, number, number, ctypes.POINTER(Place)]
    place = Place(low=0, high=1 << 30)
    own: int = msvcrt.get_osfhandle(descriptor)  # type: ignore[attr-defined, unused-ignore]
    if not system.LockFileEx(own, _EXCLUSIVE | _AT_ONCE, 0, 1, 0, ctypes.byref(place)):
        code = windows.get_last_error()
        taken = code == _LOCK_VIOLATION
        raise OSError(errno.EACCES if taken else errno.ENOTSUP, f"Windows error {code}")


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


def stamp(file: int | Path) -> tuple[int, ...]:
    """What changes when a file is written to, or its name given to another one.

    Args:
        file: A descriptor, or a path.

    Returns:
        Disk and number of the file, its size, and its time of change in nanoseconds.

    Raises:
        OSError: The file is not there.
    """
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def free_bytes(folder: Path) -> int:
    """How many bytes a folder's disk can take.

    Args:
        folder: An existing folder.

    Returns:
        Free bytes for this user.
    """
    return shutil.disk_usage(folder).free
