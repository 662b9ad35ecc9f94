"""What the commands that draw share: models and mixes, requests with overrides, opening."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stockpot.cli.output import note
from stockpot.cli.recipe_files import read_any
from stockpot.errors import OutputExistsError, Problem, RequestError

if TYPE_CHECKING:
    from stockpot.draw import LiveMix, Named, ReadRequest, Request
    from stockpot.recipes import Recipe

__all__ = [
    "Mix", "Opening", "check_choices", "find_mix", "opened", "overridden", "parse_sets",
    "pool_mixes", "read_requests", "refuse_existing", "told_warnings", "vae_named",
]  # fmt: skip

_HOLD_BYTES = 4 << 30


@dataclass(frozen=True)
class Mix:
    """Something to draw with.

    Attributes:
        label: What to call it.
        recipe: What it is made of; a single model is a recipe too.
        folder: Where the recipe's paths start.
        file: The checkpoint, where it is a file as it stands.
    """

    label: str
    recipe: Recipe
    folder: Path = Path()
    file: Path | None = None

    @property
    def text(self) -> str:
        """What it is made of, on one line; empty for a file as it stands."""
        from stockpot.recipes import print_expression

        if self.file is not None:
            return ""
        return "; ".join(f"{k}: {print_expression(v)}" for k, v in self.recipe.mix.items())

    def named(self) -> Named:
        """What infotexts call it; a file's hash is of all its bytes."""
        from stockpot.checkpoints import file_hashes
        from stockpot.draw import Named

        if self.file is None:
            return Named(self.label)
        return Named(self.file.stem, file_hashes(self.file).autov2 if self.file.is_file() else "")


def find_mix(model: str, pool: dict[str, str]) -> Mix:
    """Understand what a user named: a checkpoint, a recipe, or an expression over a pool.

    Args:
        model: As typed.
        pool: Files by name.
    """
    from stockpot.recipes import make_recipe

    path = Path(model)
    if path.suffix in (".yaml", ".yml", ".json", ".mecha") and path.is_file():
        recipe = read_any(path).recipe.resolve_pool(path.parent, absolute=True)
        return Mix(path.stem, recipe, path.parent)
    if path.exists():
        return _file_mix(path)
    if model in pool:
        return Mix(model, make_recipe({"model": _name(model)}, pool), file=Path(pool[model]))
    return Mix(model, make_recipe({"model": model}, pool))


def _file_mix(path: Path) -> Mix:
    from stockpot.recipes import make_recipe

    return Mix(path.stem, make_recipe({"model": _name(path.stem)}, {path.stem: str(path)}),
               file=path)  # fmt: skip


def _name(text: str) -> str:
    return json.dumps(text)


def pool_mixes(mixes: Sequence[Mix]) -> tuple[list[Mix], dict[str, Path]]:
    """Bring mixes to one common pool, so that one painter can change between them.

    Args:
        mixes: In any number.

    Returns:
        The mixes over the common pool, and its files by name.
    """
    from stockpot.recipes import PoolEntry

    files: dict[str, Path] = {}
    for mix in mixes:
        for name, entry in mix.recipe.pool.items():
            path = mix.folder / entry.file if entry.file else Path(entry.file)
            if files.setdefault(name, path).absolute() != path.absolute():
                raise RequestError(
                    [Problem("two-models", f"both {files[name]} and {path} are called so", name,
                             "rename one of the files, or name them with --pool")]
                )  # fmt: skip
    entries = {name: PoolEntry(str(path)) for name, path in files.items()}
    return [
        replace(mix, recipe=replace(mix.recipe, pool=entries), folder=Path()) for mix in mixes
    ], files


def read_requests(
    payloads: Sequence[Path], infotexts: Sequence[Path], prompts: Sequence[str]
) -> list[tuple[str, ReadRequest]]:
    """Read all that is to be drawn, and tell what of it will not be done.

    Args:
        payloads: JSON files.
        infotexts: Text files or pictures.
        prompts: Prompts without a file.
    """
    from stockpot.draw import DrawSettings, ReadRequest, Request, parse_infotext, read_parameters
    from stockpot.draw import read_payload as read

    found = [(path.stem, read(path)) for path in payloads]
    for path in infotexts:
        found.append((path.stem, parse_infotext(read_parameters(path), str(path))))
    if not found:
        for i, prompt in enumerate(prompts):
            request = Request(prompt, -1, DrawSettings(batch=8))
            found.append((f"prompt{i + 1}" if len(prompts) > 1 else "prompt", ReadRequest(request)))
    for _, one in found:
        for problem in one.notes:
            note(f"note: {problem}")
    return found


_WORDS = {
    "prompt": "prompt",
    "negative": "negative_prompt",
    "steps": "steps",
    "cfg": "cfg_scale",
    "seed": "seed",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "width": "width",
    "height": "height",
    "n": "n_iter",
}


