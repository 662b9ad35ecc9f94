"""The table of contents of a zip file, read with distrust.

A torch file is a zip whose members are stored as they are, so that each is a range of the file.
Python's ``zipfile`` is made to read what can be read; here all that two readers could understand
differently is refused: the entries must stand one after the other, agree with what stands before
their data, have names that are no paths, and be stored uncompressed. Nothing is ever unpacked.
Source: the ZIP application note (APPNOTE.TXT) of PKWARE.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from stockpot.errors import HeaderError, TruncatedFileError

__all__ = ["ZIP_MAGIC", "ZipEntry", "read_directory"]

ZIP_MAGIC = b"PK\x03\x04"
MAX_ENTRIES = 50_000
MAX_DIRECTORY_BYTES = 16 << 20
_LONGEST_NAME = 512

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ALL16, _ALL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _SIZES_FOLLOW = 0x2041, 0x0008

Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One member.

    Attributes:
        name: Its name, with slashes.
        begin: First byte of its data in the file.
        n_bytes: Length of its data.
    """

    name: str
    begin: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the directory says of a member."""

    name: str
    raw_name: bytes
    flags: int
    n_bytes: int
    header: int


def read_directory(read: Read, file_bytes: int, name: str) -> Mapping[str, ZipEntry]:
    """Read and check the table of contents of a zip file whose members are stored.

    Args:
        read: Gives bytes of the file: called with the first one's place and their number.
        file_bytes: Size of the file.
        name: Its name, for messages.

    Returns:
        The members by name, in the order of the file.

    Raises:
        HeaderError: It breaks the format, or can be understood in two ways.
        TruncatedFileError: The file ends before its directory.
    """
    begin, end, n_entries = _find_directory(read, file_bytes, name)
    listed = _listed(read(begin, end - begin), n_entries, name)
    entries: dict[str, ZipEntry] = {}
    position = 0
    for item in sorted(listed, key=lambda item: item.header):
        if item.header < position:
            _refuse(name, f"{item.name}: the member overlaps the one before it")
        entry = _located(read, item, begin, name)
        entries[item.name] = entry
        position = entry.begin + entry.n_bytes
    return entries


def _refuse(name: str, what: str) -> NoReturn:
    raise HeaderError(
        f"{name}: {what}; no torch.save writes such a zip file: it is damaged or made to deceive, "
        "get the model again"
    )


def _find_directory(read: Read, file_bytes: int, name: str) -> tuple[int, int, int]:
    """The directory's range and its number of entries, from the end of the file."""
    if file_bytes < _END.size:
        raise TruncatedFileError(f"{name}: the zip file was cut off: get it again")
    end_at = file_bytes - _END.size
    mark, disk, first_disk, here, n_entries, size, begin, comment = _END.unpack(
        read(end_at, _END.size)
    )
    if mark != b"PK\x05\x06" or comment:
        raise TruncatedFileError(
            f"{name}: a zip file must end with its table of contents, but this one does not; "
            "it was cut off, or something was added to it: get it again"
        )
    directory_end = end_at
    locator_at = end_at - _LOCATOR64.size
    locator = read(locator_at, _LOCATOR64.size) if locator_at >= 0 else b""
    if locator[:4] == b"PK\x06\x07":
        _, disk64, end64_at, n_disks = _LOCATOR64.unpack(locator)
        if end64_at != locator_at - _END64.size or n_disks > 1 or disk64:
            _refuse(name, "its zip64 record is not where it must be")
        (mark, length, _, _, disk64, first64, here64, n64, size64, begin64) = _END64.unpack(
            read(end64_at, _END64.size)
        )
        if mark != b"PK\x06\x06" or length != _END64.size - 12 or disk64 or first64:
            _refuse(name, "its zip64 record is broken")
        for short, long, most in (
            (here, here64, _ALL16),
            (n_entries, n64, _ALL16),
            (size, size64, _ALL32),
            (begin, begin64, _ALL32),
        ):
            if short not in (long, most):
                _refuse(name, "its two tables of contents disagree")
        here, n_entries, size, begin = here64, n64, size64, begin64
        directory_end = end64_at
    if disk or first_disk or here != n_entries:
        _refuse(name, "it is one of several volumes")
    if n_entries > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        _refuse(name, f"it claims {n_entries} members, where {MAX_ENTRIES} are the most")
    if begin + size != directory_end:
        _refuse(name, "its table of contents is not where it must be")
    return begin, directory_end, n_entries


