"""The table of importers, and the one function that picks among them by content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from stockpot.errors import Problem

from ..errors import one_problem
from ..reading import parse_located
from ..renaming import names_in
from ..strict_yaml import MAX_BYTES
from ._base import Facts, Imported
from .a1111 import import_a1111
from .autombw import import_autombw, import_autombw_table, is_autombw, is_autombw_table
from .listing import import_listing, is_listing
from .mecha import import_mecha, is_mecha

__all__ = ["IMPORTERS", "Importer", "detect_format", "import_file", "import_text"]

#: Largest file that is read as a recipe.
MAX_SOURCE_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Importer:
    """A row of the table.

    Attributes:
        name: How people call the format.
        title: What it is, in a line.
        matches: Whether a text looks like it.
        read: Turns a text into a recipe; the second argument names the source.

    Example:
        >>> IMPORTERS["mecha"].matches('model "a.safetensors"')
        True
    """

    name: str
    title: str
    matches: Callable[[str], bool]
    read: Callable[[str, str], Imported]


def _is_json(text: str) -> bool:
    return text.startswith("{") and '"' in text and "sd_merge" in text


def _is_ours(text: str) -> bool:
    return any(line.startswith(("stockpot:", '{"stockpot"', "{stockpot")) for line in
               text[: MAX_BYTES + 1].splitlines())  # fmt: skip


def _read_ours(text: str, source: str) -> Imported:
    recipe, places = parse_located(text, source)
    holes = sum(entry.is_hole for entry in recipe.pool.values())
    steps = (*recipe.let.values(), *recipe.mix.values())
    edges = sum(len(names_in(step)) for step in steps)
    facts = Facts("stockpot", len(recipe.pool) - holes, len(steps), edges, holes,
                  output=Path(recipe.save.file or source).stem)  # fmt: skip
    return Imported(recipe, facts, places=places)


#: Formats by name, in the order in which a text is compared with them.
IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        row.name: row
        for row in (
            Importer("a1111", "JSON of A1111's checkpoint merger", _is_json, import_a1111),
            Importer("autombw", "text that AutoMBW saves", is_autombw, import_autombw),
            Importer("autombw-table", "table of an AutoMBW search", is_autombw_table,
                     import_autombw_table),
            Importer("mecha", "recipe of sd-mecha", is_mecha, import_mecha),
            Importer("list", "paths of checkpoints, one a line", is_listing, import_listing),
            Importer("stockpot", "Stockpot's own YAML", _is_ours, _read_ours),
        )
    }
)  # fmt: skip


def detect_format(text: str, source: str = "<recipe>") -> str:
    """Say which format a text is in.

    Args:
        text: All of a file.
        source: What to call it in messages.

    Returns:
        A name of `IMPORTERS`; ``stockpot`` for what may be YAML, so that its reader can say what
        is wrong.

    Raises:
        RecipeError: It looks like nothing known.

    Example:
        >>> detect_format("modelA=x.safetensors"), detect_format("stockpot: 1")
        ('autombw', 'stockpot')
    """
    start = text.lstrip("\ufeff \r\n\t")
    for name, importer in IMPORTERS.items():
        if importer.matches(start):
            return name
    if any(f"{key}:" in start[:100_000] for key in ("pool", "mix")):
        return "stockpot"
    known = "; ".join(f"{row.name} ({row.title})" for row in IMPORTERS.values())
    raise one_problem("unknown-format", "this looks like no recipe that is known here", source,
                      f"known are: {known}")  # fmt: skip


def import_text(text: str, source: str = "<recipe>") -> Imported:
    """Read a recipe of any known format.

    Args:
        text: All of a file.
        source: Its path; some formats name the result after it.

    Raises:
        RecipeError: The format is not known, or the text breaks its rules.

    Example:
        >>> print(import_text("a.ckpt\\nb.ckpt").facts)
        list: 2 models, 1 steps, 2 edges, 0 unknown parents
    """
    if len(text) > MAX_SOURCE_BYTES:
        raise one_problem("too-long", f"a recipe may have {MAX_SOURCE_BYTES} characters, but this "
                          f"has {len(text)}", source)  # fmt: skip
    name = detect_format(text, source)
    imported = IMPORTERS[name].read(text.lstrip("\ufeff"), source)
    outside = () if name == "stockpot" else imported.recipe.outside()
    assert not outside, "importers clean their paths"
    return imported


def import_file(path: str | Path) -> Imported:
    """Read a recipe file of any known format.

    Args:
        path: A text of at most 4 MiB.

    Raises:
        RecipeError: It cannot be read, or as `import_text`.

    Example:
        >>> import_file("nowhere.json")
        Traceback (most recent call last):
        ...
        stockpot.errors.RecipeError: nowhere.json: the recipe cannot be read: No such file or ...
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SOURCE_BYTES + 1)
    except OSError as error:
        raise one_problem(
            "unreadable", f"the recipe cannot be read: {error.strerror}", str(path)
        ) from error
    if len(data) > MAX_SOURCE_BYTES:
        raise one_problem("too-long", f"a recipe may have {MAX_SOURCE_BYTES} bytes, but this has "
                          "more", str(path))  # fmt: skip
    guessed = False
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # AutoMBW writes its console log in the code page of Windows.
        text, guessed = data.decode("utf-8-sig", "replace"), True
    imported = import_text(text, str(path))
    if not guessed:
        return imported
    note = Problem("encoding", "it is not UTF-8; what could not be read shows as \ufffd", str(path))
    return replace(imported, notes=(note, *imported.notes))
