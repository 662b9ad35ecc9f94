"""LoRAs: small changes of a model, merged into its weights while somebody draws with them.

W becomes W + strength · alpha / rank · up · down (Hu et al., LoRA, 2106.09685). The weights that
were there are kept, so that taking a LoRA off gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from stockpot.checkpoints import file_hashes
from stockpot.draw.loading import Parts
from stockpot.draw.prompt_words import LoraTag
from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Lora", "LoraSet", "read_lora"]

_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", "_lora.down.weight",
         ".lora_linear_layer.down.weight")  # fmt: skip
_UP = (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight",
       ".lora_linear_layer.up.weight")  # fmt: skip
_PREFIXES = (
    ("lora_unet_", "unet"), ("lora_te1_", "text_encoder"), ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"), ("unet.", "unet"), ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
)  # fmt: skip


@dataclass(frozen=True)
class Lora:
    """A LoRA.

    Attributes:
        name: What prompts call it.
        layers: By part and flattened name of the module: down, up, and alpha / rank.
        sha256: Of all that follows the file's header; its first 12 digits are what infotexts call
            a Lora hash.
        path: Where it was read.
    """

    name: str
    layers: Mapping[tuple[str, str], tuple[torch.Tensor, torch.Tensor, float]]
    sha256: str
    path: Path


def read_lora(path: Path) -> Lora:
    """Read a LoRA in kohya's or diffusers' naming.

    Args:
        path: A ``.safetensors`` file.

    Returns:
        The LoRA, in float32.

    Raises:
        CheckpointError: It cannot be read, or holds something else, such as a LoHa.
    """
    from safetensors.torch import load

    try:
        data = path.read_bytes()
        tensors = load(data)
    except Exception as error:
        raise CheckpointError(f"{path}: the LoRA cannot be read: {error}") from error
    downs: dict[str, torch.Tensor] = {}
    ups: dict[str, torch.Tensor] = {}
    alphas: dict[str, float] = {}
    unknown = []
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            alphas[key.removesuffix(".alpha")] = float(value)
            continue
        for endings, found in ((_DOWN, downs), (_UP, ups)):
            ending = next((end for end in endings if key.endswith(end)), None)
            if ending:
                found[key.removesuffix(ending)] = value.float()
                break
        else:
            unknown.append(key)
    if unknown or downs.keys() != ups.keys() or not downs:
        odd = unknown or sorted(downs.keys() ^ ups.keys()) or ["nothing at all"]
        raise CheckpointError(
            f"{path}: a LoRA holds pairs of down and up matrices, but this file also has "
            f"{', '.join(odd[:3])}; other kinds (LoHa, LoKr, DoRA) are not known here"
        )
    layers = {}
    for name, down in downs.items():
        scale = alphas.get(name, float(down.shape[0])) / down.shape[0]
        layers[_module_name(path, name)] = (down, ups[name], scale)
    return Lora(path.stem, layers, file_hashes(path).autov3, path)


def _module_name(path: Path, name: str) -> tuple[str, str]:
    for prefix, part in _PREFIXES:
        if name.startswith(prefix):
            return part, _flat(name.removeprefix(prefix).replace(".processor", ""))
    raise CheckpointError(f"{path}: {name}: a LoRA's layers belong to the UNet or a text encoder, "
                          "but this name tells neither")  # fmt: skip


def _flat(name: str) -> str:
    flat = name.replace(".", "_")
    # diffusers' attention has its output in a list, which older LoRAs leave out.
    return flat.removesuffix("_0") if flat.endswith("to_out_0") else flat


@final
class LoraSet:
    """The LoRAs that act on a model now.

    Args:
        parts: The model; its weights are changed in place.
        files: Where LoRAs are, by name.
    """

    def __init__(self, parts: Parts, files: Mapping[str, Path]) -> None:
        self._parts, self._files = parts, dict(files)
        self._read: dict[str, Lora] = {}
        self._before: dict[tuple[str, str], torch.Tensor] = {}
        self._active: tuple[LoraTag, ...] = ()
        self._modules: dict[str, dict[str, Any]] = {}

    @property
    def known(self) -> frozenset[str]:
        """Names of the LoRAs that there are."""
        return frozenset(self._files)

    def get(self, name: str) -> Lora:
        """Read a LoRA, once.

        Args:
            name: One of `known`.

        Returns:
            The LoRA.
        """
        if name not in self._read:
            self._read[name] = read_lora(self._files[name])
        return self._read[name]

    def use(self, tags: Sequence[LoraTag]) -> None:
        """Let exactly these act; whatever acted before is taken off, to the bit.

        Args:
            tags: Names of `known` and strengths; a name may come twice, and then acts twice.

        Raises:
            CheckpointError: A LoRA was made for a model of another shape.
        """
        wanted = tuple(tag for tag in tags if tag.unet or tag.te)
        if wanted == self._active:
            return
        self.clear()
        try:
            for tag in wanted:
                self._merge(self.get(tag.name), tag)
        except BaseException:
            self.clear()
            raise
        self._active = wanted

    def clear(self) -> None:
        """Take all off, to the bit."""
        for (part, name), weight in self._before.items():
            self._flat_modules(part)[name].weight.data.copy_(weight)
        self._before, self._active = {}, ()

    def _merge(self, lora: Lora, tag: LoraTag) -> None:
        import torch

        for (part, name), (down, up, scale) in lora.layers.items():
            strength = tag.unet if part == "unet" else tag.te
            if not strength:
                continue
            module = self._flat_modules(part).get(name)
            if module is None:
                raise CheckpointError(
                    f"{lora.path}: the LoRA changes {name} of the {part.replace('_', ' ')}, which "
                    f"{self._parts.name} has not; it was made for another architecture"
                )
            weight = module.weight.data
            self._before.setdefault((part, name), weight.clone())
            if down.ndim == 4:
                delta = torch.einsum("or,rihw->oihw", up.flatten(1), down)
            else:
                delta = up.flatten(1) @ down.flatten(1)
            if delta.numel() != weight.numel():
                raise CheckpointError(
                    f"{lora.path}: the LoRA changes {name} as {list(delta.shape)}, but in "
                    f"{self._parts.name} it is {list(weight.shape)}"
                )
            change = (strength * scale) * delta.reshape(weight.shape).to(weight.device)
            weight.copy_(weight.float() + change)

    def _flat_modules(self, part: str) -> dict[str, Any]:
        """Modules with a weight, by the flattened forms of all names that files use."""
        if part not in self._modules:
            root = getattr(self._parts, part)
            found: dict[str, Any] = {}
            if root is not None:
                for name, module in root.named_modules():
                    if getattr(module, "weight", None) is not None:
                        found[_flat(name)] = module
                        # transformers 5.6 took a level out of the names.
                        if part != "unet" and not name.startswith("text_model."):
                            found[_flat(f"text_model.{name}")] = module
                for key, (owner, places) in self._parts.places.items():
                    stem = places[0].parameter.removesuffix(".weight")
                    if owner == part == "unet" and key.endswith(".weight"):
                        # kohya's LoRAs for SDXL use the checkpoint's own names.
                        original = key.removeprefix("model.diffusion_model.")
                        module = root.get_submodule(stem)
                        found.setdefault(_flat(original.removesuffix(".weight")), module)
            self._modules[part] = found
        return self._modules[part]
