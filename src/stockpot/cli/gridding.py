"""``stockpot grid``: pictures over any axes, as a sheet and as a page."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.atelier import (
    Mix,
    Opening,
    check_choices,
    find_mix,
    opened,
    overridden,
    parse_sets,
    pool_mixes,
    read_requests,
    refuse_existing,
    told_warnings,
    vae_named,
)
from stockpot.cli.drawing_options import (
    Config,
    Device,
    Dtype,
    Embeddings,
    Loras,
    OtherTe,
    OtherVae,
    Pool,
    Prediction,
    Sets,
    SizeScale,
    Tokenizer,
    VramLevel,
)
from stockpot.cli.naming import parse_pool
from stockpot.cli.output import note, print_json
from stockpot.errors import Problem, RequestError

if TYPE_CHECKING:
    import numpy as np

    from stockpot.draw import Axis, CellMix, DrawnGrid, GridCell, Measurer, Request
    from stockpot.report import GridPicture

__all__ = ["draw_grid_of"]

_PARTS = ("te", "vae", "unet")
_RATIO = "{t}"


def draw_grid_of(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the grid.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint, a recipe, or an expression over --pool; {t} in it is the ratio.",
        ),
    ] = None,
    x: Annotated[str | None, typer.Option("-x", "--x", help="Columns: name=value,value …")] = None,
    y: Annotated[
        str | None,
        typer.Option(
            "-y",
            "--y",
            help="Rows: model, te, vae, ratio, prompt, prompt_sr, seed, cfg, steps, or any field "
            "of a payload.",
        ),
    ] = None,
    z: Annotated[str | None, typer.Option("-z", "--z", help="More rows for each value.")] = None,
    payload: Annotated[Path | None, typer.Option(help="A web UI's request as JSON.")] = None,
    infotext: Annotated[Path | None, typer.Option(help="A recipe card.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What to draw.")] = None,
    set_: Sets = None,
    size_scale: SizeScale = None,
    pool: Pool = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Label of a row: below each other row, show how it differs from it."),
    ] = None,
    compare: Annotated[
        str,
        typer.Option(
            help="How to measure that: mse, ssim, lpips, sift, colour, contrast, detail, "
            "subject_detail, background_detail, embedding; separated by commas."
        ),
    ] = "mse,ssim",
    embed: Annotated[
        Path | None, typer.Option(help="Folder of the network whose embeddings are compared.")
    ] = None,
    vae: OtherVae = None,
    te: OtherTe = None,
    embeddings: Embeddings = None,
    loras: Loras = None,
    config: Config = None,
    tokenizer: Tokenizer = None,
    prediction: Prediction = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    vram: VramLevel = "high",
    title: Annotated[str, typer.Option(help="Of the page.")] = "Grid",
    json_: Annotated[bool, typer.Option("--json", help="Print the grid as JSON.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sheet and page; cells are kept.")
    ] = False,
) -> None:
    """Draw a picture for each combination of values; run again, it draws what is missing."""
    from stockpot.draw import Measurer, check_device, with_seed

    check_choices(dtype, vram, prediction)
    axes = _axes(x, y, z)
    base = _base(payload, infotext, prompt, axes)
    request = with_seed(overridden(base, parse_sets(set_ or [])) if set_ else base)
    if request.n_pictures > 1:
        note("note: a grid draws one picture a cell; use an axis of seeds for more")
    request = replace(request, n_pictures=1)
    grid = _Grid(axes, model, parse_pool(pool or []), request)
    how = Opening(
        vae, te, config, tokenizer, prediction, device, dtype, vram,
        tuple(embeddings or ()), tuple(loras or ()),
    )  # fmt: skip
    grid.check_reference(reference)
    measurer = Measurer([name.strip() for name in compare.split(",") if name.strip()], embed)
    check_device(device)
    cells_folder = output / "cells"
    refuse_existing([output / name for name in ("grid.png", "grid.html")], overwrite)
    cells_folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    drawn = grid.draw(how, cells_folder, size_scale)
    elapsed_s = time.monotonic() - start
    facts = grid.write(drawn, output, title, reference, measurer)
    note(f"{len(drawn.cells)} cells, {drawn.n_drawn} drawn in {elapsed_s:.1f} s")
    if json_:
        print_json({**facts, "n_drawn": drawn.n_drawn, "elapsed_s": round(elapsed_s, 3)})
    else:
        typer.echo(str(output / "grid.html"))


def _axes(*texts: str | None) -> list[Axis]:
    from stockpot.draw import Axis, parse_axis

    found = [parse_axis(text) if text else Axis("", ("",)) for text in texts]
    names = [axis.name for axis in found if axis.name]
    if not names:
        raise typer.BadParameter("a grid needs an axis, such as -x seed=1-4")
    for name in names:
        if names.count(name) > 1 and name != "prompt_sr":
            raise typer.BadParameter(f"two axes are called {name!r}; each may come once")
    return found


def _base(
    payload: Path | None, infotext: Path | None, prompt: str | None, axes: list[Axis]
) -> Request:
    given = [payload] if payload else []
    cards = [infotext] if infotext else []
    if not given and not cards and prompt is None:
        if not any(axis.name == "prompt" for axis in axes):
            raise typer.BadParameter("say what to draw, with --payload, --infotext, --prompt or "
                                     "an axis of prompts")  # fmt: skip
        prompt = ""
    (_, read), *_ = read_requests(given, cards, [prompt or ""])
    return replace(read.request, prompt=prompt) if prompt is not None else read.request


@dataclass(frozen=True)
class _Choice:
    """Which mix a cell draws with, as text."""

    model: str
    parts: tuple[tuple[str, str], ...]


class _Grid:
    """Axes, cells and mixes of one call."""

    def __init__(
        self, axes: list[Axis], model: str | None, pool: dict[str, str], request: Request
    ) -> None:
        self._axes, self._model, self._pool, self._request = axes, model, pool, request
        self._places = list(itertools.product(*(range(len(axis.values)) for axis in axes)))
        choices = [self._choice(at) for at in self._places]
        self._distinct = list(dict.fromkeys(choices))
        self._mix_of = [self._distinct.index(choice) for choice in choices]

    def _values(self, at: tuple[int, ...]) -> list[tuple[str, str]]:
        return [(axis.name, axis.values[i]) for axis, i in zip(self._axes, at, strict=True)]

    def _choice(self, at: tuple[int, ...]) -> _Choice:
        values = dict(self._values(at))
        model = values.get("model", self._model)
        if model is None:
            raise typer.BadParameter("say what to draw with: MODEL, or an axis of models")
        if "ratio" in values:
            if _RATIO not in model:
                problem = Problem(
                    "ratio",
                    f"an axis of ratios needs {_RATIO} in the expression",
                    model,
                    "write it like 'lerp(a, b, {t})'",
                )
                raise RequestError([problem])
            model = model.replace(_RATIO, values["ratio"])
        parts = tuple((name, values[name]) for name in _PARTS if name in values)
        return _Choice(model, parts)

    def _mixes(self) -> list[Mix]:
        found = []
        for choice in self._distinct:
            mix = find_mix(choice.model, self._pool)
            for part, value in choice.parts:
                other = find_mix(value, self._pool)
                expression = other.recipe.mix["model"]
                pool = {**mix.recipe.pool, **other.recipe.pool}
                recipe = replace(mix.recipe, pool=pool, mix={**mix.recipe.mix, part: expression})
                mix = replace(
                    mix, recipe=recipe, file=None, label=f"{mix.label}, {part} of {value}"
                )
            found.append(mix)
        return found

    def _cells(self, factor: int, size_scale: float | None) -> list[GridCell]:
        from stockpot.draw import GridCell, replace_words

        cells = []
        for at, mix in zip(self._places, self._mix_of, strict=True):
            request, changes = self._request, {}
            for axis, i in zip(self._axes, at, strict=True):
                if axis.name in ("", "model", "ratio", *_PARTS):
                    continue
                if axis.name == "prompt_sr":
                    try:
                        words = replace_words(request.prompt, axis.values[0], axis.values[i])
                    except ValueError as error:
                        raise RequestError([Problem("prompt_sr", str(error))]) from error
                    request = replace(request, prompt=words)
                elif axis.name == "prompt":
                    request = replace(request, prompt=axis.values[i])
                else:
                    changes[axis.name] = _typed(axis.values[i])
            request = overridden(request, changes) if changes else request
            request = replace(request, settings=replace(request.settings, batch=32))
            if size_scale is not None:
                request = request.scaled(size_scale, factor)
            cells.append(GridCell(at, mix, request))
        return cells

    def draw(self, how: Opening, folder: Path, size_scale: float | None) -> DrawnGrid:
        """Draw what is missing."""
        from stockpot.draw import CellMix, Named, draw_grid

        mixes, files = pool_mixes(self._mixes())
        outside = json.dumps([_fingerprint(f) if f else "" for f in (how.vae, how.te)])
        prints = {name: _fingerprint(path) for name, path in files.items()}

        def cell_mix(mix: Mix) -> CellMix:
            from stockpot.recipes import models_below

            used = {name: prints[name] for name in sorted(models_below(mix.recipe))}
            recipe = {k: str(v) for k, v in mix.recipe.mix.items()}
            identity = json.dumps([recipe, used, outside, how.prediction, how.dtype])
            return CellMix(mix.recipe, identity, mix.named(), mix.text)

        prepared = [cell_mix(mix) for mix in mixes]
        texts = [self._request.prompt, self._request.settings.negative]
        texts += [value for axis in self._axes for value in axis.values]
        vae = vae_named(how.vae) if how.vae else Named()
        with told_warnings(), opened(how, mixes[0], files, texts) as live:
            cells = self._cells(live.painter.vae_factor * 2, size_scale)
            return draw_grid(live, prepared, cells, folder, vae=vae, progress=_progress())

    # ------------------------------------------------------------ what comes out

    def _labels(self) -> tuple[list[str], list[str], list[list[int]]]:
        """Columns, rows, and the cell at each place."""
        x_axis, y_axis, z_axis = self._axes
        columns = [x_axis.label(i) if x_axis.name else "" for i in range(len(x_axis.values))]
        rows, order = [], []
        for k in range(len(z_axis.values)):
            for j in range(len(y_axis.values)):
                names = [a.label(n) for a, n in ((z_axis, k), (y_axis, j)) if a.name]
                rows.append(" · ".join(names) or "all")
                order.append([self._places.index((i, j, k)) for i in range(len(columns))])
        return columns, rows, order

    def check_reference(self, reference: str | None) -> None:
        """Stop before drawing where no row has that label."""
        self._references(reference)

    def _references(self, reference: str | None) -> list[int | None]:
        """For each row, which row it is compared with: the named one, or its like of the same z."""
        from stockpot.errors import UnknownNameError

        rows = self._labels()[1]
        n = len(self._axes[1].values)
        if reference is None:
            return [None] * len(rows)
        if reference in rows:
            return [rows.index(reference)] * len(rows)
        inner = [self._axes[1].label(i) for i in range(n)]
        if reference not in inner:
            raise UnknownNameError("row", reference, [*rows, *inner])
        at = inner.index(reference)
        return [j // n * n + at for j in range(len(rows))]

    def write(
        self,
        drawn: DrawnGrid,
        output: Path,
        title: str,
        reference: str | None,
        measurer: Measurer,
    ) -> dict[str, Any]:
        """Write the sheet, the page and the list of cells."""
        from stockpot.draw import contact_sheet, difference, to_png, write_file
        from stockpot.report import GridPage, GridPicture, GridRow, write_grid

        columns, rows, order = self._labels()
        pictures = [[drawn.picture(i) for i in line] for line in order]
        bases = self._references(reference)
        if reference is not None:
            measurer.prepare([picture for line in pictures for picture in line])
        facts: list[dict[str, Any]] = []
        means: dict[str, dict[str, float]] = {}
        sheet_rows: list[str] = []
        sheet: list[list[np.ndarray]] = []
        page_rows = []
        for j, label in enumerate(rows):
            line: list[GridPicture | None] = []
            apart: list[GridPicture | None] = []
            differences: list[np.ndarray] = []
            likeness: list[dict[str, float]] = []
            for i, cell in enumerate(order[j]):
                fact: dict[str, Any] = {
                    "row": label,
                    "column": columns[i],
                    "file": drawn.files[cell].name,
                }
                png = drawn.files[cell].read_bytes()
                line.append(GridPicture(png, "", _card(drawn.files[cell])))
                base = bases[j]
                if base is not None and j != base:
                    ours, theirs = pictures[j][i], pictures[base][i]
                    found = measurer.compare(ours, theirs)
                    caption = measurer.caption(found)
                    if ours.shape == theirs.shape:
                        shown = difference(ours, theirs)
                    else:
                        shown = ours * 0 + 128
                        caption = f"another size; {caption}".removesuffix("; ")
                    fact |= found
                    likeness.append(found)
                    differences.append(shown)
                    apart.append(GridPicture(to_png(shown), caption))
                facts.append(fact)
            page_rows.append(GridRow(label, line))
            sheet_rows.append(label)
            sheet.append(pictures[j])
            if differences:
                means[label] = _mean(likeness)
                page_rows.append(GridRow(f"{label} − {reference}", apart, True))
                sheet_rows.append(f"{label} − {reference}")
                sheet.append(differences)
        padded = _padded(sheet)
        image = contact_sheet(padded, sheet_rows, columns, title=title)
        image.save(output / "grid.png", overwrite=True)
        request = self._request
        lead = f"{len(rows)} × {len(columns)} pictures. Press one to see it in full, with its card."
        about = [(f"Axis {name}", axis.name) for name, axis in zip("xyz", self._axes, strict=True)
                 if axis.name]  # fmt: skip
        settings = request.settings
        about += [("Prompt", request.prompt), ("Negative prompt", settings.negative),
                  ("Drawn with", f"{settings.sampler}, {settings.steps} steps, CFG "
                                 f"{settings.cfg:g}, seed {request.seed}")]  # fmt: skip
        if reference is not None:
            about.append(("Differences", f"grey is no difference to {reference}; twice as strong"))
            about += [(m.name, m.title) for m in measurer.measures]
            about += [(f"Mean of {row}", measurer.caption(one)) for row, one in means.items()]
        page = GridPage(title, lead, columns, page_rows, [f for f in about if f[1]])
        write_grid(page, output / "grid.html", overwrite=True)
        named = [axis for axis in self._axes if axis.name]
        listing: dict[str, Any] = {
            "axes": [{"name": a.name, "values": list(a.values)} for a in named],
            "cells": facts,
        }
        if reference is not None:
            listing |= {"reference": reference, "means": means}
        write_file(output / "grid.json", json.dumps(listing, indent=1, ensure_ascii=False).encode())
        return {"page": str(output / "grid.html"), "sheet": str(output / "grid.png"), **listing}


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Each measure's mean over a row, of the pictures that have it."""
    names = dict.fromkeys(name for one in found for name in one)
    having = {name: [one[name] for one in found if name in one] for name in names}
    return {name: round(sum(values) / len(values), 6) for name, values in having.items()}


def _card(path: Path) -> str:
    from stockpot.draw import read_parameters

    return read_parameters(path)


def _padded(rows: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Pictures of one size: smaller ones in the middle of a light field."""
    import numpy as np

    height = max(p.shape[0] for row in rows for p in row)
    width = max(p.shape[1] for row in rows for p in row)

    def fit(picture: np.ndarray) -> np.ndarray:
        if picture.shape[:2] == (height, width):
            return picture
        field = np.full((height, width, 3), 232, np.uint8)
        top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
        field[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return field

    return [[fit(picture) for picture in row] for row in rows]


def _typed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _fingerprint(path: Path) -> str:
    """Tells a file from another without reading it."""
    if not path.is_file():
        return str(path)
    facts = path.stat()
    return f"{path.name} {facts.st_size} {facts.st_mtime_ns}"


def _progress() -> Any:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10 or done == total:
            last = time.monotonic()
            note(f"drew {done} of {total} cells")

    return show
