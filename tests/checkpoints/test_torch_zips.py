"""Zip files that lie, one test a kind: what two readers could understand differently is refused."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
import torch

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import CheckpointError, HeaderError

MEMBERS = {"archive/byteorder": b"little", "archive/version": b"3\n"}


def good(**options: bool) -> bytes:
    """A torch file as Python's zipfile writes it."""
    buffer = BytesIO()
    torch.save({"a": torch.arange(4, dtype=torch.int16)}, buffer)
    buffer.seek(0)
    out = BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(out, "w") as new:
        for name in ("archive/data.pkl", "archive/byteorder", "archive/data/0", "archive/version"):
            with new.open(name, "w", **options) as member:  # type: ignore[arg-type]
                member.write(old.read(name))
    return out.getvalue()


GOOD = good()
CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def directory(data: bytes) -> int:
    """Where the table of contents begins."""
    return data.index(CENTRAL)


def patched(changes: dict[int, bytes], data: bytes = GOOD) -> bytes:
    """The file with other bytes at some places."""
    out = bytearray(data)
    for place, new in changes.items():
        out[place : place + len(new)] = new
    return bytes(out)


def renamed(old: bytes, new: bytes, where: str = "both") -> bytes:
    """The file with another name of a member, of the same length."""
    assert len(old) == len(new)
    head, tail = GOOD[: directory(GOOD)], GOOD[directory(GOOD) :]
    head = head if where == "directory" else head.replace(old, new)
    tail = tail if where == "local" else tail.replace(old, new)
    return head + tail


def entry(name: bytes) -> int:
    """Where a member's entry in the table of contents begins."""
    return GOOD.rindex(CENTRAL, 0, GOOD.rindex(name))


def header(name: bytes) -> int:
    """Where a member's own header begins."""
    return GOOD.rindex(LOCAL, 0, GOOD.index(name))


def compressed() -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(GOOD)) as old:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name) + bytes(100_000 * name.endswith("/0")))
    return out.getvalue()


def many(n: int) -> bytes:
    """A zip64 record that claims many members."""
    begin = directory(GOOD)
    size = GOOD.index(END) - begin
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, begin)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, begin + size, 1)
    end = struct.pack("<4s4H2LH", END, 0, 0, 0xFFFF, 0xFFFF, size, begin, 0)
    return GOOD[: begin + size] + record + locator + end


STORAGE, VERSION = b"archive/data/0", b"archive/version"
_END = GOOD.index(END)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb": (compressed, "a member must be stored as it is, but this one is compressed"),
    "an encrypted member": (
        lambda: patched({entry(STORAGE) + 8: b"\x01", header(STORAGE) + 6: b"\x01"}),
        "the member is encrypted",
    ),
    "the parent's folder": (
        lambda: renamed(VERSION, b"archive/../../x"), "leads out of the file"),
    "the root": (lambda: renamed(VERSION, b"/rchive/version"), "leads out of the file"),
    "a drive": (lambda: renamed(VERSION, b"C:chive/version"), "leads out of the file"),
    "a backslash": (lambda: renamed(VERSION, b"archive\\version"), "leads out of the file"),
    "an empty folder": (lambda: renamed(VERSION, b"archive//ersion"), "leads out of the file"),
    "a zero in a name": (lambda: renamed(VERSION, b"archive/ver\0ion"), "a member is called"),
    "an escape in a name": (lambda: renamed(VERSION, b"archive/ver\x1bion"), "a member is called"),
    "a name that is not UTF-8": (
        lambda: renamed(VERSION, b"archive/ver\xffion"), "a member's name is not UTF-8"),
    "two names, one place": (
        lambda: patched({entry(VERSION) + 42: GOOD[entry(STORAGE) + 42 : entry(STORAGE) + 46]}),
        "overlaps the one before it"),
    "a name that differs": (
        lambda: renamed(VERSION, b"archive/Version", "local"), "two headers disagree"),
    "flags that differ": (
        lambda: patched({header(STORAGE) + 7: b"\x08"}), "the member's two headers disagree"),
    "a method that differs": (
        lambda: patched({header(STORAGE) + 8: b"\x08"}), "the member's two headers disagree"),
    "a size that differs": (
        lambda: patched({header(STORAGE) + 22: b"\x04"}), "disagree about its size"),
    "two sizes in one entry": (
        lambda: patched({entry(STORAGE) + 24: b"\x04"}), "this one is compressed"),
    "a size beyond the file": (
        lambda: patched({entry(STORAGE) + 20: b"\xff\xff\xff\x7f" * 2}), "outside of the file"),
    "a size that reaches the next": (
        lambda: patched({place + 20 - 2 * (place < directory(GOOD)): b"\x18\0\0\0" * 2
                         for place in (entry(STORAGE), header(STORAGE))}),
        "overlaps the one before it"),
    "a place outside": (
        lambda: patched({entry(STORAGE) + 42: b"\xff\xff\xff\x7f"}), "outside of the file"),
    "a place without a member": (
        lambda: patched({entry(VERSION) + 42: struct.pack("<L", header(VERSION) + 1)}),
        "outside of the file"),
    "wide numbers that are missing": (
        lambda: patched({entry(STORAGE) + 20: b"\xff" * 8}), "zip64 field is missing"),
    "another volume": (lambda: patched({entry(STORAGE) + 34: b"\x01"}), "on another volume"),
    "several volumes": (lambda: patched({_END + 4: b"\x01"}), "one of several volumes"),
    "one member too few": (lambda: patched({_END + 8: b"\x03\0\x03\0"}), "longer than its entries"),
    "one member too many": (lambda: patched({_END + 8: b"\x05\0\x05\0"}), "contents is too short"),
    "two counts": (lambda: patched({_END + 8: b"\x03\0\x04\0"}), "one of several volumes"),
    "a directory elsewhere": (
        lambda: patched({_END + 16: struct.pack("<L", directory(GOOD) - 1)}), "not where it must"),
    "a million members": (lambda: many(1_000_000), "it claims 1000000 members, where 50000"),
    "a wide record that disagrees": (
        lambda: patched({len(many(4)) - 14: b"\x09\0"}, many(4)), "disagree"),
    "a wide record elsewhere": (
        lambda: patched({len(many(4)) - 22 - 12: b"\x01"}, many(4)), "zip64 record is not where"),
    "a comment": (lambda: patched({len(GOOD) - 2: b"\x04\0"}) + b"hey!", "must end with its table"),
    "something added": (lambda: GOOD + b"x", "must end with its table of contents"),
    "something in front": (lambda: LOCAL + bytes(40) + GOOD, "not where it must be"),
    "no member at all": (lambda: LOCAL + END + bytes(18), "not where it must be"),
    "no pickle": (lambda: renamed(b"archive/data.pkl", b"archive/data.pik"),
                  "a torch file must have one data.pkl, in one folder"),
    "a pickle too deep": (lambda: renamed(b"archive/data.pkl", b"a/chive/data.pkl"),
                          "a torch file must have one data.pkl"),
    "an order of bytes that is none": (
        lambda: GOOD.replace(b"little", b"middle"), "must be 'little' or 'big'"),
    "a storage that is not there": (
        lambda: renamed(STORAGE, b"archive/data/7"), "its storage '0' is not in the file"),
}  # fmt: skip


