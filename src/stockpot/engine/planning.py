"""From a recipe and headers to a plan.

All that headers can tell is checked here, and everything found is reported at once; no tensor of a
component is read before the plan stands.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from stockpot.adapters import has_modules
from stockpot.checkpoints import DTYPES, DType, Source, TensorInfo, get_dtype, in_file_order
from stockpot.engine.fitting import adapted, deciding, fitted
from stockpot.engine.graph import Graph, make_graph
from stockpot.engine.plan import Plan, TensorPlan, Term
from stockpot.errors import PreflightError, Problem
from stockpot.layouts import (
    Cell,
    Detection,
    KeySpec,
    Layout,
    as_checkpoint,
    counter_values,
    detect,
    get_layout,
)
from stockpot.recipes import (
    MIX_KEYS,
    Fold,
    MissingModelError,
    Recipe,
    Row,
    adapters_in,
    fold,
    models_in,
)

__all__ = ["make_plan"]

_ONE = Fraction(1)
_SHOWN = 3
_SMALL_BYTES = 1 << 20
# Kept when every model that is read has them, dropped with a note when one lacks them.
_EXPENDABLE = {"ema", "unknown"}


def make_plan(
    recipe: Recipe,
    sources: Mapping[str, Source],
    dtype: str | Mapping[str, str] | None = None,
) -> Plan:
    """Resolve a recipe against the headers of its inputs.

    Args:
        recipe: What to merge; its globs resolved.
        sources: An open checkpoint for every name in the pool that the mix may read.
        dtype: Element type of the output: one for all, or by component; by default what the recipe
            says, else each tensor keeps the type its inputs share (the wider where they differ).

    Returns:
        The plan.

    Raises:
        RecipeError: The recipe says something impossible.
        PreflightError: Keys, shapes, architectures or types do not fit; all problems at once.
    """
    adapters = adapters_in(recipe)
    given = sources
    sources = {
        name: as_checkpoint(source) for name, source in given.items() if name not in adapters
    }
    detections = _detections(sources)
    if dtype is not None:
        # What decides the bytes belongs to the recipe that the output will carry.
        spoken = (
            get_dtype(dtype).spoken
            if isinstance(dtype, str)
            else {name: get_dtype(kind).spoken for name, kind in dtype.items()}
        )
        recipe = replace(recipe, save=replace(recipe.save, dtype=spoken))
    layout = _common_layout(deciding(recipe, detections))
    folded = fold(recipe, layout)
    absent = [
        Problem("no-source", "the mix reads it, but no open checkpoint was given", f"pool: {name}")
        for name in folded.models
        if name not in given
    ]
    if absent:
        raise PreflightError(absent)
    # Entries that nothing reads have no say in what kind of model this is.
    read = {name: detections[name] for name in folded.models if name in detections}
    if read and layout.name not in {found.layout.name for found in read.values()}:
        layout = _common_layout(read)
        folded = fold(recipe, layout)
    sources, detections = fitted(recipe, layout, sources, detections)
    used = folded.adapters
    sources = sources | adapted(given, used, layout)
    planner = _Planner(layout, folded, sources, detections, recipe.save.dtype)
    return planner.plan()


def _detections(sources: Mapping[str, Source]) -> dict[str, Detection]:
    """What each source is; models of one pool mostly have the same keys and shapes."""
    found: dict[str, Detection] = {}
    known: list[tuple[dict[str, tuple[int, ...]], Detection]] = []
    for name, source in sources.items():
        shapes = {key: info.shape for key, info in source.tensors.items()}
        same = next((detection for other, detection in known if other == shapes), None)
        if same is None:
            same = detect(shapes)
            known.append((shapes, same))
        found[name] = same
    return found


def _common_layout(detections: Mapping[str, Detection]) -> Layout:
    """The layout of most models; the first one's where two are as many.

    Files of a single component count only where nothing else is there: a VAE fits many layouts.
    """
    if not detections:
        return get_layout("generic")
    kinds = Counter(found.layout.name for found in detections.values() if not found.also)
    kinds = kinds or Counter(found.layout.name for found in detections.values())
    ((name, _),) = kinds.most_common(1)
    return next(found.layout for found in detections.values() if found.layout.name == name)


class _Planner:
    """Collects tensors and problems; one use."""

    def __init__(
        self,
        layout: Layout,
        folded: Fold,
        sources: Mapping[str, Source],
        detections: Mapping[str, Detection],
        dtype: str | Mapping[str, str] | None,
    ) -> None:
        self.layout, self.fold, self.detections = layout, folded, detections
        self.sources = {name: sources[name] for name in folded.models}
        self.problems: list[Problem] = []
        self.notes: list[Problem] = list(folded.warnings)
        self.missing: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.dropped: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
        self.copied: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
        self.dtypes = self._requested_dtypes(dtype)
        self.graphs: dict[int, Graph] = {}
        # Canonical key -> model -> key in its file.
        self.where: dict[str, dict[str, str]] = defaultdict(dict)
        # The same for adapters, which only add to what models have.
        self.added: dict[str, dict[str, str]] = defaultdict(dict)
        for name, source in self.sources.items():
            if name in folded.adapters:
                for key in source.tensors:
                    self.added[key][name] = key
                continue
            for key in source.tensors:
                canonical = layout.canonical_key(key)
                if key == canonical or name not in self.where[canonical]:
                    self.where[canonical][name] = key

    def plan(self) -> Plan:
        strangers = self._check_architectures()
        tensors: dict[str, TensorPlan] = {}
        if not strangers:
            for key in self._wanted_keys():
                planned = self._tensor(key)
                if planned is not None:
                    tensors[key] = planned
            self._report_missing()
        if not tensors and not self.problems:
            self.problems.append(
                Problem("empty", "no tensor is left to write", remedy="check the recipe's mix")
            )
        if self.problems:
            raise PreflightError(self.problems)
        for name, source in self.sources.items():
            self.notes += (Problem("file", note, f"{name}: {source.name}") for note in source.notes)
        for (reader, lacking), keys in self.copied.items():
            self.notes.append(
                Problem(
                    "copied", f"{_listed(keys)} taken from {reader}: {', '.join(lacking)} lack them"
                )
            )
        for (reason, names), keys in self.dropped.items():
            self.notes.append(
                Problem("dropped-keys", f"{_listed(keys)} left out: {reason}", ", ".join(names))
            )
        order = in_file_order({key: tensor.info for key, tensor in tensors.items()})
        return Plan(
            self.layout,
            {key: tensors[key] for key in order},
            self.sources,
            self.fold,
            self.detections,
            tuple(self.notes),
        )

    def _requested_dtypes(self, dtype: str | Mapping[str, str] | None) -> dict[str, DType]:
        if dtype is None:
            return {}
        wanted = {"model": dtype} if isinstance(dtype, str) else dict(dtype)
        found: dict[str, DType] = {}
        # The general first, so that the particular replaces it.
        for name in sorted(wanted, key=lambda name: {"model": 0, "te": 1}.get(name, 2)):
            for component in self.layout.component_names(name):
                found[component] = get_dtype(wanted[name])
        return found

    def _check_architectures(self) -> bool:
        """Report models of another kind; their other differences would only repeat it."""
        found = False
        reference = next(
            (
                name
                for name, found in self.detections.items()
                if name in self.sources and found.layout is self.layout
            ),
            "",
        )
        for name, source in self.sources.items():
            if name in self.fold.adapters:
                continue
            detection = self.detections[name]
            if detection.layout.name == self.layout.name:
                continue
            if has_modules(source.tensors):
                self.problems.append(
                    Problem("adapter", "this is a LoRA or LyCORIS file, and no model", source.name,
                            f"write lora({name}): the difference that it adds")
                )  # fmt: skip
                found = True
                continue
            shapes = {key: info.shape for key, info in source.tensors.items()}
            fit = self.layout.fit(shapes)
            if self.layout.parts and not fit.mismatched and not fit.unknown:
                continue  # a lone component that both kinds share, such as a VAE
            found = True
            self.problems.append(
                Problem(
                    "architecture",
                    f"models of one mix must be of one architecture, but this is "
                    f"{detection.layout.title} ({detection.evidence[0]}) and "
                    f"{self.sources[reference].name} is {self.layout.title}",
                    source.name,
                    "take one of them out of the mix",
                )
            )
        return found

    def _wanted_keys(self) -> Iterable[str]:
        if not self.layout.parts:
            yield from sorted(self.where)
            return
        absent = self._absent_components()
        for key, spec in self.layout.specs.items():
            if spec.cell not in self.fold.rows or spec.cell.component in absent:
                continue
            if key in self.where:
                yield key
            elif not spec.optional:
                for name in self._readers(spec.cell):
                    self.missing[name, spec.cell.component].append(key)
        yield from sorted(key for key in self.where if key not in self.layout.specs)

    def _absent_components(self) -> set[str]:
        """Components that no model has and that the mix names only by `model`: there is no such
        part to make, as in a mean of UNet-only files."""
        named = {
            component
            for name in self.fold.recipe.mix
            if name != "model"
            for component in self.layout.component_names(name)
        }
        here = {self.layout.cell_of(key).component for key in self.where}
        made = dict.fromkeys(cell.component for cell in self.fold.rows)
        absent = {name for name in made if self.layout.n_required.get(name)} - here - named
        for name in made:
            if name in absent:
                self.notes.append(
                    Problem("absent-component", f"no model has a {name}, so the output has none")
                )
        return absent

    def _tensor(self, key: str) -> TensorPlan | None:
        cell, spec = self.layout.cell_of(key), self.layout.spec_of(key)
        if cell not in self.fold.rows:
            return None
        holders = self.where[key]
        added = self.added.get(key, {})
        expendable = cell.component in _EXPENDABLE or (spec is not None and spec.optional)
        if spec is not None and spec.role == "counter":
            return self._counter(key, cell, spec, holders)
        constant = spec is not None and spec.role in ("buffer", "marker")
        try:
            row = self.fold.coefficients(cell, frozenset(holders) | added.keys())
        except MissingModelError as error:
            if spec is not None and constant:
                return self._constant(key, cell, spec.role, self._readers(cell), holders)
            if expendable:
                lacking = ", ".join(error.models)
                self.dropped[f"{lacking} lack them", tuple(holders)].append(key)
            else:
                for name in error.models:
                    self.missing[name, cell.component].append(key)
            return None
        if not row:
            return None
        names = list(dict.fromkeys(models_in(row)))
        if spec is not None and constant:
            return self._constant(key, cell, spec.role, names, holders)
        holders = {**holders, **added}
        infos = {name: self.sources[name].tensors[holders[name]] for name in names}
        models = {name: info for name, info in infos.items() if name not in added} or infos
        shape = self._shape(key, spec, models)
        if shape is None or not self._adds_up(key, shape, infos):
            return None
        if not all(info.dtype.is_float for info in infos.values()):
            return self._constant(key, cell, "integer", names, holders)
        # Differences are doubles by nature, and say nothing of the type that models have.
        out = self.dtypes.get(cell.component) or _common_dtype(
            info.dtype for info in models.values()
        )
        graph = self._graph(row)
        terms = tuple(
            Term(name, holders[name], infos[name].dtype, row.get(name, Fraction(0)))
            for name in (names if graph is None else graph.models)
        )
        info = TensorInfo(key, out, shape)
        if graph is not None:
            return TensorPlan(info, cell, "compute", terms, graph=graph)
        same = len(terms) == 1 and terms[0].weight == _ONE and terms[0].dtype == out
        return TensorPlan(info, cell, "copy" if same else "combine", terms)

    def _readers(self, cell: Cell) -> list[str]:
        """The models that a cell reads, in the pool's order."""
        reads = self.fold.reads(cell) - self.fold.adapters
        return [name for name in self.fold.models if name in reads]

    def _graph(self, row: Row) -> Graph | None:
        """The steps of a row with methods in it; rows of one fold are kept, so ids hold."""
        if all(isinstance(atom, str) for atom in row):
            return None
        if id(row) not in self.graphs:
            self.graphs[id(row)] = make_graph(row)
        return self.graphs[id(row)]

    def _shape(
        self, key: str, spec: KeySpec | None, infos: Mapping[str, TensorInfo]
    ) -> tuple[int, ...] | None:
        """The output's shape, or None after reporting who differs."""
        shapes = {name: info.shape for name, info in infos.items()}
        first = next(iter(shapes.values()))
        if spec is not None and all(spec.accepts(shape) for shape in shapes.values()):
            return first if len(set(shapes.values())) == 1 else spec.shape
        if len(set(shapes.values())) == 1:
            if spec is not None:
                self.notes.append(
                    Problem(
                        "unusual-shape",
                        f"{self.layout.title} has {list(spec.shape)} here, "
                        f"but all inputs have {list(first)}",
                        key,
                    )
                )
            return first
        expected = spec.shape if spec is not None else first
        for name, shape in shapes.items():
            if shape != expected:
                self.problems.append(
                    Problem(
                        "shape",
                        f"the shape must be {list(expected)} as in the others, "
                        f"but is {list(shape)}",
                        f"{self.sources[name].name}: {key}",
                        "this model cannot be merged with the others as it is",
                    )
                )
        return None

    def _adds_up(self, key: str, shape: tuple[int, ...], infos: Mapping[str, TensorInfo]) -> bool:
        """Report adapters that change another number of elements than there are."""
        n_elements = TensorInfo(key, DTYPES["F64"], shape).n_elements
        wrong = [name for name, info in infos.items() if info.n_elements != n_elements]
        self.problems += (
            Problem("shape", f"the models have {list(shape)} here, but the adapter changes "
                    f"{list(infos[name].shape)}", f"{self.sources[name].name}: {key}")
            for name in wrong
        )  # fmt: skip
        return not wrong

    def _counter(
        self, key: str, cell: Cell, spec: KeySpec, holders: Mapping[str, str]
    ) -> TensorPlan | None:
        """Counters hold known whole numbers: write those, whatever a merge made of them."""
        if not any(name in self.fold.reads(cell) for name in holders):
            return None
        values = counter_values(spec)
        data = b"".join(value.to_bytes(8, "little") for value in values)
        return TensorPlan(TensorInfo(key, DTYPES["I64"], spec.shape), cell, "make", value=data)

    def _constant(
        self, key: str, cell: Cell, role: str, names: list[str], holders: Mapping[str, str]
    ) -> TensorPlan | None:
        """Schedules, markers and integers are copied where all agree, and never averaged."""
        # By name, since all are equal: the order of the pool must not show.
        readers = sorted(name for name in names if name in holders)
        if not readers:
            return None
        lacking = sorted(name for name in names if name not in holders)
        if role == "marker" and lacking and cell.component == "other":
            self.problems.append(
                Problem(
                    "marker",
                    f"{', '.join(readers)} carry this marker and {', '.join(lacking)} do not: "
                    "models that predict different things cannot be mixed",
                    key,
                    "take one kind out of the mix",
                )
            )
            return None
        infos = [self.sources[name].tensors[holders[name]] for name in readers]
        if infos[0].n_bytes > _SMALL_BYTES or len({(i.dtype, i.shape) for i in infos}) > 1:
            contents: set[object] = set(range(2)) if len(readers) > 1 else {0}
        else:
            contents = {self.sources[name].read_bytes(holders[name]) for name in readers}
        if len(contents) > 1 and cell.component in _EXPENDABLE:
            # How many steps an average has seen, say: no reason to stop.
            self.dropped["they differ, and are never averaged", tuple(readers)].append(key)
            return None
        if len(contents) > 1:
            self.problems.append(
                Problem(
                    "disagreement",
                    f"{'an' if role == 'integer' else 'a'} {role} is copied, never averaged, but "
                    f"{', '.join(readers)} differ in it",
                    key,
                    f"name one source for it: `{cell.component}: {readers[0]}` in the mix"
                    if cell.component in MIX_KEYS
                    else "leave all but one of them out",
                )
            )
            return None
        if lacking:
            self.copied[readers[0], tuple(lacking)].append(key)
        term = Term(readers[0], holders[readers[0]], infos[0].dtype, _ONE)
        info = TensorInfo(key, infos[0].dtype, infos[0].shape)
        return TensorPlan(info, cell, "copy", (term,))

    def _report_missing(self) -> None:
        for (name, component), keys in self.missing.items():
            whole = len(keys) == self.layout.n_required.get(component)
            self.problems.append(
                Problem(
                    "missing-key",
                    f"there is no {component} in it (first key: {keys[0]}), but the mix reads it"
                    if whole
                    else f"its {component} lacks {_listed(keys)}",
                    self.sources[name].name,
                    f"fill it from another model: `{name} | other`, or leave the model out",
                )
            )


def _listed(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    more = len(keys) - _SHOWN
    return f"{shown} and {more} more keys" if more > 0 else shown


def _common_dtype(dtypes: Iterable[DType]) -> DType:
    """The narrowest type that holds all of the inputs' values."""
    kinds = list(dict.fromkeys(dtypes))
    if len(kinds) == 1:
        return kinds[0]
    for name in ("F16", "BF16", "F32"):
        wide = DTYPES[name]
        if all(
            kind.mantissa_bits <= wide.mantissa_bits and kind.max_value <= wide.max_value
            and kind.min_exponent - kind.mantissa_bits >= wide.min_exponent - wide.mantissa_bits
            for kind in kinds
        ):  # fmt: skip
            return wide
    return DTYPES["F64"]
