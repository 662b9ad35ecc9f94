"""The same expression over other names."""

from __future__ import annotations

from collections.abc import Mapping

from .document import Recipe
from .expressions import Call, Expr, Items, Name, Text
from .globs import matches

__all__ = ["adapters_in", "functions_in", "models_below", "names_in", "renamed", "walk"]


def walk(root: Expr) -> list[Expr]:
    """List the nodes of an expression, each once, the children before what reads them.

    Args:
        root: Any expression; shared parts are visited once.

    Example:
        >>> walk(Name("a") + 2 * Name("b"))
        [<a>, <2>, <b>, <2*b>, <a + 2*b>]
    """
    done: dict[int, Expr] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        waiting = [child for child in node._children() if id(child) not in done]
        if id(node) in done or not waiting:
            done.setdefault(id(node), node)
            stack.pop()
        else:
            stack.extend(reversed(waiting))
    return list(done.values())


def names_in(root: Expr) -> list[str]:
    """List the names that an expression reads, in their order.

    Args:
        root: Any expression.

    Example:
        >>> names_in(Name("b") + Name("a") + Name("b"))
        ['b', 'a']
    """
    return list(dict.fromkeys(node.name for node in walk(root) if isinstance(node, Name)))


def functions_in(recipe: Recipe) -> set[str]:
    """Collect the functions and operators that a recipe calls, in steps that nothing reads too.

    Args:
        recipe: Any recipe.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> sorted(functions_in(make_recipe("mean(a, b) | b", {"a": "a.ckpt", "b": "b.ckpt"})))
        ['fill', 'mean']
    """
    roots = (*recipe.let.values(), *recipe.mix.values())
    return {node.function for root in roots for node in walk(root) if isinstance(node, Call)}


def renamed(root: Expr, names: Mapping[str, str]) -> Expr:
    """Put other names in the place of some.

    Args:
        root: Any expression.
        names: New names by old ones; others stay.

    Example:
        >>> renamed(Name("a") + Name("b"), {"a": "x"})
        <x + b>
    """
    done: dict[int, Expr] = {}
    for node in walk(root):
        new: Expr = node
        if isinstance(node, Name):
            new = Name(names.get(node.name, node.name))
        elif isinstance(node, Items):
            new = Items(tuple(done[id(item)] for item in node.items))
        elif isinstance(node, Call):
            options = tuple((name, done[id(value)]) for name, value in node.options)
            new = Call(node.function, tuple(done[id(arg)] for arg in node.args), options)
        done[id(node)] = new
    return done[id(root)]


def models_below(recipe: Recipe, key: str | None = None) -> set[str]:
    """Collect the models that a mix reads, through any number of steps.

    Args:
        recipe: Any recipe.
        key: One key of its mix; None for all.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> recipe = make_recipe("x", {"a": "a.ckpt", "b": "b.ckpt"}, let={"x": "2*a"})
        >>> models_below(recipe)
        {'a'}
    """
    roots = recipe.mix.values() if key is None else [recipe.mix[key]]
    stack = [name for root in roots for name in _read_by(root, recipe)]
    found: set[str] = set()
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(_read_by(recipe.let[name], recipe) if name in recipe.let else ())
    return set(recipe.pool) if "pool" in found else found & recipe.pool.keys()


def adapters_in(recipe: Recipe) -> frozenset[str]:
    """Collect the entries of the pool that stand in a `lora(…)`.

    Args:
        recipe: Any recipe.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> pool = {"a": "a.safetensors", "ink": "ink.safetensors"}
        >>> sorted(adapters_in(make_recipe("a + 0.8*lora(ink)", pool)))
        ['ink']
    """
    from .evaluating import evaluate

    if not any(name == "lora" for name in functions_in(recipe)):
        return frozenset()
    return evaluate(recipe.pool, recipe.let, recipe.mix).adapters


def _read_by(root: Expr, recipe: Recipe) -> list[str]:
    """The names that an expression reads, those that its patterns stand for among them."""
    found = names_in(root)
    for node in walk(root):
        if isinstance(node, Call) and node.function == "glob":
            patterns = [arg.value for arg in node.args if isinstance(arg, Text)]
            found += [name for name in recipe.pool for p in patterns if matches(p, name)]
    return found
