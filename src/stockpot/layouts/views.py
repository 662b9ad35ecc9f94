"""Other programs' names for a model's keys, read as a checkpoint's: views, decided by headers.

A VAE or a text encoder in a file of its own lacks the prefix that it has inside a checkpoint, and
diffusers has names of its own for everything. Whatever reads models sees them through
`as_checkpoint`, and nothing else knows of other names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache

from stockpot.checkpoints import DTYPES, Run, Source, TensorInfo, View, Viewed
from stockpot.layouts._base import Component, KeySpec, Part, Shape
from stockpot.layouts._layout import Layout
from stockpot.layouts.architectures import LAYOUTS
from stockpot.layouts.detection import MIN_MATCHED, has_checkpoint_names
from stockpot.layouts.diffusers_names import FOLDERS, Alias, diffusers_names

__all__ = ["as_checkpoint", "moved", "part_of", "restricted"]

# Parts of a pipeline that are no part of the model, and that no merge reads.
_APART = ("safety_checker/", "image_encoder/", "feature_extractor/")

_HINTS = (
    ("stable-diffusion-xl", "sdxl"),
    ("stable-diffusion-v2", "sd2"),
    ("stable-diffusion-v1", "sd1"),
    ("zoo", "zoo"),
)

#: Where a diffusers folder says what its UNet predicts, and the marker of single files for that.
_MARKED_BY = (
    ("diffusers.prediction_type", "v_prediction", "v_pred"),
    ("diffusers.rescale_betas_zero_snr", "true", "ztsnr"),
)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way in which a file may hold a key: the names to look for, on top of each other."""

    names: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    """How a file fits one set of components under other names."""

    layout: Layout
    tensors: tuple[Viewed, ...]
    used: frozenset[str]
    n_matched: int
    n_wrong: int
    n_required: int

    @property
    def rank(self) -> tuple[int, int]:
        return self.n_matched - self.n_wrong, self.n_matched - self.n_required

    @property
    def is_likely(self) -> bool:
        wrong = max(1.0, self.n_required / 100)
        return self.n_matched >= MIN_MATCHED * self.n_required and self.n_wrong <= wrong


def as_checkpoint(source: Source) -> Source:
    """See a model under the names that it has in a single-file checkpoint.

    Args:
        source: Any open checkpoint; only its header is looked at. Read as a checkpoint are
            diffusers folders, and files of one UNet, VAE or text encoder alone, named as in a
            checkpoint without the prefix, as in diffusers or as in transformers. Where a text
            encoder stands in several architectures the file's ModelSpec fields decide, else the
            first one.

    Returns:
        A view; the source itself where it has a checkpoint's names, or names that no layout
        explains. Closing either closes the source. A safety checker and an image encoder are
        left out; other keys without a meaning keep their names.

    Raises:
        CheckpointError: The tensors cannot be put together, such as query, key and value of
            different types.

    Example:
        >>> from stockpot.checkpoints import MemorySource
        >>> from stockpot.layouts import get_layout
        >>> specs = (s for s in get_layout("zoo").specs.values() if s.cell.component == "vae")
        >>> names = [(s.key.removeprefix("first_stage_model."), s.shape) for s in specs]
        >>> infos = [TensorInfo(name, DTYPES["F16"], shape) for name, shape in names]
        >>> vae = MemorySource({i.key: (i, bytes(i.n_bytes)) for i in infos})
        >>> next(iter(as_checkpoint(vae).tensors))
        'first_stage_model.encoder.conv_in.weight'
    """
    if has_checkpoint_names(source.tensors):
        return source
    match = _best_match(source)
    if match is None:
        return source
    here = {viewed.key for viewed in match.tensors}
    rest = [
        Viewed(key, info.shape, _whole(info) if info.n_elements else (), dtype=info.dtype)
        for key, info in source.tensors.items()
        if key not in match.used and key not in here and not key.startswith(_APART)
    ]
    return View(source, [*match.tensors, *_markers(source, match.layout, here), *rest])


def restricted(source: Source, layout: Layout, components: Collection[str]) -> Source:
    """See some components of a checkpoint only.

    Args:
        source: A checkpoint.
        layout: What its keys mean.
        components: Names of those to keep.

    Returns:
        A view.
    """
    return View(
        source,
        [
            Viewed(key, info.shape, _whole(info), dtype=info.dtype)
            for key, info in source.tensors.items()
            if layout.cell_of(key).component in components
        ],
    )


def moved(
    source: Source, layout: Layout, target: Layout, components: Collection[str]
) -> Source | None:
    """See components of a checkpoint as those of another architecture that has the same ones.

    SD1, SD2 and SDXL share one VAE; SD1's text encoder is SDXL's text encoder 0.

    Args:
        source: A checkpoint, under a checkpoint's names.
        layout: What its keys mean.
        target: The architecture to give them to.
        components: Names in `target`.

    Returns:
        A view of these components under the target's names; None where one of them differs
        between the two.
    """
    prefixes: dict[str, str] = {}
    for name in components:
        part = part_of(target, name)
        twin = part and _twin(part, layout)
        if part is None or twin is None:
            return None
        prefixes[twin.component.name] = part.component.prefix
    mine = {part.component.name: part.component.prefix for part in layout.parts}
    tensors = []
    for key, info in source.tensors.items():
        spec = layout.spec_of(key)
        if spec is not None and spec.cell.component in prefixes:
            if spec.key != key and spec.key in source.tensors:
                continue  # two names for one tensor: the canonical one counts
            component = spec.cell.component
            name = prefixes[component] + spec.key.removeprefix(mine[component])
            tensors.append(Viewed(name, info.shape, _whole(info), dtype=info.dtype))
    return View(source, tensors)


