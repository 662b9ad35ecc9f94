"""What sd-mecha's methods are called here.

sd-mecha's methods work on deltas, ours on models and a base, so ``ties_sum(x - base, …)`` becomes
``ties(base, x, …) - base``. Methods that the table lacks are kept as `foreign`, with all that they
were given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TypeAlias, Union

from ..expressions import Call, Expr, Number, Text, is_bare
from ._base import Builder

__all__ = ["METHODS", "Argument", "Node", "apply_method", "finish_mix", "read_dictionary"]


@dataclass(frozen=True, slots=True)
class Node:
    """The value of a line.

    Attributes:
        expression: A model, a delta or a number; None for a plain value.
        delta: For a difference of two models, the two.
        value: A number or text that stands on a line of its own.
        words: A dictionary that is no number for each component, as it was written.
        picked: For one component of a model: the model and the component.
        otherwise: For such a component with the rest of another model: that model.
        is_lora: Whether it is an adapter and no model.
    """

    expression: Expr | None = None
    delta: tuple[Expr, Expr] | None = None
    value: Fraction | bool | str | None = None
    words: str | None = None
    picked: tuple[Expr, str] | None = None
    otherwise: Expr | None = None
    is_lora: bool = False


Argument: TypeAlias = Union[Node, Fraction, bool, str]  # noqa: UP007 - str stays unquoted
_Options = dict[str, Argument]


class _Step:
    """One call on its way: takes its options one by one, so that none is forgotten."""

    def __init__(
        self, builder: Builder, method: str, args: Sequence[Argument], options: _Options,
        dialect: str, where: str, wish: str,
    ) -> None:  # fmt: skip
        self.builder, self.method, self.dialect = builder, method, dialect
        self.where, self.wish = where, wish
        self.models = [a for a in args if isinstance(a, Node) and a.expression is not None]
        self.plain = [a for a in args if not (isinstance(a, Node) and a.expression is not None)]
        self.args, self.options = list(args), dict(options)

    def take(self, name: str, default: Argument | None = None) -> Expr:
        """A number by its name, else the next one by position, else the default."""
        if name in self.options:
            given = self.options.pop(name)
        elif self.plain:
            given = self.plain.pop(0)
        elif default is not None:
            given = default
        else:
            raise _NotSaid(f"`{name}` is not given")
        return self.number(given)

    def number(self, given: Argument) -> Expr:
        if isinstance(given, Node):
            if given.words is not None:
                raise _NotSaid("its weights differ within a component")
            if given.value is not None:
                return self.number(given.value)
            assert given.expression is not None
            return given.expression
        if isinstance(given, str):
            raise _NotSaid("a text stands where a number belongs")
        return Number(Fraction(given))

    def flag(self, name: str, default: bool) -> bool:
        given = self.options.pop(name, default)
        if isinstance(given, Node):
            given = given.value if given.value is not None else default
        return bool(given) and given != "false"

    def model(self, index: int) -> Expr:
        if index >= len(self.models) or self.models[index].picked:
            raise _NotSaid("a model is missing")
        expression = self.models[index].expression
        assert expression is not None
        return expression

    def deltas(self) -> tuple[Expr, list[Expr]]:
        """The base that all deltas share, and the models that they lead to."""
        pairs = [node.delta for node in self.models]
        if not pairs or None in pairs or len({pair[1] for pair in pairs if pair}) != 1:
            raise _NotSaid("its inputs are not differences from one base")
        found = [pair for pair in pairs if pair]
        return found[0][1], [pair[0] for pair in found]

    def rest(self) -> tuple[tuple[str, Expr], ...]:
        """Options that no rule asked for, word for word."""
        left = list(self.options.items())
        if any(isinstance(value, Node) and value.expression is not None for _, value in left):
            raise _NotSaid("a model stands where a number belongs")
        left += [(f"arg{i}", value) for i, value in enumerate(self.plain, start=1)]
        self.options, self.plain = {}, []
        return tuple((name, _verbatim(value)) for name, value in left)

    def result(self, expression: Expr) -> Node:
        if not self.wish:
            return Node(expression=expression)
        return Node(expression=self.builder.step(self.wish, expression))

    def delta(self, expression: Expr, base: Expr) -> Node:
        """A method's model, as the difference from the base that sd-mecha hands on."""
        name = self.builder.step(self.wish or "last step", expression)
        return Node(expression=name - base, delta=(name, base))

    def note(self, code: str, message: str, remedy: str = "") -> None:
        self.builder.note(code, message, self.where, remedy)


