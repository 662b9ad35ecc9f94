"""Finding on this machine what an infotext names: by the file's hash, then by its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from stockpot.checkpoints import file_hashes
from stockpot.draw.requests import Named
from stockpot.errors import Problem, RequestError

__all__ = ["Shelf", "find_named"]

_ENDINGS = (".safetensors", ".ckpt", ".pt")


@final
class Shelf:
    """Folders with models, whose files are hashed once each, and only when a hash is asked for.

    Args:
        folders: Searched with their subfolders; a file stands for itself.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._files: list[Path] = []
        for folder in folders:
            found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
            self._files += [f for f in found if f.suffix in _ENDINGS and f.is_file()]
        self._hashes: dict[Path, tuple[str, ...]] = {}

    def find(self, named: Named) -> Path | None:
        """Find a file.

        Args:
            named: Its hash counts where it is given; files of that name are hashed first.

        Returns:
            The file; None where no file has that hash, or without a hash that name.
        """
        stem = _stem(named.name)
        if not named.hash:
            return next((file for file in self._files if file.stem == stem), None)
        for file in sorted(self._files, key=lambda file: file.stem != stem):
            if any(known.startswith(named.hash.lower()) for known in self.hashes(file)):
                return file
        return None

    def hashes(self, file: Path) -> tuple[str, ...]:
        """Hash a file, once.

        Args:
            file: One on the shelf, or any other.

        Returns:
            Its sha256, and the short hash of old web UIs.
        """
        if file not in self._hashes:
            found = file_hashes(file)
            self._hashes[file] = (found.sha256, found.legacy)
        return self._hashes[file]


def find_named(named: Sequence[Named], shelf: Shelf, where: str) -> list[Path]:
    """Find several files, or say all that are missing.

    Args:
        named: What to find.
        shelf: Where.
        where: What names them, for messages.

    Returns:
        As many files, in order.

    Raises:
        RequestError: Some are missing; all of them at once.
    """
    found = [shelf.find(one) for one in named]
    problems = [
        Problem(
            "missing-model",
            f"no file on this machine has the hash {one.hash}" if one.hash else
            "no file on this machine has this name",
            f"{where}: {one.name}",
            "name more folders with --models",
        )
        for one, file in zip(named, found, strict=True)
        if file is None
    ]  # fmt: skip
    if problems:
        raise RequestError(problems)
    return [file for file in found if file is not None]


def _stem(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix in _ENDINGS else name
