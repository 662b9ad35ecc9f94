"""From what a user names to findings: files and folders, the cache, and what files share."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stockpot.checkpoints import is_unfinished, open_checkpoint
from stockpot.errors import (
    CheckpointError,
    HeaderError,
    Problem,
    TruncatedFileError,
    UnsafeFileError,
)
from stockpot.inspect.cache import Cache, fingerprint
from stockpot.inspect.inspecting import Wanted, inspect_checkpoint
from stockpot.inspect.inspection import Inspection
from stockpot.inspect.sniffing import sniff

__all__ = ["find_checkpoints", "inspect_path", "inspect_paths", "shared_components"]

_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-\d+\.safetensors")
_MOST_DEPTH = 40


def find_checkpoints(places: Iterable[Path], *, recursive: bool = False) -> list[Path]:
    """List the checkpoints in files and folders.

    Args:
        places: Files stay as they are. Of a folder its checkpoints count: files by their ending,
            sharded ones by their index, diffusers folders as a whole.
        recursive: Look into folders of folders too; links to folders are not followed.

    Returns:
        Each once, folders in alphabetical order.

    Raises:
        CheckpointError: A folder cannot be listed.
    """
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir() and not _is_diffusers(place):
            found.update(dict.fromkeys(_in_folder(place, recursive, _MOST_DEPTH)))
        else:
            found[place] = None
    return list(found)


def _is_diffusers(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _has_weights(folder: Path) -> bool:
    """Whether a diffusers folder is more than settings."""
    return any(child.name.endswith(_SUFFIXES) for child in folder.glob("*/*"))


def _in_folder(folder: Path, recursive: bool, depth: int) -> Iterator[Path]:
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise CheckpointError(f"{folder}: the folder cannot be listed: {error.strerror}") from error
    indexes = [child for child in children if child.name.endswith(_INDEX)]
    stems = {child.name.removesuffix(_INDEX) for child in indexes}
    for child in children:
        if child.is_dir():
            if _is_diffusers(child):
                if _has_weights(child) and not is_unfinished(child):
                    yield child
            elif recursive and depth and not child.is_symlink() and not is_unfinished(child):
                yield from _in_folder(child, recursive, depth - 1)
        elif child in indexes:
            yield child
        elif child.name.lower().endswith(_SUFFIXES) and not child.name.startswith("._"):
            shard = _SHARD.fullmatch(child.name)
            if shard is None or shard["stem"] not in stems:  # those are named by their index
                yield child


def inspect_paths(
    paths: Sequence[Path],
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    *,
    cache: Cache | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Inspection]:
    """Inspect many files; one that cannot be read does not stop the others.

    Args:
        paths: From `find_checkpoints`.
        wanted: How much to read.
        cache: Where findings are kept; None keeps nothing.
        progress: Called with the bytes that were read so far and will be read in all.

    Returns:
        Findings in the order of `paths`.
    """
    total = sum(map(_size, paths)) * (wanted.values + wanted.file)
    done = 0
    found: list[Inspection] = []
    seen: dict[tuple[int, int], Inspection] = {}
    for path in paths:
        before = done
        # Links to one file are the same file, and need no second look.
        same = _identity_of(path) if len(paths) > 1 else None
        if same is not None and same in seen:
            found.append(replace(seen[same], path=str(path)))
            continue

        def add(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            progress(done, total)

        found.append(inspect_path(path, wanted, cache=cache, progress=add))
        if same is not None and found[-1].kind != "unreadable":
            seen[same] = found[-1]
        done = before + _size(path) * (wanted.values + wanted.file)
    return found


def inspect_path(
    path: Path,
    wanted: Wanted = Wanted(),  # noqa: B008 - frozen
    *,
    cache: Cache | None = None,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Inspection:
    """Inspect one file, or say why it cannot be read.

    Args:
        path: Whatever `open_checkpoint` takes.
        wanted: How much to read.
        cache: Where findings are kept. What is known already is told even where it was not asked
            for, such as hashes.
        progress: Called with the bytes that were just read.

    Returns:
        The findings; of a file that cannot be read, its kind is ``unreadable``.
    """
    name = str(path)
    key = fingerprint(_files(path)) if cache is not None else None
    if cache is not None and key is not None:
        kept = cache.get(key)
        if kept is not None:
            found, known = kept
            if known.covers(wanted):
                return replace(found, path=name)
            # One reading more tells everything that was known, too.
            wanted = wanted | known
    try:
        with open_checkpoint(path) as source:
            found = inspect_checkpoint(source, wanted, progress=progress)
    except CheckpointError as error:
        return _unreadable(path, error)
    # A file that changed while it was read has findings of no content at all.
    if cache is not None and key is not None and fingerprint(_files(path)) == key:
        cache.put(key, found, wanted)
    return replace(found, path=name)


def _identity_of(path: Path) -> tuple[int, int] | None:
    """Device and number of a file; None for folders, and for an index, whose neighbours count."""
    try:
        status = path.stat()
    except OSError:
        return None
    is_single = stat.S_ISREG(status.st_mode) and not path.name.endswith(_INDEX)
    return (status.st_dev, status.st_ino) if is_single and status.st_ino else None


def _unreadable(path: Path, error: CheckpointError) -> Inspection:
    hint = sniff(path)
    if hint is not None:
        problem = Problem("not-a-checkpoint", hint, "", "download the model itself")
    else:
        code = "unreadable"
        if isinstance(error, UnsafeFileError):
            code = "unsafe"
        elif isinstance(error, TruncatedFileError):
            code = "truncated"
        elif isinstance(error, HeaderError):
            code = "header"
        # Whoever prints it says the path already.
        message = str(error).removeprefix(f"{path}: ")
        problem = Problem(code, message)
    return Inspection(str(path), "unreadable", "cannot be read", None, problems=(problem,))


def _size(path: Path) -> int:
    total = 0
    for file in _files(path):
        try:
            total += file.stat().st_size
        except OSError:
            continue
    return total


def _files(path: Path) -> list[Path]:
    """Every file that findings about a path depend on; no header is read to know."""
    if path.is_dir():
        found = []
        for folder, folders, names in os.walk(path):
            folders.sort()
            found += [Path(folder, name) for name in sorted(names) if _counts(name)]
        return found
    if path.name.endswith(_INDEX):
        return [path, *sorted(child for child in path.parent.glob("*.safetensors"))]
    return [path]


def _counts(name: str) -> bool:
    return name.lower().endswith((*_SUFFIXES, ".json"))


def shared_components(
    inspections: Sequence[Inspection], base: Inspection | None = None
) -> dict[str, dict[str, list[str]]]:
    """Find components that several files have, bit by bit.

    Args:
        inspections: Findings with content hashes; what has none is left out.
        base: A model to compare with first of all.

    Returns:
        For each path, by component: paths of the other files that have the same, the base first.

    Example:
        >>> from stockpot.inspect import ComponentFacts
        >>> facts = {"vae": ComponentFacts("vae", 1, 1, 2, {"F16": 1}, 0, "12ab")}
        >>> files = [Inspection(n, "vae", "VAE", "sd1", components=facts) for n in ("a", "b")]
        >>> shared_components(files)["b"]
        {'vae': ['a']}
    """
    everyone = [*([base] if base is not None else []), *inspections]
    holders: dict[str, dict[str, None]] = {}
    for found in everyone:
        for facts in found.components.values():
            if facts.hash is not None and facts.name not in ("other", "unknown"):
                holders.setdefault(facts.hash, {})[found.path] = None
    shared: dict[str, dict[str, list[str]]] = {}
    for found in everyone:
        mine: Mapping[str, list[str]] = {
            name: [path for path in holders.get(facts.hash or "", ()) if path != found.path]
            for name, facts in found.components.items()
        }
        shared[found.path] = {name: paths for name, paths in mine.items() if paths}
    return shared
