"""Checkpoints on disk: a file of safetensors or torch, a sharded one, a diffusers folder."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from stockpot.checkpoints import storage
from stockpot.checkpoints.header import Header, read_header
from stockpot.checkpoints.sources import Source, TensorInfo
from stockpot.checkpoints.torch_files import TorchFile, looks_like_torch
from stockpot.errors import CheckpointError, HeaderError

__all__ = ["JoinedSource", "SafetensorsFile", "open_checkpoint"]

_SUFFIXES = (".safetensors", ".bin")
"""Of files in folders, in the order in which they are looked for."""
_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_INDEX_SUFFIXES = tuple(f"{suffix}.index.json" for suffix in _SUFFIXES)
_MOST_INDEX_BYTES = 8_000_000
_SCHEDULER_FIELDS = ("prediction_type", "rescale_betas_zero_snr")
_SHARD_PREFERENCE = ("", ".fp16", ".bf16")


@final
class SafetensorsFile(Source):
    """One safetensors file, open for positional reads.

    Args:
        path: The file.

    Raises:
        CheckpointError: The file is not there, or its header breaks the format.

    Attributes:
        path: The file.
        header: Its checked header.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.files = (self.path,)
        self.name = str(self.path)
        try:
            self._descriptor = storage.open_for_reading(self.path)
        except OSError as error:
            raise CheckpointError(
                f"{self.name}: the file cannot be opened: {error.strerror}"
            ) from error
        try:
            self.opened = {self.path: storage.stamp(self._descriptor)}
            size = os.fstat(self._descriptor).st_size
            self.header: Header = read_header(self._descriptor, size, self.name)
        except OSError as error:
            os.close(self._descriptor)
            raise CheckpointError(f"{self.name}: cannot be read: {error.strerror}") from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self.tensors = self.header.tensors
        self.metadata = self.header.metadata
        self._open = True

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read elements at their place in the file; see `Source.read_into`."""
        info = self.checked_range(key, start, stop, out)
        offset = self.header.offsets[key] + start * info.dtype.itemsize
        try:
            data = out if out.format == "B" else out.cast("B")
            storage.read_at(self._descriptor, offset, data, self.name)
        except OSError as error:
            raise CheckpointError(
                f"{self.name}: {key}: reading failed: {error.strerror}; the disk or the "
                "connection to it may be failing"
            ) from error

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


@final
class JoinedSource(Source):
    """Several sources that make one checkpoint together, each with a prefix for its keys.

    Args:
        name: What to call the whole in messages.
        parts: Prefix and source of each part.
        metadata: To add to the parts' own.

    Raises:
        CheckpointError: Two parts hold the same key.
    """

    def __init__(
        self,
        name: str,
        parts: list[tuple[str, Source]],
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self._parts = [part for _, part in parts]
        self.files = tuple(file for part in self._parts for file in part.files)
        self.opened = {file: stamp for p in self._parts for file, stamp in p.opened.items()}
        self.notes = tuple(f"{part.name}: {note}" for part in self._parts for note in part.notes)
        self._owner: dict[str, tuple[Source, str]] = {}
        tensors: dict[str, TensorInfo] = {}
        joined: dict[str, str] = {}
        for prefix, part in parts:
            joined |= part.metadata
            for key, info in part.tensors.items():
                full = prefix + key
                if full in tensors:
                    raise CheckpointError(f"{name}: {full} stands in two parts; one must go")
                tensors[full] = TensorInfo(full, info.dtype, info.shape)
                self._owner[full] = (part, key)
        self.tensors = tensors
        self.metadata = {**joined, **metadata}

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the part that has the tensor; see `Source.read_into`."""
        self.checked_range(key, start, stop, out)
        part, own_key = self._owner[key]
        part.read_into(own_key, start, stop, out)

    def close(self) -> None:
        """Close every part."""
        for part in self._parts:
            part.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Source:
    """Open what people call a checkpoint; only headers are read.

    Args:
        path: A file of safetensors or of ``torch.save`` (``.ckpt``, ``.pt``, ``.bin``), told apart
            by their first bytes; the ``.index.json`` of a sharded one; a diffusers
            folder (one with ``model_index.json``), whose keys get the component's folder as a
            prefix, such as ``unet/conv_in.weight``, and whose scheduler's facts stand in the
            metadata under ``diffusers.``; or a folder with one index or one file.

    Returns:
        The checkpoint, open; close it, or use it in a ``with``. Its notes say if a file's name
        ends as those of another format do.

    Raises:
        CheckpointError: Nothing readable is there, or a header breaks the format; an
            `UnsafeFileError` where a torch file names what only an attack needs.
    """
    place = Path(path)
    if place.is_dir():
        return _open_folder(place)
    if place.name.endswith(_INDEX_SUFFIXES):
        return _open_index(place)
    return _open_file(place)


