"""``stockpot draw``: requests in, pictures with their infotexts out."""

from __future__ import annotations

import re
from dataclasses import replace
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
    from stockpot.draw import Finished, Request

__all__ = ["draw_pictures"]


def draw_pictures(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the pictures.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A checkpoint, a recipe, or an expression over --pool."
        ),
    ] = None,
    payload: Annotated[
        list[Path] | None, typer.Option(help="A web UI's request as JSON. Repeat it.")
    ] = None,
    infotext: Annotated[
        list[Path] | None, typer.Option(help="A recipe card: a picture, or its text. Repeat it.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to draw; with a file, instead of its prompt.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What to lead away from.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the first pass.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture.")] = None,
    n: Annotated[int | None, typer.Option(help="Pictures of each request.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Such as 'DPM++ 2M Karras'.")] = None,
    size: Annotated[str | None, typer.Option(help="Such as 512x768.")] = None,
    size_scale: SizeScale = None,
    set_: Sets = None,
    pool: Pool = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(help="Folder in which models that cards name are found, by their hash."),
    ] = None,
    vae: OtherVae = None,
    te: OtherTe = None,
    embeddings: Embeddings = None,
    loras: Loras = None,
    wildcards: Annotated[
        Path | None, typer.Option(help="Folder with lists for __wildcards__.")
    ] = None,
    config: Config = None,
    tokenizer: Tokenizer = None,
    prediction: Prediction = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    vram: VramLevel = "high",
    via: Annotated[
        str | None, typer.Option(help="Let a running web UI draw, such as http://127.0.0.1:7860.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that it may take for an answer.")] = 600.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")] = False,
) -> None:
    """Draw pictures: what a web UI's request or a picture's own card asks for."""
    from stockpot.draw import Named, with_seed

    check_choices(dtype, vram, prediction)
    if not (payload or infotext or prompt):
        raise typer.BadParameter("say what to draw, with --payload, --infotext or --prompt")
    changes: dict[str, Any] = {
        name: value
        for name, value in {
            "negative": negative, "steps": steps, "cfg": cfg, "seed": seed, "sampler": sampler,
            "n": n, **_size(size),
        }.items()
        if value is not None
    }  # fmt: skip
    if (payload or infotext) and prompt:
        changes["prompt"] = prompt[0]
    changes |= parse_sets(set_ or [])
    jobs = []
    for stem, read in read_requests(payload or [], infotext or [], prompt or []):
        request = overridden(read.request, changes) if changes else read.request
        jobs.append((stem, with_seed(request)))
    if via is not None:
        if model is not None:
            jobs = [(stem, replace(request, model=Named(model))) for stem, request in jobs]
        if size_scale is not None:
            jobs = [(stem, request.scaled(size_scale, 8)) for stem, request in jobs]
        results = _draw_via(via, timeout, jobs, output, overwrite)
    else:
        how = Opening(
            vae, te, config, tokenizer, prediction, device, dtype, vram,
            tuple(embeddings or ()), tuple(loras or ()),
        )  # fmt: skip
        pairs = _with_mixes(jobs, model, parse_pool(pool or []), models or [])
        results = _draw_here(pairs, how, output, overwrite, size_scale, wildcards)
    if json_:
        print_json(results)
    else:
        for result in results:
            typer.echo(result["file"])


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise typer.BadParameter(f"--size is like 512x768, but got {text!r}")
    return {"width": int(found.group(1)), "height": int(found.group(2))}


def _with_mixes(
    jobs: list[tuple[str, Request]], model: str | None, pool: dict[str, str], folders: list[Path]
) -> list[tuple[str, Request, Mix]]:
    """Each request with what draws it: what was named, or what its card names."""
    from stockpot.draw import Named, Shelf, find_named

    if model is not None:
        mix = find_mix(model, pool)
        return [(stem, request, mix) for stem, request in jobs]
    shelf = Shelf(folders)
    found = []
    for stem, request in jobs:
        axes = [axis for axis in request.plot if axis.kind == "Checkpoint name"]
        wanted = list(axes[0].models) if axes else [request.model]
        if wanted == [Named()]:
            raise RequestError([Problem("no-model", "it does not say which model to draw with",
                                        stem, "name one: stockpot draw MODEL …")])  # fmt: skip
        for path in find_named(wanted, shelf, stem):
            name = f"{stem}-{path.stem}" if axes else stem
            found.append((name, request, find_mix(str(path), {})))
    return found


