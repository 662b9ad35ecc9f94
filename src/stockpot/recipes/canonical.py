"""The form of a recipe that does not depend on how its author happened to order things."""

from __future__ import annotations

from dataclasses import replace

from .document import Origin, Recipe
from .expressions import Call, Expr, Items
from .functions import find_function
from .printing import print_expression

__all__ = ["canonical"]


def canonical(recipe: Recipe) -> Recipe:
    """Order whatever has no order of its own: the pool, `let`, arguments of symmetric functions.

    Args:
        recipe: Any recipe.

    Returns:
        An equal recipe: it folds to the same table.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("mean(b, a)", {"b": "b.ckpt", "a": "a.ckpt"})
        >>> print(canonical(recipe).to_yaml(), end="")
        stockpot: 1
        pool:
          a: a.ckpt
          b: b.ckpt
        mix:
          model: mean(a, b)
    """
    ordered: dict[int, Expr] = {}
    origin = recipe.origin
    return replace(
        recipe,
        origin=origin and Origin(origin.format, dict(sorted(origin.records.items()))),
        pool=dict(sorted(recipe.pool.items())),
        let={name: _ordered(value, ordered) for name, value in sorted(recipe.let.items())},
        mix={name: _ordered(value, ordered) for name, value in sorted(recipe.mix.items())},
    )


def _ordered(root: Expr, done: dict[int, Expr]) -> Expr:
    """Rebuild from the leaves up, each node once; `done` is by identity, since nodes are shared."""
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in done:
            stack.pop()
            continue
        waiting = [child for child in node._children() if id(child) not in done]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        done[id(node)] = _rebuilt(node, done)
    return done[id(root)]


def _rebuilt(node: Expr, done: dict[int, Expr]) -> Expr:
    if isinstance(node, Items):
        return Items(tuple(done[id(item)] for item in node.items))
    if not isinstance(node, Call):
        return node
    args = [done[id(arg)] for arg in node.args]
    function = find_function(node.function)
    # A list of results has the order of its inputs, and something may count on that.
    if function is not None and function.symmetric and function.gives != "list":
        first = len(function.inputs) - 1
        fixed, free = args[:first], args[first:]
        if len(free) == 1 and isinstance(free[0], Items):
            free = [Items(tuple(sorted(free[0].items, key=print_expression)))]
        args = [*fixed, *sorted(free, key=print_expression)]
    options = tuple((name, done[id(value)]) for name, value in node.options)
    return Call(node.function, tuple(args), options)
