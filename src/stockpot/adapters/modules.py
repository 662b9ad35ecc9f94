"""What the keys of an adapter file mean: LoRA and LyCORIS, as kohya, diffusers and PEFT write them.

The header says which modules a file changes and how; the factors of a module are read when its
change is wanted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from stockpot.adapters.factors import Change, Doubles, Elementwise, Full, Kronecker, Low, product
from stockpot.checkpoints import Source
from stockpot.errors import CheckpointError
from stockpot.methods import HAS_COMPILED_KERNEL, Row, widen

__all__ = ["ENDINGS", "Module", "find_modules", "flat_name", "has_modules"]

ENDINGS: Mapping[str, str] = MappingProxyType(
    {
        ".lora_down.weight": "down",
        ".lora_A.weight": "down",
        ".lora_A.default.weight": "down",
        ".lora.down.weight": "down",
        "_lora.down.weight": "down",
        ".lora_linear_layer.down.weight": "down",
        ".lora_up.weight": "up",
        ".lora_B.weight": "up",
        ".lora_B.default.weight": "up",
        ".lora.up.weight": "up",
        "_lora.up.weight": "up",
        ".lora_linear_layer.up.weight": "up",
        ".lora_mid.weight": "mid",
        ".hada_w1_a": "hada_w1_a",
        ".hada_w1_b": "hada_w1_b",
        ".hada_w2_a": "hada_w2_a",
        ".hada_w2_b": "hada_w2_b",
        ".hada_t1": "hada_t1",
        ".hada_t2": "hada_t2",
        ".lokr_w1": "lokr_w1",
        ".lokr_w1_a": "lokr_w1_a",
        ".lokr_w1_b": "lokr_w1_b",
        ".lokr_w2": "lokr_w2",
        ".lokr_w2_a": "lokr_w2_a",
        ".lokr_w2_b": "lokr_w2_b",
        ".lokr_t2": "lokr_t2",
        ".diff": "diff",
        ".w_norm": "diff",
        ".diff_b": "diff_b",
        ".b_norm": "diff_b",
        ".alpha": "alpha",
    }
)
"""By ending of a key: which factor of its module the tensor is."""

# What changes a weight otherwise than by adding to it, and how people call that.
_REFUSED = (
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".on_input", "(IA)³"),
    (".oft_blocks", "OFT"),
    (".oft_diag", "OFT"),
    (".a1.weight", "GLoRA"),
    (".lora_B.bias", "a LoRA with a bias"),
    (".lora_up.bias", "a LoRA with a bias"),
)
_PREFIXES = (
    ("lora_unet_", "unet"), ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"), ("unet.", "unet"), ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"), ("down_blocks.", "unet"), ("mid_block.", "unet"),
    ("up_blocks.", "unet"), ("text_model.", "text_encoder"),
)  # fmt: skip
# These belong to the names that follow them.
_KEPT_PREFIXES = ("down_blocks.", "mid_block.", "up_blocks.", "text_model.")
_PEFT = "base_model.model."
#: Where diffusers keeps ranks and alphas since it writes no alphas as tensors.
_DIFFUSERS_FACTS = "lora_adapter_metadata"

_LOW = ("down", "up")
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
#: The sets of factors that make a change, and those that may come besides.
_KINDS = (
    ("lora", _LOW, ("mid",)),
    ("loha", _HADA, ("hada_t1", "hada_t2")),
    ("lokr", (), ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
                  "lokr_t2")),
    ("full", (), ("diff", "diff_b")),
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One layer that an adapter changes.

    Attributes:
        part: ``unet``, ``text_encoder`` or ``text_encoder_2``.
        name: The layer's flattened name, as `flat_name` gives it.
        kind: ``lora``, ``loha``, ``lokr`` or ``full``.
        keys: By factor, its key in the file.
        alpha: Where the file says it in words; None where a tensor does, or nothing.
        rank_root: Whether alpha is divided by the root of the rank (rsLoRA).
    """

    part: str
    name: str
    kind: str
    keys: Mapping[str, str]
    alpha: float | None = None
    rank_root: bool = field(default=False, kw_only=True)

    @property
    def changes_weight(self) -> bool:
        """Whether it changes the layer's weight."""
        return self.kind != "full" or "diff" in self.keys

    @property
    def changes_bias(self) -> bool:
        """Whether it changes the layer's bias."""
        return "diff_b" in self.keys

    def read(self, source: Source) -> Change:
        """Read the factors of the weight's change.

        Args:
            source: The file.

        Raises:
            CheckpointError: Factors do not fit each other, or are not finite.
        """
        try:
            return _READERS[self.kind](self, source)
        except ValueError as error:
            if isinstance(error, CheckpointError):
                raise
            shapes = ", ".join(f"{key} {list(source.info(key).shape)}" for key in
                               self.keys.values())  # fmt: skip
            raise CheckpointError(
                f"{source.name}: the factors of a module must multiply, but got {shapes}"
            ) from error

    def read_bias(self, source: Source) -> Change:
        """Read the change of the bias; as `read`."""
        return Full(_doubles(source, self.keys["diff_b"]).reshape(-1, 1))

    def scale(self, source: Source, rank: int) -> float:
        """The factor of the product: alpha / rank, or 1 where there is no alpha.

        Args:
            source: The file.
            rank: Of the factors.
        """
        alpha = self.alpha
        if "alpha" in self.keys:
            values = _doubles(source, self.keys["alpha"]).reshape(-1)
            alpha = float(values[0]) if values.size == 1 else None
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_root else rank)


