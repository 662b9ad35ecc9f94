"""Folding: a recipe becomes one table of exact coefficients, block by model.

Linear steps dissolve in it. What a method makes has a share like a model, and what it reads is
folded as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from stockpot.errors import Problem, RecipeError, UnknownNameError
from stockpot.layouts import Cell, Layout

from .atoms import Atom, Called, Namer, Row, atoms_below, models_in
from .document import Recipe
from .errors import MissingModelError
from .evaluating import Evaluation, evaluate
from .flowing import Interned, RowMaker, choose, reach
from .numbers import number_text

__all__ = ["Fold", "TableRow", "fold", "namers"]


@dataclass(frozen=True, slots=True)
class TableRow:
    """Neighbouring cells that share their coefficients.

    Attributes:
        label: First and last cell, such as ``unet.IN00 … unet.IN11``.
        cells: All of them.
        coefficients: Share of each model; zeros are left out.
    """

    label: str
    cells: tuple[Cell, ...]
    coefficients: Row


class Fold:
    """What each model of the pool contributes to each block, exactly.

    Made by `fold`.

    Attributes:
        recipe: What was folded.
        layout: Name of the layout whose cells the rows are.
        models: Names that some key may read, in the pool's order: those with a coefficient that is
            not zero, and those that only a `|` falls back on.
        rows: For each cell that the mix makes, the coefficients that are not zero, given that every
            model has the key. Results of methods have coefficients as models do.
        calls: The methods that the rows need, those that others read first.
        adapters: Those of them that are adapters: differences, zero where they lack a key.
        warnings: What is allowed and yet looks like a slip.
    """

    def __init__(
        self, recipe: Recipe, layout: Layout, roots: Mapping[str, int], evaluation: Evaluation
    ) -> None:
        self.recipe, self.layout = recipe, layout.name
        self._program = evaluation.program
        self._index = {cell: i for i, cell in enumerate(layout.cells)}
        self._root = {
            cell: roots[cell.component] for cell in layout.cells if cell.component in roots
        }
        self._interned = Interned()
        make = RowMaker(self._program, self._interned)
        self.rows: Mapping[Cell, Row] = MappingProxyType(
            {cell: make.row(root, self._index[cell]) for cell, root in self._root.items()}
        )
        self._reach = {root: reach(self._program, root) for root in set(self._root.values())}
        self.calls = tuple(atoms_below(self.rows.values()))
        active = {name for row in self.rows.values() for name in models_in(row)}
        for reached in self._reach.values():
            active |= reached
        self.models = tuple(name for name in self._program.pool if name in active)
        self.adapters = evaluation.adapters & active
        self._makers: dict[tuple[frozenset[int], frozenset[str]], RowMaker] = {}
        self._memo: dict[tuple[int, int, frozenset[str]], Row] = {}
        self.warnings = tuple(_warnings(self, evaluation))

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """What has a share in some row: models in the pool's order, then results of methods."""
        found = dict.fromkeys(atom for row in self.rows.values() for atom in row)
        named = [name for name in self._program.pool if name in found]
        return (*named, *(atom for atom in found if isinstance(atom, Called)))

    def reads(self, cell: Cell) -> frozenset[str]:
        """Names of the models that a row reads, through methods too.

        Args:
            cell: A cell that the mix makes.
        """
        return frozenset(models_in(self.rows[cell]))

    def coefficients(self, cell: Cell, present: frozenset[str] | None = None) -> Row:
        """Give the coefficients for a key of a cell.

        Args:
            cell: A cell that the mix makes.
            present: Names of the models that have the key; None for all. A `|` takes its right
                side where its left reads a model that is not among them. An adapter that is not
                among them adds nothing.

        Returns:
            The models to read and their shares, in the pool's order, without zeros.

        Raises:
            MissingModelError: A model that is needed lacks the key, and no `|` covers that.
            UnknownNameError: The mix does not make this cell.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> from stockpot.recipes import fold, make_recipe
            >>> recipe = make_recipe("mean(a, b) | a", {"a": "a.ckpt", "b": "b.ckpt"})
            >>> table = fold(recipe, get_layout("sd1"))
            >>> {n: str(c) for n, c in table.coefficients(Cell("unet", "IN00")).items()}
            {'a': '1/2', 'b': '1/2'}
            >>> dict(table.coefficients(Cell("unet", "IN00"), frozenset("a")))
            {'a': Fraction(1, 1)}
        """
        if cell not in self._root:
            raise UnknownNameError("cell of the mix", str(cell), map(str, self.rows))
        root = self._root[cell]
        reads = self._reach[root] | self.reads(cell)
        missing = frozenset() if present is None else frozenset(reads - present)
        if not missing:
            return self.rows[cell]
        memo = (root, self._index[cell], missing)
        if memo not in self._memo:
            idle = missing & self.adapters
            taken, lacking = choose(self._program, root, self._index[cell], missing - idle)
            if lacking:
                names = [name for name in self._program.pool if name in lacking]
                raise MissingModelError(names, str(cell))
            kind = (frozenset(i for i, side in taken.items() if side), idle)
            if kind not in self._makers:
                self._makers[kind] = RowMaker(self._program, self._interned, taken, without=idle)
            self._memo[memo] = self._makers[kind].row(root, self._index[cell])
        return self._memo[memo]

    def same(self, other: Fold) -> bool:
        """Whether both make the same model, given files with equal sets of keys.

        Args:
            other: A fold over the same kind of layout. Pool entries count as equal if their hashes
                are; by name where one of the two has no hash.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> from stockpot.recipes import fold, make_recipe
            >>> pool, sd1 = {"a": "a.ckpt", "b": "b.ckpt"}, get_layout("sd1")
            >>> half = fold(make_recipe("0.5*a + 0.5*b", pool), sd1)
            >>> half.same(fold(make_recipe("mean(b, a)", pool), sd1))
            True
        """
        if self.rows.keys() != other.rows.keys():
            return False
        mine, theirs = namers(self, other)
        return all(mine.row(self.rows[cell]) == theirs.row(other.rows[cell]) for cell in self.rows)

    def table(self) -> list[TableRow]:
        """Group runs of neighbouring cells with equal coefficients, for people to read.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> from stockpot.recipes import fold, make_recipe
            >>> recipe = make_recipe({"unet": "a", "te": "b"}, {"a": "a.ckpt", "b": "b.ckpt"})
            >>> [row.label for row in fold(recipe, get_layout("sd1")).table()]
            ['unet.time_embed … unet.out', 'te.embeddings … te.final']
        """
        runs: list[list[Cell]] = []
        for cell, row in self.rows.items():
            last = runs[-1][-1] if runs else None
            if last and last.component == cell.component and self.rows[last] == row:
                runs[-1].append(cell)
            else:
                runs.append([cell])
        return [
            TableRow(
                str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}",
                tuple(run),
                self.rows[run[0]],
            )
            for run in runs
        ]

    def to_json(self) -> dict[str, Any]:
        """The table as plain numbers: ``{"models": […], "blocks": {"unet.IN00": {"a": 0.5}}}``.

        Results of methods stand under the text that says what they are.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> from stockpot.recipes import fold, make_recipe
            >>> table = fold(make_recipe({"vae": "a"}, {"a": "a.ckpt"}), get_layout("sd1"))
            >>> table.to_json()["blocks"]["vae.decoder"]
            {'a': 1.0}
        """
        blocks = {
            str(cell): {str(atom): float(value) for atom, value in row.items()}
            for cell, row in self.rows.items()
        }
        return {"models": list(self.models), "blocks": blocks}


