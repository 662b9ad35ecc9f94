"""A small family of real, trained text-to-image checkpoints in Stable Diffusion 1's layout.

`stockpot.zoo` reads them; this distribution only carries the files.
"""

from pathlib import Path

__all__ = ["path"]

__version__ = "0.1.0"


def path() -> Path:
    """Find the data folder.

    Returns:
        The folder with the checkpoints, `index.json`, `config/`, `clip/`, `judge.safetensors`,
        `lora/` and `embeddings/`.

    Examples:
        >>> (path() / "index.json").exists()
        True
    """
    return Path(__file__).parent / "data"
