"""``stockpot study``: questions about mixes, answered by measurement."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stockpot.cli.atelier import refuse_existing, told_warnings
from stockpot.cli.naming import parse_pool
from stockpot.cli.output import note, print_json, print_table, safe_text
from stockpot.cli.sizes import CeilingForModels, memory_bytes

if TYPE_CHECKING:
    from stockpot.scores import Scorer
    from stockpot.studies import Answer, Classifier, Embed, Setting, Study

__all__ = ["study_pool"]

GALLERY = "gallery"


def study_pool(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies by name or letter, or all; none lists them.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results.")
    ] = None,
    pool: Annotated[list[str] | None, typer.Option(help="A model: FILE, or NAME=FILE.")] = None,
    payloads: Annotated[
        list[Path] | None, typer.Option(help="Payloads to draw: JSON files, or folders of them.")
    ] = None,
    score: Annotated[
        str, typer.Option(help="A scorer, for studies that ask what is better.")
    ] = "",
    base: Annotated[
        str | None, typer.Option(help="Name of the model that the others were trained from.")
    ] = None,
    outlier: Annotated[
        list[str] | None, typer.Option(help="Name of a model that is expected to spoil mixes.")
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(help="Recipe of a tuned mix of the pool's models.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(help="Folder of a vision network in transformers' form; or zoo: the zoo's "
                     "classifier."),
    ] = "",
    lora: Annotated[list[Path] | None, typer.Option(help="A LoRA, or a folder of them.")] = None,
    embedding: Annotated[
        list[Path] | None, typer.Option(help="An embedding, or a folder of them.")
    ] = None,
    trained_on: Annotated[
        list[str] | None,
        typer.Option(help="NAME=MODEL: the model that a LoRA or embedding was trained on; else "
                     "what its file says, else the base."),
    ] = None,
    concepts: Annotated[
        str,
        typer.Option(help="A file with words by attribute, told apart by --score; or zoo: the "
                     "zoo's classifier."),
    ] = "",
    repeats: Annotated[int, typer.Option(help="Pictures of each payload, with further seeds.")] = 1,
    tasks: Annotated[int | None, typer.Option(help="Draw the first so many requests only.")] = None,
    size_scale: Annotated[float | None, typer.Option(help="Multiply all sizes.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of all pictures.")] = None,
    permutations: Annotated[int, typer.Option(help="Relabellings and random orders.")] = 1000,
    mixes: Annotated[
        int, typer.Option(help="How many mixes a study may draw to follow random orders.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Of orders, relabellings and resampling.")] = 0,
    vae: Annotated[
        str | None, typer.Option(help="Model whose VAE all candidates have; else the first's.")
    ] = None,
    score_files: Annotated[Path | None, typer.Option(help="Folder of scorers' files.")] = None,
    scales: Annotated[Path | None, typer.Option(help="Means and SDs for a weighted sum.")] = None,
    config: Annotated[Path | None, typer.Option(help="A diffusers folder.")] = None,
    memory: CeilingForModels = "8GiB",
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    batch: Annotated[
        int, typer.Option(help="Pictures at once: more is faster, and takes more memory.")
    ] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and stop.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results; pictures are kept.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:  # fmt: skip
    """Answer questions about mixes of a pool, each with a page that says the answer first.

    Stopped, it goes on where it was when the same command is given again: pictures are kept in
    the folder's gallery, and all studies share them. No weights are written.
    """
    from stockpot.studies import find_studies

    if not names:
        _list(json_)
        return
    chosen = find_studies(names)
    if output is None or not pool or not payloads:
        raise typer.BadParameter("a study needs --pool FILE …, --payloads and -o FOLDER")
    if min(permutations, mixes, repeats, batch, 1 if tasks is None else tasks) < 1:
        raise typer.BadParameter(
            "--permutations, --mixes, --repeats, --tasks and --batch are 1 or more"
        )
    paths = parse_pool(pool)
    asked: dict[str, Any] = {
        "pool": paths, "score": score, "base": base, "outliers": outlier or [],
        "tuned": None if tuned is None else str(tuned), "features": features,
        "loras": [str(path) for path in lora or []],
        "embeddings": [str(path) for path in embedding or []], "permutations": permutations,
        "mixes": mixes, "seed": seed, "vae": vae, "dtype": dtype, "device": device,
        "trained_on": trained_on or [], "concepts": concepts,
    }  # fmt: skip
    with ExitStack() as stack, told_warnings():
        opened = _Opened(
            paths, payloads, repeats, tasks, size_scale, steps, vae, score, score_files, scales,
            config, memory_bytes(memory), device, dtype, output, tuned, features, tuple(lora or ()),
            tuple(embedding or ()), base, tuple(outlier or ()), permutations, mixes, seed,
            _homes(trained_on or []), concepts, batch,
        )  # fmt: skip
        setting = opened.setting(stack)
        asked |= {"exam": setting.exam.key, "models": opened.contents(setting)}
        ready = _ready(chosen, setting, [*names])
        for study in ready:
            note(f"{study.name}: at most {study.cost(setting)} pictures, those in the gallery not "
                 "taken off")  # fmt: skip
        if dry_run:
            return
        _refuse(output, ready, asked, overwrite)
        answers = {study.name: _answer(study, setting, output, asked, overwrite) for study in ready}
    if json_:
        print_json(answers)
    else:
        for study in ready:
            typer.echo(safe_text(f"{study.letter}. {study.question}"))
            for line in answers[study.name]["answer"]:
                typer.echo(safe_text(f"   {line}"))
        typer.echo(safe_text(f"see {', '.join(str(output / f'{s.name}.html') for s in ready)}"))


def _list(json_: bool) -> None:
    from stockpot.studies import STUDIES

    rows = [(study.letter, study.name, study.question, study.needs) for study in STUDIES.values()]
    if json_:
        keys = ("letter", "name", "question", "needs")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_table(["", "study", "question", "needs"], rows)


@dataclass(frozen=True)
class _Opened:
    """What was typed, on its way to a setting."""

    paths: dict[str, str]
    payloads: list[Path]
    repeats: int
    tasks: int | None
    size_scale: float | None
    steps: int | None
    vae: str | None
    score: str
    score_files: Path | None
    scales: Path | None
    config: Path | None
    n_bytes: int
    device: str
    dtype: str
    output: Path
    tuned: Path | None
    features: str
    loras: tuple[Path, ...]
    embeddings: tuple[Path, ...]
    base: str | None
    outliers: tuple[str, ...]
    n_permutations: int
    n_mixes: int
    seed: int
    homes: dict[str, str]
    concepts: str
    batch: int

    def setting(self, stack: ExitStack) -> Setting:
        """Open everything; what is open is closed with the stack."""
        from stockpot.checkpoints import file_hashes, open_checkpoint
        from stockpot.cli.recipe_files import read_any
        from stockpot.draw import find_extras, read_embedding
        from stockpot.scores import Setting as ScoreSetting
        from stockpot.scores import make_scorer, read_scales
        from stockpot.select import survey_members
        from stockpot.studies import Gallery, Setting
        from stockpot.tune import check_memory, open_examiner, read_exam

        exam = read_exam(self.payloads, repeats=self.repeats, size_scale=self.size_scale,
                         steps=self.steps)  # fmt: skip
        exam = exam if self.tasks is None else exam.take(self.tasks)
        for problem in exam.notes:
            note(f"note: {problem}")
        known = read_scales(self.scales) if self.scales is not None else None
        # Any scorer: an examiner wants one, and this one costs nothing.
        name = self.score or "contrast"
        scorers = {name: make_scorer(name, ScoreSetting(self.score_files, self.device), known)}
        sources = {key: stack.enter_context(open_checkpoint(path))
                   for key, path in self.paths.items()}  # fmt: skip
        check_memory(sources, self.n_bytes, self.dtype)  # before every file is read
        pool = survey_members(sources, self.paths, self.vae)
        for model, reason in pool.aside.items():
            note(f"note: {model} is set aside: {reason}")
        loras, embeddings = find_extras(self.loras), find_extras(self.embeddings)
        adapters = {key: file_hashes(path).sha256 for key, path in {**loras, **embeddings}.items()}
        setup = json.dumps([self.dtype, self.device.partition(":")[0]])

        def opening(made: Any) -> Any:
            return open_examiner(
                sources if made is None else {**_needed(pool, sources), **made}, scorers,
                memory=self.n_bytes, config=self.config, device=self.device,
                dtype=self.dtype, loras=loras, batch=self.batch,
                embeddings={key: read_embedding(path, key) for key, path in embeddings.items()},
            )  # fmt: skip

        gallery = stack.enter_context(
            Gallery(self.output / GALLERY, pool, opening, scorers=scorers, setup=setup,
                    adapters=adapters, progress=note)
        )  # fmt: skip
        return Setting(
            pool, sources, exam, gallery, self.score, self.base, self.outliers,
            None if self.tuned is None else read_any(self.tuned).recipe, _embed(self.features),
            loras, embeddings, self.seed, self.n_permutations, self.n_mixes,
            self.n_bytes, note, self.homes,
            _classifier(self.concepts, scorers[name] if self.score else None),
        )  # fmt: skip

    def contents(self, setting: Setting) -> dict[str, list[str]]:
        """What identifies each model."""
        return {one.name: [one.unet, one.encoder, one.vae] for one in setting.pool.members}


def _needed(pool: Any, sources: Any) -> dict[str, Any]:
    """A computed candidate still has the pool's VAE."""
    return {pool.vae: sources[pool.vae]}


