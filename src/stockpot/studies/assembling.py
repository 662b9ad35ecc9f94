"""Mixes that are made step by step in memory, as people merge files: rounded in between or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from stockpot.checkpoints import Source
from stockpot.compare import Place, compare
from stockpot.engine import Settings, merge_in_memory
from stockpot.recipes import Expr, PoolEntry, lerp, make_recipe, model
from stockpot.studies._base import Setting
from stockpot.studies.gallery import Made

__all__ = [
    "MADE", "Order", "assemble", "chain", "elements_apart", "expression", "file_type", "made_by",
    "tree", "weights_apart",
]  # fmt: skip

Order: TypeAlias = "str | tuple[Order, Order]"
"""A model, or two orders that are merged: each model of a mix has the same weight in the end."""

MADE = "made"
"""What recipes call the model that was assembled."""

_TYPES = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"}
_PIECE = 1 << 20
_PARTS = ("unet", "te", "te0", "te1")


def chain(names: Sequence[str]) -> Order:
    """One model after the other: ((a, b), c).

    Example:
        >>> chain("abc")
        (('a', 'b'), 'c')
    """
    order: Order = names[0]
    for name in names[1:]:
        order = (order, name)
    return order


def tree(names: Sequence[str]) -> Order:
    """Pairs, pairs of pairs …

    Example:
        >>> tree("abcd")
        (('a', 'b'), ('c', 'd'))
    """
    if len(names) == 1:
        return names[0]
    half = (len(names) + 1) // 2
    return (tree(names[:half]), tree(names[half:]))


def expression(order: Order) -> Expr:
    """The order as one expression, in which nothing is rounded.

    Example:
        >>> expression((("a", "b"), "c"))
        <lerp(lerp(a, b, 0.5), c, 1/3)>
    """
    if isinstance(order, str):
        return model(order)
    left, right = order
    share = Fraction(_size(right), _size(left) + _size(right))
    return lerp(expression(left), expression(right), share)


def assemble(
    setting: Setting, order: Order, between: str, *, te: str | None = None, reset: bool = False
) -> Source:
    """Merge step by step, and round what each step makes, as when each is saved.

    At most one intermediate a level of the order is in memory, and the models that a step reads
    are streamed.

    Args:
        setting: The models.
        order: Which are merged with which.
        between: Element type of the intermediates; the result has the files' own.
        te: Give every model this one's text encoder before it is merged.
        reset: With `te`: give it to the result only.

    Returns:
        The mix, in memory.
    """
    whole = te if not reset else None
    made = _step(setting, order, between, file_type(setting), whole)
    if te is None or not reset:
        return made
    return _merged(setting, {"unet": model("left"), "te": model("right")},
                   {"left": made, "right": setting.sources[te]}, file_type(setting))  # fmt: skip


def made_by(
    setting: Setting, order: Order, between: str, *, te: str | None = None, reset: bool = False
) -> Made:
    """Describe `assemble` to a gallery; see there for the arguments."""
    contents = {one.name: (one.unet, one.encoder) for one in setting.pool.members}
    key = f"{_contents(order, contents)} in {between}, {te and contents[te][1]} {reset}"
    return Made(key, lambda: {MADE: assemble(setting, order, between, te=te, reset=reset)})


def file_type(setting: Setting) -> str:
    """The element type of most weights of the pool's first model, in a recipe's words."""
    source = setting.sources[setting.whole[0]]
    counted: Counter[str] = Counter()
    for info in source.tensors.values():
        counted[info.dtype.name] += info.n_elements
    return next((_TYPES[name] for name, _ in counted.most_common() if name in _TYPES), "fp16")


def elements_apart(a: Source, b: Source) -> float:
    """Count the elements of two mixes whose bits differ.

    Args:
        a: One mix.
        b: Another one, of the same keys, types and shapes.

    Returns:
        A share, 0 to 1, of all that make pictures of both.
    """
    differing = total = 0
    for key, info in a.tensors.items():
        other = b.tensors.get(key)
        if other is None or other.dtype != info.dtype or other.shape != info.shape:
            continue
        size = info.dtype.itemsize
        for start in range(0, info.n_elements, _PIECE):
            stop = min(start + _PIECE, info.n_elements)
            rows = []
            for source in (a, b):
                out = bytearray((stop - start) * size)
                source.read_into(key, start, stop, memoryview(out))
                rows.append(np.frombuffer(out, np.uint8).reshape(-1, size))
            differing += int((rows[0] != rows[1]).any(axis=1).sum())
        total += info.n_elements
    return differing / total if total else 0.0


def weights_apart(setting: Setting, a: Source, b: Source) -> float:
    """The L2 distance of two mixes, over UNet and text encoders.

    Args:
        setting: Says how much memory there is.
        a: One mix.
        b: Another one.
    """
    found = compare({"a": a, "b": b}, by="component", memory=setting.memory)
    parts = [found.pairs(Place(part)).squared[0, 1] for part in found.components if part in _PARTS]
    return float(np.sqrt(np.nansum(parts)))


def _size(order: Order) -> int:
    return 1 if isinstance(order, str) else _size(order[0]) + _size(order[1])


def _contents(order: Order, contents: Mapping[str, tuple[str, str]]) -> str:
    if isinstance(order, str):
        return "/".join(contents[order])
    return f"({_contents(order[0], contents)} {_contents(order[1], contents)})"


def _step(setting: Setting, order: Order, between: str, dtype: str, te: str | None) -> Source:
    if isinstance(order, str):
        if te is None:
            return setting.sources[order]
        parts = {"unet": model("left"), "te": model("right")}
        sources = {"left": setting.sources[order], "right": setting.sources[te]}
        return _merged(setting, parts, sources, dtype)
    left, right = (_step(setting, each, between, between, te) for each in order)
    share = Fraction(_size(order[1]), _size(order))
    both = lerp(model("left"), model("right"), share)
    return _merged(setting, {"unet": both, "te": both}, {"left": left, "right": right}, dtype)


def _merged(
    setting: Setting, mix: Mapping[str, Expr], sources: Mapping[str, Source], dtype: str
) -> Source:
    vae = setting.pool.vae
    # Whatever the pool calls its models, these names are free.
    all_sources = {**sources, "vae source": setting.sources[vae]}
    recipe = make_recipe(
        {**mix, "vae": model("vae source")},
        {name: PoolEntry("(in memory)") for name in all_sources},
    )
    settings = Settings(memory=setting.memory, hashes=False)
    return merge_in_memory(recipe, all_sources, dtype=dtype, settings=settings)