def _draw_here(
    pairs: list[tuple[str, Request, Mix]],
    how: Opening,
    output: Path,
    overwrite: bool,
    size_scale: float | None,
    wildcards: Path | None,
) -> list[dict[str, Any]]:
    from stockpot.draw import (
        Named,
        check_device,
        draw_request,
        peak_bytes,
        read_wildcards,
        reset_peak,
        write_file,
    )
    from stockpot.engine import size_text

    check_device(how.device)
    paths = [output / f"{s}-{seed}.png" for s, request, _ in pairs for seed in _numbers(request)]
    refuse_existing(paths, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    mixes, files = pool_mixes([mix for _, _, mix in pairs])
    lists = read_wildcards(wildcards) if wildcards else None
    texts = [t for _, r, _ in pairs for t in (r.prompt, r.settings.negative)]
    results: list[dict[str, Any]] = []
    vae = vae_named(how.vae) if how.vae else Named()
    reset_peak(how.device)
    labels = {mix.label for mix in mixes}
    name = labels.pop() if len(labels) == 1 else "the mix"
    with told_warnings(), opened(how, mixes[0], files, texts, name) as live:
        factor = live.painter.vae_factor * 2
        for (stem, request, _), mix in zip(pairs, mixes, strict=True):
            live.show(mix.recipe)
            if size_scale is not None:
                request = request.scaled(size_scale, factor)
            finished, notes = draw_request(
                live.painter, request, model=mix.named(), vae=vae, mix=mix.text, wildcards=lists
            )
            for problem in notes:
                note(f"note: {problem}")
            for i, one in enumerate(finished):
                path = output / f"{stem}-{_numbers(request)[i]}.png"
                write_file(path, one.png)
                results.append(_result(path, one))
            count = live.painter.count_tokens(request.settings.negative)
            note(f"{stem}: {finished[0].n_tokens} tokens, negative {count}; "
                 f"{len(finished)} pictures with {mix.label}")  # fmt: skip
    peak = peak_bytes(how.device)
    if peak:
        where = "on the graphics card" if how.device.startswith("cuda") else "of the whole process"
        note(f"peak memory {where}: {size_text(peak)}")
    return results


def _numbers(request: Request) -> list[str]:
    """A name for each picture: its seed, with a count where seeds repeat."""
    seeds = request.seeds()
    if len(set(seeds)) == len(seeds):
        return [str(seed) for seed in seeds]
    return [f"{seed}-{i + 1}" for i, seed in enumerate(seeds)]


def _result(path: Path, one: Finished) -> dict[str, Any]:
    return {
        "file": str(path),
        "seed": one.request.seed,
        "model": one.request.model.name,
        "n_tokens": one.n_tokens,
        "infotext": one.infotext,
    }


def _draw_via(
    url: str, timeout: float, jobs: list[tuple[str, Request]], output: Path, overwrite: bool
) -> list[dict[str, Any]]:
    from stockpot.draw import WebUI, write_file

    try:
        server = WebUI(url, timeout_s=timeout)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    paths = [output / f"{s}-{seed}.png" for s, request in jobs for seed in _numbers(request)]
    refuse_existing(paths, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    results = []
    for stem, request in jobs:
        sent = server.draw(request)
        for number, one in zip(_numbers(request), sent, strict=True):
            path = output / f"{stem}-{number}.png"
            write_file(path, one.data)
            results.append({"file": str(path), "seed": one.seed, "model": request.model.name,
                            "infotext": one.infotext})  # fmt: skip
    return results
