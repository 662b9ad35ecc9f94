""".mecha: the recipes of sd-mecha, in all three dialects.

Each line is a value; ``&n`` refers to line n, counted from 0 without the version line. Lines are
read in order and refer to earlier ones only, so nothing here recurses and no circle can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from ..expressions import Expr, Name
from ..numbers import parse_decimal
from ._base import MAX_STEPS, Builder, Imported, short_name
from .mecha_methods import Argument, Node, apply_method, finish_mix, read_dictionary

__all__ = ["DIALECTS", "import_mecha", "is_mecha"]

#: What sets the dialects apart.
DIALECTS = {
    "a": "early 2024: models without a type",
    "b": "2404 to 2502: models with architecture and kind",
    "c": "from 2506: a version line",
}
_MAX_TOKENS = 50_000
_START = re.compile(r'(version [0-9]|(model|lora|dict|call|merge|parameter|literal) ["\w&])')
_TOKEN = re.compile(
    r"""\s*(?:(?P<key>[^\W\d]\w*)=)?(?:
        "(?P<text>(?:[^"\\]|\\.)*)" | &(?P<line>[0-9]{1,9}) | (?P<word>[^\s"&=]+)
    )(?=\s|$)""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = ("model", "lora", "dict", "call", "merge", "parameter", "literal")
_LAYOUTS = {"sdxl": "sdxl", "sd1": "sd1", "sd2": "sd2"}


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    word: str
    tokens: tuple[tuple[str | None, str, str], ...]


def is_mecha(text: str) -> bool:
    """Whether a text begins as sd-mecha's recipes do.

    Args:
        text: All of a file, or its start.

    Example:
        >>> is_mecha('model "a.safetensors"\\n'), is_mecha("model=a")
        (True, False)
    """
    return _START.match(text.lstrip()) is not None


def import_mecha(text: str, source: str = "<mecha>") -> Imported:
    """Read a recipe of sd-mecha.

    Args:
        text: All of the file.
        source: Path of the file; its stem names the result.

    Raises:
        RecipeError: A line cannot be read, or refers to one that is not before it.

    Example:
        >>> text = 'model "a"\\nmodel "b"\\ncall "weighted_sum" &0 &1 alpha=0.3'
        >>> import_mecha(text).recipe.mix["model"]
        <weighted_sum(a, b, 0.3)>
    """
    lines = text.replace("\r\n", "\n").rstrip("\n ").split("\n")
    builder = Builder(source, "mecha")
    shift = 1
    if lines[0].startswith("version "):
        del lines[0]
        shift = 2
    if len(lines) > MAX_STEPS:
        builder.refuse("too-large", f"a recipe may have {MAX_STEPS} lines, but this has "
                       f"{len(lines)}")  # fmt: skip
    parsed, budget = [], _MAX_TOKENS
    for i, line in enumerate(lines):
        parsed.append(_parse(builder, line, i + shift, budget))
        budget -= len(parsed[-1].tokens)
    dialect = "c" if shift == 2 else _dialect(parsed)
    builder.dialect = f"mecha ({dialect}: {DIALECTS[dialect]})"
    nodes: list[Node] = []
    for i, words in enumerate(parsed):
        before = len(builder.pool), len(builder.lets)
        nodes.append(_node(builder, words, nodes, dialect, last=i == len(parsed) - 1))
        line = builder.place(f"line {words.number}")
        builder.places |= {f"pool.{name}": line for name in list(builder.pool)[before[0] :]}
        builder.places |= {f"let.{name}": line for name in list(builder.lets)[before[1] :]}
    builder.places["mix.model"] = builder.place(f"line {parsed[-1].number}")
    if dialect == "a":
        builder.note("passed-through", "early versions copy the VAE and `label_emb` from one of "
                     "the inputs instead of merging them, and the recipe does not say from which; "
                     "here they are merged like the rest", "",
                     "give `vae` its own key in `mix`")  # fmt: skip
    return builder.finish(finish_mix(builder, nodes[-1]), short_name(source).removesuffix(".mecha"))


