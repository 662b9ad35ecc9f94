"""Finding CLIP's tokenizer on this machine: checkpoints do not carry it, and nothing is fetched."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from stockpot.errors import CheckpointError

__all__ = ["find_tokenizer"]

_NAMES = (
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-xl-base-1.0",
)


def find_tokenizer(folder: Path | None) -> Any:
    """Load CLIP's tokenizer from a folder, or from what is on this machine already.

    Without a folder these are tried: the folder that the environment variable
    ``STOCKPOT_TOKENIZER`` names, and what transformers keeps of CLIP or of a Stable Diffusion
    pipeline in its cache. All models of the SD family share one table.

    Args:
        folder: With ``vocab.json`` and ``merges.txt``, or ``tokenizer.json``.

    Returns:
        transformers' `CLIPTokenizer`.

    Raises:
        CheckpointError: There is none; the message says how to give one.
    """
    named = os.environ.get("STOCKPOT_TOKENIZER")
    if folder is None and named:
        folder = Path(named)
    if folder is not None:
        # transformers makes an empty tokenizer of a folder that has none.
        if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise CheckpointError(
                f"{folder}: a tokenizer's folder holds vocab.json and merges.txt, but this is none"
            )
        try:
            return _kept(str(folder), "", _state(folder))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: a tokenizer's folder holds vocab.json and merges.txt, but it cannot be "
                f"read: {error}"
            ) from error
    for name in _NAMES:
        subfolder = "" if "clip" in name.lower() else "tokenizer"
        try:
            return _kept(name, subfolder, ())
        except (OSError, ValueError, TypeError):
            continue
    raise CheckpointError(
        "prompts need CLIP's tokenizer, but none is on this machine; name a folder with vocab.json "
        "and merges.txt, such as the `tokenizer` folder of any Stable Diffusion pipeline, with "
        "--tokenizer or in STOCKPOT_TOKENIZER"
    )


@lru_cache(maxsize=8)
def _kept(name: str, subfolder: str, state: tuple[tuple[str, int, int], ...]) -> Any:
    """Load a tokenizer once: its library never gives back the megabyte that one takes."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(name, subfolder=subfolder, local_files_only=True)


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when the files of a tokenizer do."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    facts = ((file.name, file.stat()) for file in files)
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in facts)
