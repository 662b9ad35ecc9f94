"""The page of a comparison, its pictures and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import stockpot
from stockpot.cli.figure_files import write_charts
from stockpot.compare import (
    WEIGHTS,
    Comparison,
    ComponentFindings,
    Findings,
    Place,
    Stage,
    delta_norms,
    place_by_distance,
    place_by_spectrum,
    scale_bar,
)
from stockpot.report import (
    Cell,
    Chart,
    Dendrogram,
    Figures,
    Heat,
    Joint,
    Link,
    MapChart,
    Mark,
    Note,
    Page,
    Section,
    Table,
    TableRow,
    Tile,
    write_page,
)

__all__ = ["comparison_page", "write_comparison"]

Doubles = npt.NDArray[np.float64]

_UNIT = "weight units (L2)"
_MOST_IN_TABLE = 40
_GOOD_STRESS, _BAD_STRESS = 0.05, 0.2


def write_comparison(
    found: Findings,
    shown: Comparison,
    stages: Sequence[Stage],
    folder: Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write the page, and every figure as PNG, CSV and JSON under ``figures``.

    Args:
        found: What stands out in the pool.
        shown: The same comparison with the mixes that shall be on the maps.
        stages: Those mixes.
        folder: Where.
        overwrite: Replace what is there.

    Returns:
        The page.
    """
    page, charts = comparison_page(found, shown, stages)
    write_charts(charts, folder / "figures", overwrite=overwrite)
    return write_page(page, folder / "comparison.html", overwrite=overwrite)


def comparison_page(
    found: Findings, shown: Comparison, stages: Sequence[Stage] = ()
) -> tuple[Page, dict[str, Chart]]:
    """Describe a comparison.

    Args:
        found: What stands out in the pool.
        shown: The same comparison with the mixes that shall be on the maps.
        stages: Those mixes.

    Returns:
        The page, and its figures by file name.
    """
    comparison = found.comparison
    charts: dict[str, Chart] = {}
    sections: list[Section] = [Note("Findings", found.sentences or ["Nothing stands out."])]
    for component in found.components.values():
        maps = _maps(component, shown, stages, comparison.base)
        charts |= {f"{component.name}-{label}": chart for label, (_, chart, _) in maps.items()}
        first = next(iter(maps.values()))
        sections.append(
            Figures(
                f"Map of {component.name}",
                [(press, chart) for press, chart, _ in maps.values()],
                "Distances on the map are those of the weights as far as a plane can show them; "
                f"directions mean nothing. {first[2]}",
                f"Numbers: figures/{component.name}-*.csv",
            )
        )
        heats = _heats(comparison, component)
        charts |= {f"{component.name}-{label}": chart for label, (_, chart) in heats.items()}
        sections.append(
            Figures(f"Distances in {component.name}", list(heats.values()), _how_far(component))
        )
        if len(comparison.models) <= _MOST_IN_TABLE:
            sections.append(_matrix(comparison, component))
        if component.families is not None:
            chart = _dendrogram(comparison, component)
            charts[f"{component.name}-families"] = chart
            sections.append(
                Figures(
                    f"Families in {component.name}",
                    [("families", chart)],
                    "Average linkage: two branches meet at the mean distance of their models.",
                )
            )
        if comparison.base is not None:
            blocks = _block_norms(comparison, comparison.base, component.name)
            if blocks is not None:
                charts[f"{component.name}-blocks"] = blocks
                sections.append(
                    Figures(
                        f"Where {component.name} was trained",
                        [("blocks", blocks)],
                        "How far each block is from the base, as a share of the base's length. "
                        "Blank: not compared.",
                    )
                )
        if component.tree.edges:
            sections.append(_descent(comparison, component))
    sections += [_models(found), *_not_compared(comparison)]
    n = len(comparison.models)
    elements = max((int(comparison.sizes_at(Place(c)).max()) for c in found.components), default=0)
    page = Page(
        title=f"{n} {'model' if n == 1 else 'models'} compared",
        lead=(
            "Every file was read once; all that is here follows from inner products of the "
            "weights, summed in double precision. Identity is told by hash, never by a distance."
        ),
        sections=sections,
        tiles=[
            Tile(str(n), "models"),
            Tile(comparison.layout, "architecture"),
            Tile(f"{elements / 1e6:.3g} M", "weights in the largest component"),
            Tile(str(len(found.duplicates)), "sets of equals, whole or in part"),
        ],
        footer=f"Stockpot {stockpot.__version__}. Figures as PNG, CSV and JSON lie in figures/.",
    )
    return page, charts


