"""A file's metadata as a tree: how it was merged, what it says of itself, how it was trained.

All of it is untrusted: nothing is evaluated, depth and length are bounded, circles end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stockpot.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from stockpot.engine import History

__all__ = ["Node", "metadata_tree"]

_MOST_CHARACTERS = 300
_MOST_CHILDREN = 100
_MOST_DEPTH = 60
_MOST_NODES = 5_000
_MOST_TAGS = 20
_MOST_JSON = 16 << 20

_MERGE_KEYS = ("sd_merge_recipe", "sd_merge_models")
_RATIO_KEYS = ("interp_method", "multiplier", "calculation_mode", "merge_method")


@dataclass(frozen=True, slots=True)
class Node:
    """One line of the tree.

    Attributes:
        label: What it is about; untrusted text.
        value: What it says, shortened; empty for a heading.
        children: Lines below.
    """

    label: str
    value: str = ""
    children: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as plain data: ``label``, ``value``, ``children``."""
        return {
            "label": self.label,
            "value": self.value,
            "children": [child.to_json() for child in self.children],
        }

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Go through the line and all below it, from top to bottom.

        Yields:
            Depth and line.
        """
        stack = [(depth, self)]
        while stack:
            level, node = stack.pop()
            yield level, node
            stack.extend((level + 1, child) for child in reversed(node.children))


def metadata_tree(metadata: Mapping[str, str]) -> tuple[Node, ...]:
    """Arrange a file's metadata.

    Args:
        metadata: Of the file.

    Returns:
        Up to five headings: the merges that led to the file as Stockpot and as A1111 recorded
        them, ModelSpec, training (``ss_*``), and the rest.

    Example:
        >>> tree = metadata_tree({"modelspec.title": "A", "ss_epoch": "3", "format": "pt"})
        >>> [(node.label, [child.label for child in node.children]) for node in tree]
        [('ModelSpec', ['title']), ('training', ['epoch']), ('other', ['format'])]
    """
    nodes: list[Node] = []
    rest = dict(metadata)
    own = {key: rest.pop(key) for key in list(rest) if key.startswith("stockpot.")}
    if own:
        nodes.append(_stockpot(own))
    merge = {key: rest.pop(key) for key in _MERGE_KEYS if key in rest}
    if merge:
        nodes.append(_a1111(merge))
    for heading, prefix in (("ModelSpec", "modelspec."), ("training", "ss_")):
        found = {key: rest.pop(key) for key in list(rest) if key.startswith(prefix)}
        if found:
            children = [_field(key.removeprefix(prefix), text) for key, text in found.items()]
            nodes.append(Node(heading, "", _cut(children)))
    if rest:
        nodes.append(Node("other", "", _cut([_field(key, text) for key, text in rest.items()])))
    return tuple(nodes)


def _short(text: str) -> str:
    text = text[: _MOST_CHARACTERS + 1]
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + " …"


def _cut(children: list[Node]) -> tuple[Node, ...]:
    if len(children) <= _MOST_CHILDREN:
        return tuple(children)
    more = len(children) - _MOST_CHILDREN
    return (*children[:_MOST_CHILDREN], Node("…", f"and {more} more"))


def _field(label: str, text: str) -> Node:
    """One string; where it is JSON of a list or mapping, what is in it."""
    if text[:1] in ("{", "[") and len(text) <= _MOST_JSON:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return Node(_short(label), _short(text))
        if label == "tag_frequency":
            return _tags(label, value)
        return _plain(label, value, _MOST_DEPTH // 4, [_MOST_NODES])
    return Node(_short(label), _short(text))


def _plain(label: str, value: Any, depth: int, room: list[int]) -> Node:
    """Decoded JSON; `room` counts down over the whole field, so that no field floods the tree."""
    label = _short(label)
    items: list[tuple[str, Any]]
    if isinstance(value, dict):
        items = [(str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        items = [(str(number), inner) for number, inner in enumerate(value)]
    else:
        text = ", ".join(map(str, value[:50])) if isinstance(value, list) else _text(value)
        return Node(label, _short(text))
    if not depth or room[0] <= 0:
        return Node(label, f"{len(items)} entries")
    room[0] -= min(len(items), _MOST_CHILDREN)
    shown = [_plain(name, inner, depth - 1, room) for name, inner in items[:_MOST_CHILDREN]]
    if len(items) > _MOST_CHILDREN:
        shown.append(Node("…", f"and {len(items) - _MOST_CHILDREN} more"))
    return Node(label, "" if shown else "empty", tuple(shown))


def _text(value: Any) -> str:
    # Python refuses to print very long numbers.
    if isinstance(value, int) and abs(value) >= 1 << 128:
        return "a very long number"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tags(label: str, value: Any) -> Node:
    """How often each word was in the captions of a training: the most frequent of all folders."""
    counts: Counter[str] = Counter()
    folders = value.values() if isinstance(value, dict) else ()
    for tags in folders:
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and 0 <= count < 1 << 53:
                counts[str(tag).strip()] += count
    shown = [Node(_short(tag), str(count)) for tag, count in counts.most_common(_MOST_TAGS)]
    if len(counts) > _MOST_TAGS:
        shown.append(Node("…", f"and {len(counts) - _MOST_TAGS} more tags"))
    return Node(label, f"{len(counts)} tags in {len(folders)} folders", tuple(shown))


def _stockpot(own: Mapping[str, str]) -> Node:
    # Both rooms take a while to load, and few files need them.
    from stockpot.engine import read_history

    heading = "merged by Stockpot"
    try:
        history = read_history(own)
    except CheckpointError as error:
        return Node(heading, _short(f"the record cannot be understood: {error}"))
    if history is None:
        return Node(heading, "", _cut([_field(key, text) for key, text in own.items()]))
    extra = [
        _field(key.removeprefix("stockpot."), text)
        for key, text in own.items()
        if key not in ("stockpot.provenance", "stockpot.recipe", "stockpot.tensors")
    ]
    return Node(heading, "", (*extra, *_steps(history)))


def _steps(history: History) -> tuple[Node, ...]:
    """The tree of steps, each told once."""
    rows: list[tuple[int, Node]] = []
    for depth, name, record, step in history.walk():
        if len(rows) >= _MOST_NODES or depth > _MOST_DEPTH:
            continue
        if step is None:
            hashes = [
                f"{component} {value[:10]}"
                for component, value in (record.components if record else {}).items()
                if value
            ]
            rows.append((depth, Node(_short(name), ", ".join(hashes))))
        else:
            rows.append((depth, Node(_short(name or "this file"), _short(_mix(step.recipe)))))
    return _nested(rows)


def _mix(text: str) -> str:
    from stockpot.recipes import parse_recipe

    try:
        recipe = parse_recipe(text)
    except RecipeError:
        return text
    return "; ".join(f"{part} = {mix}" for part, mix in (*recipe.let.items(), *recipe.mix.items()))


def _nested(rows: list[tuple[int, Node]]) -> tuple[Node, ...]:
    """Put lines with depths under each other; a line's depth is at most one more than before."""
    stack: list[tuple[Node, list[Node]]] = [(Node(""), [])]
    for depth, node in rows:
        while len(stack) > depth + 1:
            _close(stack)
        stack.append((node, []))
    while len(stack) > 1:
        _close(stack)
    return tuple(stack[0][1])


