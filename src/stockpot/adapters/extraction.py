"""A LoRA from what two models differ by: singular vectors of each layer's difference.

Each layer is worked on alone, so memory holds one layer's difference and a few matrices of its
size. The directions come from the eigenvectors of D·Dᵀ (or Dᵀ·D, whichever is smaller), and the
other factor from projecting D on them: with all directions the product is D whatever small errors
the eigenvectors have.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from stockpot.adapters.deltas import Target, targets_of
from stockpot.adapters.factors import Doubles
from stockpot.checkpoints import (
    FileSink,
    Source,
    TensorInfo,
    content_hash,
    get_dtype,
    hash_tensors,
)
from stockpot.errors import CheckpointError, OutputError
from stockpot.layouts import Layout, as_checkpoint, detect
from stockpot.methods import HAS_COMPILED_KERNEL, Row, narrow, widen

__all__ = ["Extracted", "Extraction", "extract_lora"]

_CLAIMS = {"sd1": ("sd_v1", "stable-diffusion-v1"), "sd2": ("sd_v2", "stable-diffusion-v2-768-v"),
           "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
           "zoo": ("zoo", "stable-diffusion-v1/stockpot-zoo")}  # fmt: skip
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


@dataclass(frozen=True)
class Extracted:
    """One layer of a LoRA that was extracted.

    Attributes:
        name: Its name in the file.
        rank: Of its factors.
        energy: Sum of the squares of its difference.
        kept: Which part of that its factors hold, before they are rounded to the file's type.
    """

    name: str
    rank: int
    energy: float
    kept: float


@dataclass(frozen=True)
class Extraction:
    """What became of a difference.

    Attributes:
        path: The new file.
        layout: Name of the models' architecture.
        layers: Those in the file.
        left_out: Keys that differ and have no place in such a file, with the energy of each: norms,
            biases, convolutions without a rank, the VAE.
        n_same: Layers that are equal in both models, and so are not in the file.
    """

    path: Path
    layout: str
    layers: tuple[Extracted, ...]
    left_out: Mapping[str, float]
    n_same: int

    @property
    def kept(self) -> float:
        """Which part of the energy of the difference in its layers the file holds."""
        total = sum(layer.energy for layer in self.layers)
        return sum(layer.kept * layer.energy for layer in self.layers) / total if total else 1.0

    @property
    def covered(self) -> float:
        """Which part of the energy of the whole difference lies in the file's layers."""
        inside = sum(layer.energy for layer in self.layers)
        total = inside + sum(self.left_out.values())
        return inside / total if total else 1.0