def fold(recipe: Recipe, layout: Layout) -> Fold:
    """Reduce a recipe to its table of exact coefficients.

    Args:
        recipe: Without holes, its globs resolved.
        layout: Of the models: gives the cells and what `te` and `model` stand for.

    Raises:
        RecipeError: All problems at once: names, kinds, calls that no method does, components or
            profiles that the layout does not have.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("lerp(a, b, 0.3)", {"a": "a.safetensors", "b": "b.safetensors"})
        >>> table = fold(recipe, get_layout("sd1"))
        >>> [(name, str(c)) for name, c in table.rows[Cell("vae", "decoder")].items()]
        [('a', '7/10'), ('b', '3/10')]
    """
    problems = list(recipe.problems())
    evaluation = evaluate(recipe.pool, recipe.let, recipe.mix, layout)
    problems += [p for p in evaluation.problems if p not in problems]
    if any("*" in name for name in recipe.pool):
        problems.append(
            Problem("unresolved-glob", "the pool has patterns that stand for files not yet listed",
                    "pool", "call resolve_pool(folder) first")
        )  # fmt: skip
    roots: dict[str, int] = {}
    # The general first, so that the particular replaces it.
    for key in sorted(recipe.mix, key=lambda key: {"model": 0, "te": 1}.get(key, 2)):
        try:
            names = layout.component_names(key)
        except UnknownNameError as error:
            problems.append(Problem("unknown-component", str(error), f"mix.{key}"))
            continue
        if key in evaluation.roots:
            roots.update(dict.fromkeys(names, evaluation.roots[key]))
    if problems:
        raise RecipeError(problems)
    try:
        folded = Fold(recipe, layout, roots, evaluation)
    except ValueError as error:
        raise RecipeError([Problem("too-large", str(error), "mix")]) from error
    rejected = [name for name in folded.models if recipe.pool[name].status == "rejected"]
    if rejected:
        raise RecipeError(
            Problem("rejected", "a rejected model may be listed but not merged, and the mix reads "
                    f"it{_reason(recipe, name)}", f"pool.{name}",
                    "take it out of the mix, or change its status") for name in rejected
        )  # fmt: skip
    return folded


