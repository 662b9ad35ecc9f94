"""Calls of methods in a recipe that is folded: what they are given, and what they expand to.

A method becomes one step of the program; a composed function becomes the steps of the functions
that it is written with, so that `ties(base, a, b)` and its spelled-out form are one recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

from stockpot.errors import UnknownNameError

from .functions import FUNCTIONS
from .numbers import number_text
from .rules import Program, RuleError, describe
from .signatures import Function, Parameter
from .values import (
    Amount,
    Invoke,
    Listing,
    Mixture,
    Names,
    Output,
    Scalar,
    Value,
    Word,
)

__all__ = ["call_rule"]

_ONE = Fraction(1)


def call_rule(
    program: Program, function: Function, args: Sequence[Value], options: Mapping[str, Value]
) -> Value:
    """Apply a method or a composed function.

    Args:
        program: Receives the steps.
        function: Its row in the table.
        args: Values by position.
        options: Values by name.

    Raises:
        RuleError: Something is missing, too much, of another kind, or out of range.
    """
    call = _Call(program, function, args, options)
    if function.kind == "composed":
        return _EXPANSIONS[function.name](call)
    results = call.invoke(function, call.inputs, call.numbers, call.words)
    return Listing(tuple(results)) if function.gives == "list" else results[0]


class _Call:
    """The arguments of one call, sorted out."""

    def __init__(
        self, program: Program, function: Function, args: Sequence[Value],
        options: Mapping[str, Value],
    ) -> None:  # fmt: skip
        self.program, self.function = program, function
        self.numbers: dict[str, Scalar] = {}
        self.words: dict[str, str] = {}
        given = self._bind(args, options)
        for option in function.options:
            self._take(option, given.pop(option.name, None))
        self.named: dict[str, Mixture] = {}
        self.free: list[Mixture] = []
        for name in function.inputs:
            if name.startswith("*"):
                for value in given.pop(name, Listing(())).items:  # type: ignore[union-attr]
                    self._collect(value)
                if not self.free and not program.lenient:
                    raise self._wrong("needs at least one model")
            else:
                self.named[name] = self._model(given.pop(name), name)
        self.inputs = [*self.named.values(), *self.free]
        self._check_kinds()

    def _bind(self, args: Sequence[Value], options: Mapping[str, Value]) -> dict[str, Value]:
        function = self.function
        known = {*function.parameters, *(option.name for option in function.options)}
        names = [name for name in function.parameters if not name.startswith("*")]
        optional = {option.name for option in function.options if option.default is not None}
        given: dict[str, Value] = dict(zip(names, args, strict=False))
        rest = tuple(args[len(names) :])
        starred = next((name for name in function.parameters if name.startswith("*")), None)
        strange = sorted(options.keys() - {name for name in known if not name.startswith("*")})
        if strange:
            plain = [name for name in known if not name.startswith("*")]
            error = UnknownNameError(f"option of `{function.name}`", strange[0], plain)
            raise RuleError(str(error), f"write {function.signature}", "arguments")
        if (rest and starred is None) or given.keys() & options.keys():
            raise self._wrong(f"takes {len(names)} arguments, but got {len(args) + len(options)}")
        if starred is not None:
            given[starred] = Listing(rest)
        given |= options
        if function.inputs == ("base", "a") and len(args) == 1 and "a" not in given:
            # The result of a method knows its base: iso_z(dgmla(base, …)).
            value = given["base"]
            if not isinstance(value, Mixture) or value.base is None:
                raise self._wrong("needs the base and a model, or the result of a method that has "
                                  "a base")  # fmt: skip
            given |= {"a": value, "base": value.base}
        lacking = [
            name
            for name in (*names, *(option.name for option in function.options))
            if name not in given and name not in optional
        ]
        if lacking:
            raise self._wrong(f"needs `{lacking[0]}`")
        return given

    def _wrong(self, what: str) -> RuleError:
        return RuleError(
            f"`{self.function.name}` {what}", f"write {self.function.signature}", "arguments"
        )

    def _take(self, option: Parameter, value: Value | None) -> None:
        where = f"`{option.name}` of `{self.function.name}`"
        if option.kind == "word":
            word = value.text if isinstance(value, Word) else option.default
            if (value is not None and not isinstance(value, Word)) or word not in option.words:
                got = f"{value.text!r}" if isinstance(value, Word) else "something else"
                listed = " or ".join(f'"{word}"' for word in option.words)
                raise RuleError(f"{where} must be {listed}, but got {got}", code="arguments")
            self.words[option.name] = str(word)
            return
        if value is None:
            assert isinstance(option.default, Fraction)
            self.numbers[option.name] = option.default
            return
        if not isinstance(value, Amount):
            raise RuleError(f"{where} must be a number, but got {describe(value)}")
        number = value.value
        every = () if number is None else number if isinstance(number, tuple) else (number,)
        if option.kind == "whole" and isinstance(number, tuple):
            raise RuleError(f"{where} must be one number, but got block weights")
        for one in every:
            low, high = option.low, option.high
            bad = (low is not None and one < low) or (high is not None and one > high)
            if bad or (option.kind == "whole" and one.denominator != 1):
                what = "a whole number, " if option.kind == "whole" else ""
                raise RuleError(f"{where} must be {what}{option.range_text}, but got "
                                f"{number_text(one)}", code="arguments")  # fmt: skip
        self.numbers[option.name] = number

    def _model(self, value: Value, name: str) -> Mixture:
        if isinstance(value, Mixture):
            return value
        remedy = "average it: mean(…)" if isinstance(value, Names | Listing) else ""
        raise RuleError(f"`{name}` of `{self.function.name}` must be a model, but got "
                        f"{describe(value)}", remedy)  # fmt: skip

    def _collect(self, value: Value | None) -> None:
        pending: list[Value | None] = [value]
        while pending:
            self.program.arithmetic.spend(1)
            item = pending.pop()
            if isinstance(item, Listing):
                pending.extend(reversed(item.items))
            elif isinstance(item, Names):
                self.free += [self.program.leaf(name) for name in item.names]
            elif item is not None:
                self.free.append(self._model(item, "an argument"))

    def _check_kinds(self) -> None:
        if self.function.name in ("iso_c", "iso_z"):
            return
        takes = self.function.takes
        totals = [m.total for m in self.inputs]
        if takes == "either":
            if any(t == 1 for t in totals) and any(t == 0 for t in totals):
                raise RuleError(
                    f"`{self.function.name}` takes models, or differences of models, but got some "
                    "of each", "add a difference to a model first: a + (b - c)",
                )  # fmt: skip
        elif takes == "models" and any(t == 0 for t in totals):
            raise RuleError(
                f"`{self.function.name}` takes models, but got a difference of models",
                "add it to a model first: a + (b - c)",
            )
        elif takes == "deltas" and any(t == 1 for t in totals):
            raise RuleError(
                f"`{self.function.name}` takes differences of models, but got a model",
                "subtract a base first: a - base",
            )

    def deltas(self) -> list[Mixture]:
        """The models as differences from the base."""
        base = self.named["base"]
        return [self.minus(model, base) for model in self.free]

    def minus(self, model: Mixture, base: Mixture) -> Mixture:
        return self.program.mix((_ONE, model), (Fraction(-1), base))

    def based(self, delta: Mixture, scale: Scalar = None) -> Mixture:
        """The base plus a scaled delta."""
        base = self.named["base"]
        scale = self.numbers["scale"] if scale is None else scale
        return replace(self.program.mix((_ONE, base), (scale, delta)), base=base)

    def mean(self, deltas: Sequence[Mixture]) -> Mixture:
        share = Fraction(1, len(deltas))
        return self.program.mix(*((share, delta) for delta in deltas))

    def run(self, name: str, inputs: Sequence[Mixture], **changed: Scalar | str) -> list[Mixture]:
        """Call another function with this one's options, where it has such, or with others."""
        function = FUNCTIONS[name]
        numbers: dict[str, Scalar] = {}
        words: dict[str, str] = {}
        for option in function.options:
            value = changed.get(option.name)
            if option.kind == "word":
                words[option.name] = str(value or self.words.get(option.name) or option.default)
            elif value is not None and not isinstance(value, str):
                numbers[option.name] = value
            else:
                default = option.default if isinstance(option.default, Fraction) else None
                numbers[option.name] = self.numbers.get(option.name, default)
        return self.invoke(function, inputs, numbers, words)

    def invoke(
        self, function: Function, inputs: Sequence[Mixture], numbers: Mapping[str, Scalar],
        words: Mapping[str, str],
    ) -> list[Mixture]:  # fmt: skip
        """Add the step of a method, and one for each of its results."""
        program = self.program
        program.arithmetic.spend(1 + len(inputs))
        delta = function.takes == "deltas" or any(m.total == 0 for m in inputs)
        call = program.step(
            Invoke(
                function.name,
                tuple(m.op for m in inputs),
                tuple(sorted(numbers.items())),
                tuple(sorted(words.items())),
                delta,
            )
        )
        total = Fraction(0) if delta else _ONE
        count = len(inputs) if function.gives == "list" else 1
        return [Mixture(program.step(Output(call, i)), total) for i in range(count)]


