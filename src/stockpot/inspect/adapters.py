"""Small files that change a model: LoRA, LyCORIS, textual inversion, ControlNet and the like.

They are known by the endings of their keys, as the trainers of kohya, LyCORIS, diffusers and A1111
write them; the model that they are made for by the width of the text states that they read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from stockpot.layouts import LAYOUTS, Shape

__all__ = ["Adapter", "architecture_of_width", "claimed_architecture", "find_adapter"]


@dataclass(frozen=True)
class Adapter:
    """What a small file is.

    Attributes:
        kind: ``lora``, ``lycoris``, ``textual-inversion``, ``controlnet`` or ``adapter``.
        title: What people call it, such as ``LyCORIS (LoHa)``.
        architecture: Name of the layout that it is made for; ``generic`` where nothing says.
        evidence: Sentences that name what decided.
        facts: Such as rank and the number of vectors, as text.
    """

    kind: str
    title: str
    architecture: str
    evidence: tuple[str, ...]
    facts: Mapping[str, str]


# Ending of a key, kind, title. The first that any key has decides, so the special come first.
_ENDINGS = (
    (".hada_w1_a", "lycoris", "LyCORIS (LoHa)"),
    (".lokr_w1", "lycoris", "LyCORIS (LoKr)"),
    (".lokr_w1_a", "lycoris", "LyCORIS (LoKr)"),
    (".on_input", "lycoris", "LyCORIS ((IA)³)"),
    (".oft_blocks", "lycoris", "LyCORIS (OFT)"),
    (".oft_diag", "lycoris", "LyCORIS (OFT)"),
    (".lora_mid.weight", "lycoris", "LyCORIS (LoCon)"),
    (".a1.weight", "lycoris", "LyCORIS (GLoRA)"),
    (".lora_down.weight", "lora", "LoRA"),
    (".lora_A.weight", "lora", "LoRA"),
    (".lora.down.weight", "lora", "LoRA"),
    ("_lora.down.weight", "lora", "LoRA"),
    (".diff", "lycoris", "LyCORIS (full difference)"),
)


@cache
def _down() -> tuple[str, ...]:
    """Endings of down factors; the room of adapters knows them, and loads numpy."""
    from stockpot.adapters import ENDINGS

    return tuple(ending for ending, factor in ENDINGS.items() if factor == "down")


_MOST_VECTORS = 256

_PREFIXES = (
    ("control_model.", "controlnet", "ControlNet"),
    ("controlnet_cond_embedding.", "controlnet", "ControlNet (diffusers)"),
    ("lora_controlnet", "controlnet", "Control-LoRA"),
    ("ip_adapter.", "adapter", "IP-Adapter"),
    ("image_proj.", "adapter", "IP-Adapter"),
    ("motion_modules.", "adapter", "motion module"),
)

_CLAIMS = (
    ("sd1", r"stable-diffusion-v1(?!/stockpot-zoo)|sd_?v?1([._ ]|$)"),
    ("sd2", r"stable-diffusion-v2|sd_?v?2([._ ]|$)"),
    ("sdxl", r"stable-diffusion-xl|sdxl"),
    ("zoo", r"stockpot-zoo|^zoo$"),
)


def find_adapter(tensors: Mapping[str, Shape], metadata: Mapping[str, str]) -> Adapter | None:
    """Say which kind of small file this is, if it is one.

    Args:
        tensors: Shape of each key.
        metadata: Of the file; says what it is made for where shapes do not.

    Returns:
        The answer; None for a file of another kind.

    Example:
        >>> key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        >>> shapes = {f"{key}.lora_down.weight": (16, 768), f"{key}.lora_up.weight": (320, 16)}
        >>> found = find_adapter(shapes, {})
        >>> found.title, found.architecture, found.facts["rank"]
        ('LoRA', 'sd1', '16')
    """
    for prefix, kind, title in _PREFIXES:
        key = next((key for key in tensors if key.startswith(prefix)), None)
        if key is not None:
            name, line = _made_for(tensors, metadata)
            return Adapter(kind, title, name, (f"there is {key}", *line), {})
    for ending, kind, title in _ENDINGS:
        key = next((key for key in tensors if key.endswith(ending)), None)
        if key is None:
            continue
        if kind == "lora" and any(_is_wide_convolution(k, s) for k, s in tensors.items()):
            kind, title = "lycoris", "LyCORIS (LoCon)"
        name, line = _made_for(tensors, metadata)
        facts = dict(_facts(tensors))
        return Adapter(kind, title, name, (f"there is {key}", *line), facts)
    return _embedding(tensors)


def claimed_architecture(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    """Say which architecture a file's metadata name.

    Args:
        metadata: Of the file; untrusted.

    Returns:
        The layout's name, and the key in the metadata; None where they name none we know.

    Example:
        >>> claimed_architecture({"ss_base_model_version": "sdxl_base_v1-0"})
        ('sdxl', 'ss_base_model_version')
    """
    for key in ("modelspec.architecture", "ss_base_model_version"):
        text = metadata.get(key, "")[:200].lower()
        for name, pattern in _CLAIMS:
            if re.search(pattern, text):
                return name, key
    return None


@cache
def _widths() -> tuple[dict[int, str], dict[int, str]]:
    """Layouts by the width of the text states that their UNet reads, and of their text encoder."""
    read: dict[int, str] = {}
    made: dict[int, str] = {}
    for layout in LAYOUTS.values():
        for key, spec in layout.specs.items():
            if key.endswith(".attn2.to_k.weight"):
                read.setdefault(spec.shape[1], layout.name)
            elif key.endswith("token_embedding.weight"):
                made.setdefault(spec.shape[1], layout.name)
    return read, made


def architecture_of_width(width: int) -> str:
    """Say which layout's UNet reads text states of a width.

    Args:
        width: Second axis of a cross-attention's ``to_k``.

    Returns:
        The layout's name; ``generic`` where none has this width.

    Example:
        >>> architecture_of_width(1024)
        'sd2'
    """
    return _widths()[0].get(width, "generic")


def _embedding(tensors: Mapping[str, Shape]) -> Adapter | None:
    if set(tensors) == {"clip_l", "clip_g"}:
        names, key, name = "clip_l and clip_g", "clip_g", "sdxl"
    elif len(tensors) == 1:
        key = names = next(iter(tensors))
        shape = tensors[key]
        name = _widths()[1].get(shape[-1], "generic") if shape else "generic"
        # diffusers calls it by the word that it stands for, which may be any.
        named = len(shape) in (1, 2) and name != "generic" and "." not in key and "/" not in key
        if key != "emb_params" and not named:
            return None
    else:
        return None
    shape = tensors[key]
    n_vectors = shape[0] if len(shape) == 2 else 1
    if n_vectors > _MOST_VECTORS:
        return None
    return Adapter(
        "textual-inversion",
        "textual inversion",
        name,
        (f"there is {names} and nothing else", f"{key} is {list(shape[:4])}"),
        {"vectors": str(n_vectors)},
    )


def _is_wide_convolution(key: str, shape: Shape) -> bool:
    return key.endswith(_down()) and len(shape) == 4 and shape[2:] != (1, 1)


def _made_for(
    tensors: Mapping[str, Shape], metadata: Mapping[str, str]
) -> tuple[str, tuple[str, ...]]:
    second = next((key for key in tensors if key.startswith(("lora_te2_", "text_encoder_2."))), "")
    if second:
        return "sdxl", (f"there is {second}: only SDXL has two text encoders",)
    read, made = _widths()
    for key, width in _read_widths(tensors):
        name = read.get(width, "generic")
        if name != "generic":
            title = LAYOUTS[name].title
            return name, (f"{key} reads text states {width} wide, as in {title}",)
    for key, shape in tensors.items():
        if key.endswith(_down()) and key.startswith(("lora_te_", "text_encoder.")):
            if re.search(r"q_proj|fc1", key) and len(shape) == 2 and shape[1] in made:
                name = made[shape[1]]
                title = LAYOUTS[name].title
                return name, (f"{key} is for a text encoder {shape[1]} wide, as in {title}",)
    claim = claimed_architecture(metadata)
    if claim is not None:
        return claim[0], (f"{claim[1]} in the metadata says so",)
    return "generic", ("nothing says which model it is made for",)


def _read_widths(tensors: Mapping[str, Shape]) -> Iterator[tuple[str, int]]:
    """Input widths of the adapted cross-attentions' key projections."""
    for key, shape in tensors.items():
        if not re.search(r"attn2[._](processor[._])?to_k", key):
            continue
        if key.endswith((*_down(), ".hada_w1_b", ".diff")) and len(shape) == 2:
            yield key, shape[1]
        elif key.endswith((".lokr_w1", ".lokr_w1_b")):
            module = key.rpartition(".")[0]
            inner = tensors.get(f"{module}.lokr_w2") or tensors.get(f"{module}.lokr_w2_b")
            if inner and len(shape) == len(inner) == 2:
                yield key, shape[1] * inner[1]
        elif ".control_model." in f".{key}" and key.endswith("to_k.weight") and len(shape) == 2:
            yield key, shape[1]


def _facts(tensors: Mapping[str, Shape]) -> Iterator[tuple[str, str]]:
    ranks = Counter(
        shape[0] if key.endswith(_down()) else shape[-1]
        for key, shape in tensors.items()
        if shape and (key.endswith(_down()) or key.endswith((".hada_w1_a", ".lokr_w1_a")))
    )
    if ranks:
        common, _ = ranks.most_common(1)[0]
        others = len(ranks) - 1
        yield "rank", f"{common}" + (f" and {others} others" if others else "")
    yield "modules", str(len({_module(key) for key in tensors}))
    if any(key.endswith(".dora_scale") for key in tensors):
        yield "weight decomposition", "DoRA"


def _module(key: str) -> str:
    """The layer that a key of an adapter belongs to."""
    return re.split(r"[._](?:lora|hada|lokr|oft)[._]|\.(?:alpha|dora_scale|on_input|diff)", key)[0]
