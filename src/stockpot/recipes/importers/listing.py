"""A bare list of files, one path a line: the plain mean of them."""

from __future__ import annotations

from ..expressions import Call, Items
from ._base import MAX_STEPS, Builder, Imported

__all__ = ["import_listing", "is_listing"]

_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


def _lines(text: str) -> list[str]:
    stripped = (line.strip().strip('"') for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def is_listing(text: str) -> bool:
    """Whether every line that says something is the path of a checkpoint.

    Args:
        text: All of a file.

    Example:
        >>> is_listing("# mine\\na.safetensors\\nx/b.ckpt"), is_listing("mean(a, b)")
        (True, False)
    """
    lines = _lines(text)
    return bool(lines) and all(line.lower().endswith(_ENDINGS) for line in lines)


def import_listing(text: str, source: str = "<list>") -> Imported:
    """Read a list of files as their mean.

    Args:
        text: One path a line; lines that start with ``#`` are comments.
        source: What to call it in messages.

    Raises:
        RecipeError: It is too long.

    Example:
        >>> import_listing("a.safetensors\\nb.safetensors").recipe.mix["model"]
        <mean(a, b)>
    """
    lines = _lines(text)
    builder = Builder(source, "list")
    if len(lines) > MAX_STEPS:
        builder.refuse("too-large", f"a list may have {MAX_STEPS} files, but this has {len(lines)}")
    names, seen = [], set[str]()
    for number, line in enumerate(lines, start=1):
        names.append(builder.model(line, line))
        if line in seen:
            builder.note("duplicate-file", f"{line[:100]!r} stands in the list before, and counts "
                         "again", f"entry {number}", "remove one")  # fmt: skip
        seen.add(line)
    builder.n_steps, builder.n_edges = 1, len(names)
    models = tuple(names) if len(names) <= 200 else (Items(tuple(names)),)
    return builder.finish({"model": Call("mean", models)})