def _task_arithmetic(call: _Call) -> Value:
    scale = call.numbers["scale"]
    total = call.program.mix(*((_ONE, delta) for delta in call.deltas()))
    return call.based(total, scale)


def _amplify(call: _Call) -> Value:
    t = call.numbers["t"]
    work = call.program.arithmetic
    rest = work.add(_ONE, work.multiply(Fraction(-1), t))
    return call.program.mix((rest, call.named["a"]), (t, call.named["b"]))


def _basin_sum(call: _Call) -> Value:
    t = call.numbers["t"]
    work = call.program.arithmetic
    rest = work.add(_ONE, work.multiply(Fraction(-1), t))
    a, b = call.named["a"], call.named["b"]
    (moved,) = call.run("rebasin", [a, b])
    shares = (t, a), (work.multiply(t, rest), b), (work.multiply(rest, rest), moved)
    return call.program.mix(*shares)


def _trimmed(call: _Call, deltas: list[Mixture]) -> list[Mixture]:
    if call.numbers["keep"] == 1 and call.numbers.get("cut", 0) == 0:
        return deltas
    return call.run("trimmed", deltas)


def _masked(call: _Call, deltas: list[Mixture]) -> list[Mixture]:
    if call.numbers["p"] == 0 and call.numbers.get("eps", 0) == 0:
        return deltas
    return call.run("masked", deltas)