def _listed(raw: bytes, n_entries: int, name: str) -> list[_Listed]:
    found: dict[str, _Listed] = {}
    at = 0
    for _ in range(n_entries):
        if at + _CENTRAL.size > len(raw):
            _refuse(name, "its table of contents is too short")
        (mark, _, _, flags, method, _, _, _, packed, n_bytes, n_name, n_extra, n_comment, disk,
         _, _, header) = _CENTRAL.unpack_from(raw, at)  # fmt: skip
        at += _CENTRAL.size
        raw_name, extra = raw[at : at + n_name], raw[at + n_name : at + n_name + n_extra]
        at += n_name + n_extra + n_comment
        if mark != b"PK\x01\x02" or at > len(raw):
            _refuse(name, "its table of contents is broken")
        member = _member_name(raw_name, name)
        n_bytes, packed, header = _wide(extra, [n_bytes, packed, header], f"{name}: {member}")
        where = f"{name}: {member}"
        if flags & _ENCRYPTED or disk:
            _refuse(where, "the member is encrypted, or on another volume")
        if method or packed != n_bytes:
            raise HeaderError(
                f"{where}: a member must be stored as it is, but this one is compressed; "
                "unpack the zip file and pack it again without compression (zip -0)"
            )
        if member in found:
            _refuse(where, "the member is listed twice")
        found[member] = _Listed(member, raw_name, flags, n_bytes, header)
    if at != len(raw):
        _refuse(name, "its table of contents is longer than its entries")
    return list(found.values())


def _member_name(raw: bytes, name: str) -> str:
    """A member's name, which must not be a path to anywhere else."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(name, "a member's name is not UTF-8")
    shown = f"{text[:80]!a}"
    if not text or len(text) > _LONGEST_NAME or not text.isprintable():
        _refuse(name, f"a member is called {shown}")
    parts = text.split("/")
    if "\\" in text or ":" in text or {"", ".", ".."} & set(parts):
        _refuse(name, f"a member's name {shown} leads out of the file")
    return text


def _wide(extra: bytes, values: list[int], where: str) -> list[int]:
    """Sizes and place, from the zip64 field where 32 bits were too few."""
    wide: bytes | None = None
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if at + 4 + length > len(extra):
            _refuse(where, "an extra field is too long")
        if tag == 1:
            if wide is not None:
                _refuse(where, "there are two zip64 fields")
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    n_needed = sum(value == _ALL32 for value in values)
    if n_needed and (wide is None or len(wide) < 8 * n_needed):
        _refuse(where, "its zip64 field is missing or too short")
    numbers = iter(struct.unpack_from(f"<{n_needed}Q", wide) if n_needed and wide else ())
    return [next(numbers) if value == _ALL32 else value for value in values]


def _located(read: Read, item: _Listed, directory: int, name: str) -> ZipEntry:
    """Check what stands before a member's data, and find these."""
    where = f"{name}: {item.name}"
    if item.header + _LOCAL.size > directory:
        _refuse(where, "the member lies outside of the file")
    mark, _, flags, method, _, _, _, packed, n_bytes, n_name, n_extra = _LOCAL.unpack(
        read(item.header, _LOCAL.size)
    )
    begin = item.header + _LOCAL.size + n_name + n_extra
    if mark != ZIP_MAGIC or begin + item.n_bytes > directory:
        _refuse(where, "the member lies outside of the file")
    rest = read(item.header + _LOCAL.size, n_name + n_extra)
    if rest[:n_name] != item.raw_name or flags != item.flags or method:
        _refuse(where, "the member's two headers disagree")
    if not (flags & _SIZES_FOLLOW and packed == n_bytes == 0):
        n_bytes, packed = _wide(rest[n_name:], [n_bytes, packed], where)
        # Writers that did not know the sizes yet left the wide fields empty, too.
        unknown = bool(flags & _SIZES_FOLLOW) and n_bytes == packed == 0
        if not unknown and (n_bytes != item.n_bytes or packed != item.n_bytes):
            _refuse(where, "the member's two headers disagree about its size")
    return ZipEntry(item.name, begin, item.n_bytes)
