"""Options that the commands which draw have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Config", "Device", "Dtype", "Embeddings", "Loras", "OtherTe", "OtherVae", "Pool",
    "Prediction", "Sets", "SizeScale", "Tokenizer", "VramLevel",
]  # fmt: skip

Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Any field of a payload: name=value. Repeat it.")
]
SizeScale = Annotated[
    float | None,
    typer.Option(help="Multiply all sizes, for models that draw smaller or larger ones."),
]
Pool = Annotated[
    list[str] | None,
    typer.Option(help="A model for an expression: NAME=FILE, or FILE. Repeat it."),
]
OtherVae = Annotated[Path | None, typer.Option(help="A file with another VAE.")]
OtherTe = Annotated[Path | None, typer.Option(help="A file with other text encoders.")]
Embeddings = Annotated[
    list[Path] | None, typer.Option(help="Folder with textual inversions. Repeat it.")
]
Loras = Annotated[list[Path] | None, typer.Option(help="Folder with LoRAs. Repeat it.")]
Config = Annotated[
    Path | None, typer.Option(help="A diffusers folder that describes the architecture.")
]
Tokenizer = Annotated[
    Path | None, typer.Option(help="A folder with CLIP's vocab.json and merges.txt.")
]
Prediction = Annotated[
    str | None, typer.Option(help="epsilon or v_prediction, where the file does not tell.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")]
Dtype = Annotated[str, typer.Option(help="float32, float16 or bfloat16.")]
VramLevel = Annotated[
    str,
    typer.Option(help="high, medium (VAE in tiles) or low (attention in slices, parts wait)."),
]