def _embed(features: str) -> Embed | None:
    if not features:
        return None
    from stockpot.draw import embed_pictures

    if features != "zoo":
        return lambda pictures: embed_pictures(pictures, Path(features))
    from stockpot.studies import zoo_embedding

    return zoo_embedding()


def _homes(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise typer.BadParameter(f"--trained-on is NAME=MODEL, but got {text!r}")
        found[name] = model
    return found


def _classifier(concepts: str, scorer: Scorer | None) -> Classifier | None:
    if not concepts:
        return None
    from stockpot.studies import read_concepts, scorer_classifier, zoo_classifier

    if concepts == "zoo":
        return zoo_classifier()
    if scorer is None:
        raise typer.BadParameter("--concepts FILE needs a --score that reads prompts")
    return scorer_classifier(scorer, read_concepts(Path(concepts)))


def _ready(chosen: tuple[Study, ...], setting: Setting, names: list[str]) -> list[Study]:
    """Studies that have what they need; one that was named and has not is an error."""
    from stockpot.errors import Problem, RequestError

    lacking = {study: study.missing(setting) for study in chosen}
    problems = [
        Problem("study", reason, study.name)
        for study, reason in lacking.items()
        if reason and ("all" not in names or len(chosen) == 1)
    ]
    if problems:
        raise RequestError(problems)
    for study, reason in lacking.items():
        if reason:
            note(f"note: {study.name} is left out: {reason}")
    return [study for study in chosen if not lacking[study]]


def _refuse(output: Path, studies: list[Study], asked: dict[str, Any], overwrite: bool) -> None:
    """Results of the same command are taken over; others are not replaced unasked."""
    refuse_existing(
        [output / f"{study.name}.json" for study in studies
         if _known(output, study, asked) is None],
        overwrite,
    )  # fmt: skip


def _known(output: Path, study: Study, asked: dict[str, Any]) -> dict[str, Any] | None:
    from stockpot.studies import plain_data

    try:
        value = json.loads((output / f"{study.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(value, dict) and value.get("asked") == plain_data(asked)
    return value if same and isinstance(value.get("answer"), list) else None


def _answer(
    study: Study, setting: Setting, output: Path, asked: dict[str, Any], overwrite: bool
) -> dict[str, Any]:
    from stockpot.cli.studying_page import study_json

    known = _known(output, study, asked)
    if known is not None and not overwrite:
        note(f"{study.name}: answered before")
        return known
    note(f"{study.name}: {study.question}")
    answer = study.run(setting)
    found = study_json(study, answer, asked)
    _write(study, answer, setting, output, found)
    return found


def _write(
    study: Study, answer: Answer, setting: Setting, output: Path, found: dict[str, Any]
) -> None:
    from stockpot.cli.figure_files import write_charts
    from stockpot.cli.studying_page import study_page
    from stockpot.draw import write_file
    from stockpot.report import write_page

    output.mkdir(parents=True, exist_ok=True)
    # Without its data a page is a leaving of a run that was stopped here.
    write_charts(answer.charts, output / "figures" / study.name, overwrite=True)
    write_page(study_page(study, answer, setting), output / f"{study.name}.html", overwrite=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    write_file(output / f"{study.name}.json", (text + "\n").encode())
