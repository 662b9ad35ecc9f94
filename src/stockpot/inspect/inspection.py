"""The findings about one file, as plain data that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stockpot.checkpoints import FileHashes
from stockpot.errors import Problem
from stockpot.inspect.codes import CODES, Level, worst_level

__all__ = ["ComponentFacts", "Inspection", "Traits", "Waste"]


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """One component of a checkpoint.

    Attributes:
        name: Such as ``unet``.
        n_keys: Tensors of it that are there.
        n_params: Their elements.
        n_bytes: Their bytes.
        dtypes: Number of tensors of each element type.
        n_missing: Tensors that a complete one has besides.
        hash: Content hash, the component's prefix taken off; None where nobody asked for it.
    """

    name: str
    n_keys: int
    n_params: int
    n_bytes: int
    dtypes: Mapping[str, int]
    n_missing: int = 0
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class Traits:
    """How a model is meant to be used, as far as it says so.

    Attributes:
        prediction: ``v`` or ``epsilon``; None where neither a marker nor the metadata say it.
        prediction_from: The key or metadata field that said it.
        zero_terminal_snr: Whether it was trained with noise down to no signal at all (``ztsnr``).
        input_channels: Of the UNet: 4, 9 for inpainting, 8 for instruct-pix2pix, 5 for depth;
            None without a UNet.
        purpose: What such inputs are for; empty for 4.
        ema: Whether an EMA copy of the UNet is there.
        position_ids: ``absent``, ``right``, ``wrong`` or ``float`` for each text encoder that may
            have them.
    """

    prediction: str | None = None
    prediction_from: str = ""
    zero_terminal_snr: bool = False
    input_channels: int | None = None
    purpose: str = ""
    ema: bool = False
    position_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waste:
    """Bytes that the file could do without.

    Attributes:
        ema: Of the EMA copy.
        wide: That fp16 instead of fp32 or fp64 would save; values may be rounded.
        lossless: The part of `wide` that would change no value; None where values were not read.
    """

    ema: int = 0
    wide: int = 0
    lossless: int | None = None


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is and holds.

    Attributes:
        path: Its name.
        kind: ``checkpoint``, ``unet``, ``vae``, ``text-encoder``, ``clip``, ``diffusers``,
            ``lora``, ``lycoris``, ``textual-inversion``, ``controlnet``, ``adapter``, ``unknown``;
            ``unreadable`` where it could not be read.
        title: The same for people.
        architecture: Name of the layout that it belongs to or is made for; ``generic`` where none
            is known, None where the file could not be read.
        evidence: Sentences that name what decided.
        n_bytes: Size of its tensors.
        components: By name, in the layout's order; only those that are there.
        missing: Components that a complete checkpoint would have.
        foreign: Number of keys of each component of another architecture, by its title.
        facts: More of it, such as an adapter's rank.
        traits: How it is meant to be used.
        waste: What it could do without.
        problems: What is wrong or worth knowing; `CODES` explains the codes.
        metadata: The file's own strings; untrusted.
        content_hash: Of the whole; None where nobody asked for it.
        file_hashes: What other tools call the file; None where nobody asked for it, or where the
            checkpoint is more than one file.
        toolkit: The toolkit's ``UNET/VAE/CLIP`` numbers; None where nobody asked for them.
        deep: Whether the values were looked at.
    """

    path: str
    kind: str
    title: str
    architecture: str | None
    evidence: tuple[str, ...] = ()
    n_bytes: int = 0
    components: Mapping[str, ComponentFacts] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    foreign: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    traits: Traits = Traits()
    waste: Waste = Waste()
    problems: tuple[Problem, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    content_hash: str | None = None
    file_hashes: FileHashes | None = None
    toolkit: str | None = None
    deep: bool = False

    @property
    def level(self) -> Level | None:
        """How bad the worst problem is; None without problems."""
        return worst_level([problem.code for problem in self.problems])

    def to_json(self) -> dict[str, Any]:
        """The same as plain data; ``docs/inspect.md`` describes it.

        Returns:
            A dictionary that `json.dumps` takes.
        """
        whole = self.file_hashes
        return {
            "path": self.path,
            "kind": self.kind,
            "title": self.title,
            "architecture": self.architecture,
            "evidence": list(self.evidence),
            "n_bytes": self.n_bytes,
            "components": {
                name: {
                    "hash": facts.hash,
                    "n_keys": facts.n_keys,
                    "n_params": facts.n_params,
                    "n_bytes": facts.n_bytes,
                    "n_missing": facts.n_missing,
                    "dtypes": dict(facts.dtypes),
                }
                for name, facts in self.components.items()
            },
            "missing": list(self.missing),
            "foreign": dict(self.foreign),
            "facts": dict(self.facts),
            "traits": {**asdict(self.traits), "position_ids": dict(self.traits.position_ids)},
            "waste": asdict(self.waste),
            "problems": [
                {
                    "code": problem.code,
                    "level": CODES[problem.code].level,
                    "key": problem.where,
                    "message": problem.message,
                    "remedy": problem.remedy,
                }
                for problem in self.problems
            ],
            "hashes": {
                "content": self.content_hash,
                "sha256": whole and whole.sha256,
                "autov2": whole and whole.autov2,
                "legacy": whole and whole.legacy,
                "autov3": whole and (whole.autov3 or None),
                "embedding": whole and whole.embedding,
            },
            "toolkit": self.toolkit,
            "deep": self.deep,
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Inspection:
        """Read what `to_json` wrote.

        Args:
            plain: Such a dictionary, perhaps damaged.

        Returns:
            The findings.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is no such dictionary.
        """
        hashes = plain["hashes"]
        return cls(
            str(plain["path"]),
            str(plain["kind"]),
            str(plain["title"]),
            plain["architecture"],
            tuple(map(str, plain["evidence"])),
            int(plain["n_bytes"]),
            {name: ComponentFacts(name, **facts) for name, facts in plain["components"].items()},
            tuple(map(str, plain["missing"])),
            dict(plain["foreign"]),
            dict(plain["facts"]),
            Traits(**plain["traits"]),
            Waste(**plain["waste"]),
            tuple(
                Problem(p["code"], str(p["message"]), str(p["key"]), str(p["remedy"]))
                for p in plain["problems"]
                if CODES[p["code"]]
            ),
            dict(plain["metadata"]),
            hashes["content"],
            FileHashes(hashes["sha256"], hashes["autov2"], hashes["legacy"], hashes["autov3"] or "")
            if hashes["sha256"]
            else None,
            plain["toolkit"],
            bool(plain["deep"]),
        )
