"""Which units of a model may change places, all that reads and writes them alike, without effect.

Only what leaves the function exactly as it is: hidden units of feed-forward layers; channels inside
a head of an attention, and whole heads; channels between the two convolutions of a residual block,
within their normalisation groups, and whole groups. Residual streams stay: permuting them would
tie all of a model together, with its text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from stockpot.layouts._base import KeySpec
from stockpot.layouts.registry import get_layout

__all__ = ["Symmetry", "Units", "UnitsOf", "symmetries_of"]


@dataclass(frozen=True, slots=True)
class UnitsOf:
    """Where units stand in one tensor.

    Attributes:
        key: Canonical key.
        axis: 0 where the tensor writes them, 1 where it reads them.
        starts: Where along the axis their first one stands; a gated layer has them twice.
    """

    key: str
    axis: int
    starts: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class Units:
    """Units that may change places with each other.

    Attributes:
        n: How many there are.
        places: All tensors that write or read them.
    """

    n: int
    places: tuple[UnitsOf, ...]


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Units of one layer, in blocks (heads, normalisation groups) of equal length.

    Blocks may change places, those of all `units` together; and within a block each of `units`.

    Attributes:
        name: Of the layer.
        n_blocks: 1 where all units are free.
        units: One kind, or the two of an attention: what queries and keys meet in, and what values
            carry.

    Example:
        >>> found = {one.name: one for one in symmetries_of("sd1")}
        >>> one = found["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1"]
        >>> one.n_blocks, [units.n for units in one.units]
        (8, [320, 320])
    """

    name: str
    n_blocks: int
    units: tuple[Units, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """All tensors that it concerns."""
        return tuple(dict.fromkeys(p.key for units in self.units for p in units.places))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Numbers that shapes do not tell: heads of the UNet (or their width), of the text encoders,
    and normalisation groups."""

    heads: int
    head_width: int
    text_head_width: int
    norm_groups: int
    vae_norm_groups: int = 32


_SIZES = MappingProxyType(
    {
        "sd1": _Sizes(8, 0, 64, 32),
        "sd2": _Sizes(0, 64, 64, 32),
        "sdxl": _Sizes(0, 64, 64, 32),
        "zoo": _Sizes(4, 0, 16, 8, 16),
    }
)


@cache
def symmetries_of(layout: str) -> tuple[Symmetry, ...]:
    """List the symmetries of an architecture.

    Args:
        layout: Name of a layout.

    Returns:
        One for each layer that has any, in the order of keys; none for layouts of which nothing is
        known but their keys.
    """
    sizes = _SIZES.get(layout)
    if sizes is None:
        return ()
    specs = get_layout(layout).specs
    found = []
    for key in specs:
        if specs[key].cell.component not in ("unet", "te", "te0", "te1", "vae"):
            continue
        for pattern, make in _RULES:
            match = re.fullmatch(pattern, key)
            if match:
                one = make(match[1], specs, sizes)
                if all(name in specs for name in one.keys):
                    found.append(one)
    return tuple(found)


def _rows(*stems: str, starts: tuple[int, ...] = (0,)) -> Iterator[UnitsOf]:
    """Weight and bias of layers that write units."""
    for stem in stems:
        yield UnitsOf(f"{stem}.weight", 0, starts)
        yield UnitsOf(f"{stem}.bias", 0, starts)


def _residual(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    writers = [f"{name}.in_layers.2", f"{name}.emb_layers.1", f"{name}.out_layers.0"]
    places = (*_rows(*writers), UnitsOf(f"{name}.out_layers.3.weight", 1))
    n = specs[f"{name}.in_layers.2.weight"].shape[0]
    return Symmetry(name, sizes.norm_groups, (Units(n, places),))


def _vae_residual(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    places = (*_rows(f"{name}.conv1", f"{name}.norm2"), UnitsOf(f"{name}.conv2.weight", 1))
    n = specs[f"{name}.conv1.weight"].shape[0]
    return Symmetry(name, sizes.vae_norm_groups, (Units(n, places),))


def _vae_attention(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    n = specs[f"{name}.q.weight"].shape[0]
    meeting = Units(n, tuple(_rows(f"{name}.q", f"{name}.k")))
    carried = Units(n, (*_rows(f"{name}.v"), UnitsOf(f"{name}.proj_out.weight", 1)))
    return Symmetry(name, 1, (meeting, carried))


def _attention(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    n = specs[f"{name}.to_q.weight"].shape[0]
    meeting = (UnitsOf(f"{name}.to_q.weight", 0), UnitsOf(f"{name}.to_k.weight", 0))
    carried = (UnitsOf(f"{name}.to_v.weight", 0), UnitsOf(f"{name}.to_out.0.weight", 1))
    heads = sizes.heads or n // sizes.head_width
    return Symmetry(name, heads, (Units(n, meeting), Units(n, carried)))


def _gated(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    n = specs[f"{name}.0.proj.weight"].shape[0] // 2
    places = (*_rows(f"{name}.0.proj", starts=(0, n)), UnitsOf(f"{name}.2.weight", 1))
    return Symmetry(name, 1, (Units(n, places),))


def _clip_attention(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    n = specs[f"{name}.q_proj.weight"].shape[0]
    meeting = Units(n, tuple(_rows(f"{name}.q_proj", f"{name}.k_proj")))
    carried = Units(n, (*_rows(f"{name}.v_proj"), UnitsOf(f"{name}.out_proj.weight", 1)))
    return Symmetry(name, n // sizes.text_head_width, (meeting, carried))


def _open_clip_attention(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
    n = specs[f"{name}.out_proj.weight"].shape[0]
    fused = (f"{name}.in_proj_weight", f"{name}.in_proj_bias")
    meeting = Units(n, tuple(UnitsOf(key, 0, (0, n)) for key in fused))
    places = (*(UnitsOf(key, 0, (2 * n,)) for key in fused), UnitsOf(f"{name}.out_proj.weight", 1))
    return Symmetry(name, n // sizes.text_head_width, (meeting, Units(n, places)))


def _forward(first: str, second: str) -> Callable[[str, Mapping[str, KeySpec], _Sizes], Symmetry]:
    def make(name: str, specs: Mapping[str, KeySpec], sizes: _Sizes) -> Symmetry:
        n = specs[f"{name}.{first}.weight"].shape[0]
        places = (*_rows(f"{name}.{first}"), UnitsOf(f"{name}.{second}.weight", 1))
        return Symmetry(name, 1, (Units(n, places),))

    return make


_RULES: tuple[tuple[str, Callable[[str, Mapping[str, KeySpec], _Sizes], Symmetry]], ...] = (
    (r"(model\.diffusion_model\..+)\.in_layers\.2\.weight", _residual),
    (r"(model\.diffusion_model\..+\.attn[12])\.to_q\.weight", _attention),
    (r"(model\.diffusion_model\..+\.ff\.net)\.0\.proj\.weight", _gated),
    (r"(.+\.self_attn)\.q_proj\.weight", _clip_attention),
    (r"(.+\.mlp)\.fc1\.weight", _forward("fc1", "fc2")),
    (r"(.+\.attn)\.in_proj_weight", _open_clip_attention),
    (r"(.+\.mlp)\.c_fc\.weight", _forward("c_fc", "c_proj")),
    (r"(first_stage_model\..+)\.conv1\.weight", _vae_residual),
    (r"(first_stage_model\..+\.attn_1)\.q\.weight", _vae_attention),
)