def flat_name(name: str) -> str:
    """Flatten a layer's name as kohya's trainers do.

    Args:
        name: With dots.

    Returns:
        With underscores. diffusers' attention has its output in a list, which older files leave
        out, and so does this.

    Example:
        >>> flat_name("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0")
        'down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out'
    """
    flat = name.replace(".processor", "").replace(".", "_")
    return flat.removesuffix("_0") if flat.endswith("to_out_0") else flat


def has_modules(keys: Mapping[str, Any]) -> bool:
    """Whether a file is an adapter, by its keys alone.

    Args:
        keys: All of them.

    Example:
        >>> has_modules({"lora_unet_conv_in.lora_down.weight": 0}), has_modules({"a.weight": 0})
        (True, False)
    """
    return any(key.endswith(ending) for key in keys for ending in (*ENDINGS, *_refused()))


def _refused() -> tuple[str, ...]:
    return tuple(ending for ending, _ in _REFUSED)


def find_modules(source: Source) -> tuple[Module, ...]:
    """List the layers that a file changes.

    Args:
        source: An open LoRA or LyCORIS file; only its header is looked at.

    Returns:
        One module for each layer, in the order of the file.

    Raises:
        CheckpointError: The file holds something else, or a kind of adapter that is not an
            addition to weights, such as DoRA.

    Example:
        >>> from stockpot.checkpoints import DTYPES, MemorySource, TensorInfo
        >>> key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
        >>> shapes = {f"{key}.lora_down.weight": (4, 64), f"{key}.lora_up.weight": (256, 4)}
        >>> infos = [TensorInfo(name, DTYPES["F16"], shape) for name, shape in shapes.items()]
        >>> file = MemorySource({info.key: (info, bytes(info.n_bytes)) for info in infos})
        >>> [(m.part, m.name, m.kind) for m in find_modules(file)]
        [('text_encoder', 'text_model_encoder_layers_0_mlp_fc1', 'lora')]
    """
    found: dict[str, dict[str, str]] = {}
    unknown = []
    for key in source.tensors:
        for ending, title in _REFUSED:
            if key.endswith(ending):
                raise CheckpointError(
                    f"{source.name}: {key}: an adapter must add to weights (LoRA, LoCon, LoHa, "
                    f"LoKr, full differences), but this is {title}; bake it with the tool that "
                    "made it"
                )
        ending = next((end for end in ENDINGS if key.endswith(end)), "")
        if not ending:
            unknown.append(key)
            continue
        found.setdefault(key.removesuffix(ending), {})[ENDINGS[ending]] = key
    if unknown or not found:
        odd = ", ".join(unknown[:3]) or "nothing at all"
        raise CheckpointError(
            f"{source.name}: an adapter holds the factors of LoRA or LyCORIS modules and nothing "
            f"else, but this file has {odd}"
        )
    facts = _facts(source)
    return tuple(_module(source, stem, keys, facts) for stem, keys in found.items())


def _module(source: Source, stem: str, keys: dict[str, str], facts: Mapping[str, Any]) -> Module:
    part, name, dotted = _place(source, stem)
    factors = keys.keys() - {"alpha"}
    for kind, needed, besides in _KINDS:
        if factors and factors.issuperset(needed) and factors <= {*needed, *besides}:
            alpha, root = _alpha(facts, part, dotted, keys)
            return Module(part, flat_name(name), kind, keys, alpha, rank_root=root)
    held = ", ".join(sorted(keys.values())) or "nothing"
    raise CheckpointError(
        f"{source.name}: {stem}: a module needs down and up matrices, or the factors of one LoHa "
        f"or LoKr, but there is only {held}"
    )


def _place(source: Source, stem: str) -> tuple[str, str, str]:
    """Which part of the model, the layer's name, and the same without flattening."""
    bare = stem.removeprefix(_PEFT)
    for prefix, part in _PREFIXES:
        if bare.startswith(prefix):
            name = bare if prefix in _KEPT_PREFIXES else bare.removeprefix(prefix)
            return part, name.removeprefix(_PEFT), name
    raise CheckpointError(
        f"{source.name}: {stem}: an adapter's modules belong to the UNet or a text encoder, but "
        "this name tells neither"
    )


