"""An adapter seen as a checkpoint of differences, which are multiplied out when they are read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import final

import numpy as np

from stockpot.adapters.factors import Change
from stockpot.adapters.modules import Module, find_modules, flat_name
from stockpot.checkpoints import DTYPES, Source, TensorInfo
from stockpot.errors import CheckpointError
from stockpot.layouts import (
    LAYOUTS,
    ClipText,
    Layout,
    OpenClipText,
    UNet,
    diffusers_names,
    get_layout,
)

__all__ = ["AdapterSource", "Target", "layout_of_adapter", "targets_of"]

#: Modules whose factors stay in memory: the tensors that threads are at, and few more.
_KEPT = 6
_PARTS = MappingProxyType(
    {"unet": "unet", "te": "text_encoder", "te0": "text_encoder", "te1": "text_encoder_2"}
)
_NAMES_SHOWN = 3
#: Elements that are multiplied out at once, at least a row.
_ROW_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class Target:
    """Where a layer's weight stands in a checkpoint.

    Attributes:
        key: Canonical key.
        row: First row of the tensor that is the layer's; OpenCLIP keeps query, key and value in
            one tensor.
        n_rows: How many are.
        n_columns: Elements of a row.
        name: The layer's name in diffusers.
    """

    key: str
    row: int
    n_rows: int
    n_columns: int
    name: str


@cache
def targets_of(layout: str) -> Mapping[tuple[str, str], Target]:
    """List the weights of a layout that an adapter may change.

    Args:
        layout: Name of a known layout.

    Returns:
        By part and flattened name: the names of diffusers and transformers, with and without the
        level that transformers 5.6 took out, and the checkpoint's own names.

    Example:
        >>> targets_of("sdxl")["unet", "input_blocks_4_1_proj_in"].key
        'model.diffusion_model.input_blocks.4.1.proj_in.weight'
    """
    found: dict[tuple[str, str], Target] = {}
    specs = get_layout(layout).specs
    for part in get_layout(layout).parts:
        owner = _PARTS.get(part.component.name)
        if owner is None or not isinstance(part, UNet | ClipText | OpenClipText):
            continue
        for alias in diffusers_names(part):
            key = part.component.prefix + alias.ours
            spec = specs[key]
            if not alias.ours.endswith("weight") or not spec.shape or alias.transposed:
                continue
            n = len(alias.theirs)
            n_rows = spec.shape[0] // n
            n_columns = int(np.prod(spec.shape[1:], dtype=np.int64))
            for i, theirs in enumerate(alias.theirs):
                name = theirs.removesuffix(".weight")
                target = Target(key, i * n_rows, n_rows, n_columns, name)
                names = [name, name.removeprefix("text_model.")]
                if n == 1 and owner == "unet":
                    names.append(alias.ours.removesuffix(".weight"))
                for one in names:
                    found.setdefault((owner, flat_name(one)), target)
    return MappingProxyType(found)


def layout_of_adapter(source: Source) -> Layout | None:
    """Find the architecture that an adapter was made for: the first that has all of its layers.

    Args:
        source: An open adapter.

    Returns:
        The layout; None where none has them. Where several do, the adapter's tensors have the same
        keys in all of them.

    Raises:
        CheckpointError: It is no adapter, or of a kind that does not add to weights.
    """
    modules = find_modules(source)
    for layout in LAYOUTS.values():
        if layout.parts and not any(True for _ in _strangers(source, modules, layout)):
            return layout
    return None


def _strangers(
    source: Source, modules: tuple[Module, ...], layout: Layout
) -> Iterator[tuple[Module, str]]:
    """Modules that a layout does not have, and why."""
    targets = targets_of(layout.name)
    for module in modules:
        target = targets.get((module.part, module.name))
        if target is None:
            yield module, f"there is no {module.name} in its {module.part.replace('_', ' ')}"
            continue
        rows, columns = _outer_shape(module, source)
        if (rows or target.n_rows, columns or target.n_columns) != (
            target.n_rows, target.n_columns,
        ):  # fmt: skip
            shape = [rows or "?", columns or "?"]
            yield (
                module,
                (
                    f"{module.name} would change as {shape}".replace("'", "")
                    + f", but is [{target.n_rows}, {target.n_columns}]"
                ),
            )


def _outer_shape(module: Module, source: Source) -> tuple[int | None, int | None]:
    """Rows and columns of a change as far as the header tells them."""

    def shape(name: str) -> tuple[int, ...]:
        return source.info(module.keys[name]).shape

    def width(dims: tuple[int, ...]) -> int:
        return int(np.prod(dims[1:], dtype=np.int64))

    keys = module.keys
    if module.kind == "lora":
        core = int(np.prod(shape("mid")[2:], dtype=np.int64)) if "mid" in keys else 1
        return shape("up")[0], width(shape("down")) * core
    if module.kind == "loha":
        if "hada_t1" in keys:
            core = int(np.prod(shape("hada_t1")[2:], dtype=np.int64))
            return shape("hada_w1_a")[-1], width(shape("hada_w1_b")) * core
        return shape("hada_w1_a")[0], width(shape("hada_w1_b"))
    if module.kind == "full" and "diff" in keys:
        return shape("diff")[0], width(shape("diff"))
    if module.kind == "full":
        return shape("diff_b")[0], None
    rows = columns = 1
    for side in "12":
        if f"lokr_w{side}" in keys:
            rows, columns = (
                rows * shape(f"lokr_w{side}")[0],
                columns * width(shape(f"lokr_w{side}")),
            )
        elif {f"lokr_w{side}_a", f"lokr_w{side}_b"} <= keys.keys():
            has_core = side == "2" and "lokr_t2" in keys
            core = int(np.prod(shape("lokr_t2")[2:], dtype=np.int64)) if has_core else 1
            rows *= shape(f"lokr_w{side}_a")[-1 if has_core else 0]
            columns *= width(shape(f"lokr_w{side}_b")) * core
    return rows, columns


@final
class AdapterSource(Source):
    """The differences that an adapter adds to a model, under the keys of a checkpoint.

    A tensor is multiplied out when it is read, so memory holds the factors of a few layers.
    Elements are doubles, and the same whatever is read at once and on every machine.

    Args:
        source: An open LoRA or LyCORIS file; closing this closes it.
        layout: The architecture whose keys to use.

    Attributes:
        kinds: How many modules of each kind (``lora``, ``loha``, ``lokr``, ``full``) it has.

    Raises:
        CheckpointError: It is no adapter, changes layers that the architecture lacks, or is of a
            kind that does not add to weights.

    Example:
        >>> from stockpot.checkpoints import MemorySource
        >>> from stockpot.layouts import get_layout
        >>> key = "lora_unet_time_embedding_linear_1"
        >>> infos = [
        ...     TensorInfo(f"{key}.lora_down.weight", DTYPES["F16"], (1, 24)),
        ...     TensorInfo(f"{key}.lora_up.weight", DTYPES["F16"], (96, 1)),
        ... ]
        >>> file = MemorySource({info.key: (info, bytes(info.n_bytes)) for info in infos})
        >>> [(i.key, i.shape) for i in AdapterSource(file, get_layout("zoo")).tensors.values()]
        [('model.diffusion_model.time_embed.0.weight', (96, 24))]
    """

    def __init__(self, source: Source, layout: Layout) -> None:
        self.source = source
        self.name, self.files, self.metadata = source.name, source.files, source.metadata
        modules = find_modules(source)
        strange = list(_strangers(source, modules, layout)) if layout.parts else []
        if strange or not layout.parts:
            shown = "; ".join(reason for _, reason in strange[:_NAMES_SHOWN])
            raise CheckpointError(
                f"{source.name}: an adapter must be made for {layout.title}, but it is not: {shown}"
                if strange
                else f"{source.name}: an adapter changes a model of a known architecture, but the "
                "models of this mix are of none"
            )
        self.kinds: dict[str, int] = {}
        self._pieces: dict[str, list[tuple[Target, Module, bool]]] = {}
        targets = targets_of(layout.name)
        for module in modules:
            self.kinds[module.kind] = self.kinds.get(module.kind, 0) + 1
            target = targets[module.part, module.name]
            if module.changes_weight:
                self._pieces.setdefault(target.key, []).append((target, module, False))
            if module.changes_bias:
                bias = _bias_of(target)
                self._pieces.setdefault(bias.key, []).append((bias, module, True))
        lacking = [key for key in self._pieces if key not in layout.specs]
        if lacking:
            raise CheckpointError(f"{source.name}: {layout.title} has no {lacking[0]}, which the "
                                  "adapter changes")  # fmt: skip
        self.tensors: Mapping[str, TensorInfo] = {
            key: TensorInfo(key, DTYPES["F64"], layout.specs[key].shape)
            for key in layout.specs
            if key in self._pieces
        }
        self._known: OrderedDict[tuple[str, str, bool], Change] = OrderedDict()
        self._guard = threading.Lock()

    def read_into(self, key: str, start: int, stop: int, out: memoryview) -> None:
        """Multiply out what is asked for; see `Source.read_into`."""
        self.checked_range(key, start, stop, out)
        values = np.frombuffer(out.cast("B"), dtype=np.float64)
        values[:] = 0
        for target, module, is_bias in self._pieces[key]:
            width = max(1, target.n_columns)
            begin = target.row * width
            end = begin + target.n_rows * width
            first, last = max(start, begin), min(stop, end)
            if first >= last:
                continue
            change = self._change(target, module, is_bias)
            top, bottom = (first - begin) // width, -((begin - last) // width)
            for row in range(top, bottom, _rows_at_once(width)):
                to = min(row + _rows_at_once(width), bottom)
                made = change.rows(row, to).reshape(-1)
                left = max(first, begin + row * width)
                right = min(last, begin + to * width)
                shift = begin + row * width
                # Two modules of one layer, under two names, act both.
                values[left - start : right - start] += made[left - shift : right - shift]

    def held_bytes(self, n_threads: int) -> int:
        """Most memory that reading takes: factors that are kept, and rows in the making.

        Args:
            n_threads: How many read at once.
        """
        sizes = [
            8 * sum(self.source.info(key).n_elements for key in module.keys.values())
            for pieces in self._pieces.values()
            for _, module, _ in pieces
        ]
        # A factor is read, and turned to doubles, before an older one goes.
        kept = sum(sorted(sizes)[-_KEPT - n_threads :])
        return kept + n_threads * (max(sizes, default=0) + 24 * _ROW_ELEMENTS)

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def _change(self, target: Target, module: Module, is_bias: bool) -> Change:
        name = (module.part, module.name, is_bias)
        with self._guard:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        change = module.read_bias(self.source) if is_bias else module.read(self.source)
        if (change.n_rows, change.n_columns) != (target.n_rows, target.n_columns):
            raise CheckpointError(
                f"{self.name}: {target.key}: a module must change [{target.n_rows}, "
                f"{target.n_columns}], but makes [{change.n_rows}, {change.n_columns}]"
            )
        with self._guard:
            self._known[name] = change
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return change


def _rows_at_once(width: int) -> int:
    return max(1, _ROW_ELEMENTS // width)


def _bias_of(target: Target) -> Target:
    stem, _, last = target.key.rpartition("weight")
    return Target(f"{stem}bias{last}", target.row, target.n_rows, 1, target.name)
