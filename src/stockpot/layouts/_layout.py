"""A layout: what every key of one kind of checkpoint means, and how well a file fits it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import final

from stockpot.errors import UnknownNameError
from stockpot.layouts._base import Cell, Component, KeySpec, Part, Row, Shape

__all__ = ["EMA", "MODEL", "OTHER", "UNKNOWN", "Fit", "Layout"]

EMA = Component("ema", "EMA copy of the UNet", "model_ema.", required=False)
"""The averaged copy that training keeps; its keys follow from the UNet's by a rule."""

OTHER = Component("other", "schedules and markers", "", required=False)
"""Keys that belong to no component and that no merge averages."""

UNKNOWN = Component("unknown", "unknown keys", "", required=False)
"""Keys that the layout has no meaning for."""

MODEL = Component("model", "model of unknown layout", "")
"""Everything in a file whose layout is not known."""

_NO_KEYS: Mapping[str, KeySpec] = MappingProxyType({})


@final
@dataclass(frozen=True)
class Fit:
    """How the keys and shapes of a file compare with those of a layout.

    Attributes:
        missing: Required keys that the file lacks, in the layout's order, those of wholly absent
            components included.
        missing_in: The same, by component.
        missing_components: Components of which the file has no required key at all.
        unknown: Keys of the file that the layout has no meaning for, and alternative names of
            keys that are there under their canonical name too.
        mismatched: Key of the file, its shape, and the shape that it should have.
        aliased: Canonical name of each key that the file calls otherwise.
        reshaped: The file's and the canonical shape of keys that hold the right numbers in
            another shape.
        matched: By component, how many required keys are there in an accepted shape.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> fit = get_layout("sd1").fit({"first_stage_model.decoder.conv_out.bias": (3,)})
        >>> fit.missing_components, len(fit.missing_in["vae"]), fit.complete
        (('unet', 'te'), 247, False)
    """

    missing: tuple[str, ...] = ()
    missing_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing_components: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, Shape, Shape], ...] = ()
    aliased: Mapping[str, str] = field(default_factory=dict)
    reshaped: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    matched: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every required key is there in an accepted shape, and nothing is unknown.

        Example:
            >>> Fit().complete, Fit(unknown=("what.is.this",)).complete
            (True, False)
        """
        return not (self.missing or self.unknown or self.mismatched)


@final
@dataclass(frozen=True)
class Layout:
    """What the keys of one kind of checkpoint mean.

    The tables are made when they are first asked for, so that a layout costs nothing to import.

    Attributes:
        name: How code and recipes call it.
        title: How reports call it.
        parts: Descriptions of the components; empty for a layout that knows no keys.
        extras: Keys outside of all components: schedules and markers.
        telltales: Keys that no other layout has in this shape, where there are some: what a
            person would look at, and what `detect` gives as evidence.

    Example:
        >>> from stockpot.layouts import get_layout
        >>> layout = get_layout("sdxl")
        >>> str(layout.cell_of("model.diffusion_model.output_blocks.8.0.emb_layers.1.bias"))
        'unet.OUT08'
    """

    name: str
    title: str
    parts: tuple[Part, ...] = field(default=(), repr=False)
    extras: tuple[Row, ...] = field(default=(), repr=False)
    telltales: tuple[str, ...] = field(default=(), repr=False)

    def __getstate__(self) -> dict[str, object]:
        # Other processes make the tables again: quicker than sending them, and views of
        # dictionaries cannot be pickled.
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def components(self) -> tuple[Component, ...]:
        """All components in display order, the places for EMA, other and unknown keys last.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> [component.name for component in get_layout("sd1").components]
            ['unet', 'te', 'vae', 'ema', 'other', 'unknown']
        """
        if not self.parts:
            return (MODEL,)
        return (*(part.component for part in self.parts), EMA, OTHER, UNKNOWN)

    @cached_property
    def specs(self) -> Mapping[str, KeySpec]:
        """Every key in the table, by canonical name; EMA keys follow from a rule (`spec_of`).

        Example:
            >>> from stockpot.layouts import get_layout
            >>> get_layout("sd2").specs["cond_stage_model.model.ln_final.bias"].shape
            (1024,)
        """
        tables = [(part.component, part.rows()) for part in self.parts]
        tables.append((OTHER, iter(self.extras)))
        return MappingProxyType(
            {spec.key: spec for component, rows in tables for spec in _specs(component, rows)}
        )

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that `cell_of` can answer, in display order.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> [str(cell) for cell in get_layout("sd1").cells][:3]
            ['unet.time_embed', 'unet.IN00', 'unet.IN01']
        """
        if not self.parts:
            return (Cell("model", "all"),)
        table = dict.fromkeys(spec.cell for spec in self.specs.values())
        rest = (Cell(component.name, "all") for component in (EMA, OTHER, UNKNOWN))
        return tuple(dict.fromkeys((*(cell for cell in table if cell.block != "all"), *rest)))

    @cached_property
    def _ema_specs(self) -> Mapping[str, KeySpec]:
        """The averaged copy's keys: the UNet's without dots, since buffers may not have any."""
        if not self.parts:
            return _NO_KEYS
        cell = Cell("ema", "all")
        specs = {
            key: KeySpec(key, (), cell, True, "buffer", ((1,),))
            for key in ("model_ema.decay", "model_ema.num_updates")
        }
        for spec in self.specs.values():
            if spec.cell.component != "unet":
                continue
            long = spec.key.removeprefix("model.").replace(".", "")
            # Trainers that average the UNet itself, not its wrapper, leave the first word out.
            for name in (long, long.removeprefix("diffusion_model")):
                key = EMA.prefix + name
                specs[key] = KeySpec(key, spec.shape, cell, True, "weight", spec.alternatives)
        return MappingProxyType(specs)

    @cached_property
    def _alias_prefixes(self) -> tuple[tuple[str, str], ...]:
        """Beginnings of text encoder names as NovelAI wrote them, and the canonical ones."""
        prefixes = dict.fromkeys(
            part.component.prefix
            for part in self.parts
            if part.component.prefix.endswith(".transformer.")
        )
        return tuple((prefix, f"{prefix}text_model.") for prefix in prefixes)

    @cached_property
    def _prefix_of(self) -> Mapping[str, str]:
        return {component.name: component.prefix for component in self.components}

    @cached_property
    def n_required(self) -> Mapping[str, int]:
        """How many required keys each required component has.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> dict(get_layout("sd1").n_required)
            {'unet': 686, 'te': 196, 'vae': 248}
        """
        counts = {part.component.name: 0 for part in self.parts}
        for spec in self.specs.values():
            if not spec.optional:
                counts[spec.cell.component] += 1
        return MappingProxyType(counts)

    def canonical_key(self, key: str) -> str:
        """Give the name that the layout's table has for a key.

        Args:
            key: Any string. Text encoders as NovelAI saved them lack ``text_model.``.

        Returns:
            The canonical name; the key itself where the table does not know it.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> key = "cond_stage_model.transformer.final_layer_norm.bias"
            >>> get_layout("sd1").canonical_key(key)
            'cond_stage_model.transformer.text_model.final_layer_norm.bias'
        """
        if key not in self.specs:
            for short, long in self._alias_prefixes:
                if key.startswith(short):
                    candidate = long + key[len(short) :]
                    if candidate in self.specs:
                        return candidate
        return key

    def spec_of(self, key: str) -> KeySpec | None:
        """Look up what is expected under a key.

        Args:
            key: Any string, canonical or not.

        Returns:
            The specification under the canonical name; None for what the layout does not know.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> spec = get_layout("sd1").spec_of("model_ema.diffusion_modelout2bias")
            >>> str(spec.cell), spec.shape
            ('ema.all', (4,))
        """
        spec = self.specs.get(key)
        if spec is None and key.startswith(EMA.prefix):
            spec = self._ema_specs.get(key)
        if spec is None:
            spec = self.specs.get(self.canonical_key(key))
        return spec

    def cell_of(self, key: str) -> Cell:
        """Say where in the model a key belongs.

        Args:
            key: Any string, canonical or not.

        Returns:
            One of `cells`; ``ema.all`` for whatever begins as EMA keys do, ``unknown.all`` for
            keys without a meaning, ``model.all`` for every key of the generic layout.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> str(get_layout("sd1").cell_of("lora_unet_down.weight"))
            'unknown.all'
            >>> str(get_layout("generic").cell_of("lora_unet_down.weight"))
            'model.all'
        """
        spec = self.spec_of(key)
        if spec is not None:
            return spec.cell
        if not self.parts:
            return Cell("model", "all")
        return Cell("ema" if key.startswith(EMA.prefix) else "unknown", "all")

    def relative_key(self, key: str) -> str:
        """Give the name that a key has in a file of its component alone.

        Hashes of components are computed over these, so that a component keeps its hash when it
        is taken out of a checkpoint, and CLIP-L has one hash in SD1 and in SDXL.

        Args:
            key: Any string, canonical or not.

        Returns:
            The canonical name without the component's prefix; the key itself where the layout
            does not know it.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> get_layout("sd1").relative_key("first_stage_model.decoder.conv_out.bias")
            'decoder.conv_out.bias'
        """
        spec = self.spec_of(key)
        if spec is None:
            return key
        return spec.key.removeprefix(self._prefix_of[spec.cell.component])

    def component_names(self, expr_name: str) -> tuple[str, ...]:
        """Say which components a name in a recipe stands for.

        Args:
            expr_name: A component's name; ``te`` for all text encoders; ``model`` for everything,
                EMA, other and unknown keys included.

        Returns:
            Names of components, in display order.

        Raises:
            UnknownNameError: The layout has no component of this name.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> get_layout("sdxl").component_names("te"), get_layout("sd1").component_names("te")
            (('te0', 'te1'), ('te',))
        """
        names = tuple(component.name for component in self.components)
        if expr_name == "model":
            return names
        encoders = tuple(name for name in names if name in ("te", "te0", "te1"))
        if expr_name == "te" and encoders:
            return encoders
        if expr_name in names:
            return (expr_name,)
        known = {*names, "model", *(["te"] if encoders else [])}
        raise UnknownNameError(f"component of {self.title}", expr_name, known)

    def fit(self, tensors: Mapping[str, Shape]) -> Fit:
        """Compare the keys and shapes of a file with the layout, in time linear in the keys.

        Args:
            tensors: Shape of each key of the file.

        Returns:
            Everything that differs; empty in all fields for the generic layout, which expects
            nothing.

        Example:
            >>> from stockpot.layouts import get_layout
            >>> layout = get_layout("sd1")
            >>> shapes = {key: spec.shape for key, spec in layout.specs.items()}
            >>> del shapes["model.diffusion_model.out.2.bias"]
            >>> layout.fit(shapes).missing
            ('model.diffusion_model.out.2.bias',)
        """
        if not self.parts:
            return Fit()
        specs = self.specs
        unknown: list[str] = []
        mismatched: list[tuple[str, Shape, Shape]] = []
        aliased: dict[str, str] = {}
        reshaped: dict[str, tuple[Shape, Shape]] = {}
        found: set[str] = set()
        matched = dict.fromkeys(self.n_required, 0)
        for key, shape in tensors.items():
            spec = specs.get(key)
            if spec is None:
                spec = self.spec_of(key)
                if spec is None or (spec.key != key and spec.key in tensors):
                    unknown.append(key)
                    continue
                if spec.key != key:
                    aliased[key] = spec.key
            found.add(spec.key)
            if shape == spec.shape:
                pass
            elif not spec.accepts(shape):
                mismatched.append((key, shape, spec.shape))
                continue
            elif spec.role != "marker":
                reshaped[key] = (shape, spec.shape)
            if not spec.optional:
                matched[spec.cell.component] += 1
        missing_in: dict[str, list[str]] = {}
        for key, spec in specs.items():
            if not spec.optional and key not in found:
                missing_in.setdefault(spec.cell.component, []).append(key)
        return Fit(
            missing=tuple(key for keys in missing_in.values() for key in keys),
            missing_in={name: tuple(keys) for name, keys in missing_in.items()},
            missing_components=tuple(
                name
                for name, n_required in self.n_required.items()
                if len(missing_in.get(name, ())) == n_required
            ),
            unknown=tuple(unknown),
            mismatched=tuple(mismatched),
            aliased=aliased,
            reshaped=reshaped,
            matched=matched,
        )


def _specs(component: Component, rows: Iterator[Row]) -> Iterator[KeySpec]:
    cells: dict[str, Cell] = {}
    for row in rows:
        cell = cells.setdefault(row.block, Cell(component.name, row.block))
        yield KeySpec(
            component.prefix + row.name,
            row.shape,
            cell,
            row.optional,
            row.role,
            row.alternatives,
        )