class _NotSaid(Exception):
    """The call means something that our functions do not say."""


def _weighted_sum(step: _Step) -> Node:
    a, b = step.model(0), step.model(1)
    return step.result(Call("weighted_sum", (a, b, step.take("alpha", Fraction(1, 2)))))


def _add_difference(step: _Step) -> Node:
    a, alpha = step.model(0), step.take("alpha", Fraction(1))
    if len(step.models) == 3:
        return step.result(Call("add_difference", (a, step.model(1), step.model(2), alpha)))
    pair = step.models[1].delta if len(step.models) > 1 else None
    if pair is not None:
        return step.result(Call("add_difference", (a, *pair, alpha)))
    return step.result(a + alpha * step.model(1))


def _subtract(step: _Step) -> Node:
    a, b = step.model(0), step.model(1)
    return Node(expression=a - b, delta=(a, b))


def _mean(step: _Step) -> Node:
    return step.result(Call("mean", tuple(step.model(i) for i in range(len(step.models)))))


def _interpolated(function: str) -> Callable[[_Step], Node]:
    def rule(step: _Step) -> Node:
        a, b = step.model(0), step.model(1)
        return step.result(Call(function, (a, b, step.take("alpha", Fraction(1, 2)))))

    return rule


def _elect(step: _Step) -> Text:
    """How signs are elected: the same words meant different things over the years."""
    said = "vote_sgn" in step.options
    vote = step.flag("vote_sgn", False)
    if step.dialect == "c":
        elect = "magnitude" if vote or not said else "count"
        why = "in this dialect `vote_sgn=true` is election by magnitude"
    else:
        elect = "count" if vote or not said else "magnitude"
        why = "in this dialect `vote_sgn=1.0` is election by count"
    if not said:
        why += "; the line does not say `vote_sgn`, and " + (
            "before there was one, signs were counted" if elect == "count"
            else "its default is taken to be that"
        )  # fmt: skip
    known = "TIES-SOUP (count)" if elect == "count" else "TIES (magnitude)"
    step.note("election", f"`{step.method}` elects signs as {known} does: {why}",
              "the words of `vote_sgn` changed their meaning between versions")  # fmt: skip
    step.builder.elections[step.where] = elect
    return Text(elect)


def _ties(step: _Step) -> Node:
    base, models = step.deltas()
    options = [("keep", step.take("k", Fraction(1, 5))), ("elect", _elect(step))]
    return step.delta(Call("ties", (base, *models), (*options, *step.rest())), base)


def _ties_dropout(step: _Step) -> Node:
    base, models = step.deltas()
    options: list[tuple[str, Expr]] = [("p", step.take("probability", Fraction(9, 10)))]
    options.append(("keep", step.take("k", Fraction(1, 5))))
    options.append(("elect", _elect(step)))
    # `no_rescale=1.0` became `rescale=0.0`.
    rescaled = not step.flag("no_rescale", False)
    if "rescale" in step.options:
        rescaled = step.flag("rescale", True)
    options.append(("rescale", Number(int(rescaled))))
    eps = step.take("della_eps", Fraction(0))
    stock, median = step.flag("apply_stock", False), step.flag("apply_median", False)
    function = "ties_dropout"
    if stock:
        step.note("changed-meaning", "`apply_stock` changed its meaning between versions; it is "
                  "kept as the centre of the elected differences",
                  "compare with the file that the source made")  # fmt: skip
    if median and not stock and not rescaled:
        function = "dgmla" if eps != Number(0) else "tgmd"
    else:
        if stock or median:
            options.append(("centre", Text("stock" if stock else "median")))
    if eps != Number(0):
        options.append(("eps", eps))
    for name in ("eps", "cos_eps"):
        # Guards against division by zero, not the exponent of DELLA.
        if name in step.options:
            options.append((f"{name}_guard", step.take(name)))
    return step.delta(Call(function, (base, *models), (*options, *step.rest())), base)