def part_of(layout: Layout, component: str) -> Part | None:
    """Find the description of a component.

    Args:
        layout: Where it belongs.
        component: Its name.

    Returns:
        The description; None for what has none, such as ``ema``.
    """
    return next((part for part in layout.parts if part.component.name == component), None)


def _twin(part: Part, layout: Layout) -> Part | None:
    """The component of a layout that has the same table."""
    for other in layout.parts:
        if _bare(other) == _bare(part):
            return other
    return None


def _bare(part: Part) -> Part:
    """The description without what its component is called."""
    bare: Part = replace(part, component=Component("", "", ""))  # type: ignore[type-var]
    return bare


def _whole(info: TensorInfo) -> tuple[Run, ...]:
    return (Run(info.key, 0, info.n_elements),)


def _best_match(source: Source) -> _Match | None:
    shapes = {key: info.shape for key, info in source.tensors.items()}
    hint = source.metadata.get("modelspec.architecture", "")
    hinted = next((name for word, name in _HINTS if hint.startswith(word)), "")
    in_folders = any(key.startswith(tuple(f"{f}/" for f in FOLDERS.values())) for key in shapes)
    found = []
    for layout in sorted(LAYOUTS.values(), key=lambda layout: layout.name != hinted):
        names = tuple(part.component.name for part in layout.parts)
        groups = [names] if in_folders and names else [(name,) for name in names]
        found += [_match(layout, group, shapes, in_folders) for group in groups]
    likely = [match for match in found if match.is_likely]
    return max(likely, key=lambda match: match.rank, default=None)


def _match(
    layout: Layout, components: tuple[str, ...], shapes: Mapping[str, Shape], in_folders: bool
) -> _Match:
    tensors: list[Viewed] = []
    used: set[str] = set()
    n_matched = n_wrong = n_required = 0
    for component in components:
        folder = f"{FOLDERS[component]}/" if in_folders else ""
        is_here = n_here = 0
        for key, readings in _readings(layout.name, component).items():
            spec = layout.specs[key]
            n_here += not spec.optional
            for reading in readings:
                names = tuple(folder + name for name in reading.names)
                if all(name in shapes for name in names):
                    viewed, fits = _viewed(spec, names, reading.transposed, shapes)
                    if viewed is None:
                        n_wrong += 1
                        break
                    tensors.append(viewed)
                    used.update(names)
                    is_here = True
                    n_matched += fits and not spec.optional
                    n_wrong += not fits
                    break
        # A component that is wholly absent speaks neither for nor against.
        n_required += n_here if is_here else 0
    return _Match(layout, tuple(tensors), frozenset(used), n_matched, n_wrong, max(1, n_required))


def _viewed(
    spec: KeySpec, names: tuple[str, ...], transposed: bool, shapes: Mapping[str, Shape]
) -> tuple[Viewed | None, bool]:
    """How a key is drawn from tensors, and whether these have its shape."""
    found = [shapes[name] for name in names]
    counts = [_count(shape) for shape in found]
    runs = tuple(Run(name, 0, n) for name, n in zip(names, counts, strict=True) if n)
    if len(names) > 1:
        third = (spec.shape[0] // len(names), *spec.shape[1:])
        fits = all(shape == third for shape in found)
        return (Viewed(spec.key, spec.shape, runs), True) if fits else (None, False)
    if transposed:
        fits = found[0] == spec.shape[::-1]
        return Viewed(spec.key, found[0][::-1], runs, transposed=len(found[0]) == 2), fits
    if spec.accepts(found[0]):
        return Viewed(spec.key, spec.shape if runs else found[0], runs, dtype=_ANY), True
    return Viewed(spec.key, found[0], runs, dtype=_ANY), False


_ANY = DTYPES["F32"]


def _count(shape: Shape) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


@cache
def _readings(layout: str, component: str) -> Mapping[str, tuple[_Reading, ...]]:
    """By canonical key: every way in which a file without the prefix may hold it."""
    part = part_of(LAYOUTS[layout], component)
    assert part is not None
    prefix = part.component.prefix
    # Savers leave out some of the prefix, or all of it.
    words = prefix.split(".")
    starts = [".".join(words[i:]) for i in range(len(words) - 1, 0, -1)]
    found: dict[str, tuple[_Reading, ...]] = {}
    for alias in diffusers_names(part):
        names = [(start + alias.ours,) for start in starts]
        if component.startswith("te") and alias.ours.startswith("text_model."):
            # NovelAI's names, and those of transformers from 5.6 on.
            names.append((alias.ours.removeprefix("text_model."),))
        readings = [_Reading(name) for name in names]
        readings += [_Reading(name, alias.transposed) for name in _their_names(alias)]
        found[prefix + alias.ours] = tuple(dict.fromkeys(readings))
    return found


def _their_names(alias: Alias) -> list[tuple[str, ...]]:
    names = [alias.theirs, *([alias.earlier] if alias.earlier else [])]
    if all(name.startswith("text_model.") for name in alias.theirs):
        names.append(tuple(name.removeprefix("text_model.") for name in alias.theirs))
    return names


def _markers(source: Source, layout: Layout, here: Collection[str]) -> list[Viewed]:
    """Markers for what a diffusers folder says of its UNet in words.

    SD2's own files have no markers, and must be mergeable with its folders.
    """
    if layout.name == "sd2" or not any(layout.cell_of(k).component == "unet" for k in here):
        return []
    return [
        Viewed(marker, (0,), (), dtype=_ANY)
        for field, value, marker in _MARKED_BY
        if source.metadata.get(field, "").lower() == value
    ]