def _open_file(path: Path) -> Source:
    try:
        # A pipe would wait for ever, and nothing but a file can be read by range.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: a checkpoint must be a file, but this is none")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be opened: {error.strerror}") from error
    suffix = path.suffix.lower()
    source: Source
    if looks_like_torch(head):
        source = TorchFile(path)
        if suffix == ".safetensors":
            source.notes += (f"the name ends in {suffix}, but it is a file of torch.save",)
    else:
        source = SafetensorsFile(path)
        if suffix in _TORCH_SUFFIXES:
            source.notes += (f"the name ends in {suffix}, but it is a safetensors file",)
    return source


def _open_folder(folder: Path) -> Source:
    if (folder / "model_index.json").is_file():
        parts: list[tuple[str, Source]] = []
        try:
            for component in sorted(child for child in folder.iterdir() if child.is_dir()):
                if any(file.suffix in _SUFFIXES for file in component.iterdir()):
                    parts.append((f"{component.name}/", _open_weights(component)))
            if not parts:
                raise CheckpointError(
                    f"{folder}: the diffusers folder must hold .safetensors or .bin files, but "
                    "has none; save it with safe_serialization=True"
                )
            return JoinedSource(str(folder), parts, _scheduler_facts(folder))
        except BaseException:
            for _, part in parts:
                part.close()
            raise
    return _open_weights(folder)


def _open_weights(folder: Path) -> Source:
    indexes: list[Path] = []
    files: list[Path] = []
    for suffix in _SUFFIXES:
        indexes = sorted(folder.glob(f"*{suffix}.index.json"))
        files = sorted(folder.glob(f"*{suffix}"))
        if len(indexes) == 1:
            return _open_index(indexes[0])
        if not indexes and len(files) == 1:
            return _open_file(files[0])
        # diffusers keeps variants side by side: the plain name first, then half precision.
        for variant in _SHARD_PREFERENCE:
            for stem in ("diffusion_pytorch_model", "pytorch_model", "model"):
                candidate = folder / f"{stem}{variant}{suffix}"
                if not indexes and candidate in files:
                    return _open_file(candidate)
        # Where both formats are, they hold the same weights; no need to look at the second.
        if indexes or files:
            break
    raise CheckpointError(
        f"{folder}: a folder must hold one .safetensors or .bin file or one index, but has "
        f"{len(files)} files and {len(indexes)} indexes; name the one you mean"
    )


def _open_index(path: Path) -> Source:
    weight_map = _weight_map(path)
    parts: list[tuple[str, Source]] = []
    try:
        for shard in sorted(set(weight_map.values())):
            parts.append(("", _open_file(path.parent / shard)))
        joined = JoinedSource(str(path), parts)
    except BaseException:
        for _, part in parts:
            part.close()
        raise
    missing = sorted(set(weight_map) - set(joined.tensors))
    extra = sorted(set(joined.tensors) - set(weight_map))
    if missing or extra:
        joined.close()
        fault = "lack" if missing else "have, unlisted,"
        raise CheckpointError(f"{path}: its shards {fault} {(missing or extra)[0]}; get them again")
    return joined


def _scheduler_facts(folder: Path) -> dict[str, str]:
    """What a pipeline's UNet predicts stands beside it, in words."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        return {}
    config = _read_json(path, "scheduler's file")
    found = {}
    for field in _SCHEDULER_FIELDS:
        value = config.get(field) if isinstance(config, dict) else None
        if isinstance(value, str | bool):
            found[f"diffusers.{field}"] = str(value).lower()
    return found


def _read_json(path: Path, what: str) -> Any:
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise HeaderError(f"{path}: an {what} may have {_MOST_INDEX_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: the {what} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{path}: the {what} is not JSON: {error}") from error


def _weight_map(path: Path) -> Mapping[str, str]:
    index = _read_json(path, "index")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise HeaderError(f"{path}: an index must have a weight_map of keys to files")
    for key, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".", ".."):
            raise HeaderError(
                f"{path}: {key}: a shard must be a file beside the index, but is {shard!r}"
            )
    return weight_map