def _maps(
    component: ComponentFindings, shown: Comparison, stages: Sequence[Stage], base: int | None
) -> dict[str, tuple[str, Chart, str]]:
    """Views of the map: what to press, the chart, and a sentence on how true it is."""
    distances = shown.pairs(Place(component.name)).distances()
    there = [i for i in range(len(shown.models)) if not np.isnan(distances[i, i])]
    colours = _colours(component)
    links = _stage_links(shown, stages, there)
    views = {"map": _one_map(component.name, distances, shown, there, colours, base, links, "all")}
    outliers = {outlier.model for outlier in component.outliers}
    inliers = [i for i in there if i not in outliers]
    if outliers and len(inliers) > 2:
        links = _stage_links(shown, stages, inliers)
        views["inliers"] = _one_map(
            component.name, distances, shown, inliers, colours, base, links, "without outliers"
        )
    tree = [
        Link(there.index(edge.parent), there.index(edge.child), not edge.is_certain,
             edge.is_directed)
        for edge in component.tree.edges
        if edge.parent in there and edge.child in there
    ]  # fmt: skip
    if tree:
        views["tree"] = _one_map(
            component.name, distances, shown, there, colours, base, tree, "family tree"
        )
    spectral = place_by_spectrum(distances[np.ix_(there, there)])
    chart = MapChart(
        f"{component.name}: spectral layout of the weighted graph (no distances)",
        _marks(spectral.points, shown, there, colours, base, spectral.worst),
    )
    views["spectral"] = ("spectral chart", chart, "")
    return views


def _one_map(
    component: str,
    distances: Doubles,
    shown: Comparison,
    models: list[int],
    colours: dict[int, int],
    base: int | None,
    links: list[Link],
    press: str,
) -> tuple[str, Chart, str]:
    found = place_by_distance(distances[np.ix_(models, models)])
    marks = _marks(found.points, shown, models, colours, base, found.worst)
    if found.stress < _GOOD_STRESS:
        verdict = "the map can be trusted"
    elif found.stress < _BAD_STRESS:
        verdict = "near points may be farther apart than they look"
    else:
        verdict = "a plane cannot show these distances; read the matrix instead"
    sentence = f"Stress {found.stress:.3f}: {verdict}."
    title = f"{component}, {press}: metric MDS, stress {found.stress:.3f}"
    return press, MapChart(title, marks, links, scale_bar(found.points), _UNIT), sentence


def _marks(
    points: Doubles,
    shown: Comparison,
    models: list[int],
    colours: dict[int, int],
    base: int | None,
    worst: Doubles,
) -> list[Mark]:
    return [
        Mark(
            shown.names[model],
            float(x),
            float(y),
            colours.get(model, 0),
            "base" if model == base else "model" if shown.models[model].content else "mix",
            f"its distances are off by {off:.1%} on the map",
        )
        for model, (x, y), off in zip(models, points, worst, strict=True)
    ]


def _stage_links(shown: Comparison, stages: Sequence[Stage], models: list[int]) -> list[Link]:
    place = {shown.names[model]: i for i, model in enumerate(models)}
    return [
        Link(place[read], place[stage.name], arrow=True)
        for stage in stages
        if stage.name in place
        for read in stage.reads
        if read in place
    ]


def _colours(component: ComponentFindings) -> dict[int, int]:
    if component.families is None:
        return {}
    return {
        model: number for number, family in enumerate(component.families.members)
        for model in family
    }  # fmt: skip


def _heats(comparison: Comparison, component: ComponentFindings) -> dict[str, tuple[str, Chart]]:
    pairs = comparison.pairs(Place(component.name))
    order = list(component.families.order) if component.families else []
    order += [i for i in range(len(comparison.models)) if i not in order]
    names = [comparison.names[i] for i in order]

    def heat(matrix: Doubles, title: str, unit: str, signed: bool = False) -> Heat:
        values = matrix[np.ix_(order, order)].tolist()
        return Heat(f"{component.name}: {title}", names, names, values, unit, signed)

    views: dict[str, tuple[str, Chart]] = {
        "l2": ("L2", heat(pairs.distances(), "distances", _UNIT)),
        "cosine": ("cosine", heat(pairs.cosines(), "cosine distances", "1 − cos")),
    }
    if comparison.base is not None:
        base = comparison.base
        squared = pairs.squared
        deltas = (squared[:, base, None] + squared[base] - squared) / 2
        lengths = np.sqrt(deltas.diagonal())
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = np.clip(deltas / lengths[:, None] / lengths, -1.0, 1.0)
        views["deltas"] = (
            "deltas",
            heat(cosines, f"cosines of deltas from {comparison.names[base]}", "cos", True),
        )
    views["compared"] = (
        "compared",
        heat(pairs.coverage(), "share of the larger model that was compared", "share"),
    )
    return views


def _how_far(component: ComponentFindings) -> str:
    n = len(component.complete)
    text = "Rows and columns stand as in the families. "
    if n > 1 and component.dimension > 0:
        text += (
            f"The {n} models spread in about {component.dimension:.1f} directions, of {n - 1} "
            "that there could be."
        )
    return text


