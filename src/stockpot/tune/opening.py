"""Opening an examiner: what of a pool is held in memory, and what is read again and again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Source, open_checkpoint
from stockpot.draw import LiveMix, Vram, hold, open_live, save_memory
from stockpot.engine import DEFAULT_MEMORY, Settings, open_pool, size_text
from stockpot.errors import MemoryBudgetError
from stockpot.layouts import as_checkpoint, detect
from stockpot.recipes import Recipe
from stockpot.scores import Scorer
from stockpot.tune.examining import LiveExaminer

__all__ = ["check_memory", "open_examiner"]

_HOLD_BYTES = 4 << 30  # of the pool, where nobody says how much memory there is
_MERGE_BYTES = 256 << 20  # what merging is given at least


def open_examiner(
    pool: Recipe | Mapping[str, Source],
    scorers: Mapping[str, Scorer],
    *,
    folder: str | Path = ".",
    memory: int | None = None,
    threads: int = 0,
    batch: int = 4,
    mix_dtype: str | None = None,
    vae: Source | Path | None = None,
    te: Source | Path | None = None,
    config: Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    vram: Vram = "high",
    **options: Any,
) -> LiveExaminer:
    """Open an examiner on a pool. Nothing is ever written to disk.

    The painter is loaded with the first candidate, and changed in place for every other one.

    Args:
        pool: A recipe, whose pool's files are opened and are closed with the examiner; it may have
            holes. Or open checkpoints by name, which must stay open.
        scorers: By the name that marks have for them; at least one.
        folder: Where the recipe's relative paths start.
        memory: Ceiling in bytes for the painter, the first mix while it is loaded, merging, and
            the pool: models are held in memory as far as they fit, in the pool's order; the others
            are read from their files for every candidate. Scorers, and what drawing a picture
            needs, come on top. None loads the painter whatever it takes, and holds up to 4 GiB of
            the pool.
        threads: For merging; 0 means one a core.
        batch: How many tasks of equal settings to draw at once; a search can stop a candidate
            after each batch.
        mix_dtype: Element type of mixes; by default what a file of one would have.
        vae: A VAE that all candidates are drawn with; a file is opened here.
        te: The same for text encoders.
        config: A diffusers folder that describes the architecture.
        device: A torch device.
        dtype: torch's name of the type to draw in.
        vram: How much memory the device has.
        **options: What else `stockpot.draw.open_painter` takes: embeddings, loras, tokenizer,
            prediction.

    Returns:
        The examiner.

    Raises:
        PreflightError: Files of the pool cannot be opened.
        CheckpointError: The VAE or the text encoder cannot be opened.
        MemoryBudgetError: Not even the painter fits.
        ScorerError: There is no scorer.
    """
    with ExitStack() as stack:
        sources = dict(
            stack.enter_context(open_pool(pool, folder)) if isinstance(pool, Recipe) else pool
        )
        parts = {
            name: stack.enter_context(open_checkpoint(given)) if isinstance(given, Path) else given
            for name, given in (("vae", vae), ("te", te))
        }
        left, merging = _HOLD_BYTES, DEFAULT_MEMORY
        if memory is not None:
            left = check_memory(sources, memory, dtype)
        held, left = _held(sources, left)
        if memory is not None:
            merging = _MERGE_BYTES + left
        settings = Settings(memory=merging, threads=threads, hashes=False)

        def open_mix(recipe: Recipe) -> LiveMix:
            live = open_live(
                recipe, held, config, vae=parts["vae"], te=parts["te"], mix_dtype=mix_dtype,
                settings=settings, device=device, dtype=dtype, **options,
            )  # fmt: skip
            save_memory(live.painter.parts, vram)
            return live

        return LiveExaminer(open_mix, scorers, batch, stack.pop_all())


def check_memory(sources: Mapping[str, Source], memory: int, dtype: str = "float32") -> int:
    """Look whether an examiner fits, before any weight is read.

    Args:
        sources: The pool, open.
        memory: Ceiling in bytes, as for `open_examiner`.
        dtype: torch's name of the type to draw in.

    Returns:
        Bytes that are left for models of the pool.

    Raises:
        MemoryBudgetError: Not even the painter fits; the message says what it needs.
    """
    painter, mix = _painter_bytes(sources, dtype)
    left = memory - painter - mix - _MERGE_BYTES
    if left < 0:
        raise MemoryBudgetError(
            f"drawing needs {size_text(memory - left)}: {size_text(painter)} for the painter in "
            f"{dtype}, {size_text(mix)} for its first mix, and {size_text(_MERGE_BYTES)} for "
            f"merging; but --memory allows {size_text(memory)}; allow more"
            + ("" if dtype != "float32" else ", or draw in half precision where the device can")
        )
    return left


def _painter_bytes(sources: Mapping[str, Source], dtype: str) -> tuple[int, int]:
    """The painter, and the mix that it is loaded from, which has a file's type."""
    painter: dict[str, int] = {}
    mix: dict[str, int] = {}
    for source in map(as_checkpoint, sources.values()):
        layout = detect({key: info.shape for key, info in source.tensors.items()}).layout
        for key, info in source.tensors.items():
            spec = layout.spec_of(key)
            name = key if spec is None else spec.key
            # A mix may take each part from another model, of another type.
            mix[name] = max(mix.get(name, 0), info.n_bytes)
            # EMA copies and the like are no part of a painter.
            if not layout.parts or (spec is not None and not spec.optional):
                half = dtype != "float32" and (spec is None or spec.cell.component != "vae")
                size = info.n_elements * (2 if half else 4)
                painter[name] = max(painter.get(name, 0), size)
    return sum(painter.values()), sum(mix.values())


def _held(sources: Mapping[str, Source], left: int) -> tuple[dict[str, Source], int]:
    """Copies in memory of as many models as fit, and what is left then."""
    found: dict[str, Source] = {}
    for name, source in sources.items():
        size = sum(info.n_bytes for info in source.tensors.values())
        if size <= left:
            found[name] = hold(source)
            left -= size
        else:
            found[name] = source
    return found, left
