"""What every importer gives back, and the one way to build it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NoReturn

from stockpot.errors import Problem, RecipeError

from ..document import Origin, PoolEntry, Recipe, Save
from ..entries import outside_reason
from ..errors import one_problem
from ..evaluating import evaluate
from ..expressions import Expr, Name, is_bare
from ..functions import RESERVED

__all__ = ["MAX_STEPS", "Builder", "Facts", "Imported", "clean_path", "short_name"]

#: Most models and steps that an imported recipe may have; the largest known one has 514.
MAX_STEPS = 10_000
_EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_NOT_PRINTED = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@dataclass(frozen=True, slots=True)
class Facts:
    """Counts of what a source says, before anything is inferred.

    Attributes:
        dialect: The format, and which of its dialects.
        n_models: Files that the source names, unknown ones not among them.
        n_steps: Merges.
        n_edges: Models and results that the merges read, each use counted.
        n_holes: Parents that the source leaves open.
        layout: Architecture, where the source tells it.
        output: What the source calls the result; empty where it does not.
        candidates: For each hole, models that nothing else reads: inferred, not known.
        elections: For each method that elects signs, its step and ``count`` or ``magnitude``.

    Example:
        >>> print(Facts("a1111", n_models=3, n_steps=2, n_edges=4))
        a1111: 3 models, 2 steps, 4 edges, 0 unknown parents
    """

    dialect: str
    n_models: int = 0
    n_steps: int = 0
    n_edges: int = 0
    n_holes: int = 0
    layout: str | None = None
    output: str = ""
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    elections: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        return (
            f"{self.dialect}: {self.n_models} models, {self.n_steps} steps, {self.n_edges} edges, "
            f"{self.n_holes} unknown parents"
        )


@dataclass(frozen=True, slots=True)
class Imported:
    """A recipe of another tool, as one of ours.

    Attributes:
        recipe: Says the same.
        facts: What the source says, counted.
        notes: What had to be decided or cannot be said: never empty talk, always with its place.
        places: Where ``pool.x``, ``let.x`` and ``mix.unet`` stand in the source, if it has lines.

    Example:
        >>> from stockpot.recipes.importers import import_text
        >>> import_text("a.safetensors\\nb.safetensors\\n").recipe.mix["model"]
        <mean(a, b)>
    """

    recipe: Recipe
    facts: Facts
    notes: tuple[Problem, ...] = ()
    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def short_name(file: str) -> str:
    """The name that people know a file by: no folders, no extension, one line.

    Args:
        file: A path with ``/`` or backslashes, from any system; or a name without an extension.

    Example:
        >>> short_name("E:\\\\models\\\\_01a-x v1.5.safetensors"), short_name("mix-v1.5")
        ('_01a-x v1.5', 'mix-v1.5')
    """
    name = re.split(r"[/\\]+", file)[-1]
    for extension in _EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            name = name[: -len(extension)]
            break
    kept = (c for c in name if unicodedata.category(c) not in _NOT_PRINTED and c != "*")
    return "".join(kept).strip()[:150].strip()


def clean_path(file: str) -> str:
    """A relative path that stays in its folder: the source's own, or else just the file's name.

    Args:
        file: As the source wrote it.

    Example:
        >>> clean_path("raw\\\\\\\\a.safetensors"), clean_path("C:\\\\x\\\\b.ckpt")
        ('raw/a.safetensors', 'b.ckpt')
    """
    path = re.sub(r"[/\\]+", "/", file).removeprefix("./")
    if outside_reason(file) or outside_reason(path) or ":" in path.split("/")[0]:
        path = path.split("/")[-1]
    path = "".join(c for c in path if unicodedata.category(c) not in _NOT_PRINTED and c != "*")
    return path.strip() if path.strip(" ./") else "unnamed"


class Builder:
    """Collects models and steps of a source, under names that recipes may have.

    Args:
        source: What to call it in messages.
        dialect: What it is written in.

    Example:
        >>> builder = Builder("x.txt", "list")
        >>> builder.model("a", "models/a.safetensors"), builder.model("b", "other/a.safetensors")
        (<a>, <"a (2)">)
    """

    def __init__(self, source: str, dialect: str) -> None:
        self.source, self.dialect = source, dialect
        self.pool: dict[str, PoolEntry] = {}
        self.lets: dict[str, Expr] = {}
        self.records: dict[str, str] = {}
        self.notes: list[Problem] = []
        self.candidates: dict[str, tuple[str, ...]] = {}
        self.elections: dict[str, str] = {}
        self.n_steps = self.n_edges = 0
        self.layout: str | None = None
        self.places: dict[str, str] = {}
        self._models: dict[str, Name] = {}
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def refuse(self, code: str, message: str, where: str = "", remedy: str = "") -> NoReturn:
        """Give up on the source.

        Raises:
            RecipeError: Always.
        """
        raise one_problem(code, message, self.place(where), remedy)

    def place(self, where: str) -> str:
        """Name a place in the source."""
        return f"{self.source}: {where}" if where else self.source

    def note(self, code: str, message: str, where: str = "", remedy: str = "") -> None:
        """Say what had to be decided."""
        self.notes.append(Problem(code, message, self.place(where), remedy))

    def name(self, wish: str) -> str:
        """Find a free name, as near to the wished one as recipes allow."""
        if len(self._taken) > 2 * MAX_STEPS:
            self.refuse("too-large", f"a recipe may have {MAX_STEPS} models and steps, but this "
                        "has more")  # fmt: skip
        wish = short_name(wish) or "unnamed"
        if wish.startswith("__") and not is_bare(wish):
            wish = wish.lstrip("_") or "unnamed"
        name, number = wish, self._next.get(wish, 2)
        while name in self._taken or name in RESERVED:
            name, number = f"{wish} ({number})", number + 1
        self._next[wish] = number
        self._taken.add(name)
        return name

    def model(self, key: str, file: str, wish: str = "", **facts: str | None) -> Name:
        """Put a file into the pool, once for each key that the source knows it by."""
        if key not in self._models:
            name = self.name(wish or file)
            path = clean_path(file)
            # Names carry one star only with a pattern, and sources never mean one.
            self.pool[name] = PoolEntry(path, **facts)
            self._models[key] = Name(name)
        return self._models[key]

    def hole(self, wish: str, unknown: str) -> Name:
        """Put a model into the pool that the source does not name."""
        name = self.name(wish)
        self.pool[name] = PoolEntry("", unknown=unknown)
        self.note("unknown-parent", f"the source does not name the {unknown}", f"pool.{name}",
                  "give the entry a `file`, once you know it")  # fmt: skip
        return Name(name)

    def step(self, wish: str, expression: Expr) -> Name:
        """Name an intermediate."""
        name = self.name(wish)
        self.lets[name] = expression
        return Name(name)

    def infer(self, names: Iterable[str]) -> None:
        """Report which files nothing reads, as candidates for the holes: an inference."""
        free = tuple(names)
        for hole, entry in list(self.pool.items()):
            if not entry.is_hole:
                continue
            self.candidates[hole] = free
            if not free:
                continue
            listed = ", ".join(free[:5]) + (", …" if len(free) > 5 else "")
            only = "the only candidate" if len(free) == 1 else f"one of {len(free)} candidates"
            text = f"inferred, not known: {only} is {listed}, which nothing else reads"
            self.pool[hole] = replace(entry, note=text)
            self.note("candidate", text, f"pool.{hole}")

    def finish(self, mix: Mapping[str, Expr], output: str = "", records: bool = False) -> Imported:
        """Make the recipe, and check it as any other.

        Raises:
            RecipeError: The source contradicts itself, in a circle for example.
        """
        save = Save(f"{short_name(output)}.safetensors") if short_name(output) else Save()
        origin = Origin(self.dialect.split(" ")[0], self.records) if records else None
        recipe = Recipe(self.pool, mix, self.lets, save, origin=origin)
        problems = [*recipe.problems(), *evaluate(self.pool, self.lets, mix).problems]
        if problems:
            shown = [replace(p, where=self.place(p.where)) for p in dict.fromkeys(problems)]
            raise RecipeError(shown[:20])
        holes = sum(entry.is_hole for entry in self.pool.values())
        facts = Facts(
            self.dialect, len(self.pool) - holes, self.n_steps, self.n_edges, holes, self.layout,
            short_name(output), MappingProxyType(dict(self.candidates)),
            MappingProxyType(dict(self.elections)),
        )  # fmt: skip
        return Imported(recipe, facts, tuple(self.notes), MappingProxyType(dict(self.places)))