def _matrix(comparison: Comparison, component: ComponentFindings) -> Table:
    pairs = comparison.pairs(Place(component.name))
    distances, coverage = pairs.distances(), pairs.coverage()
    n = len(comparison.models)
    largest = np.maximum(pairs.sizes[:, None], pairs.sizes)
    rows = []
    for i, name in enumerate(comparison.names):
        cells: list[Cell | str] = [name]
        for j in range(n):
            hint = f"{pairs.compared[i, j]:,} of {largest[i, j]:,} elements compared"
            if np.isnan(distances[i, j]):
                cells.append(Cell("–", hint=hint))
            else:
                star = "*" if coverage[i, j] < 1 else ""
                value = float(distances[i, j])
                cells.append(Cell(f"{value:.4g}{star}", hint=hint, value=value))
        rows.append(TableRow(cells))
    return Table(
        f"Matrix of {component.name}",
        ["model", *comparison.names],
        rows,
        "L2 distances. * where a part of the keys could not be compared, – where nothing could; "
        "point at a number to see what it rests on.",
        numeric=frozenset(range(1, n + 1)),
        sortable=True,
    )


def _dendrogram(comparison: Comparison, component: ComponentFindings) -> Dendrogram:
    families = component.families
    assert families is not None  # the caller looked
    local = {model: i for i, model in enumerate(component.complete)}
    colours = _colours(component)
    return Dendrogram(
        f"{component.name}: families by average linkage",
        [comparison.names[model] for model in component.complete],
        [local[model] for model in families.order],
        [Joint(int(left), int(right), float(height)) for left, right, height, _ in families.merges],
        [colours[model] for model in component.complete],
        _UNIT,
    )


def _block_norms(comparison: Comparison, base: int, component: str) -> Heat | None:
    blocks, norms = delta_norms(comparison, base, component)
    others = [i for i in range(len(comparison.models)) if i != base]
    if not others:
        return None
    return Heat(
        f"{component}: distance from {comparison.names[base]} by block",
        [comparison.names[i] for i in others],
        [block or component for block in blocks],
        norms.T[others].tolist(),
        "share of the base's length",
    )


def _descent(comparison: Comparison, component: ComponentFindings) -> Table:
    names, tree = comparison.names, component.tree
    rows = []
    for edge in tree.edges:
        instead = " – ".join(names[i] for i in edge.instead)
        doubt = "" if edge.is_certain else f"{instead} would be {edge.rival - 1:.1%} longer"
        rows.append(
            TableRow(
                [
                    names[edge.child] if edge.is_directed else f"{names[edge.child]} (or back)",
                    names[edge.parent],
                    Cell(f"{edge.distance:.4g}", value=edge.distance),
                    Cell(f"{edge.drift:+.2f}", value=edge.drift),
                    doubt,
                ],
                "plain" if edge.is_certain else "faint",
            )
        )
    root = (
        f"All descend from {names[tree.root]}." if tree.root is not None
        else "Who came first is open."
    )  # fmt: skip
    return Table(
        f"Who was trained from whom, by {component.name}",
        ["child", "parent", "distance", "drift", "what would do nearly as well"],
        rows,
        f"{root} The tree joins all models over the least distance; the drift is how the blocks "
        "vote on the direction, from −1 to 1. Mixes have no parents in this sense.",
        numeric=frozenset({2, 3}),
        wrapped=frozenset({4}),
    )


def _models(found: Findings) -> Table:
    comparison = found.comparison
    rows = []
    for i, model in enumerate(comparison.models):
        equal = sorted(
            {
                f"{duplicate.component or 'all'} = {comparison.names[j]}"
                for duplicate in found.duplicates
                for j in duplicate.models
                if i in duplicate.models and j == duplicate.models[0] and j != i
            }
        )
        dtypes = [f"{c} {t}" for c, t in model.dtypes.items() if c in WEIGHTS]
        rows.append(
            TableRow(
                [
                    model.name,
                    model.layout,
                    ", ".join(dtypes),
                    Cell(model.content[:12], hint=model.content),
                    ", ".join(equal),
                ],
                "strong" if i == comparison.base else "plain",
            )
        )
    return Table(
        "Models",
        ["model", "architecture", "types", "content hash", "the same as"],
        rows,
        code=frozenset({3}),
        wrapped=frozenset({2, 4}),
    )


def _not_compared(comparison: Comparison) -> list[Section]:
    words = {"absent": "not there", "missing": "missing keys", "shape": "another shape",
             "nonfinite": "NaN or infinities"}  # fmt: skip
    rows = [
        TableRow(
            [
                comparison.names[e.model],
                e.component,
                words[e.reason],
                f"{e.n_keys:,}",
                f"{e.n_elements:,}",
                ", ".join(e.keys) + (", …" if e.n_keys > len(e.keys) else ""),
            ]
        )
        for e in comparison.exclusions
        if e.reason != "absent" or e.component in WEIGHTS
    ]
    if not rows:
        return []
    return [
        Table(
            "What was not compared",
            ["model", "component", "why", "tensors", "elements", "keys"],
            rows,
            "Numbers above rest on the other tensors; nothing was filled with zeros.",
            numeric=frozenset({3, 4}),
            wrapped=frozenset({5}),
        )
    ]
