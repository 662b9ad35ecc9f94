"""Pictures of a recipe as SVG text: the shares as a heat map, the steps as a graph.

Written by hand, since two kinds of shapes and a few texts need no library. All text that comes
from a recipe is escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from fractions import Fraction

from .document import Recipe
from .errors import one_problem
from .expressions import Call, Expr, Name
from .folding import Fold
from .functions import FUNCTIONS
from .numbers import number_text
from .printing import abbreviate
from .renaming import names_in

__all__ = ["MAX_DRAWN", "draw_graph", "draw_shares", "escape"]

#: Most models, rows or steps in one picture.
MAX_DRAWN = 2_000
_MINOR = ("ema", "other", "unknown")
_FONT = "font-family='DejaVu Sans, Verdana, sans-serif' font-size='11'"
_NODE_WIDTH, _NODE_HEIGHT, _STEP_X, _STEP_Y = 190, 34, 260, 46
_FILLS = {"pool": "#e8eef7", "hole": "#fbe3e0", "let": "#f5f1e3", "mix": "#e2f0e4"}


def escape(text: str, limit: int = 200) -> str:
    """Make a text harmless within SVG.

    Args:
        text: Untrusted.
        limit: Longest result before it is cut, in characters of the text.

    Example:
        >>> escape("<a & 'b'>")
        '&lt;a &amp; &#39;b&#39;&gt;'
    """
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    named = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join("\ufffd" if unicodedata.category(c) in hidden else named.get(c, c) for c in text)


def draw_shares(folded: Fold, title: str = "") -> str:
    """Draw what each model contributes to each block.

    Args:
        folded: A recipe's table.
        title: A line above.

    Returns:
        SVG: one row for each run of blocks with equal shares, one column for each model and each
        result of a method; blue for what is added, red for what is taken away. Each field tells
        its exact share.

    Raises:
        RecipeError: There are too many models to draw.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> from stockpot.recipes import fold, make_recipe
        >>> recipe = make_recipe("lerp(a, b, 0.25)", {"a": "a.ckpt", "b": "b.ckpt"})
        >>> draw_shares(fold(recipe, get_layout("sd1"))).count("<rect")
        7
    """
    table = folded.table()
    models = folded.atoms if folded.calls else folded.models
    # EMA copies, schedules and unknown keys follow the rest and would only lengthen the picture.
    rows = [row for row in table if row.cells[0].component not in _MINOR] or table
    if len(models) > MAX_DRAWN:
        raise one_problem("too-large", f"a picture may have {MAX_DRAWN} models, but this has "
                          f"{len(models)}", remedy="use --json")  # fmt: skip
    wide = len(models) <= 40
    width, height, left, top = (54 if wide else 10), 18, 200, 190
    size = (left + width * len(models) + 120, top + height * len(rows) + 20)
    parts = [_open(*size), f"<text x='10' y='20' font-weight='bold'>{escape(title)}</text>"]
    for i, name in enumerate(models):
        x = left + width * i + width // 2
        parts.append(
            f"<text transform='translate({x},{top - 8}) rotate(-50)'>{escape(str(name), 34)}</text>"
        )
    for j, row in enumerate(rows):
        y = top + height * j
        parts.append(
            f"<text x='{left - 8}' y='{y + 13}' text-anchor='end'>{escape(row.label, 40)}</text>"
        )
        for i, name in enumerate(models):
            value = row.coefficients.get(name, Fraction(0))
            x = left + width * i
            exact = f"{name}, {row.label}: {_exact(value)}"
            parts.append(
                f"<rect x='{x}' y='{y}' width='{width - 1}' height='{height - 1}' "
                f"fill='{_colour(value)}'><title>{escape(exact, 300)}</title></rect>"
            )
            if wide and value:
                dark = " fill='#fff'" if abs(value) > Fraction(6, 10) else ""
                parts.append(
                    f"<text x='{x + width // 2}' y='{y + 13}' text-anchor='middle'{dark}>"
                    f"{float(value):.3g}</text>"
                )
    return "\n".join([*parts, "</svg>", ""])


def draw_graph(recipe: Recipe, title: str = "") -> str:
    """Draw how a recipe is made: models on the left, the result on the right.

    Args:
        recipe: Any recipe.
        title: A line above.

    Returns:
        SVG.

    Raises:
        RecipeError: There are too many models and steps to draw, or they go in a circle.

    Example:
        >>> from stockpot.recipes import make_recipe
        >>> picture = draw_graph(make_recipe("a + b", {"a": "a.ckpt", "b": "b.ckpt"}))
        >>> picture.count("<rect"), picture.count("<path")
        (4, 2)
    """
    nodes = _nodes(recipe)
    if len(nodes) > MAX_DRAWN:
        raise one_problem("too-large", f"a picture may have {MAX_DRAWN} models and steps, but this "
                          f"has {len(nodes)}", remedy="average sets, or draw a part")  # fmt: skip
    columns = _columns(nodes)
    place: dict[str, tuple[int, int]] = {}
    tallest = max(map(len, columns))
    for i, column in enumerate(columns):
        offset = (tallest - len(column)) * _STEP_Y // 2
        for j, key in enumerate(column):
            place[key] = (20 + i * _STEP_X, 40 + offset + j * _STEP_Y)
    parts = [
        _open(20 + len(columns) * _STEP_X, 60 + tallest * _STEP_Y),
        f"<text x='10' y='20' font-weight='bold'>{escape(title)}</text>",
    ]
    for key, (_, _, sources) in nodes.items():
        x, y = place[key]
        for source in sources:
            a, b = place[source][0] + _NODE_WIDTH, place[source][1] + _NODE_HEIGHT // 2
            bend = max(30, (x - a) // 2)
            end = y + _NODE_HEIGHT // 2
            parts.append(
                f"<path d='M{a},{b} C{a + bend},{b} {x - bend},{end} {x},{end}' fill='none' "
                "stroke='#9aa5b1'/>"
            )
    for key, (kind, words, _) in nodes.items():
        x, y = place[key]
        parts.append(
            f"<g><title>{escape(_name(key) + ': ' + words, 400)}</title>"
            f"<rect x='{x}' y='{y}' width='{_NODE_WIDTH}' height='{_NODE_HEIGHT}' rx='4' "
            f"fill='{_FILLS[kind]}' stroke='#9aa5b1'/>"
            f"<text x='{x + 6}' y='{y + 14}'>{escape(_name(key), 28)}</text>"
            f"<text x='{x + 6}' y='{y + 28}' fill='#66707a'>{escape(words, 28)}</text></g>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _open(width: int, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
        f"viewBox='0 0 {width} {height}' {_FONT}>"
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>"
    )


def _colour(value: Fraction) -> str:
    strength = min(1.0, abs(float(value)))
    full = (33, 94, 168) if value >= 0 else (190, 48, 38)
    red, green, blue = (round(247 + (part - 247) * strength) for part in full)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _exact(value: Fraction) -> str:
    return number_text(value) if value.denominator < 10**12 else f"{float(value):.12g}"


def _nodes(recipe: Recipe) -> Mapping[str, tuple[str, str, list[str]]]:
    """Everything that the mix reads: kind, words and sources by key."""
    nodes: dict[str, tuple[str, str, list[str]]] = {}
    stack: list[tuple[str, str]] = [("mix", key) for key in recipe.mix]
    while stack:
        room, name = stack.pop()
        key = f"{room}.{name}"
        if key in nodes:
            continue
        if room == "pool":
            entry = recipe.pool[name]
            nodes[key] = ("hole" if entry.is_hole else "pool",
                          entry.unknown or entry.title or entry.file, [])  # fmt: skip
            continue
        root: Expr = recipe.let[name] if room == "let" else recipe.mix[name]
        read = names_in(root)
        if "pool" in read:
            read = list(dict.fromkeys([*(n for n in read if n != "pool"), *recipe.pool]))
        sources = [
            ("let" if n in recipe.let else "pool", n)
            for n in read
            if n in recipe.let or n in recipe.pool
        ]
        words = _words(root)
        nodes[key] = (room, words, [f"{r}.{n}" for r, n in sources])
        stack.extend(sources)
    return nodes


def _words(root: Expr) -> str:
    if isinstance(root, Call) and len(root.args) > 6:
        return f"{root.function} of {len(root.args)}"
    if isinstance(root, Call) and root.function in FUNCTIONS:
        # The lines say which models; what they do not say is how much of each.
        said = [abbreviate(arg, 20) for arg in root.args if not isinstance(arg, Name)]
        return " ".join([root.function, *said])
    return abbreviate(root, 80)


def _columns(nodes: Mapping[str, tuple[str, str, list[str]]]) -> list[list[str]]:
    """Put each node right of all that it reads, and near to it."""
    readers: dict[str, list[str]] = {key: [] for key in nodes}
    waiting = {key: len(sources) for key, (_, _, sources) in nodes.items()}
    for key, (_, _, sources) in nodes.items():
        for source in sources:
            readers[source].append(key)
    level = {key: 0 for key, n in waiting.items() if not n}
    ready = list(level)
    while ready:
        key = ready.pop()
        for reader in readers[key]:
            level[reader] = max(level.get(reader, 0), level[key] + 1)
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if any(waiting.values()):
        raise one_problem("cycle", "the steps of the recipe go in a circle", "let")
    for key in nodes:
        # A model stands just before its first reader, so that long chains read as one line.
        if readers[key] and not nodes[key][2]:
            level[key] = min(level[reader] for reader in readers[key]) - 1
    columns: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for key in sorted(nodes):
        columns[level[key]].append(key)
    rank = {key: float(i) for column in columns for i, key in enumerate(column)}
    for _ in range(3):
        for column in columns:
            for key in column:
                near = [rank[k] for k in (*nodes[key][2], *readers[key])]
                rank[key] = sum(near) / len(near) if near else rank[key]
            column.sort(key=lambda key: (rank[key], key))
            rank.update((key, float(i)) for i, key in enumerate(column))
    return columns


def _name(key: str) -> str:
    return key.partition(".")[2]
