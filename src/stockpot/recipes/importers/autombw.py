"""AutoMBW: the text that it saves beside a model, and the table of its search.

Only the UNet is merged, ``A + w*(B - A)`` with 27 numbers; text encoder and VAE stay those of A.
The text has its numbers in another order than the table, so the two have profiles of their own.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from fractions import Fraction

from stockpot.errors import RecipeError

from ..building import blocks
from ..errors import one_problem
from ..expressions import Call, Expr
from ..numbers import parse_decimal
from ._base import Builder, Imported, short_name

__all__ = [
    "Search", "best_row", "import_autombw", "import_autombw_table", "is_autombw",
    "is_autombw_table", "recipe_order", "table_rows",
]  # fmt: skip

_FIELD = re.compile(r"(modelA|modelB|modelO)=(.*)")
_N_WEIGHTS = 27
_MAX_ROWS = 100_000
_MAX_HEAD = 10_000


@dataclass(frozen=True, slots=True)
class Search:
    """The best row of a search.

    Attributes:
        weights: Its 27 numbers, in the table's order.
        score: What it scored.
        n_rows: How many evaluations the table has.
        n_best: How many of them scored the same.
    """

    weights: tuple[Fraction, ...]
    score: float
    n_rows: int
    n_best: int


def is_autombw(text: str) -> bool:
    """Whether a text is a recipe that AutoMBW saved.

    Example:
        >>> is_autombw("modelA=a.safetensors\\nmodelB=b.safetensors\\n")
        True
    """
    return text.lstrip().startswith(("modelA=", "modelB=", "modelO="))


def is_autombw_table(text: str) -> bool:
    """Whether a text is the table of a search.

    Example:
        >>> is_autombw_table("0,1,2,score,eval_times\\n")
        True
    """
    first = text.lstrip().split("\n", 1)[0].strip().replace(" ", "")
    return first.startswith("0,1,2,") and ",score" in first


def recipe_order(weights: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Bring numbers from the order of the table into that of the recipe text.

    Args:
        weights: 27 numbers: IN00 … M00, OUT, OUT00 … OUT11, TIME.

    Returns:
        IN00 … M00, OUT00 … OUT11, OUT, TIME.

    Example:
        >>> [int(w) for w in recipe_order(tuple(map(Fraction, range(27))))][12:15]
        [12, 14, 15]
    """
    return (*weights[:13], *weights[14:26], weights[13], weights[26])


def _weights(texts: list[str], where: str) -> tuple[Fraction, ...]:
    try:
        return tuple(parse_decimal(text.strip()) for text in texts)
    except ValueError as error:
        raise one_problem(
            "number", f"a block weight must be a number, but {error}", where
        ) from None


def import_autombw(text: str, source: str = "<autombw>") -> Imported:
    """Read the recipe text that AutoMBW saves.

    Args:
        text: ``modelA=``, ``modelB=``, perhaps ``modelO=``, and one line of 27 numbers; a console
            log may follow.
        source: Path of the file: without ``modelO`` its stem names the result.

    Raises:
        RecipeError: A model or the line of numbers is missing, or there are several.

    Example:
        >>> text = "modelA=a.safetensors\\nmodelB=b.safetensors\\n" + ",".join(["0.5"] * 27)
        >>> import_autombw(text).facts.n_edges
        2
    """
    builder = Builder(source, "autombw")
    fields: dict[str, str] = {}
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _FIELD.fullmatch(line.strip()):
            if fields.setdefault(match[1], match[2].strip()) != match[2].strip():
                builder.refuse("repeated", f"`{match[1]}` comes twice", f"line {number}")
        elif line.count(",") == _N_WEIGHTS - 1 and re.fullmatch(r"[0-9eE.,+\- ]+", line.strip()):
            lines.append((number, line))
    missing = [name for name in ("modelA", "modelB") if not fields.get(name)]
    if missing:
        builder.refuse("missing-key", f"an AutoMBW recipe must have `{missing[0]}=`")
    if not lines:
        builder.refuse("missing-key", f"an AutoMBW recipe must have a line of {_N_WEIGHTS} numbers")
    if len({line for _, line in lines}) > 1:
        builder.refuse("repeated", f"there are {len(lines)} different lines of numbers",
                       f"line {lines[1][0]}")  # fmt: skip
    number, line = lines[0]
    weights = _weights(line.split(","), builder.place(f"line {number}"))
    output = fields.get("modelO", "")
    if not output:
        output = short_name(source).removesuffix(".txt").removesuffix(".recipe")
        builder.note("inferred-name", f"without `modelO` the result is called after the file: "
                     f"{output!r}")  # fmt: skip
    a = builder.model(short_name(fields["modelA"]), fields["modelA"])
    b = builder.model(short_name(fields["modelB"]), fields["modelB"])
    builder.n_steps, builder.n_edges = 1, 2
    mix: Expr = Call("lerp", (a, b, blocks("autombw-recipe", weights)))
    return builder.finish({"model": mix}, output)


