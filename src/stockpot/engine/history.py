"""How a file was made, as the file itself tells it: steps, each with its recipe and its inputs.

A merge writes one step, and carries the steps of its inputs on. They are kept in one flat table by
the content hash of what each made, so that a model that stands in a hundred merges is told once.
What comes out of a file's metadata is untrusted: it is checked for form here, and believed only
where the hashes of what was really read agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from blake3 import blake3

from stockpot.errors import CheckpointError

__all__ = ["FORMAT", "History", "InputRecord", "Part", "Step", "read_history"]

FORMAT = 1
"""Version of the table's form."""

PROVENANCE_KEY = "stockpot.provenance"
"""Where the table stands in a file's metadata."""

RECIPE_KEY = "stockpot.recipe"
"""Where the last step's recipe stands, as text for people."""

_MOST_CHARACTERS = 16 << 20
_MOST_STEPS = 10_000
_HASH_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Part:
    """Which tensors of a component were read, where that was not all of them.

    Attributes:
        blocks: Blocks of which every tensor was read.
        keys: Other tensors, without the component's prefix.
    """

    blocks: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InputRecord:
    """What one step read of one model.

    Attributes:
        components: Content hash of what was read of each component; None where hashing was off.
        made: Content hash of the step that made this model; None for a model of unknown origin.
        sizes: How many tensors that was of each component, and how many bytes.
        parts: What was read of those components that were not read whole.
    """

    components: Mapping[str, str | None]
    made: str | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One merge.

    Attributes:
        recipe: Canonical text of its recipe, without paths.
        version: Of the Stockpot that ran it.
        layout: Name of the layout.
        inputs: What it read, by name in the recipe's pool.
        components: Content hash of each component of its output; empty where hashing was off.
        content: Content hash of its output; None where hashing was off.
        methods: Version of the meaning of each method that was used.
        dtypes: Element types of each component of its output, such as ``fp16``.
        seed: Of what was drawn at random; None where nothing was.
        device: What computed methods in the processor's place: its name, what it is, and the
            library's version; empty for the processor.
    """

    recipe: str
    version: str
    layout: str
    inputs: Mapping[str, InputRecord]
    components: Mapping[str, str] = field(default_factory=dict)
    content: str | None = None
    methods: Mapping[str, int] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    device: str = ""


@dataclass(frozen=True)
class History:
    """Every step that led to a file.

    Attributes:
        last: The step that wrote the file.
        earlier: Other steps, by the content hash of what they made.
        intact: Whether the table's seal fits what it says. The seal is a plain hash: it shows that
            somebody changed a number by hand, and proves nothing against a forger.
    """

    last: Step
    earlier: Mapping[str, Step]
    intact: bool = True

    def walk(self) -> Iterator[tuple[int, str, InputRecord | None, Step | None]]:
        """Go through the tree of steps from the file down to its raw models, each step once.

        Yields:
            Depth, name in the pool above (empty for the file itself), what was read of it, and
            the step that made it. A step met before comes without its inputs again.
        """
        seen: set[str] = set()
        stack: list[tuple[int, str, InputRecord | None, Step | None]] = [(0, "", None, self.last)]
        while stack:
            depth, name, record, step = stack.pop()
            yield depth, name, record, step
            # By the table's key, not by what a step claims of itself: hostile tables have circles.
            # The file's own step counts for itself: one that changes nothing is no circle.
            key = record.made if record is not None else None
            if step is None or key in seen:
                continue
            if key is not None:
                seen.add(key)
            for below, inner in sorted(step.inputs.items(), reverse=True):
                stack.append((depth + 1, below, inner, self.earlier.get(inner.made or "")))

    def of(self, step: Step) -> History:
        """The history that a model of this table had by itself.

        Args:
            step: One of `earlier`.

        Returns:
            The step and those that led to it.
        """
        found: dict[str, Step] = {}
        waiting = [step]
        while waiting:
            for record in waiting.pop().inputs.values():
                made = record.made or ""
                if made in self.earlier and made not in found:
                    found[made] = self.earlier[made]
                    waiting.append(found[made])
        return History(step, found, self.intact)

    def to_json(self) -> str:
        """The table as text for a file's metadata: sorted, without spaces, with its seal."""
        table = {
            "format": FORMAT,
            **_step_to_plain(self.last),
            "earlier": {content: _step_to_plain(step) for content, step in self.earlier.items()},
        }
        recipe = table.pop("recipe")  # it stands beside, where people see it
        return _dump({**table, "seal": _seal(table, recipe)})

    def to_metadata(self) -> dict[str, str]:
        """What a file carries of it."""
        return {RECIPE_KEY: self.last.recipe, PROVENANCE_KEY: self.to_json()}


