"""The recipe as a value: what is in the pool, what to make of it, how to save it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from stockpot.errors import Problem, RecipeError, UnknownNameError

from .entries import STATUSES, Origin, PoolEntry, outside_reason
from .expressions import Expr, is_bare
from .functions import RESERVED
from .globs import expand, stem_of
from .grammar import parse_expression
from .writing import block, flow, formula, plain

__all__ = [
    "DTYPES", "FORMS", "MIX_KEYS", "STATUSES", "Origin", "PoolEntry", "Recipe", "Save",
    "make_recipe",
]  # fmt: skip

#: What a mix may make; a particular key wins over `te`, and that over `model`.
MIX_KEYS = ("model", "unet", "te", "te0", "te1", "vae", "ema", "other")
#: Precisions that a recipe may ask for.
DTYPES = ("fp16", "bf16", "fp32", "fp64", "fp8_e4m3", "fp8_e5m2")
#: Forms in which a result may be written.
FORMS = ("checkpoint", "bare", "diffusers")

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Save:
    """Where the result goes.

    Attributes:
        file: Path of the output; None where the caller says it.
        dtype: One of `DTYPES` for all, or one for each key of `MIX_KEYS`; None keeps the inputs'.
        form: One of `FORMS`: ``checkpoint`` (one file, as None), ``bare`` (a file of one
            component, its keys without prefix), ``diffusers`` (a folder).

    Example:
        >>> Save("soup.safetensors", "fp16").dtype
        'fp16'
    """

    file: str | None = None
    dtype: str | Mapping[str, str] | None = None
    form: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dtype, Mapping):
            object.__setattr__(self, "dtype", _frozen(self.dtype))

    def __hash__(self) -> int:
        dtype = self.dtype
        return hash((self.file, _pairs(dtype) if isinstance(dtype, Mapping) else dtype, self.form))

    def __reduce__(self) -> tuple[Any, ...]:
        dtype = self.dtype
        return Save, (self.file, dict(dtype) if isinstance(dtype, Mapping) else dtype, self.form)


@dataclass(frozen=True)
class Recipe:
    """A recipe: names for files, and an expression for each component to make.

    Building one checks nothing; `problems`, `parse_recipe` and `fold` do.

    Attributes:
        pool: Entries by name; their order is the order of all results.
        mix: What to make, by key of `MIX_KEYS`.
        let: Named intermediates; their order does not matter.
        save: Where the result goes.
        version: Of the format; always 1.
        origin: What another format recorded besides; None for a recipe written here.

    Example:
        >>> from stockpot.recipes import mean, model
        >>> pool = {"a": PoolEntry("a.safetensors"), "b": PoolEntry("b.safetensors")}
        >>> print(Recipe(pool, {"unet": mean(model("a"), model("b"))}).to_yaml(), end="")
        stockpot: 1
        pool:
          a: a.safetensors
          b: b.safetensors
        mix:
          unet: mean(a, b)
    """

    pool: Mapping[str, PoolEntry]
    mix: Mapping[str, Expr]
    let: Mapping[str, Expr] = field(default_factory=lambda: MappingProxyType({}))
    save: Save = field(default_factory=Save)
    version: int = 1
    origin: Origin | None = None

    def __post_init__(self) -> None:
        for name in ("pool", "mix", "let"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    def __hash__(self) -> int:
        return hash(
            (self.version, _pairs(self.pool), _pairs(self.let), _pairs(self.mix), self.save,
             self.origin)
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle, and recipes travel to workers.
        parts = (dict(self.pool), dict(self.mix), dict(self.let), self.save, self.version)
        return Recipe, (*parts, self.origin)

    def problems(self) -> tuple[Problem, ...]:
        """Find what is wrong outside of the expressions: names, keys, precisions.

        Example:
            >>> from stockpot.recipes import model
            >>> recipe = Recipe({"mean": PoolEntry("a.ckpt")}, {"unet": model("mean")})
            >>> print(*recipe.problems())
            pool.mean: 'mean' is the name of a function; choose another name
        """
        return tuple(self._problems())

    def _problems(self) -> Iterator[Problem]:
        if self.version != 1:
            yield Problem("version", f"this version reads recipes of version 1, but got "
                          f"{self.version}", "stockpot", "update Stockpot")  # fmt: skip
        if not self.pool:
            yield Problem("empty", "a recipe needs at least one file", "pool", "write name: file")
        if not self.mix:
            yield Problem("empty", "a recipe needs something to make", "mix",
                          "write model: expression")  # fmt: skip
        for room, names in (("pool", self.pool), ("let", self.let)):
            for name in names:
                yield from _name_problems(name, f"{room}.{name}")
        for name in (name for name in self.let if name in self.pool):
            yield Problem("repeated", "a name may stand for one thing only, but it is in `pool` "
                          "and in `let`", f"let.{name}", "rename one")  # fmt: skip
        for name in self.let:
            if "*" in name:
                yield Problem("name", "a `let` stands for one thing", f"let.{name}",
                              "remove the `*`")  # fmt: skip
        for name, entry in self.pool.items():
            yield from entry.problems(f"pool.{name}")
            if name.count("*") > 1 or ("*" in name) != ("*" in entry.file):
                yield Problem("glob", "an entry for many files has one `*` in its name, and its "
                              "path has one or more", f"pool.{name}",
                              'write "ft_*": finetunes/*.safetensors')  # fmt: skip
        for key in self.mix:
            yield from _known("component", key, MIX_KEYS, f"mix.{key}")
        if self.save.form is not None:
            yield from _known("form", self.save.form, FORMS, "save.form")
        dtype = self.save.dtype
        if isinstance(dtype, str):
            yield from _known("dtype", dtype, DTYPES, "save.dtype")
        elif dtype is not None:
            for key, name in dtype.items():
                yield from _known("component", key, MIX_KEYS, f"save.dtype.{key}")
                yield from _known("dtype", name, DTYPES, f"save.dtype.{key}")

    def outside(self, *, absolute: bool = False) -> tuple[Problem, ...]:
        """Find paths, of the pool or of the output, that leave the recipe's folder.

        Args:
            absolute: Whether the pool may have absolute paths; the output never may.

        Example:
            >>> from stockpot.recipes import make_recipe
            >>> print(*make_recipe("a", {"a": "../a.ckpt"}).outside())
            pool.a: a path must stay within the recipe's folder, but '../a.ckpt' does not: it ...
        """
        paths = [(f"pool.{name}", entry.file, absolute) for name, entry in self.pool.items()]
        paths.append(("save.file", self.save.file or "", False))
        judged = ((where, path, outside_reason(path, absolute=a)) for where, path, a in paths)
        return tuple(
            Problem("outside", f"a path must stay within the recipe's folder, but {path[:200]!r} "
                    f"does not: {reason}", where, "move the file, or name it on the command line")
            for where, path, reason in judged if reason
        )  # fmt: skip

    def resolve_pool(
        self, folder: str | Path, *, absolute: bool = False, outside: bool = False
    ) -> Recipe:
        """Expand patterns of the pool into one entry a file; all else stays as it is.

        This is the only step that looks at a folder.

        Args:
            folder: Where patterns start. The ``*`` of a name becomes the file's stem.
            absolute: Whether the pool may have absolute paths, as in a recipe that somebody wrote
                for their own machine.
            outside: Whether all paths may lead anywhere.

        Raises:
            RecipeError: A path leaves the folder; a pattern finds nothing, leaves the folder, or
                gives a name twice.

        Example:
            >>> from stockpot.recipes import make_recipe
            >>> recipe = make_recipe("mean(pool)", {"a": "a.safetensors"})
            >>> recipe.resolve_pool(".") == recipe
            True
        """
        pool: dict[str, PoolEntry] = {}
        problems = [] if outside else list(self.outside(absolute=absolute))
        for name, entry in self.pool.items():
            where = f"pool.{name}"
            found = {name: entry}
            if "*" in name and not outside_reason(entry.file):
                try:
                    files = expand(Path(folder), entry.file)
                except ValueError as error:
                    problems.append(Problem("glob", str(error), where, "name the folder instead"))
                    continue
                found = {}
                for file in files:
                    new = name.replace("*", stem_of(file))
                    if new in found:
                        problems.append(_twice(new, where))
                    found[new] = replace(entry, file=file, hash=None, sha256=None)
                if not found:
                    problems.append(
                        Problem("glob", f"no file in {str(folder)!r} matches {entry.file!r}", where,
                                "check the folder and the pattern")
                    )  # fmt: skip
            for new, resolved in found.items():
                if new in pool or (new != name and new in self.pool):
                    problems.append(_twice(new, where))
                problems += _name_problems(new, f"pool.{new}") if new != name else []
                pool[new] = resolved
        if problems:
            raise RecipeError(problems)
        return replace(self, pool=pool)

    def to_yaml(self) -> str:
        """Write the canonical text; `parse_recipe` of that gives an equal recipe.

        A recipe with problems gives a text that cannot be read back.

        Raises:
            RecipeError: An expression is too long or too deep to write.

        Example:
            >>> from stockpot.recipes import make_recipe
            >>> print(make_recipe('"10 te"', {"10 te": "te.ckpt"}).to_yaml(), end="")
            stockpot: 1
            pool:
              "10 te": te.ckpt
            mix:
              model: '"10 te"'
        """
        entries = {name: _entry(entry) for name, entry in self.pool.items()}
        lines = [f"stockpot: {self.version}", *block("pool", entries)]
        if self.let:
            lines += block("let", {name: formula(value) for name, value in self.let.items()})
        lines += block("mix", {key: formula(value) for key, value in self.mix.items()})
        if self.save != Save():
            lines.append("save:")
        if self.save.file is not None:
            lines.append(f"  file: {plain(self.save.file)}")
        dtype = self.save.dtype
        if isinstance(dtype, Mapping):
            lines += block("dtype", {k: plain(name) for k, name in dtype.items()}, indent="  ")
        elif dtype is not None:
            lines.append(f"  dtype: {plain(dtype)}")
        if self.save.form is not None:
            lines.append(f"  form: {plain(self.save.form)}")
        if self.origin is not None:
            lines += ["origin:", f"  format: {plain(self.origin.format)}"]
            records = {name: plain(text) for name, text in self.origin.records.items()}
            lines += block("records", records, indent="  ") if records else []
        return "\n".join(lines) + "\n"


def make_recipe(
    mix: Expr | str | Mapping[str, Expr | str],
    pool: Mapping[str, PoolEntry | str],
    *,
    let: Mapping[str, Expr | str] | None = None,
    save: Save | None = None,
    origin: Origin | None = None,
) -> Recipe:
    """Build a recipe from Python, with texts where that is shorter.

    Args:
        mix: An expression for the whole model, or one for each key of `MIX_KEYS`.
        pool: Files by name.
        let: Named intermediates.
        save: Where the result goes.
        origin: What another format recorded besides.

    Raises:
        RecipeError: An expression cannot be read.

    Example:
        >>> make_recipe("mean(pool)", {"a": "a.safetensors"}).mix["model"]
        <mean(pool)>
    """

    def read(value: Expr | str) -> Expr:
        return value if isinstance(value, Expr) else parse_expression(value)

    parts = mix if isinstance(mix, Mapping) else {"model": mix}
    return Recipe(
        {n: e if isinstance(e, PoolEntry) else PoolEntry(e) for n, e in pool.items()},
        {key: read(value) for key, value in parts.items()},
        {name: read(value) for name, value in (let or {}).items()},
        save or Save(),
        origin=origin,
    )


def _entry(entry: PoolEntry) -> str:
    facts = entry.facts()
    return plain(entry.file) if list(facts) in (["file"], []) else flow(facts)


def _frozen(mapping: Mapping[_K, _V]) -> Mapping[_K, _V]:
    return MappingProxyType(dict(mapping))


def _pairs(mapping: Mapping[_K, _V]) -> frozenset[tuple[_K, _V]]:
    return frozenset(mapping.items())


def _twice(name: str, where: str) -> Problem:
    return Problem("repeated", f"two files would have the name {name!r}", where,
                   "give one of them an entry of its own")  # fmt: skip


def _name_problems(name: str, where: str) -> list[Problem]:
    # YAML wants a key within 1024 characters of one line.
    if not name or name != name.strip() or len(name) > 200 or any(map(_is_control, name)):
        return [Problem("name", "a name must be one line of at most 200 characters without "
                        f"spaces around it, but got {name[:200]!r}", where[:80])]  # fmt: skip
    if name in RESERVED:
        what = "the set of all entries" if name == "pool" else "the name of a function"
        return [Problem("reserved", f"{name!r} is {what}", where, "choose another name")]
    if name.startswith("__") and not is_bare(name):
        return [Problem("name", "a name may not start with two underscores", where)]
    return []


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def _known(kind: str, name: str, known: tuple[str, ...], where: str) -> Iterator[Problem]:
    if name not in known:
        yield Problem(f"unknown-{kind}", str(UnknownNameError(kind, name, known)), where)