def _facts(source: Source) -> Mapping[str, Any]:
    try:
        facts = json.loads(source.metadata.get(_DIFFUSERS_FACTS, "{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _alpha(
    facts: Mapping[str, Any], part: str, name: str, keys: Mapping[str, str]
) -> tuple[float | None, bool]:
    """What diffusers' metadata say of a module's alpha."""
    if "alpha" in keys:
        return None, False
    alpha = facts.get(f"{part}.lora_alpha")
    pattern = facts.get(f"{part}.alpha_pattern")
    for ending, value in pattern.items() if isinstance(pattern, dict) else ():
        if name == ending or name.endswith(f".{ending}"):
            alpha = value
    root = facts.get(f"{part}.use_rslora") is True
    known = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    return (float(alpha) if known and alpha is not None else None), root


def _doubles(source: Source, key: str) -> Doubles:
    info = source.info(key)
    if not info.dtype.is_float:
        # Alphas are whole numbers now and then.
        kinds = {"I64": np.int64, "I32": np.int32}
        if info.dtype.name not in kinds:
            raise CheckpointError(f"{source.name}: {key}: factors are floats, but this is "
                                  f"{info.dtype}")  # fmt: skip
        whole = np.frombuffer(source.read_bytes(key), dtype=kinds[info.dtype.name])
        return whole.astype(np.float64).reshape(info.shape)
    out = np.empty(info.n_elements)
    data = bytearray(info.n_bytes)
    source.read_into(key, 0, info.n_elements, memoryview(data))
    if not widen(Row(memoryview(data), info.dtype), out, compiled=HAS_COMPILED_KERNEL):
        raise CheckpointError(f"{source.name}: {key}: the values of an adapter must be finite, but "
                              "one is NaN or infinite; the file is damaged")  # fmt: skip
    return out.reshape(info.shape)


def _halves(source: Source, *keys: str) -> bool:
    return all(source.info(key).dtype.name == "F16" for key in keys)


def _flat(values: Doubles) -> Doubles:
    return values.reshape(len(values), -1)


def _core(core: Doubles, columns: Doubles) -> Doubles:
    """A kernel's core [r, s, k…] and the factor of its inputs [s, in] as one [r, in·k]."""
    r, s = core.shape[:2]
    # Each place of the kernel on its own: [r·k, s] times [s, in].
    places = np.ascontiguousarray(core.reshape(r, s, -1).transpose(0, 2, 1)).reshape(-1, s)
    joined = product(places, columns).reshape(r, -1, columns.shape[1])
    return np.ascontiguousarray(joined.transpose(0, 2, 1)).reshape(r, -1)


def _read_lora(module: Module, source: Source) -> Change:
    keys = module.keys
    down, up = _doubles(source, keys["down"]), _flat(_doubles(source, keys["up"]))
    scale = module.scale(source, len(down))
    halves = _halves(source, keys["down"], keys["up"])
    if "mid" in keys:
        core = _core(_doubles(source, keys["mid"]), _flat(down))
        return _low(up, core, scale)
    return _low(up, _flat(down), scale, halves)


def _low(up: Doubles, down: Doubles, scale: float, halves: bool = False) -> Low:
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != len(down):
        raise ValueError("these do not multiply")
    return Low(np.ascontiguousarray(up), down, scale, halves)


def _read_loha(module: Module, source: Source) -> Change:
    sides = []
    rank = 1
    for side in "12":
        key_a, key_b = module.keys[f"hada_w{side}_a"], module.keys[f"hada_w{side}_b"]
        left, right = _doubles(source, key_a), _doubles(source, key_b)
        rank = len(right)
        core_key = module.keys.get(f"hada_t{side}")
        if core_key is not None:
            left, right = left.T, _core(_doubles(source, core_key), _flat(right))
            sides.append(_low(left, right, 1.0))
        else:
            sides.append(_low(_flat(left), _flat(right), 1.0, _halves(source, key_a, key_b)))
    one, other = sides
    if (one.n_rows, one.n_columns) != (other.n_rows, other.n_columns):
        raise ValueError("both products must have one shape")
    return Elementwise(one, other, module.scale(source, rank))


def _read_lokr(module: Module, source: Source) -> Change:
    rank = 0

    def whole(side: str) -> Doubles:
        nonlocal rank
        if f"lokr_w{side}" in module.keys:
            return _flat(_doubles(source, module.keys[f"lokr_w{side}"]))
        if not {f"lokr_w{side}_a", f"lokr_w{side}_b"} <= module.keys.keys():
            raise ValueError("a factor is missing")
        left = _doubles(source, module.keys[f"lokr_w{side}_a"])
        right = _flat(_doubles(source, module.keys[f"lokr_w{side}_b"]))
        rank = len(right)
        if side == "2" and "lokr_t2" in module.keys:
            left, right = left.T, _core(_doubles(source, module.keys["lokr_t2"]), right)
        made = _low(left, right, 1.0)
        return made.rows(0, made.n_rows)

    left, right = whole("1"), whole("2")
    return Kronecker(left, right, module.scale(source, rank) if rank else 1.0)


def _read_full(module: Module, source: Source) -> Change:
    values = _doubles(source, module.keys["diff"])
    return Full(values.reshape(len(values), -1))


_READERS = MappingProxyType(
    {"lora": _read_lora, "loha": _read_loha, "lokr": _read_lokr, "full": _read_full}
)
