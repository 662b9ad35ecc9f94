"""YAML without its traps: a tree of texts, lists and mappings with line numbers.

No tags, no anchors or aliases, no repeated keys, one document, and no guessing: ``0.10``, ``no``
and ``1e-3`` stay the texts that they are. Read from parser events, so that a hostile text is
refused at its first forbidden event and nothing is ever built from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from stockpot.errors import Problem, RecipeError

from .errors import one_problem

__all__ = ["MAX_BYTES", "Mapped", "Node", "Scalar", "Sequenced", "load"]

#: Longest recipe. PyYAML's parser in C takes far below a second for that.
MAX_BYTES = 1 << 20
_MAX_DEPTH = 8
_MAX_EVENTS = 100_000
# The wheels of PyYAML bring libyaml; its own parser, 20 times slower, reads the same language.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Node:
    """A place in the text.

    Attributes:
        line: Counted from 1.
    """

    line: int


@dataclass(slots=True)
class Scalar(Node):
    """A text, whatever its quotes.

    Attributes:
        text: What it says.
        plain: Whether it has no quotes, so that ``null`` and nothing at all mean nothing.
    """

    text: str
    plain: bool

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(slots=True)
class Sequenced(Node):
    """A list."""

    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapped(Node):
    """A mapping, with the line of each key."""

    items: dict[str, Node] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


def load(text: str, source: str) -> tuple[Node, list[Problem]]:
    """Read one YAML document.

    Args:
        text: All of it.
        source: What to call it in messages.

    Returns:
        The tree, and problems that do not keep the rest from being read: repeated keys.

    Raises:
        RecipeError: It is too large, no YAML, or uses what is not allowed.

    Example:
        >>> node, problems = load("a: 0.10", "<text>")
        >>> node.items["a"].text, problems
        ('0.10', [])
    """
    size = len(text) if len(text) > MAX_BYTES else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise one_problem("too-long", f"a recipe may have {MAX_BYTES} bytes, but got {size}",
                          source, "average sets, or split the recipe")  # fmt: skip
    builder = _Builder(source)
    try:
        for number, event in enumerate(yaml.parse(text, Loader=_LOADER)):
            if number > _MAX_EVENTS:
                builder.refuse(event, "too-large", f"a recipe may have {_MAX_EVENTS} parts")
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark else source
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise one_problem(
            "yaml", f"this is no YAML: {what}", where,
            "put an expression that starts with a quote or bracket, or has `: ` or ` #`, "
            "in single quotes",
        ) from error  # fmt: skip
    except (UnicodeError, RecursionError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise one_problem("yaml", f"this is no YAML: {error}", source) from error
    if builder.root is None:
        raise one_problem("empty", "a recipe must be a mapping, but the text is empty", source,
                          "start with `stockpot: 1`")  # fmt: skip
    return builder.root, builder.problems


class _Builder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.stack: list[Mapped | Sequenced] = []
        # For each open mapping, the key that waits for its value.
        self.keys: list[Scalar | None] = []

    def refuse(self, event: yaml.Event, code: str, message: str, remedy: str = "") -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        raise one_problem(code, message, f"{self.source}:{line}", remedy)

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self.refuse(event, "yaml-anchor", "a recipe may not use anchors and aliases",
                        "name intermediates with `let`")  # fmt: skip
        if getattr(event, "tag", None) is not None:
            self.refuse(event, "yaml-tag", "a recipe may not use tags", "remove what starts with !")
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self.refuse(event, "yaml-documents", "a file holds one recipe", "split it at `---`")
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.ScalarEvent):
            # Without a style the C parser says None or an empty text.
            self.add(Scalar(line, event.value, not event.style), event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            node = Mapped(line) if isinstance(event, yaml.MappingStartEvent) else Sequenced(line)
            self.add(node, event)
            self.stack.append(node)
            self.keys.append(None)
            if len(self.stack) > _MAX_DEPTH:
                self.refuse(event, "too-deep", f"a recipe nests {_MAX_DEPTH} deep at most")
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()
            self.keys.pop()

    def add(self, node: Node, event: yaml.Event) -> None:
        if not self.stack:
            self.root = node
            return
        parent, key = self.stack[-1], self.keys[-1]
        if isinstance(parent, Sequenced):
            parent.items.append(node)
        elif key is not None:
            self.keys[-1] = None
            if key.text in parent.items:
                self.problems.append(
                    Problem("repeated-key", f"the key {key.text[:80]!r} comes twice",
                            f"{self.source}:{key.line}", "remove or rename one")
                )  # fmt: skip
            parent.items[key.text] = node
            parent.lines[key.text] = key.line
        elif isinstance(node, Scalar):
            self.keys[-1] = node
        else:
            self.refuse(event, "yaml-key", "a key must be a text")