def _reason(recipe: Recipe, name: str) -> str:
    note = recipe.pool[name].note
    return f" ({note})" if note else ""


def _is_delta(atom: Atom) -> bool:
    return isinstance(atom, Called) and atom.invocation.delta


def _warnings(fold: Fold, evaluation: Evaluation) -> list[Problem]:
    found = []
    totals: Counter[Fraction] = Counter()
    for row in fold.table():
        shares = row.coefficients.items()
        total = sum(
            (v for atom, v in shares if not _is_delta(atom) and atom not in fold.adapters),
            Fraction(0),
        )
        totals[total] += 1
        if total != 1 and totals[total] == 1:
            # Number text may be long where it is odd; people need its size.
            shown = number_text(total) if total.denominator < 10**6 else f"{float(total):.6g}"
            found.append(
                Problem("sum-not-one", f"coefficients should sum to 1, but sum to {shown}",
                        row.label, "check the ratios, or ignore this if a scale is meant")
            )  # fmt: skip
    if evaluation.program.cancelled:
        found.append(Problem("self-difference", "a model is subtracted from itself", "mix",
                             "the difference is zero everywhere"))  # fmt: skip
    for name in fold.recipe.pool:
        if name not in fold.models and fold.recipe.pool[name].status != "rejected":
            found.append(
                Problem(
                    "unused-model",
                    "no expression of the mix reads it, or all its coefficients are 0",
                    f"pool.{name}",
                    "remove it from the pool, or check the ratios",
                )
            )
    for name in fold.recipe.let:
        if name not in evaluation.used_lets:
            found.append(
                Problem("unused-let", "no expression reads it", f"let.{name}", "remove it")
            )
    return found


def _identities(fold: Fold, other: Fold) -> dict[str, tuple[str, str]]:
    """What to know a model by: a hash where both sides have one, else the name."""
    theirs = other.recipe.pool
    result = {}
    for name, entry in fold.recipe.pool.items():
        twin = theirs.get(name)
        result[name] = ("name", name)
        # The content's hash goes before the file's: it survives edits of the metadata.
        for kind in ("hash", "sha256"):
            mine = getattr(entry, kind)
            if mine and (
                any(mine == getattr(e, kind) for e in theirs.values())
                or (twin and getattr(twin, kind))
            ):
                result[name] = (kind, mine)
                break
    return result


def namers(first: Fold, second: Fold) -> tuple[Namer, Namer]:
    """Make what names the atoms of two folds alike.

    Args:
        first: A fold.
        second: Another.
    """
    known: dict[object, int] = {}
    mine, theirs = _identities(first, second), _identities(second, first)
    return Namer(mine.__getitem__, known), Namer(theirs.__getitem__, known)
