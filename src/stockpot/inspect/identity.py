"""What a file is: a checkpoint, one component, an adapter; and what its keys mean.

`stockpot.layouts` explains whole checkpoints. Here come the files around them: components without
their prefix, diffusers folders, small files. A component of its own keeps the names of a
checkpoint internally, so that it is checked by the same table and has the same hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from stockpot.inspect.adapters import architecture_of_width, find_adapter
from stockpot.layouts import LAYOUTS, Detection, Layout, Shape, detect, get_layout

__all__ = ["Foreign", "Identity", "identify"]

_TEXT = ("te", "te0", "te1")
_MIN_SHARE = 0.25

# What the keys of a component begin with once its prefix is gone.
_BARE = (
    ("input_blocks.", ("model.diffusion_model.",)),
    ("diffusion_model.input_blocks.", ("model.",)),
    ("decoder.up.", ("first_stage_model.",)),
    ("encoder.down.", ("first_stage_model.",)),
    ("text_model.", ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")),
    ("transformer.resblocks.", ("cond_stage_model.model.", "conditioner.embedders.1.model.")),
)

# Beginnings of keys in diffusers' names, and the folder that such a file comes from.
_DIFFUSERS = (
    ("down_blocks.", "unet"),
    ("mid_block.", "unet"),
    ("encoder.down_blocks.", "vae"),
    ("decoder.up_blocks.", "vae"),
)
_FOLDERS = {
    "unet": "unet",
    "vae": "vae",
    "text_encoder": "te",
    "text_encoder_2": "te1",
}
_ADAPTED = (
    ("lora_unet_", "unet"),
    ("unet.", "unet"),
    ("lora_te1_", "te0"),
    ("lora_te2_", "te1"),
    ("lora_te_", "te"),
    ("text_encoder_2.", "te1"),
    ("text_encoder.", "te"),
)

_ALONE = {"unet": "UNet alone", "vae": "VAE alone", "text-encoder": "text encoder alone"}


@dataclass(frozen=True, slots=True)
class Foreign:
    """A component of another architecture among the keys that a layout does not know.

    Attributes:
        layout: Name of the layout that it belongs to.
        title: How reports call the component.
        keys: Its keys.
    """

    layout: str
    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Identity:
    """The answer of `identify`.

    Attributes:
        kind: ``checkpoint``, ``unet``, ``text-encoder``, ``vae``, ``clip``, ``diffusers``,
            ``lora``, ``lycoris``, ``textual-inversion``, ``controlnet``, ``adapter`` or
            ``unknown``.
        title: The same for people.
        architecture: Name of the layout that it belongs to or is made for.
        detection: How the keys compare with the layout's table; generic for adapters and files in
            other names.
        evidence: Sentences that name what decided.
        prefix: What the keys of a component without its prefix need in front, to be those of a
            checkpoint.
        foreign: Components of other architectures.
        facts: More of it, such as an adapter's rank.
        groups: Component of each key, for files that no layout's table explains.
    """

    kind: str
    title: str
    architecture: str
    detection: Detection
    evidence: tuple[str, ...]
    prefix: str = ""
    foreign: tuple[Foreign, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The layout whose table explains the keys; generic where none does."""
        return self.detection.layout

    def component_of(self, key: str) -> str:
        """Name the component that a key belongs to.

        Args:
            key: Of the file.
        """
        return self.groups.get(key) or self.layout.cell_of(self.prefix + key).component

    def relative_key(self, key: str) -> str:
        """Give the name of a key in a file of its component alone.

        Args:
            key: Of the file.
        """
        if key in self.groups:
            folder, slash, rest = key.partition("/")
            return rest if slash else folder
        return self.layout.relative_key(self.prefix + key)


def identify(tensors: Mapping[str, Shape], metadata: Mapping[str, str]) -> Identity:
    """Find out what a file is, from its header alone.

    Args:
        tensors: Shape of each key.
        metadata: Of the file; only says what an adapter is made for.

    Returns:
        The answer; nothing is decided by default, and what fits nothing is ``unknown``.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> vae = {key.removeprefix("first_stage_model."): spec.shape
        ...        for key, spec in get_layout("sdxl").specs.items()
        ...        if spec.cell.component == "vae"}
        >>> found = identify(vae, {})
        >>> found.kind, found.prefix, found.detection.fit.matched["vae"]
        ('vae', 'first_stage_model.', 248)
    """
    detection = detect(tensors)
    if detection.layout.parts:
        return _of_layout(detection, tensors, "")
    adapter = find_adapter(tensors, metadata)
    if adapter is not None:
        groups = {key: _adapted(key) for key in tensors}
        return Identity(
            adapter.kind, adapter.title, adapter.architecture, detection, adapter.evidence,
            facts=adapter.facts, groups=groups,
        )  # fmt: skip
    for start, prefixes in _BARE:
        if any(key.startswith(start) for key in tensors):
            found = [detect({prefix + key: s for key, s in tensors.items()}) for prefix in prefixes]
            known = [(d, p) for d, p in zip(found, prefixes, strict=True) if d.layout.parts]
            if known:
                best, prefix = known[0]
                also = dict.fromkeys(n for d, _ in known for n in (d.layout.name, *d.also))
                also.pop(best.layout.name)
                best = Detection(best.layout, best.evidence, best.fit, tuple(also))
                return _of_layout(best, tensors, prefix)
    return _in_diffusers_names(tensors, detection) or _foreign_or_unknown(tensors, detection)


