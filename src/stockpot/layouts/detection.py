"""Which layout a file has, and why.

The strongest component that a file has keys for decides: its UNet, else its text encoders, else
its VAE. (SD1, SD2 and SDXL share one VAE architecture, SD3 and others its names, so a VAE never
speaks for a file that has more.) Nothing is decided by default: a file that fits no layout is
generic, and the evidence says what spoke against each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import final

from stockpot.layouts._base import Shape
from stockpot.layouts._layout import Fit, Layout
from stockpot.layouts.registry import known_layouts

__all__ = ["MIN_MATCHED", "Detection", "detect", "has_checkpoint_names"]

_ANCHORS = (
    (("unet",), ("model.diffusion_model.",)),
    (("te", "te0", "te1"), ("cond_stage_model.", "conditioner.")),
    (("vae",), ("first_stage_model.",)),
)

# A file may be pruned or damaged, and is still what it is; below these it is something else.
MIN_MATCHED = 1 / 4
_MAX_MISMATCHED = 1 / 100

_FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
_INPUTS = {
    9: "an inpainting model (the latent image, a masked one, and the mask)",
    8: "an instruct-pix2pix model (the latent image and the one to edit)",
    5: "a depth-to-image model (the latent image and a depth map)",
}

_MARKED = {
    "v_pred": "the model predicts velocities, not noise",
    "ztsnr": "the noise schedule ends at zero signal",
}

_HINTS = (
    (("lora_unet_", "lora_te"), "the names are those of a LoRA"),
    (
        ("down_blocks.", "up_blocks.", "mid_block.", "encoder.down_blocks.", "unet.down_blocks."),
        "the names are those of a diffusers folder, not of a single-file checkpoint",
    ),
    (
        ("input_blocks.", "decoder.up.", "text_model.", "transformer.resblocks."),
        "the names are those of one component without its prefix",
    ),
    (("model.diffusion_model.joint_blocks.",), "the names are those of Stable Diffusion 3"),
)


@final
@dataclass(frozen=True)
class Detection:
    """The answer of `detect`.

    Attributes:
        layout: The layout; ``generic`` where no known one explains the file.
        evidence: Sentences that name what decided, and what does not fit.
        fit: How the file compares with the layout.
        also: Names of other layouts that explain the file just as well, such as all families
            that share a VAE; empty where the answer is the only one.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> sd2 = get_layout("sd2").specs
        >>> detect({key: spec.shape for key, spec in sd2.items()}).layout.name
        'sd2'
    """

    layout: Layout
    evidence: tuple[str, ...]
    fit: Fit
    also: tuple[str, ...] = ()


def detect(tensors: Mapping[str, Shape]) -> Detection:
    """Find the layout of a file from its header.

    Args:
        tensors: Shape of each key.

    Returns:
        The layout with the evidence. Missing, unknown and mismatched keys do not change the
        answer while the rest is clear; `Detection.fit` lists them.

    Example:
        >>> answer = detect({"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)})
        >>> answer.layout.name
        'generic'
        >>> print(answer.evidence[-1])
        the names are those of a diffusers folder, not of a single-file checkpoint
    """
    layouts = known_layouts()
    generic = layouts["generic"]
    names = _anchor(tensors)
    if names is None:
        reason = (
            "no key begins as those of a UNet, text encoder or VAE of a checkpoint do"
            if tensors
            else "the file has no tensors"
        )
        return Detection(generic, (reason, *_hints(tensors)), generic.fit(tensors))

    fits = {name: layout.fit(tensors) for name, layout in layouts.items() if layout.parts}
    scores: dict[str, tuple[int, int, int]] = {}
    for name, fit in fits.items():
        if any(_is_recognised(layouts[name], fit, component) for component in names):
            n_anchor = sum(fit.matched.get(component, 0) for component in names)
            n_all = sum(fit.matched.values()) - len(fit.mismatched)
            scores[name] = (n_anchor, n_all, -len(fit.reshaped))
    if not scores:
        against = (_against(layouts[name], fit, names) for name, fit in fits.items())
        return Detection(generic, (*against, *_hints(tensors)), generic.fit(tensors))

    best = max(scores.values())
    chosen, *also = (name for name, score in scores.items() if score == best)
    evidence = _evidence(layouts[chosen], fits[chosen], tensors)
    if also:
        evidence.append(f"what is there is the same in {', '.join([chosen, *also])}")
    return Detection(layouts[chosen], tuple(evidence), fits[chosen], tuple(also))


def _anchor(tensors: Mapping[str, Shape]) -> tuple[str, ...] | None:
    """Name the components that decide: those of the first group that the file has keys for."""
    for components, prefixes in _ANCHORS:
        # Architectures that others added may have other prefixes.
        others = (
            part.component.prefix
            for layout in known_layouts().values()
            for part in layout.parts
            if part.component.name in components
        )
        starts = (*prefixes, *others)
        if any(key.startswith(starts) for key in tensors):
            return components
    return None


def has_checkpoint_names(keys: Collection[str]) -> bool:
    """Whether some keys begin as those of a UNet, text encoder or VAE of a checkpoint do.

    Args:
        keys: Of a file.

    Example:
        >>> has_checkpoint_names(["first_stage_model.decoder.conv_out.bias"])
        True
    """
    return any(key.startswith(prefixes) for _, prefixes in _ANCHORS for key in keys)


def _n_mismatched(layout: Layout, fit: Fit, component: str) -> int:
    return sum(layout.cell_of(key).component == component for key, _, _ in fit.mismatched)


def _is_recognised(layout: Layout, fit: Fit, component: str) -> bool:
    n_required = layout.n_required.get(component, 0)
    if not n_required or fit.matched[component] < MIN_MATCHED * n_required:
        return False
    allowed = max(1.0, _MAX_MISMATCHED * n_required)
    return _n_mismatched(layout, fit, component) <= allowed


def _evidence(layout: Layout, fit: Fit, tensors: Mapping[str, Shape]) -> list[str]:
    canonical = {canonical: key for key, canonical in fit.aliased.items()}
    lines = []
    for key in layout.telltales:
        name = canonical.get(key, key)
        shape = tensors.get(name)
        if shape is not None and layout.specs[key].accepts(shape):
            lines.append(f"{name} is {_show(shape)}, as in {layout.title}")
    for component in layout.components:
        n_required = layout.n_required.get(component.name, 0)
        if component.name in fit.missing_components:
            lines.append(f"{component.title}: absent")
        elif n_required:
            n_matched = fit.matched[component.name]
            line = f"{component.title}: {n_matched} of {n_required} keys, shapes included"
            n_missing = len(fit.missing_in.get(component.name, ()))
            n_mismatched = _n_mismatched(layout, fit, component.name)
            if n_missing:
                line += f"; {n_missing} missing"
            if n_mismatched:
                line += f"; {n_mismatched} of another shape"
            lines.append(line)
    for key, got, _ in fit.mismatched:
        if key == _FIRST_CONVOLUTION and len(got) == 4 and got[1] in _INPUTS:
            lines.append(f"{key} takes {got[1]} channels instead of 4: {_INPUTS[got[1]]}")
    lines.extend(f"{key} is there: {means}" for key, means in _MARKED.items() if key in tensors)
    if fit.aliased:
        lines.append(f"{len(fit.aliased)} text encoder keys lack `text_model.` (NovelAI's names)")
    if fit.unknown:
        lines.append(f"{len(fit.unknown)} keys have no meaning in {layout.title}")
    return lines


def _against(layout: Layout, fit: Fit, components: tuple[str, ...]) -> str:
    """Say in one sentence why a file is not of this layout."""
    here = [name for name in components if layout.n_required.get(name)]
    n_required = sum(layout.n_required[name] for name in here)
    n_matched = sum(fit.matched[name] for name in here)
    titles = " and ".join(
        component.title for component in layout.components if component.name in here
    )
    line = f"not {layout.title}: {n_matched} of {n_required} keys of its {titles} are there"
    wrong = [item for item in fit.mismatched if layout.cell_of(item[0]).component in here]
    if wrong:
        key, got, expected = wrong[0]
        line += f", {len(wrong)} have another shape ({key} is {_show(got)}, not {_show(expected)})"
    return line


def _hints(tensors: Mapping[str, Shape]) -> list[str]:
    found = []
    for prefixes, sentence in _HINTS:
        if any(key.startswith(prefixes) for key in tensors):
            found.append(sentence)
    return found


def _show(shape: Shape) -> str:
    """Print a shape; one from a hostile header may be too long, or its numbers too big to print."""
    lengths = [str(n) if abs(n) < 2**63 else "too large" for n in shape[:8]]
    return f"[{', '.join(lengths)}{', …' if len(shape) > 8 else ''}]"
