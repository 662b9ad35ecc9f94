"""The checkpoints of a folder, to be found by what they hold and not by their names.

Headers come first: how many tensors of a component a file has, and how many bytes, rules most files
out unread. What is left is hashed, each tensor at most once however many models are looked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from stockpot.adapters import AdapterSource, has_modules, layout_of_adapter
from stockpot.checkpoints import (
    Source,
    TensorInfo,
    content_hash,
    hash_tensors,
    is_unfinished,
    open_checkpoint,
)
from stockpot.engine.history import InputRecord, Part, read_history
from stockpot.engine.progress import Meter, ProgressCallback
from stockpot.errors import CheckpointError, Problem
from stockpot.layouts import Layout, as_checkpoint, detect

__all__ = ["Book", "Shelf", "as_seen"]

_INDEX = ".safetensors.index.json"
_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@final
@dataclass(eq=False)
class Book:
    """One checkpoint of a folder; its file is open only while it is read.

    Attributes:
        path: The file or folder.
        tensors: What its header says, under a checkpoint's names.
        claims: Content hash that its own metadata claim for it; None where they claim none.
        adapter: Whether it is a LoRA, seen as the differences that it adds.
    """

    path: Path
    tensors: Mapping[str, TensorInfo]
    claims: str | None
    adapter: bool = False
    _digests: dict[str, str] = field(default_factory=dict, repr=False)
    _cells: dict[str, dict[str, list[str]]] = field(default_factory=dict, repr=False)
    _layout: Layout | None = field(default=None, repr=False)

    def open(self) -> Source:
        """Open the file as recipes see it.

        Raises:
            CheckpointError: It cannot be read any more.
        """
        source = open_checkpoint(self.path)
        layout = layout_of_adapter(source) if self.adapter else None
        return AdapterSource(source, layout) if layout is not None else as_seen(source)

    def looks_like(self, record: InputRecord, layout: Layout) -> bool:
        """Whether header and record allow that this is what was read; nothing is read.

        Args:
            record: What a step read of a model.
            layout: In whose terms.

        Returns:
            False where it cannot be.
        """
        return bool(record.components) and all(
            self._able(component, record, layout) for component in record.components
        )

    def is_what_was_read(
        self, record: InputRecord, layout: Layout, progress: Callable[[int], None]
    ) -> bool:
        """Whether the hashes of a record are those of this checkpoint; reads what is not known yet.

        Args:
            record: What a step read of a model.
            layout: In whose terms.
            progress: Called with the bytes that were just read.

        Raises:
            CheckpointError: The file cannot be read.
        """
        # The smallest component first: it rules a file out for the least reading.
        for component in sorted(record.components, key=lambda name: record.sizes.get(name, (0, 0))):
            if not any(
                self._hash(keys, names, progress) == record.components[component]
                for keys, names in self._able(component, record, layout)
            ):
                return False
        return True

    def n_extra(self, record: InputRecord, layout: Layout) -> int:
        """Count the tensors of components that a record does not have.

        Args:
            record: What a step read of a model.
            layout: In whose terms.
        """
        groups = self._groups(layout)
        return sum(len(keys) for name, keys in groups.items() if name not in record.components)

    def _able(
        self, component: str, record: InputRecord, layout: Layout
    ) -> list[tuple[list[str], Layout]]:
        """Groups of tensors that may be what was read of a component, and who names them.

        One architecture may have a component of another under another name, such as CLIP-L.
        """
        own = self._own_layout()
        groups = [(self._groups(layout).get(component, []), layout)]
        if own.name != layout.name:
            groups += [(keys, own) for keys in self._groups(own).values()]
        found = []
        for members, names in groups:
            keys = self._part(members, record.parts.get(component), names)
            size = (len(keys), sum(self.tensors[key].n_bytes for key in keys))
            if keys and record.sizes.get(component, size) == size:
                found.append((keys, names))
        return found

    def _hash(self, keys: list[str], layout: Layout, progress: Callable[[int], None]) -> str:
        unknown = [key for key in keys if key not in self._digests]
        if unknown:
            with self.open() as source:
                self._digests |= hash_tensors(source, unknown, progress)
        infos = {key: self.tensors[key] for key in keys}
        return content_hash(infos, self._digests, layout.relative_key)

    def _own_layout(self) -> Layout:
        if self._layout is None:
            self._layout = detect({key: info.shape for key, info in self.tensors.items()}).layout
        return self._layout

    def _part(self, keys: list[str], part: Part | None, layout: Layout) -> list[str]:
        if part is None:
            return keys
        blocks, single = set(part.blocks), set(part.keys)
        return [
            key
            for key in keys
            if layout.cell_of(key).block in blocks or layout.relative_key(key) in single
        ]

    def _groups(self, layout: Layout) -> dict[str, list[str]]:
        if layout.name not in self._cells:
            groups: dict[str, list[str]] = {}
            for key in self.tensors:
                groups.setdefault(layout.cell_of(key).component, []).append(key)
            self._cells[layout.name] = groups
        return self._cells[layout.name]


@final
class Shelf:
    """All checkpoints in a folder and the folders below it.

    Args:
        folder: Where to look.
        without: A file that does not count, such as the one whose inputs are looked for.
        progress: Is told how far the search is; it may well end early.
        by_name: Take a file that has a model's name, and the tensors that it should have, unread:
            for those who check what they make of it.

    Attributes:
        books: What was found, in the order of paths.
        notes: What looks like a checkpoint and cannot be opened.

    Raises:
        CheckpointError: There is no such folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        without: Path | None = None,
        progress: ProgressCallback | None = None,
        by_name: bool = False,
    ) -> None:
        self._by_name = by_name
        if not Path(folder).is_dir():
            raise CheckpointError(f"{folder}: the pool must be a folder, but there is none")
        self.folder = Path(folder)
        self.books: list[Book] = []
        self.notes: list[Problem] = []
        for path in _candidates(self.folder):
            if without is not None and path.is_file() and path.samefile(without):
                continue
            try:
                with open_checkpoint(path) as source:
                    if has_modules(source.tensors):
                        self.books += _adapter_books(path, source)
                    seen = as_seen(source)
                    self.books.append(Book(path, dict(seen.tensors), _claim(seen)))
            except CheckpointError as error:
                self.notes.append(Problem("unreadable", str(error)))
        n_bytes = sum(info.n_bytes for book in self.books for info in book.tensors.values())
        self._meter = Meter("searching", n_bytes, progress)

    def find(self, name: str, record: InputRecord, layout: Layout) -> Book | None:
        """Find the model that a step read.

        Args:
            name: What the recipe calls it; files of that name are looked at first.
            record: What was read of it.
            layout: In whose terms.

        Returns:
            The checkpoint that holds the least besides; None where no file holds it.

        Raises:
            CheckpointError: A file cannot be read.
        """
        able = [book for book in self.books if book.looks_like(record, layout)]
        if self._by_name:
            named = [book for book in able if _is_called(book.path, name)]
            if len(named) == 1:
                return named[0]
        able.sort(
            key=lambda book: (
                record.made is None or book.claims != record.made,
                book.n_extra(record, layout),
                not _is_called(book.path, name),
            )
        )
        for book in able:
            if book.is_what_was_read(record, layout, self._meter.add):
                return book
        return None

    def named(self, name: str) -> list[Path]:
        """List the files that are called as a recipe calls a model, whatever they hold.

        Args:
            name: In the recipe's pool.
        """
        return [book.path for book in self.books if _is_called(book.path, name)]


