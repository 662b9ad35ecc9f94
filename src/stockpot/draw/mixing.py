"""Mixes that are drawn without being saved: one painter, whose weights change in place.

The pool is held once, in memory or as open files. A new recipe is planned against it as for a
file, and only tensors whose plan differs from what the painter holds are computed and written.
Every weight is computed in the type that a file would have, and then widened, so that the picture
is the one that the saved mix gives, and going back gives the same bits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from stockpot.checkpoints import MemorySource, Sink, Source
from stockpot.draw.naming import write_tensor
from stockpot.draw.painter import Painter, open_painter
from stockpot.engine import Settings, make_plan, merge_in_memory, run_plan, take_chunks
from stockpot.recipes import Recipe

if TYPE_CHECKING:
    from stockpot.engine import Plan, TensorPlan

__all__ = ["LiveMix", "Switched", "hold", "open_live"]


@dataclass(frozen=True, slots=True)
class Switched:
    """What a change of the mix cost.

    Attributes:
        n_changed: Tensors that were computed and written.
        n_tensors: Tensors of the painter.
        changed_bytes: Size of those tensors in a file.
        elapsed_s: Seconds, planning included.
    """

    n_changed: int
    n_tensors: int
    changed_bytes: int
    elapsed_s: float


def hold(source: Source) -> MemorySource:
    """Read a whole checkpoint into memory.

    Args:
        source: An open checkpoint.

    Returns:
        The same tensors, from memory.
    """
    tensors = {key: (info, source.read_bytes(key)) for key, info in source.tensors.items()}
    return MemorySource(tensors, source.metadata, source.name)


@final
class LiveMix:
    """A painter whose mix can be changed. Made by `open_live`.

    Args:
        painter: What draws.
        sources: The pool, open.
        plan: What the painter holds now.
        own: Parts that come from elsewhere and stay, such as ``vae``.
        dtype: Element type of the mix; see `stockpot.engine.merge`.
        settings: Memory and threads of merging.

    Attributes:
        painter: What draws.
    """

    def __init__(
        self,
        painter: Painter,
        sources: Mapping[str, Source],
        plan: Plan,
        own: frozenset[str] = frozenset(),
        dtype: str | None = None,
        settings: Settings = Settings(hashes=False),  # noqa: B008 - frozen
    ) -> None:
        self.painter = painter
        self._sources, self._dtype, self._settings = dict(sources), dtype, settings
        self._places = {
            key: place for key, place in painter.parts.places.items() if place[0] not in own
        }
        self._parameters = {
            part: dict(getattr(painter.parts, part).named_parameters())
            for part in {place[0] for place in self._places.values()}
        }
        self._held: dict[str, TensorPlan] = {}
        self._note(plan)
        self._marked = "v_pred" in plan.tensors

    def show(self, recipe: Recipe) -> Switched:
        """Let the painter draw with another mix of the same pool.

        Args:
            recipe: What to mix.

        Returns:
            What it cost.

        Raises:
            RecipeError: The recipe says something impossible.
            PreflightError: The pool does not suit it; the painter is as it was.
            CheckpointError: A model cannot be read or holds NaN; the painter then holds some of
                the old and some of the new weights, and the next `show` repairs it.
        """
        start = time.monotonic()
        plan = make_plan(recipe, self._sources, self._dtype)
        missing = [key for key in self._places if key not in plan.tensors]
        if missing:
            from stockpot.errors import PreflightError, Problem

            raise PreflightError(
                [
                    Problem(
                        "missing-key",
                        f"the mix lacks {len(missing)} keys that the painter draws with",
                        missing[0],
                        "fill them from another model: `a | b`",
                    )
                ]
            )
        changed = {
            key: tensor
            for key, tensor in plan.tensors.items()
            if key in self._places and self._held.get(key) != tensor
        }
        if changed:
            part = replace(plan, tensors=changed)
            settings = self._settings
            chunking = take_chunks(
                part,
                settings.memory,
                settings.n_threads,
                settings.chunk_elements,
                compiled=settings.compiled,
            )
            for key in changed:  # what is half written belongs to no plan
                self._held.pop(key, None)
            sink = _ModelSink(self._parameters, self._places, part)
            run_plan(part, sink, chunking, hashes=False, allow_nonfinite=settings.allow_nonfinite)
            self._note(plan)
        self._tell_prediction("v_pred" in plan.tensors)
        n_bytes = sum(tensor.info.n_bytes for tensor in changed.values())
        return Switched(len(changed), len(self._places), n_bytes, time.monotonic() - start)

    def _note(self, plan: Plan) -> None:
        self._held = {key: t for key, t in plan.tensors.items() if key in self._places}

    def _tell_prediction(self, marked: bool) -> None:
        """A mix of models with the marker of velocity prediction is drawn as such."""
        if marked != self._marked:
            kind = "v_prediction" if marked else "epsilon"
            self.painter.parts.noise["prediction_type"] = kind
            self._marked = marked


@final
class _ModelSink(Sink):
    """Takes the rows of a merge, and widens whole tensors into a model's parameters."""

    def __init__(
        self, parameters: Mapping[str, Any], places: Mapping[str, Any], plan: Plan
    ) -> None:
        self.tensors = plan.infos
        self._parameters, self._places = parameters, places
        self._buffers: dict[str, bytearray] = {}
        self._guard = threading.Lock()

    def write(self, key: str, start: int, data: memoryview) -> None:
        """Keep elements until the tensor is whole; see `Sink.write`."""
        info = self.tensors[key]
        with self._guard:
            if key not in self._buffers:
                self._buffers[key] = bytearray(info.n_bytes)
            buffer = self._buffers[key]
        begin = start * info.dtype.itemsize
        memoryview(buffer)[begin : begin + data.nbytes] = data.cast("B")

    def tensor_done(self, key: str, digest: str | None) -> None:
        """Write a whole tensor into the model; see `Sink.tensor_done`."""
        import torch

        with self._guard:
            buffer = self._buffers.pop(key)
        info = self.tensors[key]
        kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
                 "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
                 "F8_E5M2": torch.float8_e5m2}  # fmt: skip
        value = torch.frombuffer(buffer, dtype=kinds[info.dtype.name]).reshape(info.shape)
        part, places = self._places[key]
        write_tensor(self._parameters[part], places, value)

    def commit(
        self, metadata: Mapping[str, str], progress: Callable[[int], None] = lambda n_bytes: None
    ) -> None:
        """Nothing is left to do."""

    def abort(self) -> None:
        """Let go of what is not whole."""
        self._buffers.clear()


