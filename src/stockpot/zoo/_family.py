"""Reading the index of the installed `stockpot_zoo` distribution."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

from stockpot.errors import StockpotError, UnknownNameError
from stockpot.zoo.shapes import BASE_STYLES, Scene

__all__ = ["Extra", "Member", "ZooNotInstalled", "extras", "family", "member", "zoo_path"]


class ZooNotInstalled(StockpotError, ImportError):
    """The checkpoints of the zoo are not installed.

    Examples:
        >>> str(ZooNotInstalled())
        'the zoo is not installed; in a clone of Stockpot, type: pip install ./zoo'
    """

    def __init__(self) -> None:
        super().__init__(
            "the zoo is not installed; in a clone of Stockpot, type: pip install ./zoo"
        )


@final
@dataclass(frozen=True)
class Member:
    """One checkpoint of the family.

    Attributes:
        name: Short name, such as `style-glossy`; the file's name without its ending.
        file: The file's name in the zoo's folder.
        path: Where it is installed.
        role: What it is to the family: `base`, `style`, `content`, `grandchild`, `outlier`,
            `v-prediction`, `ruined text encoder`, or `good text encoder, bad UNet`.
        parent: Whose weights its training began with; None for the base.
        about: One sentence for people.
        subset: Attribute to the words that it was shown. An absent attribute was shown in full
            (of styles: the base's four).
        trained: The components that moved: `unet`, `te`, `vae`, `vae-decoder`.
        prediction: What its UNet predicts.
        has_vae: Whether the file has one (a pruned file has not).
        has_ema: Whether it carries an EMA copy of the UNet (`model_ema.*`).
        has_position_ids: Whether it carries CLIP's int64 position ids.
        has_schedule: Whether it carries the float32 schedule buffers.
        n_keys: How many tensors it has.
    """

    name: str
    file: str
    path: Path
    role: str
    parent: str | None
    about: str
    subset: Mapping[str, tuple[str, ...]]
    trained: tuple[str, ...]
    prediction: Literal["epsilon", "v"]
    has_vae: bool
    has_ema: bool
    has_position_ids: bool
    has_schedule: bool
    n_keys: int

    def knows(self, scene: Scene) -> bool:
        """Tell whether a scene is in the subset that this member was trained on last.

        Args:
            scene: Any scene.

        Returns:
            True for scenes that it was shown; always True for the base's own scenes.
        """
        styles = self.subset.get("style", BASE_STYLES)
        return scene.style in styles and all(
            getattr(scene, name) in words for name, words in self.subset.items()
        )


@final
@dataclass(frozen=True)
class Extra:
    """A LoRA or a textual-inversion embedding of the zoo.

    Attributes:
        name: Short name.
        kind: What it is.
        path: Where it is installed.
        naming: The naming of its keys: `kohya`, `diffusers` or `a1111`.
        trained_on: The member that it was trained on.
        token: The word that calls an embedding; empty for a LoRA.
        about: One sentence for people.
        means: Attributes that it stands for, such as `{"style": "striped"}`.
    """

    name: str
    kind: Literal["lora", "embedding"]
    path: Path
    naming: str
    trained_on: str
    token: str
    about: str
    means: Mapping[str, str]


def zoo_path() -> Path:
    """Find the folder with the zoo's files.

    Returns:
        The folder: `*.safetensors`, `index.json`, `judge.safetensors`, `config/` (a diffusers
        pipeline without weights), `clip/`, `lora/`, `embeddings/`.

    Raises:
        ZooNotInstalled: The `stockpot-zoo` distribution is not installed.
    """
    # A folder named `stockpot_zoo` without an `__init__` has a spec, but no origin.
    spec = importlib.util.find_spec("stockpot_zoo")
    if spec is None or spec.origin is None:
        raise ZooNotInstalled()
    return Path(spec.origin).parent / "data"


def family() -> tuple[Member, ...]:
    """List the family: the base first, every parent before its children.

    Returns:
        The members.

    Raises:
        ZooNotInstalled: The `stockpot-zoo` distribution is not installed.

    Examples:
        >>> names = [member.name for member in family()]
        >>> names[0], "style-striped" in names
        ('base', True)
    """
    return tuple(
        Member(
            **{
                **entry,
                "path": zoo_path() / entry["file"],
                "subset": MappingProxyType({k: tuple(v) for k, v in entry["subset"].items()}),
                "trained": tuple(entry["trained"]),
            }
        )
        for entry in _index()["members"]
    )


def member(name: str) -> Member:
    """Find one member by its name.

    Args:
        name: Such as `"base"`.

    Returns:
        The member.

    Raises:
        UnknownNameError: The family has no such member.
        ZooNotInstalled: The `stockpot-zoo` distribution is not installed.

    Examples:
        >>> member("grandchild").parent
        'content-round'
    """
    members = {found.name: found for found in family()}
    if name not in members:
        raise UnknownNameError("zoo member", name, members)
    return members[name]


def extras() -> tuple[Extra, ...]:
    """List the LoRAs and embeddings.

    Returns:
        The extras.

    Raises:
        ZooNotInstalled: The `stockpot-zoo` distribution is not installed.
    """
    return tuple(
        Extra(
            **{key: value for key, value in entry.items() if key != "file"},
            path=zoo_path() / entry["file"],
        )
        for entry in _index()["extras"]
    )


def _index() -> Any:
    return json.loads((zoo_path() / "index.json").read_text(encoding="utf-8"))
