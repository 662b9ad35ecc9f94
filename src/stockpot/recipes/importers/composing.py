"""A folder of recipes as one: what one makes and another reads becomes a step.

A model is known by its sha256, or else by its name: without folders and extension, and `01` is
`_01a`, since the first of a series of merges is the first raw model itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from stockpot.errors import Problem, RecipeError

from ..building import blocks
from ..document import Recipe, Save
from ..entries import PoolEntry
from ..errors import one_problem
from ..evaluating import evaluate
from ..expressions import Call, Expr, Name
from ..renaming import names_in, renamed
from ._base import Builder, Facts, Imported, short_name
from .autombw import best_row, recipe_order
from .table import import_file

__all__ = ["compose", "import_folder", "model_key"]

_MAX_FILES = 2_000
_SUFFIXES = (".json", ".mecha", ".txt", ".csv", ".yaml", ".yml")
_FIRST = re.compile(r"_?0*1a?(?=-|$)")


def model_key(name: str) -> str:
    """What two names of one model have in common.

    Args:
        name: A path or a name.

    Example:
        >>> model_key("E:\\\\x\\\\01-vbp.safetensors") == model_key("_01a-vbp")
        True
        >>> model_key("10-vbp") == model_key("_10a-vbp")
        False
    """
    short = short_name(name)
    return _FIRST.sub("_01a", short, count=1) if _FIRST.match(short) else short


def import_folder(folder: str | Path, output: str | None = None) -> Imported:
    """Read all recipes of a folder as one over the models that none of them makes.

    Args:
        folder: Its own files count, not those of folders within.
        output: Which result to make, by its name or the start of it; None takes the one with most
            steps below it among those that nothing else reads.

    Raises:
        RecipeError: There is no recipe, two make one model, or they go in a circle.

    Example:
        >>> import_folder("nowhere")
        Traceback (most recent call last):
        ...
        stockpot.errors.RecipeError: nowhere: the folder cannot be read: No such file or directory
    """
    folder = Path(folder)
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES
                       and path.is_file() and not path.name.startswith("."))  # fmt: skip
    except OSError as error:
        raise one_problem("unreadable", f"the folder cannot be read: {error.strerror}",
                          str(folder)) from error  # fmt: skip
    if len(files) > _MAX_FILES:
        raise one_problem("too-large", f"a folder may have {_MAX_FILES} recipes, but this has "
                          f"{len(files)}", str(folder))  # fmt: skip
    recipes: list[tuple[Path, Imported]] = []
    tables: list[tuple[Path, Imported]] = []
    notes: list[Problem] = []
    for path in files:
        try:
            imported = import_file(path)
        except RecipeError as error:
            notes += [replace(p, code="not-imported") for p in error.problems[:1]]
            continue
        (tables if imported.facts.dialect == "autombw-table" else recipes).append((path, imported))
    notes.extend(_compare_tables(tables, recipes))
    return compose([imported for _, imported in recipes], str(folder), output, notes)


def _compare_tables(
    tables: list[tuple[Path, Imported]], recipes: list[tuple[Path, Imported]]
) -> Iterable[Problem]:
    """Say whether the text beside each table has the numbers of its best row."""
    lines = {i.facts.output: i for _, i in recipes if i.facts.dialect == "autombw"}
    for path, table in tables:
        beside = lines.get(table.facts.output)
        if beside is None:
            yield Problem("table-alone", "no recipe text beside it names its models", str(path),
                          "put modelA and modelB into a .recipe.txt")  # fmt: skip
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        best = recipe_order(best_row(text, str(path)).weights)
        ours = beside.recipe.mix["model"]
        if not isinstance(ours, Call) or ours.args[-1] != blocks("autombw-recipe", best):
            yield Problem("table-differs", "the recipe text has other numbers than the best row",
                          str(path), "find out which of them the file has")  # fmt: skip


def compose(
    parts: Iterable[Imported], source: str = "<recipes>", output: str | None = None,
    notes: Iterable[Problem] = (),
) -> Imported:  # fmt: skip
    """Join recipes: where one reads what another makes, put the one into the other.

    Args:
        parts: Each with one `model` in its mix; others are noted and left out.
        source: What to call them in messages.
        output: As for `import_folder`.
        notes: To put before those of the composition.

    Raises:
        RecipeError: As `import_folder`.

    Example:
        >>> from stockpot.recipes.importers import import_autombw
        >>> line = ",".join(["0.5"] * 27)
        >>> low = import_autombw(f"modelA=a\\nmodelB=b\\nmodelO=ab\\n{line}")
        >>> top = import_autombw(f"modelA=ab.ckpt\\nmodelB=c\\nmodelO=abc\\n{line}")
        >>> joined = compose([low, top])
        >>> list(joined.recipe.pool), list(joined.recipe.let), joined.facts.output
        (['a', 'b', 'c'], ['ab', 'abc'], 'abc')
    """
    builder = Builder(source, "folder")
    builder.notes += notes
    kept = []
    for part in parts:
        if part.facts.dialect != "stockpot" or len(part.recipe.mix) == 1:
            builder.notes += part.notes
        if list(part.recipe.mix) != ["model"]:
            builder.note("not-composed", "only recipes of one whole model compose, and this makes "
                         f"{', '.join(part.recipe.mix)}", part.facts.output)  # fmt: skip
            continue
        kept.append(part)
    if not kept:
        raise one_problem("empty", "there is no recipe to compose", source)
    made, by_hash = _outputs(builder, kept)
    sums: dict[str, Expr] = {}
    pool: dict[str, PoolEntry] = {}
    known: dict[str, str] = {}
    for index, part in enumerate(kept):
        names = {"": made[index][1]}
        for old in part.recipe.let:
            names[old] = by_hash.get((index, old), "") or builder.name(old)
        for old, entry in part.recipe.pool.items():
            names[old] = _found(entry, old, made, by_hash, known, pool, builder)
        for old, expression in part.recipe.let.items():
            sums[names[old]] = renamed(expression, names)
        sums[made[index][1]] = renamed(part.recipe.mix["model"], names)
    top = _top(builder, sums, [name for _, name in made], output)
    # What the chosen result does not read stays out; the pool keeps only what its steps name.
    below = _below(sums, top)
    lets = {name: expression for name, expression in sums.items() if name in below}
    read = {name for expression in lets.values() for name in names_in(expression)}
    pool = {name: entry for name, entry in pool.items() if name in read}
    mix = {"model": lets[top] if len(lets) == 1 else Name(top)}
    recipe = Recipe(pool, mix, lets if len(lets) > 1 else {}, Save(f"{top}.safetensors"))
    problems = [*recipe.problems(), *evaluate(recipe.pool, recipe.let, recipe.mix).problems]
    if problems:
        raise RecipeError([replace(p, where=builder.place(p.where)) for p in problems[:20]])
    holes = sum(entry.is_hole for entry in pool.values())
    used = [p for i, p in enumerate(kept) if made[i][1] in below]
    facts = Facts(
        f"folder of {len(kept)}", len(pool) - holes, sum(p.facts.n_steps for p in used),
        sum(p.facts.n_edges for p in used), holes,
        next((p.facts.layout for p in used if p.facts.layout), None), top,
        MappingProxyType({k: v for p in used for k, v in p.facts.candidates.items()}),
        MappingProxyType({k: v for p in used for k, v in p.facts.elections.items()}),
    )  # fmt: skip
    return Imported(recipe, facts, tuple(builder.notes))


def _outputs(
    builder: Builder, parts: list[Imported]
) -> tuple[list[tuple[str, str]], dict[tuple[int, str] | str, str]]:
    """Names for what each recipe makes, by their keys; and names of steps by their sha256."""
    made: list[tuple[str, str]] = []
    by_hash: dict[tuple[int, str] | str, str] = {}
    for index, part in enumerate(parts):
        key = model_key(part.facts.output or f"recipe {index + 1}")
        if any(key == other for other, _ in made):
            builder.refuse("repeated", f"two recipes make {key!r}", "", "rename one of them")
        made.append((key, builder.name(part.facts.output or f"recipe {index + 1}")))
    for index, part in enumerate(parts):
        origin = part.recipe.origin
        if origin is None or origin.format != "a1111":
            continue
        for name in part.recipe.let:
            digest = json.loads(origin.records.get(name, "{}")).get("sha256")
            if isinstance(digest, str):
                # Two recipes that went through one file share its step.
                if digest not in by_hash:
                    by_hash[digest] = builder.name(name)
                by_hash[index, name] = by_hash[digest]
    return made, by_hash


def _found(
    entry: PoolEntry, old: str, made: list[tuple[str, str]],
    by_hash: Mapping[tuple[int, str] | str, str], known: dict[str, str],
    pool: dict[str, PoolEntry], builder: Builder,
) -> str:  # fmt: skip
    """The step, or the entry of the joint pool, that an entry of one recipe is."""
    if entry.sha256 and entry.sha256 in by_hash:
        return by_hash[entry.sha256]
    key = model_key(entry.file or old)
    if not entry.is_hole:
        for other, name in made:
            if other == key:
                return name
        # An index alone, `02b`, stands for the one result that begins with it.
        near = [name for other, name in made if "-" not in key and other.startswith(f"{key}-")]
        if len(near) == 1:
            builder.note("inferred-name", f"{key!r} is taken to be {near[0]!r}")
            return near[0]
    token = entry.hash or entry.sha256 or (f"hole {len(pool)}" if entry.is_hole else f"name {key}")
    if token not in known:
        known[token] = builder.name(old)
        pool[known[token]] = entry
    return known[token]


def _below(sums: Mapping[str, Expr], top: str) -> set[str]:
    found, stack = set(), [top]
    while stack:
        name = stack.pop()
        if name not in found and name in sums:
            found.add(name)
            stack.extend(names_in(sums[name]))
    return found


def _top(builder: Builder, sums: Mapping[str, Expr], made: list[str], output: str | None) -> str:
    if output is not None:
        wanted = model_key(output)
        near = [n for n in made if model_key(n) == wanted] or [
            n for n in made if model_key(n).startswith(f"{wanted}-")
        ]
        if len(near) != 1:
            builder.refuse("unknown-name", f"{output!r} names {len(near)} of the results: "
                           f"{', '.join((near or made)[:20])}")  # fmt: skip
        return near[0]
    read = {name for expression in sums.values() for name in names_in(expression)}
    tops = [name for name in made if name not in read] or made
    best = max(tops, key=lambda name: len(_below(sums, name)))
    if len(tops) > 1:
        builder.note("several-results", f"{', '.join(sorted(tops))} are read by nothing; this "
                     f"makes {best}, which has most steps", "", "choose with --make")  # fmt: skip
    return best