def open_live(
    recipe: Recipe,
    sources: Mapping[str, Source],
    config: str | os.PathLike[str] | None = None,
    *,
    vae: Source | None = None,
    te: Source | None = None,
    mix_dtype: str | None = None,
    name: str = "the mix",
    settings: Settings = Settings(hashes=False),  # noqa: B008 - frozen
    **options: Any,
) -> LiveMix:
    """Open a painter on a mix that is nowhere saved.

    Args:
        recipe: The first mix.
        sources: The pool, open; it must stay open. See `hold`.
        config: As for `stockpot.draw.open_painter`.
        vae: A VAE that all mixes are drawn with.
        te: The same for text encoders.
        mix_dtype: Element type of the mix; by default what a file of it would have.
        name: What to call it in messages.
        settings: Memory and threads of merging.
        **options: What else `stockpot.draw.open_painter` takes.

    Returns:
        The painter, and the way to change its mix.

    Raises:
        RecipeError: The recipe says something impossible.
        PreflightError: The pool does not suit it.
        LayoutError: The architecture cannot be drawn, or a component is missing.
    """
    plan = make_plan(recipe, sources, mix_dtype)
    merged = merge_in_memory(recipe, sources, dtype=mix_dtype, settings=settings)
    merged.name = name
    painter = open_painter(
        merged, None if config is None else Path(config), vae=vae, te=te, **options
    )
    own = {"vae"} if vae is not None else set()
    own |= {"text_encoder", "text_encoder_2"} if te is not None else set()
    return LiveMix(painter, sources, plan, frozenset(own), mix_dtype, settings)