def as_seen(source: Source) -> Source:
    """See a checkpoint under the names that plans, and so records, go by.

    Args:
        source: As it was opened.
    """
    return as_checkpoint(source)


def _adapter_books(path: Path, source: Source) -> list[Book]:
    """An adapter as `lora(…)` sees it; none where it is of a kind that no recipe reads."""
    try:
        layout = layout_of_adapter(source)
    except CheckpointError:
        return []
    if layout is None:
        return []
    return [Book(path, dict(AdapterSource(source, layout).tensors), None, adapter=True)]


def _is_called(path: Path, name: str) -> bool:
    return path.name.removesuffix(_INDEX).removesuffix(path.suffix) == name or path.name == name


def _claim(source: Source) -> str | None:
    try:
        history = read_history(source.metadata, source.name)
    except CheckpointError:
        return None
    return history.last.content if history is not None else None


def _candidates(folder: Path) -> Iterator[Path]:
    """Whatever may be a checkpoint; a folder that is one, or shards of one, only as a whole."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        here = Path(place)
        if is_unfinished(here):
            folders.clear()
            continue
        if "model_index.json" in names:
            folders.clear()
            yield here
            continue
        yield from (here / name for name in _wholes(sorted(names)))


def _wholes(names: Iterable[str]) -> Iterator[str]:
    names = list(names)
    stems = tuple(f"{name.removesuffix(_INDEX)}-" for name in names if name.endswith(_INDEX))
    for name in names:
        is_shard = bool(stems) and name.startswith(stems) and "-of-" in name
        if name.endswith(_INDEX) or (name.lower().endswith(_SUFFIXES) and not is_shard):
            yield name
