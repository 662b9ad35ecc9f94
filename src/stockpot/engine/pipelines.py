"""The small files of a diffusers folder: made from the architecture, or taken from another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stockpot.engine.plan import Plan
from stockpot.errors import CheckpointError, PreflightError, Problem
from stockpot.layouts import SCHEDULER_FILE, diffusers_files

__all__ = ["pipeline_texts"]

_MOST_BYTES = 16 << 20
_ENDINGS = (".json", ".txt")
# What must be the same in a configuration and in the weights that it comes to describe.
_SHAPING = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "cross_attention_dim",
    "use_linear_projection",
    "projection_class_embeddings_input_dim",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "vocab_size",
    "max_position_embeddings",
)


def pipeline_texts(
    plan: Plan, config: Path | None, prediction: str | None, *, zero_snr: bool
) -> tuple[dict[str, bytes], list[Problem]]:
    """Collect the small files of a folder for a plan's result.

    Args:
        plan: What will be written.
        config: A diffusers folder to take them from; None makes them from the architecture.
        prediction: What the UNet predicts, as the user said.
        zero_snr: Whether the schedule ends at zero signal.

    Returns:
        Contents by relative path, and what deserves to be known of them.

    Raises:
        PreflightError: The configurations describe other weights.
        CheckpointError: A file cannot be read.
    """
    marked = "v_prediction" if "v_pred" in plan.tensors else None
    says = prediction or marked
    made = diffusers_files(plan.layout, plan.infos, prediction=says, zero_snr=zero_snr)
    notes = []
    texts = made
    if config is not None:
        given = _read(config)
        _check(config, made, given)
        texts = {**made, **given}
        if SCHEDULER_FILE in given and (says or zero_snr):
            scheduler = json.loads(given[SCHEDULER_FILE])
            scheduler |= {"prediction_type": says} if says else {}
            scheduler |= {"rescale_betas_zero_snr": True} if zero_snr else {}
            texts[SCHEDULER_FILE] = (json.dumps(scheduler, indent=2) + "\n").encode()
    if says is None and plan.layout.name == "sd2" and config is None:
        notes.append(
            Problem(
                "prediction",
                "checkpoints of Stable Diffusion 2 do not say whether they predict noise or "
                "velocity; the scheduler's file says noise",
                SCHEDULER_FILE,
                "say --prediction v_prediction if it is a 768-v model",
            )
        )
    index = json.loads(texts["model_index.json"])
    for name in ("tokenizer", "tokenizer_2"):
        wanted = isinstance(index.get(name), list) and index[name][0] is not None
        if wanted and not any(file.startswith(f"{name}/") for file in texts):
            notes.append(
                Problem(
                    "no-tokenizer",
                    f"the folder has no {name}, since weights do not hold one",
                    remedy="take one along with --config FOLDER, or give one to diffusers",
                )
            )
    return texts, notes


def _read(config: Path) -> dict[str, bytes]:
    """The small files of a diffusers folder, by relative path."""
    if not (config / "model_index.json").is_file():
        raise CheckpointError(
            f"{config}: a diffusers folder must have a model_index.json, but this has none"
        )
    found = {}
    try:
        folders = [config, *sorted(child for child in config.iterdir() if child.is_dir())]
        for folder in folders:
            for file in sorted(folder.iterdir()):
                is_index = file.name.endswith(".index.json") and file.name != "model_index.json"
                if file.suffix not in _ENDINGS or is_index or not file.is_file():
                    continue
                if folder == config and file.name != "model_index.json":
                    continue
                if file.stat().st_size > _MOST_BYTES:
                    raise CheckpointError(f"{file}: such a file may have {_MOST_BYTES} bytes")
                found[file.relative_to(config).as_posix()] = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{config}: cannot be read: {error.strerror}") from error
    for name, data in found.items():
        if name.endswith(".json") and not isinstance(_parsed(config / name, data), dict | list):
            raise CheckpointError(f"{config / name}: the file must hold an object")
    return found


def _parsed(file: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: the file is not JSON: {error}") from error


def _check(config: Path, made: dict[str, bytes], given: dict[str, bytes]) -> None:
    problems = []
    for name in made:
        if not name.endswith("/config.json") or name not in given:
            continue
        ours, theirs = json.loads(made[name]), json.loads(given[name])
        wrong = [
            field
            for field in _SHAPING
            if field in ours and field in theirs and ours[field] != theirs[field]
        ]
        problems += [
            Problem(
                "config",
                f"{field} must be {ours[field]} for these weights, but is {theirs[field]}",
                str(config / name),
                "choose the folder of a model of the same architecture",
            )
            for field in wrong
        ]
    if problems:
        raise PreflightError(problems)