def table_rows(text: str, source: str = "<table>") -> list[tuple[tuple[Fraction, ...], float]]:
    """Read every evaluation of a search.

    Args:
        text: The table, with columns ``0`` … ``26`` and ``score``.
        source: What to call it in messages.

    Returns:
        Weights in the table's order, and score, of each row that has a score.

    Raises:
        RecipeError: Columns are missing, or a cell is no number.

    Example:
        >>> head = ",".join(map(str, range(27))) + ",score"
        >>> [(weights, score)] = table_rows(head + "\\n" + ",".join(["0.5"] * 27) + ",0.25")
        >>> weights[0], score
        (Fraction(1, 2), 0.25)
    """
    return [
        (_weights(cells, f"{source}: row {number}"), score)
        for number, (cells, score) in enumerate(_rows(text, source), start=1)
        if score == score
    ]


def _rows(text: str, source: str) -> list[tuple[list[str], float]]:
    columns = [str(i) for i in range(_N_WEIGHTS)]
    if len(text.split("\n", 1)[0]) > _MAX_HEAD:
        raise one_problem("too-large", f"the head of a table may have {_MAX_HEAD} characters",
                          source)  # fmt: skip
    found: list[tuple[list[str], float]] = []
    try:
        reader = csv.DictReader(text.splitlines())
        lacking = [name for name in (*columns, "score") if name not in (reader.fieldnames or ())]
        if lacking:
            raise one_problem("missing-key", f"the table must have a column {lacking[0]!r}", source)
        for row in reader:
            if len(found) == _MAX_ROWS:
                raise one_problem("too-large", f"a table may have {_MAX_ROWS} rows", source)
            found.append(([row[name] or "" for name in columns], float(row["score"] or "nan")))
    except (csv.Error, ValueError, TypeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise one_problem("number", f"the table cannot be read: {error}", source) from error
    return found


def best_row(text: str, source: str = "<table>") -> Search:
    """Find the best evaluation of a search.

    Args:
        text: The table, with columns ``0`` … ``26`` and ``score``.
        source: What to call it in messages.

    Returns:
        The first of the rows with the highest score.

    Raises:
        RecipeError: Columns are missing, a cell is no number, or there is no row.

    Example:
        >>> head = ",".join(map(str, range(27))) + ",score"
        >>> best_row(head + "\\n" + ",".join(["0.5"] * 27) + ",0.25").score
        0.25
    """
    rows = _rows(text, source)
    scores = [score for _, score in rows if score == score]
    if not scores:
        raise one_problem("empty", "the table has no row with a score", source)
    number = next(i for i, (_, score) in enumerate(rows) if score == max(scores))
    cells, score = rows[number]
    weights = _weights(cells, f"{source}: row {number + 1}")
    return Search(weights, score, len(rows), scores.count(score))


def import_autombw_table(text: str, source: str = "<table>") -> Imported:
    """Read the table of a search as its best row; the two models stay holes.

    Args:
        text: The table.
        source: Path of the file, whose name begins with that of the result.

    Raises:
        RecipeError: As `best_row`.

    Example:
        >>> head = ",".join(map(str, range(27))) + ",score"
        >>> import_autombw_table(head + "\\n" + ",".join(["0.5"] * 27) + ",0.25").facts.n_holes
        2
    """
    builder = Builder(source, "autombw-table")
    search = best_row(text, source)
    output = re.sub(r"-\d+-\d{4}-\d\d-\d\d.*$", "", short_name(source).removesuffix(".csv"))
    a = builder.hole("A", f"model A of the search for {output}")
    b = builder.hole("B", f"model B of the search for {output}")
    shared = f", shared by {search.n_best} rows" if search.n_best > 1 else ""
    builder.note("best-row", f"the best of {search.n_rows} evaluations scored "
                 f"{search.score:.6g}{shared}; a search's own score says little of the model",
                 "", "score it again on other prompts and seeds")  # fmt: skip
    builder.n_steps, builder.n_edges = 1, 2
    mix: Expr = Call("lerp", (a, b, blocks("autombw", search.weights)))
    return builder.finish({"model": mix}, output)
