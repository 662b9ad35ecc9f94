"""Entries of a pool, and what a format that a recipe came from records besides its meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from stockpot.errors import Problem, UnknownNameError

__all__ = ["ENTRY_FIELDS", "STATUSES", "Origin", "PoolEntry", "outside_reason"]

#: What an author may say of a model: how it came into the mix, or that it may not.
STATUSES = ("baseline", "extended", "in review", "rejected")

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PoolEntry:
    """One checkpoint, a pattern that stands for many, or a hole: a model that nobody could name.

    Attributes:
        file: Path of the file; with a ``*`` in the entry's name, a pattern of paths; empty for a
            hole.
        hash: Content hash, filled in when a recipe runs; None while it is not known.
        sha256: Of the whole file, as other tools record it; says nothing of the content once
            somebody edits the metadata.
        title: What people call the model.
        url: Where it was published.
        licence: Terms of use.
        status: One of `STATUSES`; a rejected model may be listed and not be merged.
        note: Anything else.
        unknown: For a hole, what is known of it, such as ``secondary parent of 04a``.

    Example:
        >>> PoolEntry("dreamshaper_8.safetensors").hash is None
        True
        >>> PoolEntry("", unknown="secondary parent of 04a").is_hole
        True
    """

    file: str
    hash: str | None = None
    sha256: str | None = None
    title: str | None = None
    url: str | None = None
    licence: str | None = None
    status: str | None = None
    note: str | None = None
    unknown: str | None = None

    @property
    def is_hole(self) -> bool:
        """Whether the recipe does not know which file this is."""
        return not self.file and self.unknown is not None

    def facts(self) -> dict[str, str]:
        """All fields that say something, the file among them, in the order of the text form.

        Example:
            >>> PoolEntry("a.ckpt", title="A").facts()
            {'file': 'a.ckpt', 'title': 'A'}
        """
        named = {name: getattr(self, name) for name in ENTRY_FIELDS}
        return {name: value for name, value in named.items() if value is not None and value != ""}

    def problems(self, where: str) -> Iterator[Problem]:
        """Find what is wrong with the entry by itself.

        Args:
            where: What to call it in messages.

        Example:
            >>> print(*PoolEntry("a.ckpt", status="good").problems("pool.a"))
            pool.a: unknown status 'good' (known: baseline, extended, in review, rejected)
        """
        if not self.file and self.unknown is None:
            yield Problem("empty", "a file needs a path", where)
        if self.file and self.unknown is not None:
            yield Problem("hole", "an entry has a file or is unknown, but got both", where,
                          "remove `unknown`, now that the file is known")  # fmt: skip
        if self.status is not None and self.status not in STATUSES:
            yield Problem("unknown-status", str(UnknownNameError("status", self.status, STATUSES)),
                          where)  # fmt: skip
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            yield Problem("hash", f"a sha256 has 64 small hexadecimal digits, but got "
                          f"{self.sha256[:80]!r}", where)  # fmt: skip
        if self.url is not None and not self.url.lower().startswith(("https://", "http://")):
            yield Problem("url", f"a url must start with https:// or http://, but got "
                          f"{self.url[:80]!r}", where)  # fmt: skip


#: Names of an entry's fields, in the order of the text form.
ENTRY_FIELDS = tuple(item.name for item in fields(PoolEntry))


@dataclass(frozen=True)
class Origin:
    """What the format that a recipe came from records and expressions do not say.

    It has no effect on the mix; an exporter to the same format puts it back.

    Attributes:
        format: Which importer wrote it.
        records: By name of an entry, of a `let`, or ``mix``: a text in the format's own terms.

    Example:
        >>> Origin("a1111", {"mix": '{"save_as_half": true}'}).records["mix"]
        '{"save_as_half": true}'
    """

    format: str
    records: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", MappingProxyType(dict(self.records)))

    def __hash__(self) -> int:
        return hash((self.format, frozenset(self.records.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return Origin, (self.format, dict(self.records))


def outside_reason(path: str, *, absolute: bool = False) -> str | None:
    """Say why a path does not stay within the folder that it starts in.

    Judged by text alone and the same on every system, since a recipe travels between them.

    Args:
        path: From a recipe.
        absolute: Whether an absolute path is in order. Network shares never are: merely opening
            one may send the user's name to a stranger.

    Returns:
        What is wrong, or None.

    Example:
        >>> outside_reason("raw/a.safetensors"), outside_reason("raw/../../b")
        (None, 'it has `..`')
        >>> outside_reason("/etc/passwd"), outside_reason("/models/a.ckpt", absolute=True)
        ('it is absolute', None)
    """
    plain = path.replace("\\", "/")
    if "\0" in path:
        return "it has a NUL character"
    if plain.startswith("//"):
        return "it names a network share or a device"
    if ".." in plain.split("/"):
        return "it has `..`"
    if plain.startswith("~"):
        return "it starts with `~`"
    if plain.startswith(("/dev/", "/proc/", "/sys/")):
        return "it names a device"
    drive = len(plain) > 1 and plain[1] == ":" and plain[0].isalpha()
    if not absolute and (plain.startswith("/") or drive):
        return "it is absolute"
    return None