def overridden(request: Request, changes: dict[str, Any]) -> Request:
    """Change fields of a request by the names that payloads have for them.

    Args:
        request: Any.
        changes: By a payload's field, or the short name of it; ``clip_skip`` and other settings
            of web UIs too.
    """
    from stockpot.draw import parse_payload, to_payload

    payload = to_payload(request)
    for name, value in changes.items():
        if name in ("clip_skip", "CLIP_stop_at_last_layers"):
            payload["override_settings"]["CLIP_stop_at_last_layers"] = value
        elif name in ("randn_source", "eta_noise_seed_delta", "emphasis", "sd_vae"):
            payload["override_settings"][name] = value
        elif name == "cfg_rescale":
            payload["stockpot_cfg_rescale"] = value
        else:
            field = _WORDS.get(name, name)
            if field == "n_iter":
                payload["batch_size"] = 1
            payload[field] = value
    read = parse_payload(payload, "overridden")
    if read.notes:
        raise RequestError(read.notes)
    made = read.request
    own = request.settings
    # What a payload has no word for stays.
    settings = replace(
        made.settings,
        batch=own.batch,
        max_chunks=own.max_chunks,
        width=made.settings.width if own.width or "width" in changes else None,
        height=made.settings.height if own.height or "height" in changes else None,
    )
    return replace(
        request, prompt=made.prompt, seed=made.seed, settings=settings, n_pictures=made.n_pictures
    )


@dataclass(frozen=True)
class Opening:
    """How a painter is opened.

    Attributes:
        vae: A file with the VAE to draw with.
        te: A file with the text encoders to draw with.
        config: A diffusers folder that describes the architecture.
        tokenizer: A folder with CLIP's tokenizer.
        prediction: ``epsilon`` or ``v_prediction``.
        device: A torch device.
        dtype: torch's name of the type to compute in.
        vram: See `stockpot.draw.VRAM`.
        embeddings: Folders with textual inversions.
        loras: Folders with LoRAs.
    """

    vae: Path | None = None
    te: Path | None = None
    config: Path | None = None
    tokenizer: Path | None = None
    prediction: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    vram: str = "high"
    embeddings: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()


@contextmanager
def opened(
    how: Opening,
    mix: Mix,
    files: dict[str, Path],
    prompts: Sequence[str],
    name: str = "the mix",
) -> Iterator[LiveMix]:
    """Open a painter on a mix of a pool; small pools are held in memory.

    Args:
        how: Parts, device, memory.
        mix: What to begin with.
        files: The pool.
        prompts: All that will be drawn: only embeddings whose names occur there are read.
        name: What messages call it.
    """
    from stockpot.checkpoints import Source, open_checkpoint
    from stockpot.draw import (
        few_threads,
        find_extras,
        hold,
        open_live,
        read_embedding,
        save_memory,
    )
    from stockpot.engine import give_back_memory

    words = "\n".join(prompts).lower()
    embeddings = {
        name: read_embedding(path)
        for name, path in find_extras(how.embeddings).items()
        if name.lower() in words
    }
    with ExitStack() as stack:
        stack.callback(give_back_memory)
        sources: dict[str, Source] = {
            name: stack.enter_context(open_checkpoint(path)) for name, path in files.items()
        }
        size = sum(info.n_bytes for s in sources.values() for info in s.tensors.values())
        if len(sources) > 1 and size <= _HOLD_BYTES:
            sources = {name: hold(source) for name, source in sources.items()}
        vae = stack.enter_context(open_checkpoint(how.vae)) if how.vae else None
        te = stack.enter_context(open_checkpoint(how.te)) if how.te else None
        live = open_live(
            mix.recipe,
            sources,
            how.config,
            vae=vae,
            te=te,
            name=name,
            prediction=how.prediction,
            device=how.device,
            dtype=how.dtype,
            tokenizer=how.tokenizer,
            embeddings=embeddings,
            loras=find_extras(how.loras),
        )
        save_memory(live.painter.parts, how.vram)  # type: ignore[arg-type]
        with few_threads(live.painter.parts):
            yield live


@contextmanager
def told_warnings() -> Iterator[None]:
    """Say warnings as notes, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module="stockpot")
        warnings.filterwarnings("always", category=UserWarning)
        yield
    for message in dict.fromkeys(str(w.message) for w in caught):
        note(f"note: {message}")


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Stop where files are there already, before anything is drawn.

    Args:
        paths: What will be written.
        overwrite: Whether that is allowed.
    """
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        raise OutputExistsError(
            f"{paths[0].parent}: {', '.join(existing[:3])}{more} are there already; choose another "
            "folder, or --overwrite"
        )


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """Read ``--set field=value``; values are JSON, or else text.

    Args:
        sets: As typed.
    """
    found: dict[str, Any] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set takes field=value, but got {text!r}")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def check_choices(dtype: str, vram: str, prediction: str | None) -> None:
    """Stop at words that no option has.

    Args:
        dtype: As typed.
        vram: As typed.
        prediction: As typed, or None.
    """
    for name, value, known in (
        ("--dtype", dtype, ("float32", "float16", "bfloat16")),
        ("--vram", vram, ("high", "medium", "low")),
        ("--prediction", prediction, (None, "epsilon", "v_prediction")),
    ):
        if value not in known:
            words = ", ".join(str(one) for one in known if one)
            raise typer.BadParameter(f"{name} must be one of {words}, but got {value!r}")


def vae_named(path: Path) -> Named:
    """Say what infotexts call a VAE: its file's name and hash.

    Args:
        path: The file.
    """
    from stockpot.checkpoints import file_hashes
    from stockpot.draw import Named

    return Named(path.name, file_hashes(path).autov2 if path.is_file() else "")
