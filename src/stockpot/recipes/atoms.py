"""What a folded row counts: models of the pool, and results of methods over folded rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from .functions import find_function
from .numbers import number_text

__all__ = ["Atom", "Called", "Invocation", "Namer", "Row", "atoms_below", "models_in"]


@dataclass(frozen=True, eq=False, repr=False)
class Invocation:
    """A method over folded rows, in one cell. One fold makes each only once.

    Attributes:
        function: Name of the method.
        version: Of what it computes.
        parameters: Its numbers and words by name, none left out.
        inputs: What it reads: for each input the share of every atom.
        delta: Whether it gives differences of models.
        models: Names of all models below.

    Example:
        >>> half = {"a": Fraction(1, 2), "b": Fraction(1, 2)}
        >>> print(Invocation("median", 1, {}, (half, {"a": Fraction(1)}, {"b": Fraction(1)})))
        median(3 inputs)
    """

    function: str
    version: int
    parameters: Mapping[str, Fraction | str]
    inputs: tuple[Row, ...]
    delta: bool = False
    models: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        found = frozenset(name for row in self.inputs for name in models_in(row))
        object.__setattr__(self, "models", found)

    def __str__(self) -> str:
        return self._text(self._inputs_text())

    def __repr__(self) -> str:
        return f"<{self}>"

    def _text(self, inputs: str) -> str:
        parts = [f"{name}={_text(value)}" for name, value in self.parameters.items()]
        return f"{self.function}({', '.join([inputs, *parts])})"

    def _inputs_text(self) -> str:
        """A chain of methods shows as one; all else is counted."""
        atoms = {atom for row in self.inputs for atom in row}
        calls = {atom.invocation for atom in atoms if isinstance(atom, Called)}
        if len(calls) == 1 and len(atoms) == len(self.inputs) and not atoms & self.models:
            return str(next(iter(calls)))
        return f"{len(self.inputs)} input{'s' if len(self.inputs) != 1 else ''}"


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Called:
    """One result of a method.

    Attributes:
        invocation: The method, with all that it reads.
        output: Which of its results, counted from 0; methods that give a model have one.

    Example:
        >>> delta = {"a": Fraction(1), "base": Fraction(-1)}
        >>> print(Called(Invocation("elected", 1, {"elect": "count"}, (delta, delta)), 1))
        elected(a - base of 2 inputs, elect=count)
    """

    invocation: Invocation
    output: int = 0

    def __str__(self) -> str:
        call = self.invocation
        row = find_function(call.function)
        if row is None or row.gives != "list":
            return str(call)
        return call._text(f"{_row_text(call.inputs[self.output])} of {call._inputs_text()}")

    def __repr__(self) -> str:
        return f"<{self}>"


#: What has a share in a row: the name of a model, or a result of a method.
Atom: TypeAlias = "str | Called"
Row: TypeAlias = "Mapping[Atom, Fraction]"


def models_in(row: Row) -> Iterable[str]:
    """Names of the models that a row reads, itself or through methods; some may come twice.

    Example:
        >>> median = Invocation("median", 1, {}, ({"b": Fraction(1)}, {"c": Fraction(1)}))
        >>> sorted(models_in({"a": Fraction(1), Called(median): Fraction(2)}))
        ['a', 'b', 'c']
    """
    for atom in row:
        if isinstance(atom, str):
            yield atom
        else:
            yield from atom.invocation.models


def atoms_below(rows: Iterable[Row]) -> list[Invocation]:
    """List the methods that rows need, each once, those that others read first.

    Example:
        >>> inner = Invocation("median", 1, {}, ({"a": Fraction(1)}, {"b": Fraction(1)}))
        >>> outer = Invocation("isotropic", 1, {}, ({Called(inner): Fraction(1)},))
        >>> [call.function for call in atoms_below([{Called(outer): Fraction(1)}])]
        ['median', 'isotropic']
    """
    done: dict[Invocation, None] = {}
    stack = [atom.invocation for row in rows for atom in row if isinstance(atom, Called)]
    while stack:
        call = stack[-1]
        waiting = [
            atom.invocation
            for row in call.inputs
            for atom in row
            if isinstance(atom, Called) and atom.invocation not in done
        ]
        if call in done or not waiting:
            done.setdefault(call)
            stack.pop()
        else:
            stack.extend(waiting)
    return list(done)


class Namer:
    """Names atoms by what they are, so that rows of two folds can be compared.

    Args:
        identify: What to know a model by.
        known: Numbers of the calls met so far; shared by the namers of both folds.

    Example:
        >>> call = Invocation("median", 1, {}, ({"a": Fraction(1)}, {"b": Fraction(1)}))
        >>> twin = Invocation("median", 1, {}, ({"b": Fraction(1)}, {"a": Fraction(1)}))
        >>> known = {}
        >>> one, other = Namer(str, known), Namer(str, known)
        >>> one.row({Called(call): Fraction(1)}) == other.row({Called(twin): Fraction(1)})
        True
    """

    def __init__(self, identify: Callable[[str], object], known: dict[object, int]) -> None:
        self._identify, self._known = identify, known
        self._numbers: dict[Invocation, int] = {}

    def row(self, row: Row) -> dict[object, Fraction]:
        """Put names in the place of a row's atoms; shares of equal ones add up.

        Args:
            row: Any row of the fold.
        """
        for call in atoms_below([row]):
            if call not in self._numbers:
                structure = (call.function, call.version, frozenset(call.parameters.items()),
                             *self._inputs(call))  # fmt: skip
                self._numbers[call] = self._known.setdefault(structure, len(self._known))
        result: dict[object, Fraction] = {}
        for atom, value in row.items():
            key = self._identify(atom) if isinstance(atom, str) else self._result(atom)
            result[key] = result.get(key, Fraction(0)) + value
        return {key: value for key, value in result.items() if value}

    def _result(self, atom: Called) -> object:
        call = atom.invocation
        function = find_function(call.function)
        if function is None or function.gives != "list":
            return ("call", self._numbers[call])
        # Which of equal inputs a result belongs to makes a difference only for masks of twins.
        inputs = [self._frozen(row) for row in call.inputs]
        own = inputs[atom.output]
        return ("call", self._numbers[call], own, inputs[: atom.output].count(own))

    def _inputs(self, call: Invocation) -> list[object]:
        inputs: list[object] = [self._frozen(row) for row in call.inputs]
        function = find_function(call.function)
        if function is not None and function.symmetric:
            first = len(function.inputs) - 1
            free = inputs[first:]
            counts = Counter(free)
            inputs = [*inputs[:first], frozenset(counts.items())]
        return inputs

    def _frozen(self, row: Row) -> frozenset[tuple[object, Fraction]]:
        return frozenset(self.row(row).items())


def _text(value: Fraction | str) -> str:
    if isinstance(value, str):
        return value
    return number_text(value) if value.denominator < 10**9 else f"{float(value):.6g}"


def _row_text(row: Row) -> str:
    """A row in a few words: what it adds and takes away."""
    if len(row) > 3:
        return f"a sum of {len(row)}"
    parts = []
    for atom, weight in row.items():
        size = "" if abs(weight) == 1 else f"{_text(abs(weight))}*"
        name = atom if isinstance(atom, str) else atom.invocation.function
        parts.append(f"{'- ' if weight < 0 else '+ '}{size}{name}")
    return " ".join(sorted(parts, key=lambda part: part[0] == "-")).removeprefix("+ ")
