"""LoRAs: small changes of a model, merged into its weights while somebody draws with them.

W becomes W + strength · alpha / rank · up · down (Hu et al., LoRA, 2106.09685). The weights that
were there are kept, so that taking a LoRA off gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from stockpot.adapters import Change, Module, find_modules, flat_name
from stockpot.checkpoints import file_hashes, open_checkpoint
from stockpot.draw.parts import Parts
from stockpot.draw.prompt_words import LoraTag
from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["Lora", "LoraSet", "read_lora"]


@dataclass(frozen=True)
class Lora:
    """A LoRA, or a LyCORIS that adds to weights.

    Attributes:
        name: What prompts call it.
        modules: The layers that it changes; their factors are read when it is used.
        sha256: Of all that follows the file's header; its first 12 digits are what infotexts call
            a Lora hash.
        path: Where it was read.
    """

    name: str
    modules: tuple[Module, ...]
    sha256: str
    path: Path


def read_lora(path: Path) -> Lora:
    """Read a LoRA or LyCORIS in kohya's, diffusers' or PEFT's naming.

    Args:
        path: A ``.safetensors`` file.

    Returns:
        What it changes.

    Raises:
        CheckpointError: It cannot be read, or does not add to weights, such as a DoRA.
    """
    with open_checkpoint(path) as source:
        modules = find_modules(source)
    return Lora(path.stem, modules, file_hashes(path).autov3, path)


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
        self._before: dict[tuple[str, str, str], torch.Tensor] = {}
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
        for (part, name, attribute), values in self._before.items():
            getattr(self._flat_modules(part)[name], attribute).data.copy_(values)
        self._before, self._active = {}, ()

    def _merge(self, lora: Lora, tag: LoraTag) -> None:
        with open_checkpoint(lora.path) as source:
            for module in lora.modules:
                strength = tag.unet if module.part == "unet" else tag.te
                if strength and module.changes_weight:
                    self._add(lora, module, "weight", module.read(source), strength)
                if strength and module.changes_bias:
                    self._add(lora, module, "bias", module.read_bias(source), strength)

    def _add(
        self, lora: Lora, module: Module, attribute: str, change: Change, strength: float
    ) -> None:
        import torch

        part, name = module.part, module.name
        tensor = getattr(self._flat_modules(part).get(name), attribute, None)
        if tensor is None:
            raise CheckpointError(
                f"{lora.path}: the LoRA changes {name} of the {part.replace('_', ' ')}, which "
                f"{self._parts.name} has not; it was made for another architecture"
            )
        values = tensor.data
        if change.n_rows * change.n_columns != values.numel():
            raise CheckpointError(
                f"{lora.path}: the LoRA changes {name} as [{change.n_rows}, {change.n_columns}], "
                f"but in {self._parts.name} it is {list(values.shape)}"
            )
        self._before.setdefault((part, name, attribute), values.clone())
        delta = torch.from_numpy(strength * change.quickly()).reshape(values.shape)
        values.copy_(values.double() + delta.to(values.device))

    def _flat_modules(self, part: str) -> dict[str, Any]:
        """Modules with a weight, by the flattened forms of all names that files use."""
        if part not in self._modules:
            root = getattr(self._parts, part)
            found: dict[str, Any] = {}
            if root is not None:
                for name, module in root.named_modules():
                    if getattr(module, "weight", None) is not None:
                        found[flat_name(name)] = module
                        # transformers 5.6 took a level out of the names.
                        if part != "unet" and not name.startswith("text_model."):
                            found[flat_name(f"text_model.{name}")] = module
                for key, (owner, places) in self._parts.places.items():
                    stem = places[0].parameter.removesuffix(".weight")
                    if owner == part == "unet" and key.endswith(".weight"):
                        # kohya's LoRAs for SDXL use the checkpoint's own names.
                        original = key.removeprefix("model.diffusion_model.")
                        module = root.get_submodule(stem)
                        found.setdefault(flat_name(original.removesuffix(".weight")), module)
            self._modules[part] = found
        return self._modules[part]
