"""The demo's page: what was found, made and drawn, in the words of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import PurePosixPath

import numpy as np

import stockpot
from stockpot.checkpoints import DTYPES
from stockpot.cli.demo_result import FILES, SOUP, DemoResult, Inspected
from stockpot.draw import to_png
from stockpot.engine import size_text
from stockpot.layouts import get_layout
from stockpot.recipes import PoolEntry, Recipe, Row
from stockpot.report import (
    Cell,
    Code,
    Facts,
    Gallery,
    GalleryRow,
    HeatRow,
    HeatTable,
    Page,
    Section,
    Table,
    TableRow,
    Tile,
)

__all__ = ["demo_page", "half_width"]

_SCORES = {
    "attributes": "judge: how surely a classifier sees what the prompt names (0 is certain)",
    "clip": "reward: how near picture and prompt are for the small CLIP",
}


def demo_page(result: DemoResult) -> Page:
    """Describe a finished demo.

    Args:
        result: What the demo made.

    Returns:
        The page, for `stockpot.report.write_page`.
    """
    n_fine = sum(not parent.left_out for parent in result.parents)
    n_pictures = math.prod(result.pictures.shape[:3])
    sections: list[Section] = [
        _gallery(result),
        _scores(result),
        _fold(result),
        _inputs(result),
        _done(result),
        Code(
            "The recipe",
            _portable(result.merged.plan.fold.recipe).to_yaml(),
            "Saved beside this page as soup.yaml, with the whole paths; the soup carries it in its "
            "own metadata, with the hashes of what went in.",
        ),
    ]
    return Page(
        title=f"{n_fine} fine-tunes, one soup",
        lead=(
            "The uniform soup is the plain mean of the UNets of a family of small, real, trained "
            "text-to-image models; text encoder and VAE are the base's. All numbers and pictures "
            "on this page were made on this machine, just now."
        ),
        tiles=[
            Tile(str(len(result.parents)), "checkpoints inspected"),
            Tile(str(n_fine), "of them in the soup"),
            Tile(f"{result.merged.elapsed_s:.2f} s", "to merge, hash, sync and check"),
            Tile(size_text(result.merged.n_bytes), "the soup's file"),
            Tile(f"{n_pictures:,}", f"pictures, {_each(result):.0f} ms each"),
        ],
        sections=sections,
        footer=f"Made by stockpot {stockpot.__version__}, offline. This file fetches nothing.",
    )


def half_width(values: np.ndarray) -> float:
    """Half the width of a 95 % interval for the mean of a few independent values.

    Student's t by its expansion in 1/ν (Abramowitz & Stegun 26.7.5), good to 1 % from 6 values.

    Args:
        values: `[n]`.

    Returns:
        The half width; infinite for fewer than two values.

    Example:
        >>> round(half_width(np.arange(8.0)), 2)
        2.04
    """
    n = len(values)
    if n < 2:
        return float("inf")
    z, nu = 1.959964, n - 1
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return float(t * np.std(values, ddof=1) / math.sqrt(n))


def _each(result: DemoResult) -> float:
    return 1000 * result.elapsed_s["drawing"] / math.prod(result.pictures.shape[:3])


def _parents(result: DemoResult) -> Mapping[str, Inspected]:
    return {parent.name: parent for parent in result.parents}


def _gallery(result: DemoResult) -> Gallery:
    parents = _parents(result)
    rows = []
    for i, name in enumerate(result.rows):
        pictures = [to_png(picture) for picture in result.pictures[i, :, 0]]
        if name == SOUP:
            rows.append(GalleryRow(name, pictures, "mean of the fine-tunes", "merged", "strong"))
            continue
        parent = parents[name]
        left_out = i > 0 and bool(parent.left_out)
        rows.append(
            GalleryRow(
                name,
                pictures,
                " · ".join(
                    [
                        *([parent.role] if parent.role != name else []),
                        *(["not in the soup"] if left_out else []),
                    ]
                ),
                "base" if i == 0 and name != "base" else "",
                "faint" if left_out else "plain",
            )
        )
    return Gallery(
        "Contact sheet",
        result.prompts,
        rows,
        "Every row is a model, every column a prompt. A column shares its seed, so that all "
        "models start from the same noise. Nothing was picked: these are the first pictures "
        "that came.",
    )


def _scores(result: DemoResult) -> Table:
    n_prompts, n_seeds = result.pictures.shape[1:3]
    names = list(result.scores)
    # The mean over seeds first: pictures of one prompt are not independent of each other.
    by_prompt = {name: result.scores[name].mean(axis=2) for name in names}  # [rows, prompts]
    means = {name: by_prompt[name].mean(axis=1) for name in names}
    rows = []
    for i, row in enumerate(result.rows):
        cells: list[Cell | str] = [row]
        for name in names:
            mean, all_means = means[name][i], means[name]
            low, high = float(all_means.min()), float(all_means.max())
            difference = by_prompt[name][i] - by_prompt[name][0]
            cells.append(
                Cell(f"{mean:.3f}", bar=(mean - low) / (high - low) if high > low else 1.0)
            )
            gain, doubt = float(difference.mean()), half_width(difference)
            text = f"{gain:+.3f} ± {doubt:.3f}" if i else "–"
            cells.append(Cell(text, strong=i > 0 and abs(gain) > doubt))
        rows.append(TableRow(cells, "strong" if row == "soup" else "plain"))
    columns = ["model"]
    for name in names:
        columns += [name, "against the base"]
    what = " ".join(f"{name} is the {_SCORES[name]}." for name in names if name in _SCORES)
    return Table(
        "Scores",
        columns,
        rows,
        f"A small sample: {n_prompts} prompts, each with {n_seeds} of the same seeds for every "
        "model. ± is a 95 % interval of the paired difference, over prompts: where it holds 0, the "
        f"sample cannot tell; bold where it does not. Higher is better. {what} Bars start at the "
        "lowest row.",
        numeric=frozenset(range(1, len(columns))),
    )


def _fold(result: DemoResult) -> HeatTable:
    fold = result.merged.plan.fold
    models = fold.models

    def shares(coefficients: Row) -> list[Fraction]:
        return [coefficients.get(name, Fraction(0)) for name in models]

    return HeatTable(
        "What each model contributes",
        models,
        [
            HeatRow(
                row.label,
                shares(row.coefficients),
                f"{len(row.cells)} blocks" if len(row.cells) > 1 else "1 block",
            )
            for row in fold.table()
        ],
        "The recipe folded to exact fractions, block by model: the table that the merge ran from. "
        "Two recipes with one table make the same model.",
        details=[HeatRow(str(cell), shares(row)) for cell, row in fold.rows.items()],
        details_label=f"all {len(fold.rows)} blocks",
    )


def _inputs(result: DemoResult) -> Table:
    rows = []
    for parent in result.parents:
        found = parent.found
        layout = found.architecture or "generic"
        required = get_layout(layout).n_required
        absent = [name for name in required if name not in parent.complete]
        holds = ", ".join(parent.complete) + (f" (no {', '.join(absent)})" if absent else "")
        dtypes = {dtype for name in parent.complete for dtype in found.components[name].dtypes}
        floats = "/".join(sorted(dtype for dtype in dtypes if DTYPES[dtype].is_float))
        rows.append(
            TableRow(
                [
                    parent.name,
                    parent.left_out or "yes",
                    parent.role,
                    Cell(layout, hint="; ".join(found.evidence)),
                    f"{holds} · {floats}",
                    "velocity" if parent.velocity else "noise",
                    size_text(parent.n_bytes),
                    parent.model_hash,
                    Cell((found.content_hash or "–")[:10], hint=found.content_hash or ""),
                ],
                "faint" if parent.left_out else "plain",
            )
        )
    columns = "checkpoint, in the soup, role, layout, complete, predicts, size, model hash, content"
    return Table(
        "What went in",
        columns.split(", "),
        rows,
        "Read from the files alone. The model hash is the one that web UIs print; the content hash "
        "(its first 10 digits) is of the tensors, whatever the metadata.",
        numeric=frozenset({6}),
        code=frozenset({7, 8}),
        wrapped=frozenset({1, 2}),
    )


def _done(result: DemoResult) -> Facts:
    merged, how = result.merged, result.settings
    seconds = ", ".join(f"{name} {value:.1f} s" for name, value in result.elapsed_s.items())
    items = [
        ("Soup", f"{result.soup.name}, {merged.n_bytes:,} bytes, {len(merged.plan.tensors)} keys"),
        ("Content hash", merged.content_hash or "–"),
        *((f"Hash of {name}", value) for name, value in merged.components.items()),
        ("Notes of the merge", "; ".join(map(str, merged.notes)) or "none"),
        (
            "Drawn with",
            f"{how.sampler}, {how.steps} steps, CFG {how.cfg:g}, seeds from 1000, float32",
        ),
        ("Seconds", f"{seconds}; {sum(result.elapsed_s.values()):.0f} s in all"),
        ("Files", ", ".join(FILES)),
    ]
    return Facts("What was done", items)


def _portable(recipe: Recipe) -> Recipe:
    """The recipe without the folders of this machine; pages are passed on."""
    pool = {
        name: PoolEntry(PurePosixPath(entry.file).name, entry.hash)
        for name, entry in recipe.pool.items()
    }
    return replace(recipe, pool=pool)