def extract_lora(
    tuned: Source,
    base: Source,
    output: str | os.PathLike[str],
    *,
    rank: int = 32,
    conv_rank: int = 0,
    dtype: str = "fp16",
    clamp: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Extraction:
    """Write the difference of two models as a LoRA in kohya's naming.

    Args:
        tuned: An open checkpoint.
        base: What it is compared with, of the same architecture.
        output: The new file.
        rank: Of attention and feed-forward layers; a layer that is smaller gets its full rank.
        conv_rank: Of the layers of residual blocks and samplers (LoCon); 0 leaves them out.
        dtype: Element type of the factors.
        clamp: A quantile, such as 0.99, to which the magnitudes of factors are cut, as kohya's
            script does against outliers; None leaves them.
        overwrite: Whether an existing file is replaced.
        progress: Called with the bytes that were just read.

    Returns:
        What the file holds, and what it does not.

    Raises:
        CheckpointError: The models are of different kinds, equal, or not finite; or their
            difference is too large for the type.
        OutputError: The file cannot be written.

    Example:
        >>> from stockpot.checkpoints import MemorySource
        >>> extract_lora(MemorySource({}), MemorySource({}), "x.safetensors")
        Traceback (most recent call last):
        ...
        stockpot.errors.CheckpointError: memory: a LoRA is extracted from models of a known ...
    """
    if rank < 1 or conv_rank < 0 or (clamp is not None and not 0 < clamp <= 1):
        raise ValueError("rank must be 1 or more, conv_rank 0 or more, and clamp within 0 … 1")
    path = Path(output)
    sources = {"tuned": as_checkpoint(tuned), "base": as_checkpoint(base)}
    if any(path.exists() and path.samefile(f) for s in sources.values() for f in s.files):
        raise OutputError(f"{path}: an input is never written to; choose another name")
    layout = _common_layout(*sources.values())
    work = _Work(layout, sources["tuned"], sources["base"], progress)
    changed = work.changed()
    targets = {
        (part, target.name): target
        for (part, _), target in targets_of(layout.name).items()
        if _rank_of(part, target, rank, conv_rank)
    }
    ranks = {
        place: min(_rank_of(place[0], target, rank, conv_rank), target.n_rows, target.n_columns)
        for place, target in targets.items()
        if target.key in changed and work.differs(target)
    }
    if not ranks:
        raise CheckpointError(
            f"{tuned.name}: a LoRA needs layers in which the models differ, but they are equal in "
            f"all that it may change; compared with {base.name}"
        )
    kind = get_dtype(dtype)
    stems = {place: _stem(layout, *place) for place in ranks}
    infos: dict[str, TensorInfo] = {}
    for place, r in ranks.items():
        shape = layout.specs[targets[place].key].shape
        kernel = shape[1:] if len(shape) == 4 else (targets[place].n_columns,)
        ones = (1, 1) if len(shape) == 4 else ()
        for ending, dims in (("lora_down.weight", (r, *kernel)), ("alpha", ()),
                             ("lora_up.weight", (targets[place].n_rows, r, *ones))):  # fmt: skip
            key = f"{stems[place]}.{ending}"
            infos[key] = TensorInfo(key, kind, dims)
    sink = FileSink(path, infos, work.metadata(rank, conv_rank), overwrite=overwrite)
    try:
        layers = []
        for place, r in ranks.items():
            delta = work.delta(targets[place])
            up, down, kept = factors_of(delta, r)
            if clamp is not None:
                _clamp(up, down, clamp)
            stem = stems[place]
            for ending, values in (("lora_down.weight", down), ("lora_up.weight", up),
                                   ("alpha", np.array(float(r)))):  # fmt: skip
                _write(sink, f"{stem}.{ending}", values)
            layers.append(Extracted(stem, r, float(np.square(delta).sum()), kept))
        sink.commit(work.metadata(rank, conv_rank))
    except BaseException:
        sink.abort()
        raise
    inside = {target.key for place, target in targets.items() if place in ranks}
    rest = {key: work.energy(key) for key in sorted(changed - inside)}
    return Extraction(path, layout.name, tuple(layers), rest, len(targets) - len(ranks))


def factors_of(delta: Doubles, rank: int) -> tuple[Doubles, Doubles, float]:
    """Find the factors of the nearest matrix of a rank (Eckart and Young 1936).

    Args:
        delta: Shape ``[m, n]``.
        rank: At most min(m, n).

    Returns:
        Up ``[m, rank]`` and down ``[rank, n]``, of equal size, their product near `delta`; and
        which part of the sum of squares they hold. The largest element of each of the smaller
        factor's vectors is positive.

    Example:
        >>> up, down, kept = factors_of(np.diag([3.0, 1.0]), 1)
        >>> (up @ down).round(12).tolist(), round(kept, 3)
        ([[3.0, 0.0], [0.0, 0.0]], 0.9)
    """
    tall = len(delta) > delta.shape[1]
    matrix = delta.T if tall else delta
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    vectors = vectors[:, ::-1][:, :rank]
    peaks = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    vectors = vectors * np.where(peaks < 0, -1.0, 1.0)
    other = vectors.T @ matrix
    sizes = np.square(other).sum(1)
    total = float(np.square(delta).sum())
    # Both factors get the root of the singular value, so that neither leaves its type's range.
    roots = np.where(sizes > 0, sizes, 1.0) ** 0.25
    vectors, other = vectors * roots, other / roots[:, None]
    up, down = (other.T, vectors.T) if tall else (vectors, other)
    return np.ascontiguousarray(up), np.ascontiguousarray(down), float(sizes.sum()) / (total or 1.0)


class _Work:
    """Two models, and which of their tensors differ."""

    def __init__(
        self, layout: Layout, tuned: Source, base: Source, progress: Callable[[int], None]
    ) -> None:
        self.layout, self.tuned, self.base = layout, tuned, base
        self._names = [
            {layout.canonical_key(key): key for key in source.tensors} for source in (tuned, base)
        ]
        keys = [
            key
            for key, spec in layout.specs.items()
            if spec.role == "weight" and all(key in names for names in self._names)
            and spec.cell.component != "ema"
        ]  # fmt: skip
        self._hashes = [
            hash_tensors(source, [names[key] for key in keys], progress)
            for source, names in zip((tuned, base), self._names, strict=True)
        ]
        self._keys = keys

    def changed(self) -> set[str]:
        """Canonical keys of the tensors that both have and that differ."""
        ours, theirs = self._names
        return {
            key
            for key in self._keys
            if self._hashes[0][ours[key]] != self._hashes[1][theirs[key]]
            or self.tuned.info(ours[key]).dtype != self.base.info(theirs[key]).dtype
        }

    def delta(self, target: Target) -> Doubles:
        """The difference of a layer's weight as a matrix."""
        first = target.row * target.n_columns
        values = self._range(target.key, first, first + target.n_rows * target.n_columns)
        return values.reshape(target.n_rows, target.n_columns)

    def differs(self, target: Target) -> bool:
        """Whether a layer differs: of fused tensors, and of other types, it may be another part."""
        return bool(self.delta(target).any())

    def energy(self, key: str) -> float:
        """Sum of the squares of a tensor's difference."""
        n = self.layout.specs[key]
        return float(np.square(self._range(key, 0, math.prod(n.shape))).sum())

    def metadata(self, rank: int, conv_rank: int) -> dict[str, str]:
        """What the file says of itself: what loaders look for, and what it was made of."""
        version, architecture = _CLAIMS.get(self.layout.name, ("", ""))
        said = {
            "rank": rank,
            "conv_rank": conv_rank,
            "tuned": self._content(0),
            "base": self._content(1),
        }
        conv = {"conv_dim": str(conv_rank), "conv_alpha": str(conv_rank)} if conv_rank else {}
        return {
            "format": "pt",
            "modelspec.architecture": f"{architecture}/lora" if architecture else "lora",
            "ss_base_model_version": version,
            "ss_network_alpha": str(rank),
            "ss_network_args": json.dumps(conv),
            "ss_network_dim": str(rank),
            "ss_network_module": "networks.lora",
            "stockpot.extraction": json.dumps(said, sort_keys=True),
        }

    def _content(self, side: int) -> str:
        source = (self.tuned, self.base)[side]
        infos = {name: source.info(name) for name in self._hashes[side]}
        return content_hash(infos, self._hashes[side], self.layout.canonical_key)

    def _range(self, key: str, start: int, stop: int) -> Doubles:
        result = np.empty(stop - start)
        other = np.empty(stop - start)
        for source, names, out in zip(
            (self.tuned, self.base), self._names, (result, other), strict=True
        ):
            info = source.info(names[key])
            if info.n_elements != math.prod(self.layout.specs[key].shape):
                raise CheckpointError(
                    f"{source.name}: {info.key}: the shape must be "
                    f"{list(self.layout.specs[key].shape)}, but is {list(info.shape)}"
                )
            data = bytearray((stop - start) * info.dtype.itemsize)
            source.read_into(info.key, start, stop, memoryview(data))
            row = Row(memoryview(data), info.dtype)
            if not widen(row, out, compiled=HAS_COMPILED_KERNEL):
                raise CheckpointError(f"{source.name}: {info.key}: values must be finite, but one "
                                      "is NaN or infinite")  # fmt: skip
        result -= other
        return result


def _common_layout(tuned: Source, base: Source) -> Layout:
    found = [
        detect({key: info.shape for key, info in source.tensors.items()}).layout
        for source in (tuned, base)
    ]
    if not found[0].parts or not targets_of(found[0].name):
        raise CheckpointError(f"{tuned.name}: a LoRA is extracted from models of a known "
                              "architecture, but this is of none")  # fmt: skip
    if found[0].name != found[1].name:
        raise CheckpointError(
            f"{tuned.name}: both models must be of one architecture, but this is "
            f"{found[0].title} and {base.name} is {found[1].title}"
        )
    return found[0]


def _rank_of(part: str, target: Target, rank: int, conv_rank: int) -> int:
    """The rank of a layer: 0 for those that loaders of LoRAs do not look for."""
    if part != "unet":
        return rank if ".self_attn." in target.name or ".mlp." in target.name else 0
    if ".norm" in target.name:
        return 0
    if ".attentions." in target.name:
        return rank
    return conv_rank if ".resnets." in target.name or "samplers." in target.name else 0


def _stem(layout: Layout, part: str, name: str) -> str:
    prefix = _PREFIXES[part]
    two = any(part.component.name == "te1" for part in layout.parts)
    if part == "text_encoder" and two:
        prefix = "lora_te1_"
    return prefix + name.replace(".", "_")


def _clamp(up: Doubles, down: Doubles, quantile: float) -> None:
    both: Collection[Doubles] = (up.reshape(-1), down.reshape(-1))
    high = float(np.quantile(np.abs(np.concatenate([*both])), quantile))
    np.clip(up, -high, high, out=up)
    np.clip(down, -high, high, out=down)


def _write(sink: FileSink, key: str, values: Doubles) -> None:
    info = sink.tensors[key]
    out = memoryview(bytearray(info.n_bytes))
    facts = narrow(np.ascontiguousarray(values).reshape(-1), Row(out, info.dtype))
    if facts.overflow or facts.nonfinite_input:
        raise CheckpointError(f"{key}: the factors are too large for {info.dtype}; save them in a "
                              "wider type with --dtype")  # fmt: skip
    sink.write(key, 0, out)
    sink.tensor_done(key, blake3(out).hexdigest())