def _ties(call: _Call) -> Value:
    elected = call.run("elected", _trimmed(call, call.deltas()))
    return call.based(call.run("kept_mean", elected)[0])


def _dropped(call: _Call) -> Value:
    return call.based(call.mean(_masked(call, call.deltas())))


def _dare(call: _Call) -> Value:
    call.numbers["rescale"] = _ONE
    return _dropped(call)


def _breadcrumbs(call: _Call) -> Value:
    return call.based(call.mean(_trimmed(call, call.deltas())))


def _model_stock(call: _Call) -> Value:
    return call.based(call.run("stock", call.deltas())[0], _ONE)


_CENTRES = {"mean": "kept_mean", "stock": "stock", "median": "geometric_median"}


def _ties_dropout(call: _Call) -> Value:
    centre = _CENTRES[call.words.get("centre", "median")]
    elected = call.run("elected", _trimmed(call, _masked(call, call.deltas())))
    return call.based(call.run(centre, elected)[0])


def _iso(call: _Call) -> Value:
    base, model = call.named["base"], call.named["a"]
    if base.total == 0 or model.total == 0:
        raise RuleError(f"`{call.function.name}` takes a base and a model, but got a difference",
                        "write isotropic(a - base, z=0.8) for a difference alone")  # fmt: skip
    z = call.numbers.get("z", Fraction(0))
    return call.based(call.run("isotropic", [call.minus(model, base)], z=z)[0], _ONE)


def _smooth_add(call: _Call) -> Value:
    a, b, c = (call.named[name] for name in "abc")
    smoothed = call.run("smoothed", [call.minus(b, c)])[0]
    return call.program.mix((_ONE, a), (call.numbers["t"], smoothed))


#: What composed functions are written with.
_EXPANSIONS: Mapping[str, Callable[[_Call], Value]] = MappingProxyType(
    {
        "amplify": _amplify,
        "basin_sum": _basin_sum,
        "task_arithmetic": _task_arithmetic,
        "ties": _ties,
        "ties_soup": _ties,
        "dare": _dare,
        "drop": _dropped,
        "della": _dropped,
        "breadcrumbs": _breadcrumbs,
        "model_stock": _model_stock,
        "tgmd": _ties_dropout,
        "dgmla": _ties_dropout,
        "ties_dropout": _ties_dropout,
        "iso_c": _iso,
        "iso_z": _iso,
        "smooth_add": _smooth_add,
    }
)