def _iso_z(step: _Step) -> Node:
    base, models = step.deltas()
    options = (("z", step.take("z" if "z" in step.options else "alpha", Fraction(0))),)
    return step.delta(Call("iso_z", (base, *models), (*options, *step.rest())), base)


def _model_stock(step: _Step) -> Node:
    base, models = step.deltas()
    return step.delta(Call("model_stock", (base, *models), step.rest()), base)


def _geometric_median(step: _Step) -> Node:
    try:
        base, models = step.deltas()
    except _NotSaid:
        models = [step.model(i) for i in range(len(step.models))]
        return step.result(Call("geometric_median", tuple(models), step.rest()))
    return step.delta(Call("geometric_median", tuple(models), step.rest()), base)


def _pick_component(step: _Step) -> Node:
    part = step.options.pop("component", None) or (step.plain.pop(0) if step.plain else None)
    ours = _COMPONENTS.get(part) if isinstance(part, str) else None
    if ours is None:
        raise _NotSaid("its component has no name here")
    if ours in ("te0", "te1") and step.builder.layout in ("sd1", "sd2"):
        ours = "te"
    picked = (step.model(0), ours)
    return Node(expression=Call("pick_component", (picked[0], Text(ours))), picked=picked)


def _fallback(step: _Step) -> Node:
    if len(step.models) == 2 and step.models[0].picked and not step.models[1].picked:
        rest = step.model(1)
        if not step.wish:
            return Node(picked=step.models[0].picked, otherwise=rest)
        model, part = step.models[0].picked
        only = Call("components", (), ((part, Number(1)),))
        return step.result(Call("lerp", (rest, model, only)))
    return step.result(step.model(0) | step.model(1))


_COMPONENTS = {
    "vae": "vae", "unet": "unet", "diffuser": "unet", "clip_l": "te0", "clip_g": "te1",
    "txt": "te0", "txt2": "te1",
}  # fmt: skip

#: sd-mecha's methods that have a meaning here, by their names in all dialects.
METHODS: Mapping[str, Callable[[_Step], Node]] = MappingProxyType(
    {
        "weighted_sum": _weighted_sum,
        "add_difference": _add_difference,
        "subtract": _subtract,
        "n_average": _mean,
        "slerp": _interpolated("slerp"),
        "cosine_add_a": _interpolated("cosine_a"),
        "cosine_add_b": _interpolated("cosine_b"),
        "ties_sum": _ties,
        "ties_sum_extended": _ties,
        "ties_sum_with_dropout": _ties_dropout,
        "model_stock_for_tensor": _model_stock,
        "model_stock": _model_stock,
        "geometric_median": _geometric_median,
        "isotropic_overrided": _iso_z,
        "pick_component": _pick_component,
        "fallback": _fallback,
    }
)