def read_history(metadata: Mapping[str, str], name: str = "metadata") -> History | None:
    """Read how a file says that it was made.

    Args:
        metadata: Of the file; untrusted.
        name: What to call it in messages.

    Returns:
        Its history; None where it carries none.

    Raises:
        CheckpointError: It carries one that is not well-formed, or of a later format.

    Example:
        >>> print(read_history({"format": "pt"}))
        None
    """
    text = metadata.get(PROVENANCE_KEY)
    if text is None:
        return None
    if len(text) > _MOST_CHARACTERS:
        raise CheckpointError(f"{name}: {PROVENANCE_KEY} is larger than any real history")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: {PROVENANCE_KEY} is not JSON: {error}") from error
    if not isinstance(table, dict) or not isinstance(table.get("format"), int):
        raise CheckpointError(f"{name}: {PROVENANCE_KEY} has no format number")
    if table["format"] > FORMAT:
        raise CheckpointError(
            f"{name}: its history has format {table['format']}, and this version reads up to "
            f"{FORMAT}; update Stockpot"
        )
    try:
        earlier = table.get("earlier", {})
        if len(earlier) > _MOST_STEPS:
            raise ValueError("too many steps")
        recipe = metadata.get(RECIPE_KEY, "")
        seal = table.pop("seal", None)
        return History(
            _step_from_plain({**table, "recipe": recipe}),
            {_hash(content): _step_from_plain(step) for content, step in earlier.items()},
            seal is None or seal == _seal(table, recipe),
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: {PROVENANCE_KEY} is not well-formed: {error!r}") from error


def _seal(table: Mapping[str, Any], recipe: str) -> str:
    return blake3(_dump([table, recipe]).encode()).hexdigest()


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _step_to_plain(step: Step) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "recipe": step.recipe,
        "version": step.version,
        "layout": step.layout,
        "inputs": {name: _record_to_plain(record) for name, record in step.inputs.items()},
        "components": dict(step.components),
        "content": step.content,
    }
    # What came later is left out where it says nothing, so that older tables stay as they were.
    more: dict[str, Any] = {"methods": dict(step.methods), "dtypes": dict(step.dtypes)}
    more["device"] = step.device
    plain |= {name: value for name, value in more.items() if value}
    return plain if step.seed is None else {**plain, "seed": step.seed}


def _record_to_plain(record: InputRecord) -> dict[str, Any]:
    plain: dict[str, Any] = {"components": dict(record.components), "made": record.made}
    if record.sizes:
        plain["sizes"] = {component: list(size) for component, size in record.sizes.items()}
    if record.parts:
        plain["parts"] = {
            component: {"blocks": list(part.blocks), "keys": list(part.keys)}
            for component, part in record.parts.items()
        }
    return plain


def _step_from_plain(plain: Mapping[str, Any]) -> Step:
    step = Step(
        _text(plain["recipe"]),
        _text(plain["version"]),
        _text(plain["layout"]),
        {_text(name): _record_from_plain(record) for name, record in plain["inputs"].items()},
        {_text(c): _hash(h) for c, h in plain["components"].items()},
        _hash_or_none(plain["content"]),
    )
    return replace(
        step,
        methods={_text(m): _whole(v) for m, v in plain.get("methods", {}).items()},
        dtypes={_text(c): _text(t) for c, t in plain.get("dtypes", {}).items()},
        seed=_whole(plain["seed"]) if "seed" in plain else None,
        device=_text(plain.get("device", "")),
    )


def _record_from_plain(plain: Mapping[str, Any]) -> InputRecord:
    return InputRecord(
        {_text(c): _hash_or_none(h) for c, h in plain["components"].items()},
        _hash_or_none(plain["made"]),
        {_text(c): (_whole(n), _whole(size)) for c, (n, size) in plain.get("sizes", {}).items()},
        {
            _text(c): Part(tuple(map(_text, p["blocks"])), tuple(map(_text, p["keys"])))
            for c, p in plain.get("parts", {}).items()
        },
    )


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a number must be whole and not negative")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text must stand where {type(value).__name__} does")
    return value


def _hash(value: Any) -> str:
    if len(_text(value)) != _HASH_DIGITS or set(value) - set("0123456789abcdef"):
        raise ValueError("a hash must be 64 hex digits")
    return str(value)


def _hash_or_none(value: Any) -> str | None:
    return None if value is None else _hash(value)