def _close(stack: list[tuple[Node, list[Node]]]) -> None:
    node, children = stack.pop()
    stack[-1][1].append(Node(node.label, node.value, tuple(children)))


def _a1111(merge: Mapping[str, str]) -> Node:
    """The chain that A1111 records: the last recipe, and every ancestor in one flat map."""
    heading = "merged by A1111"
    decoded: dict[str, dict[str, Any]] = {}
    for key, text in merge.items():
        try:
            value = json.loads(text) if len(text) <= _MOST_JSON else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            return Node(heading, f"`{key}` cannot be understood")
        decoded[key] = value
    models = decoded.get("sd_merge_models", {})
    rows: list[tuple[int, Node]] = []
    told: set[str] = set()
    stack: list[tuple[int, str, Any, Any]] = [
        (0, "this file", decoded.get("sd_merge_recipe"), None)
    ]
    while stack and len(rows) < _MOST_NODES:
        depth, label, recipe, digest = stack.pop()
        again = digest is not None and digest in told
        if not isinstance(recipe, dict) or again or depth >= _MOST_DEPTH:
            rows.append((depth, Node(_short(label), "told above" if again and recipe else "")))
            continue
        if digest is not None:
            told.add(digest)
        rows.append((depth, Node(_short(label), _short(_ratio(recipe)))))
        for role in ("tertiary", "secondary", "primary"):
            parent = recipe.get(f"{role}_model_hash")
            if not isinstance(parent, str):
                continue
            entry = models.get(parent)
            entry = entry if isinstance(entry, dict) else {}
            name = f"{role}: {entry.get('name') or 'unnamed'} [{parent[:10]}]"
            stack.append((depth + 1, name, entry.get("sd_merge_recipe"), parent))
    children = _nested(rows)
    if len(rows) == 1 and models:
        names = [
            Node(_short(f"{entry.get('name') if isinstance(entry, dict) else '?'} [{key[:10]}]"))
            for key, entry in models.items()
        ]
        children = (*children, *_cut(names))
    return Node(heading, f"{len(models)} models recorded", children)


def _ratio(recipe: Mapping[str, Any]) -> str:
    return ", ".join(_text(recipe[key]) for key in _RATIO_KEYS if recipe.get(key) is not None)