def _parse(builder: Builder, line: str, number: int, budget: int) -> _Line:
    word, _, rest = line.partition(" ")
    tokens: list[tuple[str | None, str, str]] = []
    position = 0
    while position < len(rest.rstrip()):
        match = _TOKEN.match(rest, position)
        if match is None:
            builder.refuse("syntax", f"this cannot be read: {rest[position:position + 40]!r}",
                           f"line {number}")  # fmt: skip
        kind = next(k for k in ("text", "line", "word") if match[k] is not None)
        value = match[kind]
        if kind == "text":
            value = re.sub(r'\\([\\"])', r"\1", value)
        tokens.append((match["key"], kind, value))
        position = match.end()
        if len(tokens) > budget:
            builder.refuse("too-large", f"a recipe may have {_MAX_TOKENS} arguments, but this has "
                           "more", f"line {number}")  # fmt: skip
    return _Line(number, word, tuple(tokens))


def _dialect(lines: list[_Line]) -> str:
    typed = any(line.word == "model" and len(line.tokens) > 1 for line in lines)
    return "b" if typed or any(line.word == "merge" for line in lines) else "a"


def _node(builder: Builder, line: _Line, nodes: list[Node], dialect: str, *, last: bool) -> Node:
    where = f"line {line.number}"
    if line.word not in _WORDS:
        builder.refuse("syntax", f"a line starts with {', '.join(_WORDS)}, but got "
                       f"{line.word[:40]!r}", where)  # fmt: skip
    if line.word in ("model", "lora"):
        return _model(builder, line)
    arguments = [_argument(builder, token, nodes, where) for token in line.tokens]
    positional = [value for (key, _, _), value in zip(line.tokens, arguments, strict=True)
                  if key is None]  # fmt: skip
    options: dict[str, Argument] = {}
    for (key, _, _), value in zip(line.tokens, arguments, strict=True):
        if key is not None:
            if key in options:
                builder.refuse("repeated", f"`{key}` comes twice", where)
            options[key] = value
    if line.word == "dict":
        return read_dictionary(builder, options, where)
    if line.word in ("parameter", "literal") and positional:
        value = positional[0]
        return value if isinstance(value, Node) else Node(value=value)
    if line.word in ("call", "merge") and positional and isinstance(positional[0], str):
        builder.n_steps += 1
        # Weights that stand on a line of their own are no model.
        builder.n_edges += sum(
            isinstance(value, Node) and value.expression is not None for value in positional
        )
        return apply_method(
            builder, positional[0], positional[1:], options, dialect, where,
            "" if last else f"step {len(nodes)}",
        )  # fmt: skip
    builder.refuse("syntax", f"`{line.word}` needs something in quotes after it", where)


def _model(builder: Builder, line: _Line) -> Node:
    if not line.tokens or line.tokens[0][1] != "text" or not line.tokens[0][2]:
        builder.refuse("syntax", f"`{line.word}` needs the path of a file", f"line {line.number}")
    path = line.tokens[0][2]
    for key, _, value in line.tokens[1:]:
        if key in (None, "model_config"):
            for start, layout in _LAYOUTS.items():
                if value.startswith(start):
                    builder.layout = layout
    # Other spellings of one path are one file.
    key = re.sub(r"[/\\]+", "/", path).removeprefix("./")
    name: Expr = builder.model(key, path)
    assert isinstance(name, Name)
    return Node(expression=name, is_lora=line.word == "lora")


def _argument(
    builder: Builder, token: tuple[str | None, str, str], nodes: list[Node], where: str
) -> Argument:
    _, kind, value = token
    if kind == "line":
        if int(value) >= len(nodes):
            builder.refuse("reference", f"&{value} is not a line before this one", where)
        return nodes[int(value)]
    if kind == "text":
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value.lower() in ("null", "none"):
        return "null"
    try:
        negative = value.startswith("-")
        number = parse_decimal(value.lstrip("+-") if value[:1] in "+-" else value)
        return -number if negative else Fraction(number)
    except ValueError as error:
        builder.refuse("number", str(error), where)