def apply_method(
    builder: Builder, method: str, args: Sequence[Argument], options: Mapping[str, Argument],
    dialect: str, where: str, wish: str,
) -> Node:  # fmt: skip
    """Turn a call into an expression.

    Args:
        builder: Receives the step and notes.
        method: sd-mecha's name.
        args: Values by position.
        options: Values by name.
        dialect: Of `DIALECTS`.
        where: The line.
        wish: Name for the step; empty for the last line.

    Returns:
        The result; as `foreign` with all arguments where our functions cannot say it.
    """
    step = _Step(builder, method, args, dict(options), dialect, where, wish)
    rule = METHODS.get(method)
    reason = "it is not known here"
    if rule is not None:
        try:
            node = rule(step)
            if not step.options and not step.plain:
                return node
            reason = f"`{next(iter(step.options), 'an argument')}` has no meaning here"
        except _NotSaid as error:
            reason = str(error)
    builder.note("unknown-method", f"`{method[:60]}` is kept as it was written: {reason}", where)
    # A text by position reads back as the name of a model, and a model's name as an option reads
    # back as a text: so models go by position, and all else by name.
    kept: list[Expr] = []
    named: list[tuple[str, Expr]] = []
    labelled = [(f"arg{i}", value) for i, value in enumerate(args, start=1)]
    for name, given in (*labelled, *options.items()):
        value = _verbatim(given)
        if isinstance(given, Node) and given.expression is not None:
            kept.append(value)
            if name in options:
                named.append((name, Text(f"argument {len(kept)}")))
        else:
            plain = name if is_bare(name) else f"option{len(named) + 1}"
            named.append((plain, value if plain == name else Text(f"{name}={_shown(given)}")))
    fresh = _Step(builder, method, (), {}, dialect, where, wish)
    return fresh.result(Call("foreign", (Text(f"sd-mecha: {method[:60]}"), *kept), tuple(named)))


def finish_mix(builder: Builder, node: Node) -> dict[str, Expr]:
    """Make the mix from the last line.

    Args:
        builder: Receives notes.
        node: The last line's value.

    Raises:
        RecipeError: It is no model.
    """
    if node.picked and node.otherwise is not None:
        model, part = node.picked
        return {"model": node.otherwise, part: model}
    if node.expression is None:
        builder.refuse("type", "the last line must be a model", "end")
    return {"model": node.expression}


_KEY = re.compile(r"(?:(sd1|sd2|sdxl)_)?(l14_txt|g14_txt|txt2|txt|unet|vae)_(?:class_|block_)?(.+)")
_UNET_BLOCK = re.compile(r"(in|m|out)(\d+)")


def read_dictionary(builder: Builder, options: Mapping[str, Argument], where: str) -> Node:
    """Turn a dictionary of weights into numbers by component, or by block, where it is that.

    Args:
        builder: Receives notes.
        options: Numbers by sd-mecha's names of blocks or kinds of layers.
        where: The line.
    """
    parts: dict[str, dict[str, Fraction]] = {}
    large = any(n.startswith(("sdxl_", "g14_", "txt2_")) for n in options)
    for name, value in options.items():
        match = _KEY.fullmatch(name)
        if match is None or not isinstance(value, Fraction):
            return _as_words(builder, options, where)
        if match[2] in ("unet", "vae"):
            part = match[2]
        elif not large:
            part = "te"
        else:
            part = "te1" if match[2] in ("g14_txt", "txt2") else "te0"
        parts.setdefault(part, {})[match[3]] = value
    if large:
        builder.layout = builder.layout or "sdxl"
    if any(len(set(numbers.values())) > 1 for numbers in parts.values()):
        return _as_words(builder, options, where)
    found = {part: next(iter(numbers.values())) for part, numbers in parts.items()}
    unsaid = [p for p in (("unet", "te0", "te1", "vae") if large else ("unet", "te", "vae"))
              if p not in found]  # fmt: skip
    if unsaid:
        builder.note("dictionary", f"the weights say nothing of {', '.join(unsaid)}: the first "
                     "model's stay", where)  # fmt: skip
    kept = tuple((part, Number(value)) for part, value in found.items() if value)
    return Node(expression=Call("components", (), kept) if kept else Number(0))


def _as_words(builder: Builder, options: Mapping[str, Argument], where: str) -> Node:
    return Node(words=" ".join(f"{name}={_shown(value)}" for name, value in options.items()))


def _shown(value: Argument) -> str:
    if isinstance(value, Node):
        return value.words or str(value.value) if value.expression is None else "a model"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _verbatim(value: Argument) -> Expr:
    """Anything as an expression: numbers as numbers, all else as the text that it was."""
    if isinstance(value, Node):
        if value.expression is not None:
            return value.expression
        if isinstance(value.value, Fraction) and not isinstance(value.value, bool):
            return Number(value.value)
        return Text(_shown(value) or "nothing")
    if isinstance(value, Fraction):
        return Number(value)
    return Text(_shown(value) or "nothing")