def twice() -> bytes:
    """Two members of one name."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(GOOD)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/1", b"other___")
    return out.getvalue().replace(b"archive/data/1", STORAGE)


HOSTILE["a member twice"] = (twice, "the member is listed twice")


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_zip_file_is_refused(tmp_path: Path, kind: str) -> None:
    forge, message = HOSTILE[kind]
    path = tmp_path / "bad.ckpt"
    path.write_bytes(forge())
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [GOOD, good(force_zip64=True), many(4)])
def test_what_python_writes_is_fine(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "good.ckpt"
    path.write_bytes(data)
    with open_checkpoint(path) as source:
        assert source.read_bytes("a") == bytes([0, 0, 1, 0, 2, 0, 3, 0])


def test_any_changed_byte_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "changed.ckpt"
    n_refused = 0
    for place in range(len(GOOD)):
        path.write_bytes(patched({place: bytes([GOOD[place] ^ 0x41])}))
        try:
            with open_checkpoint(path) as source:
                for key in source.tensors:
                    source.read_bytes(key)
        except CheckpointError:
            n_refused += 1
    assert n_refused > len(GOOD) // 4


def test_storages_beyond_four_gigabytes(tmp_path: Path) -> None:
    """A sparse file with a storage that needs wide numbers, and one that lies behind it."""
    path = tmp_path / "wide.ckpt"
    buffer = BytesIO()
    # Lengths are in the pickle; the elements need not exist to make it.
    small = {"a": torch.empty(5), "b": torch.ones(2)}
    torch.save(small, buffer)
    with zipfile.ZipFile(buffer) as old:
        data = old.read("archive/data.pkl")
    n = 1_100_000_000
    data = data.replace(b"K\x05", b"J" + struct.pack("<i", n))
    members = (("archive/data.pkl", data, len(data)), ("archive/data/0", b"", 4 * n),
               ("archive/data/1", struct.pack("<2f", 1, 1), 8))  # fmt: skip
    central = b""
    with path.open("wb") as file:
        for name, content, size in members:
            place = file.tell()
            raw = name.encode()
            wide = struct.pack("<2H2Q", 1, 16, size, size)
            file.write(struct.pack("<4s5H3L2H", LOCAL, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF,
                                   len(raw), len(wide)) + raw + wide + content)  # fmt: skip
            file.seek(size - len(content), 1)
            wide = struct.pack("<2H3Q", 1, 24, size, size, place)
            central += struct.pack(
                "<4s6H3L5H2L", CENTRAL, 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF,
                len(raw), len(wide), 0, 0, 0, 0, 0xFFFFFFFF,
            ) + raw + wide  # fmt: skip
        begin = file.tell()
        end = begin + len(central)
        file.write(central)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, end - begin,
                               begin))  # fmt: skip
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", END, 0, 0, 3, 3, end - begin, 0xFFFFFFFF, 0))
    with open_checkpoint(path) as source:
        assert source.tensors["a"].shape == (n,)
        out = bytearray(8)
        source.read_into("a", n - 2, n, memoryview(out))
        assert out == bytes(8)
        assert source.read_bytes("b") == struct.pack("<2f", 1, 1)


def test_a_zip_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "pictures.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.png", b"x")
    with pytest.raises(HeaderError, match="it is no checkpoint"):
        open_checkpoint(path)
