"""Folding: a recipe of linear steps becomes one table of exact coefficients, block by model.

The table is made backwards: the weight of the whole, 1, flows from the last step to the first and
adds up at the models. Each step is passed once, so that a chain of a thousand merges over a
thousand models costs thousands of operations and not millions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from stockpot.errors import Problem, RecipeError, UnknownNameError
from stockpot.layouts import Cell, Layout

from .document import Recipe
from .errors import MissingModelError
from .evaluating import Evaluation, evaluate
from .numbers import number_text
from .rules import Program
from .values import Arithmetic, Fill, Leaf, Scalar, at, is_zero

__all__ = ["Difference", "Fold", "TableRow", "compare_folds", "fold"]

_ONE = Fraction(1)
_Row = Mapping[str, Fraction]


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
    coefficients: _Row


class Fold:
    """What each model of the pool contributes to each block, exactly.

    Made by `fold`.

    Attributes:
        recipe: What was folded.
        layout: Name of the layout whose cells the rows are.
        models: Names that some key may read, in the pool's order: those with a coefficient that is
            not zero, and those that only a `|` falls back on.
        rows: For each cell that the mix makes, the coefficients that are not zero, given that every
            model has the key.
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
        flows = {root: _flow(self._program, root, {}) for root in set(self._root.values())}
        self.rows: Mapping[Cell, _Row] = MappingProxyType(
            _share({cell: self._row(flows[root], cell) for cell, root in self._root.items()})
        )
        self._reach = {root: _reach(self._program, root) for root in flows}
        active = {name for row in self.rows.values() for name in row}
        for reached in self._reach.values():
            active |= reached
        self.models = tuple(name for name in self._program.pool if name in active)
        self._memo: dict[tuple[int, int, frozenset[str]], _Row] = {}
        self.warnings = tuple(_warnings(self, evaluation))

    def _row(self, flow: Mapping[str, Scalar], cell: Cell) -> _Row:
        i = self._index[cell]
        values = ((name, at(flow[name], i)) for name in self._program.pool if name in flow)
        return MappingProxyType({name: value for name, value in values if value})

    def coefficients(self, cell: Cell, present: frozenset[str] | None = None) -> _Row:
        """Give the coefficients for a key of a cell.

        Args:
            cell: A cell that the mix makes.
            present: Names of the models that have the key; None for all. A `|` takes its right
                side where its left reads a model that is not among them.

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
        reads = self._reach[root] | self.rows[cell].keys()
        missing = frozenset() if present is None else frozenset(reads - present)
        if not missing:
            return self.rows[cell]
        memo = (root, self._index[cell], missing)
        if memo not in self._memo:
            taken, lacking = _choose(self._program, root, self._index[cell], missing)
            if lacking:
                names = [name for name in self._program.pool if name in lacking]
                raise MissingModelError(names, str(cell))
            self._memo[memo] = self._row(_flow(self._program, root, taken), cell)
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
        mine, theirs = _identities(self, other), _identities(other, self)
        return all(
            _renamed(self.rows[cell], mine) == _renamed(other.rows[cell], theirs)
            for cell in self.rows
        )

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

        Example:
            >>> from stockpot.layouts import get_layout
            >>> from stockpot.recipes import fold, make_recipe
            >>> table = fold(make_recipe({"vae": "a"}, {"a": "a.ckpt"}), get_layout("sd1"))
            >>> table.to_json()["blocks"]["vae.decoder"]
            {'a': 1.0}
        """
        blocks = {
            str(cell): {name: float(value) for name, value in row.items()}
            for cell, row in self.rows.items()
        }
        return {"models": list(self.models), "blocks": blocks}