def _of_layout(detection: Detection, tensors: Mapping[str, Shape], prefix: str) -> Identity:
    layout = detection.layout
    here = {name for name, n in detection.fit.matched.items() if n}
    texts = here.intersection(_TEXT)
    foreign = _foreign(detection, prefix)
    if "unet" in here:
        kind = "checkpoint" if len(here) > 1 or foreign else "unet"
    elif texts and "vae" not in here:
        vision = any(key.startswith(("vision_model.", "visual.")) for key in tensors)
        kind = "clip" if vision else "text-encoder"
    else:
        kind = "checkpoint" if texts else "vae"
    titles = {"checkpoint": "checkpoint", "clip": "CLIP, text and vision", **_ALONE}
    evidence = detection.evidence
    # Of a lone component, that the others are absent is what its name says.
    if kind != "checkpoint":
        evidence = tuple(line for line in evidence if not line.endswith(": absent"))
    if prefix:
        shared = [layout.name, *detection.also]
        evidence = tuple(line for line in evidence if not line.startswith("what is there is"))
        evidence += (f"its keys are those of a checkpoint without {prefix}",)
        if len(shared) > 1:
            evidence += (f"what is there is the same in {', '.join(shared)}",)
    lines = [
        f"{len(one.keys)} keys are those of the {one.title} of {get_layout(one.layout).title}"
        for one in foreign
    ]
    return Identity(
        kind, titles[kind], layout.name, detection, (*evidence, *lines), prefix, foreign
    )


@cache
def _prefixes() -> tuple[tuple[str, str, str, str], ...]:
    """Layout, component, title and prefix of every component; the zoo's, which is no other
    architecture than SD1's, last."""
    return tuple(
        (layout.name, part.component.name, part.component.title, part.component.prefix)
        for layout in LAYOUTS.values()
        for part in layout.parts
    )


def _foreign(detection: Detection, prefix: str) -> tuple[Foreign, ...]:
    """Components of other layouts among the unknown keys and those of another shape."""
    fit = detection.fit
    if prefix or not (fit.unknown or fit.mismatched):
        return ()
    strange: dict[str, Shape | None] = dict.fromkeys(fit.unknown)
    strange |= {key: shape for key, shape, _ in fit.mismatched}
    found: dict[str, Foreign] = {}
    for name, component, title, start in _prefixes():
        if name == detection.layout.name:
            continue
        specs = LAYOUTS[name].specs
        keys = []
        for key, shape in strange.items():
            spec = specs.get(key) if key.startswith(start) else None
            if spec is not None and (shape is None or spec.accepts(shape)):
                keys.append(key)
        n_required = LAYOUTS[name].n_required[component]
        if len(keys) >= _MIN_SHARE * n_required:
            best = found.get(start)
            if best is None or len(keys) > len(best.keys):
                found[start] = Foreign(name, title, tuple(keys))
    return tuple(found.values())


def _adapted(key: str) -> str:
    return next((name for start, name in _ADAPTED if key.startswith(start)), "model")


def _in_diffusers_names(tensors: Mapping[str, Shape], detection: Detection) -> Identity | None:
    folders = {key.partition("/")[0] for key in tensors if "/" in key}
    whole = "unet" in folders or "text_encoder" in folders or "vae" in folders
    start = next((f for s, f in _DIFFUSERS if any(k.startswith(s) for k in tensors)), None)
    if not whole and start is None:
        return None
    groups = {}
    for key in tensors:
        folder, slash, _ = key.partition("/")
        name = folder if slash else str(start)
        groups[key] = _FOLDERS.get(name, name)
    reader = next((key for key in tensors if key.endswith("attn2.to_k.weight")), None)
    name, lines = "generic", ["the names are those of diffusers"]
    if reader is not None and len(tensors[reader]) == 2:
        width = tensors[reader][1]
        name = architecture_of_width(width)
        if name != "generic":
            lines.append(f"{reader} reads text states {width} wide, as in {LAYOUTS[name].title}")
    if "te1" in groups.values():
        # Both are called te in files of their own; a pair has the numbers of a checkpoint.
        groups = {key: "te0" if group == "te" else group for key, group in groups.items()}
    if whole:
        kind, title = "diffusers", "diffusers folder"
    else:
        kind, title = str(start), f"{_ALONE[str(start)]}, in diffusers' names"
    return Identity(kind, title, name, detection, tuple(lines), groups=groups)


def _foreign_or_unknown(tensors: Mapping[str, Shape], detection: Detection) -> Identity:
    prefixes = ("model.diffusion_model.", "cond_stage_model.", "conditioner.", "first_stage_model.")
    if any(key.startswith(prefixes) for key in tensors):
        title = "checkpoint of an unknown architecture"
        return Identity("checkpoint", title, "generic", detection, detection.evidence)
    return Identity("unknown", "unknown kind of file", "generic", detection, detection.evidence)
