"""What one checkpoint is and holds, from its header; with hashes where they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stockpot.checkpoints import (
    FileHashes,
    SafetensorsFile,
    Source,
    content_hash,
    file_hashes,
    hash_tensors,
)
from stockpot.errors import Problem
from stockpot.layouts import Detection, as_checkpoint, detect

__all__ = ["ComponentFacts", "Inspection", "inspect_checkpoint"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """One component of a checkpoint.

    Attributes:
        name: Such as ``unet``.
        n_keys: Tensors of it that are there.
        n_params: Their elements.
        n_bytes: Their bytes.
        dtypes: Number of tensors of each element type.
        hash: Content hash, the component's prefix taken off; None where it was not asked for.
    """

    name: str
    n_keys: int
    n_params: int
    n_bytes: int
    dtypes: Mapping[str, int]
    hash: str | None


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is and holds.

    Attributes:
        path: Its name.
        detection: The architecture and the evidence for it.
        components: By name, in the layout's order; only those that are there.
        problems: What is missing, unknown or of another shape.
        metadata: The file's own strings; untrusted.
        content_hash: Of the whole; None where it was not asked for.
        file_hashes: What other tools call the file; None where it was not asked for, or where the
            checkpoint is more than one file.
    """

    path: str
    detection: Detection
    components: Mapping[str, ComponentFacts]
    problems: tuple[Problem, ...]
    metadata: Mapping[str, str] = field(repr=False)
    content_hash: str | None
    file_hashes: FileHashes | None

    def to_json(self) -> dict[str, Any]:
        """The same as plain data.

        Returns:
            ``path``, ``architecture``, ``evidence``, ``components`` by name, ``problems``,
            ``hashes`` and ``metadata``.
        """
        whole = self.file_hashes
        return {
            "path": self.path,
            "architecture": self.detection.layout.name,
            "evidence": list(self.detection.evidence),
            "components": {
                name: {
                    "hash": facts.hash,
                    "n_keys": facts.n_keys,
                    "n_params": facts.n_params,
                    "n_bytes": facts.n_bytes,
                    "dtypes": dict(facts.dtypes),
                }
                for name, facts in self.components.items()
            },
            "problems": [
                {"code": problem.code, "key": problem.where, "message": problem.message}
                for problem in self.problems
            ],
            "hashes": {
                "content": self.content_hash,
                "sha256": whole and whole.sha256,
                "autov2": whole and whole.autov2,
                "legacy": whole and whole.legacy,
                "autov3": whole and whole.autov3,
            },
            "metadata": dict(self.metadata),
        }


def inspect_checkpoint(
    source: Source,
    *,
    hashes: bool = False,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Inspection:
    """Find out what a checkpoint is and holds.

    Args:
        source: The open checkpoint. Only its header is used unless `hashes` is set.
        hashes: Read everything, and hash the whole, each component, and the file.
        progress: Called with the bytes that were just read.

    Returns:
        The findings.

    Raises:
        CheckpointError: The tensors cannot be read.

    Example:
        >>> from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
        >>> info = TensorInfo("a", DTYPES["F16"], (2,))
        >>> found = inspect_checkpoint(MemorySource({"a": (info, bytes(4))}))
        >>> found.detection.layout.name, found.components["model"].n_params
        ('generic', 2)
    """
    single = isinstance(source, SafetensorsFile)
    source = as_checkpoint(source)
    detection = detect({key: info.shape for key, info in source.tensors.items()})
    layout = detection.layout
    digests = hash_tensors(source, progress=progress) if hashes else None
    members: dict[str, list[str]] = {component.name: [] for component in layout.components}
    for key in source.tensors:
        members[layout.cell_of(key).component].append(key)
    components = {}
    for name, keys in members.items():
        if not keys:
            continue
        infos = {key: source.tensors[key] for key in keys}
        components[name] = ComponentFacts(
            name,
            len(infos),
            sum(info.n_elements for info in infos.values()),
            sum(info.n_bytes for info in infos.values()),
            dict(Counter(info.dtype.name for info in infos.values()).most_common()),
            content_hash(infos, digests, layout.relative_key) if digests else None,
        )
    return Inspection(
        source.name,
        detection,
        components,
        tuple(_problems(detection)),
        source.metadata,
        content_hash(source.tensors, digests) if digests else None,
        file_hashes(source.name) if hashes and single else None,
    )


def _problems(detection: Detection) -> list[Problem]:
    fit, layout = detection.fit, detection.layout
    found = [
        Problem("missing-component", f"there is no {name} in this file", name)
        for name in fit.missing_components
    ]
    for component, keys in fit.missing_in.items():
        if component not in fit.missing_components:
            found += [
                Problem("missing-key", f"{layout.title} has this key in its {component}", key)
                for key in keys[:_SHOWN]
            ]
            found += _rest("missing-key", len(keys))
    found += [
        Problem("shape", f"should be {list(expected)}, but is {list(got)}", key)
        for key, got, expected in fit.mismatched[:_SHOWN]
    ]
    found += _rest("shape", len(fit.mismatched))
    found += [
        Problem("unknown-key", f"{layout.title} has no such key", key)
        for key in fit.unknown[:_SHOWN]
    ]
    return found + _rest("unknown-key", len(fit.unknown))


def _rest(code: str, n: int) -> list[Problem]:
    return [Problem(code, f"and {n - _SHOWN} more like this")] if n > _SHOWN else []