def fold(recipe: Recipe, layout: Layout) -> Fold:
    """Reduce a recipe to its table of exact coefficients.

    Args:
        recipe: Linear, without holes, its globs resolved.
        layout: Of the models: gives the cells and what `te` and `model` stand for.

    Raises:
        RecipeError: All problems at once: names, kinds, calls that are not linear, components or
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


def _flow(program: Program, root: int, right: Mapping[int, bool]) -> dict[str, Scalar]:
    """Let the weight 1 flow from a step to the models; `right` says which fills fall back."""
    work = Arithmetic()
    weights: dict[int, Scalar] = {root: _ONE}
    result: dict[str, Scalar] = {}
    for i in range(root, -1, -1):
        weight = weights.pop(i, None)
        if weight is None or is_zero(weight):
            continue
        op = program.ops[i]
        if isinstance(op, Leaf):
            for name in op.names:
                result[name] = work.add(result[name], weight) if name in result else weight
            continue
        terms: Sequence[tuple[Scalar, int]]
        terms = (
            [(_ONE, op.right if right.get(i) else op.left)] if isinstance(op, Fill) else op.terms
        )
        for factor, source in terms:
            part = weight if factor == 1 else work.multiply(factor, weight)
            weights[source] = work.add(weights[source], part) if source in weights else part
    return result


def _reach(program: Program, root: int) -> set[str]:
    """Names below the fills of a step: what a key that some model lacks may read."""
    below, beneath_fill, result = {root}, set[int](), set[str]()
    for i in range(root, -1, -1):
        if i not in below:
            continue
        op = program.ops[i]
        filled = i in beneath_fill
        if isinstance(op, Leaf):
            result |= set(op.names) if filled else set()
            continue
        sources: tuple[int, ...]
        if isinstance(op, Fill):
            sources, filled = (op.left, op.right), True
        else:
            sources = tuple(s for factor, s in op.terms if not is_zero(factor))
        below.update(sources)
        if filled:
            beneath_fill.update(sources)
    return result


def _choose(
    program: Program, root: int, cell: int, missing: frozenset[str]
) -> tuple[dict[int, bool], set[str]]:
    """Decide for every fill which side a key takes, and what is missing all the same.

    Only the coefficients of missing models matter for that, and those are few.
    """
    found: list[dict[str, Fraction]] = []
    right: dict[int, bool] = {}
    blamed: set[str] = set()
    for i, op in enumerate(program.ops[: root + 1]):
        if isinstance(op, Leaf):
            found.append({name: _ONE for name in op.names if name in missing})
        elif isinstance(op, Fill):
            right[i] = bool(found[op.left])
            found.append(found[op.right if right[i] else op.left])
            if right[i] and found[op.right]:
                blamed |= found[op.left].keys()
        else:
            total: dict[str, Fraction] = {}
            for factor, source in op.terms:
                for name, value in found[source].items():
                    total[name] = total.get(name, Fraction(0)) + at(factor, cell) * value
            found.append({name: value for name, value in total.items() if value})
    return right, (found[root].keys() | blamed) if found[root] else set()


def _share(rows: dict[Cell, _Row]) -> dict[Cell, _Row]:
    """Let equal rows be one object, so that callers can group cells by identity."""
    seen: dict[tuple[tuple[str, Fraction], ...], _Row] = {}
    return {cell: seen.setdefault(tuple(row.items()), row) for cell, row in rows.items()}


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


def _renamed(row: _Row, identities: Mapping[str, tuple[str, str]]) -> dict[object, Fraction]:
    result: dict[object, Fraction] = {}
    for name, value in row.items():
        key = identities[name]
        result[key] = result.get(key, Fraction(0)) + value
    return {key: value for key, value in result.items() if value}


def _warnings(fold: Fold, evaluation: Evaluation) -> list[Problem]:
    found = []
    totals: Counter[Fraction] = Counter()
    for row in fold.table():
        total = sum(row.coefficients.values(), Fraction(0))
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


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two tables differ.

    Attributes:
        label: First and last cell of a run.
        model: Its name in the first recipe, or in the second where the first lacks it.
        first: Its share in the one.
        second: Its share in the other.
    """

    label: str
    model: str
    first: Fraction
    second: Fraction


def compare_folds(first: Fold, second: Fold) -> list[Difference]:
    """List where two recipes differ: empty exactly where `Fold.same` holds.

    Args:
        first: A fold.
        second: Another, over the same layout.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> from stockpot.recipes import fold, make_recipe
        >>> pool, sd1 = {"a": "a.ckpt", "b": "b.ckpt"}, get_layout("sd1")
        >>> one = fold(make_recipe({"vae": "a"}, pool), sd1)
        >>> other = fold(make_recipe({"vae": "lerp(a, b, 0.25)"}, pool), sd1)
        >>> [(d.label, d.model, str(d.second - d.first)) for d in compare_folds(one, other)]
        [('vae.encoder … vae.decoder', 'a', '-1/4'), ('vae.encoder … vae.decoder', 'b', '1/4')]
    """
    mine, theirs = _identities(first, second), _identities(second, first)
    names: dict[object, str] = {}
    for identities in (theirs, mine):
        names |= {identity: name for name, identity in reversed(identities.items())}
    runs: list[tuple[list[Cell], dict[object, tuple[Fraction, Fraction]]]] = []
    cells = [*first.rows, *(cell for cell in second.rows if cell not in first.rows)]
    for cell in cells:
        a = _renamed(first.rows.get(cell, {}), mine)
        b = _renamed(second.rows.get(cell, {}), theirs)
        zero = Fraction(0)
        found = {key: (a.get(key, zero), b.get(key, zero)) for key in (*a, *b)
                 if a.get(key, zero) != b.get(key, zero)}  # fmt: skip
        if runs and runs[-1][1] == found and runs[-1][0][-1].component == cell.component:
            runs[-1][0].append(cell)
        else:
            runs.append(([cell], found))
    return [
        Difference(str(run[0]) if len(run) == 1 else f"{run[0]} … {run[-1]}", names[key], *shares)
        for run, found in runs
        for key, shares in found.items()
    ]
