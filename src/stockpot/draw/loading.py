"""From a checkpoint in the original names to the parts of a pipeline.

The layout says which keys a component has and under which other names files carry them;
`stockpot.draw.naming` says where each goes. Nothing touches a disk but the source itself, so a
merge in memory loads like a file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stockpot.checkpoints import Source
from stockpot.draw.descriptions import Description, describe, read_description
from stockpot.draw.libraries import require_libraries
from stockpot.draw.memory import check_device
from stockpot.draw.naming import Place, text_places, unet_places, vae_places, write_tensor
from stockpot.draw.parts import Parts
from stockpot.draw.tokenizers import find_tokenizer
from stockpot.errors import LayoutError
from stockpot.layouts import Component, Layout, as_checkpoint, detect, moved

if TYPE_CHECKING:
    import torch

__all__ = ["DRAWABLE", "load_parts", "read_tensor"]

DRAWABLE = ("sd1", "sd2", "sdxl", "zoo")
"""Layouts that can be drawn."""

_SHOWN = 3
_PARTS = {"unet": "unet", "vae": "vae", "te": "text_encoder", "te0": "text_encoder",
          "te1": "text_encoder_2"}  # fmt: skip


def load_parts(
    model: Source,
    config: Path | None = None,
    *,
    vae: Source | None = None,
    te: Source | None = None,
    prediction: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    tokenizer: Path | None = None,
) -> Parts:
    """Load every part of a model.

    Args:
        model: A checkpoint of one of the layouts in `DRAWABLE`, or a diffusers folder of one;
            position ids, EMA copies,
            schedules and NovelAI's text encoder names do not disturb.
        config: A diffusers folder, for models of other widths; its weights, if any, are not read.
            By default the architecture's own description.
        vae: Where to take the VAE from instead: a checkpoint of any of these layouts that has the
            same one, or the VAE alone, under any names that `stockpot.layouts.as_checkpoint` reads.
        te: Where to take the text encoders from instead, likewise.
        prediction: ``epsilon`` or ``v_prediction``; by default ``v_prediction`` where the model has
            the ``v_pred`` marker, else what the description says.
        device: A torch device.
        dtype: torch's name of the type to compute in; the VAE stays in float32, since half
            precision breaks many.
        tokenizer: A folder with CLIP's tokenizer; else see `stockpot.draw.find_tokenizer`.

    Returns:
        The parts, in evaluation mode.

    Raises:
        LayoutError: The architecture cannot be drawn, a component is missing or incomplete, or
            the folder describes another model.
        CheckpointError: The folder or the tokenizer is missing.
        RequestError: There is no such device.
        MissingExtraError: diffusers is not installed.
    """
    require_libraries()
    import torch

    if prediction not in (None, "epsilon", "v_prediction"):
        raise ValueError(
            f"`prediction` must be 'epsilon' or 'v_prediction', but got {prediction!r}"
        )
    check_device(device)
    kind: torch.dtype = getattr(torch, dtype)
    model = as_checkpoint(model)
    layout = _drawable_layout(model)
    about = describe(layout.name) if config is None else read_description(config)
    names = [part.name for part in layout.components if part.name in _PARTS]
    given = {name: te if name.startswith("te") else vae if name == "vae" else None
             for name in names}  # fmt: skip
    sources = {name: _seen(source, layout, name) if source else model
               for name, source in given.items()}  # fmt: skip
    keys = {name: _component_keys(sources[name], layout, name) for name in names}
    modules: dict[str, Any] = {}
    places: dict[str, tuple[str, tuple[Place, ...]]] = {}
    for name, found_keys in keys.items():
        part = _PARTS[name]
        module, found = _filled(
            part,
            sources[name],
            found_keys,
            layout,
            about,
            torch.float32 if part == "vae" else kind,
        )
        places.update({key: (part, where) for key, where in found.items()})
        modules[part] = torch.nn.Module.to(module, device)
    tokenizers = [find_tokenizer(tokenizer or folder) for folder in about.tokenizers]
    return Parts(
        model.name,
        noise=_noise(model, about, prediction),
        layout=layout.name,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1] if len(tokenizers) > 1 else None,
        places=places,
        **modules,
    )


def _drawable_layout(model: Source) -> Layout:
    answer = detect({key: info.shape for key, info in model.tensors.items()})
    if answer.layout.name not in DRAWABLE:
        raise LayoutError(
            f"{model.name}: drawing knows the layouts {', '.join(DRAWABLE)}, but this file is "
            f"{answer.layout.title} ({'; '.join(answer.evidence)})"
        )
    return answer.layout


def _seen(source: Source, layout: Layout, component: str) -> Source:
    """A file that gives one component, under the names of the model that takes it."""
    source = as_checkpoint(source)
    own = detect({key: info.shape for key, info in source.tensors.items()}).layout
    if own.name == layout.name:
        return source
    return moved(source, own, layout, [component]) or source


def _component_keys(source: Source, layout: Layout, name: str) -> dict[str, str]:
    """All required weights of a component: what the file calls them, by canonical key."""
    component = next(part for part in layout.components if part.name == name)
    fit = layout.fit({key: info.shape for key, info in source.tensors.items()})
    wrong = [item for item in fit.mismatched if item[0].startswith(component.prefix)]
    if wrong:
        key, got, expected = wrong[0]
        raise LayoutError(
            f"{source.name}: {key}: {layout.title} has {list(expected)} here, but got {list(got)}"
        )
    missing = fit.missing_in.get(name, ())
    if missing:
        raise LayoutError(_missing_message(source, component, missing, fit.missing_components))
    found: dict[str, str] = {}
    for key in source.tensors:
        spec = layout.spec_of(key)
        if spec is None or spec.optional or spec.cell.component != name:
            continue
        if spec.key != key and spec.key in found:
            continue  # two names for one tensor: the canonical one counts
        found[spec.key] = key
    return found


def _missing_message(
    source: Source, component: Component, missing: tuple[str, ...], absent: tuple[str, ...]
) -> str:
    kind = {"vae": "vae", "te": "te", "te0": "te", "te1": "te"}.get(component.name)
    remedy = f"; give one with --{kind} (in Python {kind}=)" if kind else ""
    if component.name in absent:
        return f"{source.name}: the checkpoint has no {component.title}{remedy}"
    names = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
    return (
        f"{source.name}: the {component.title} lacks {len(missing)} of its keys ({names}); "
        f"the file is incomplete{remedy}"
    )


def read_tensor(source: Source, key: str) -> torch.Tensor:
    """Read a tensor as float32.

    Args:
        source: An open checkpoint.
        key: The tensor; it must hold floats.

    Returns:
        float32, in the file's shape.

    Raises:
        LayoutError: It holds no floats.
    """
    import torch

    kinds = {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
    }
    info = source.info(key)
    kind = kinds.get(info.dtype.name)
    if kind is None:
        raise LayoutError(f"{source.name}: {key}: weights must be floats, but got {info.dtype}")
    data = torch.empty(info.n_bytes, dtype=torch.uint8)
    source.read_into(key, 0, info.n_elements, data.numpy().data)
    return data.view(kind).to(torch.float32).reshape(info.shape)


def _filled(
    part: str,
    source: Source,
    keys: dict[str, str],
    layout: Layout,
    about: Description,
    dtype: torch.dtype,
) -> tuple[Any, dict[str, tuple[Place, ...]]]:
    """A module with all of a component in it, read tensor by tensor, and where each went."""
    what = "the weights do not fit" if part in ("unet", "vae") else "the text encoder does not fit"
    shapes = {key: layout.specs[key].shape for key in keys}
    try:
        module = _empty(part, about, dtype)
        parameters = dict(module.named_parameters())
        if part == "unet":
            places = unet_places(shapes, module.config)
        elif part == "vae":
            places = vae_places(shapes, module.config)
        else:
            places = text_places(shapes, layout, module)
        for key, where in places.items():
            value = read_tensor(source, keys[key])
            write_tensor(parameters, where, value.reshape(shapes[key]))
    except LayoutError:
        raise
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError) as error:
        raise LayoutError(f"{source.name}: {what} {about.where(part)}: {error}") from error
    n_loaded = sum(parameter.numel() for parameter in parameters.values())
    n_given = sum(math.prod(shape) for shape in shapes.values())
    n_placed = sum(math.prod(shapes[key]) for key in places)
    if n_loaded != n_placed or n_given != n_placed:
        raise LayoutError(
            f"{source.name}: {what} {about.where(part)}: it describes "
            f"{n_loaded:,} parameters, but the file has {n_given:,}"
        )
    return module.eval().requires_grad_(False), places


def _empty(part: str, about: Description, dtype: torch.dtype) -> Any:
    """A module without weights: nothing is initialised only to be written over."""
    import diffusers
    import torch
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kinds: Any = diffusers
    with init_empty_weights(include_buffers=False):
        if part == "unet":
            module: Any = kinds.UNet2DConditionModel.from_config(dict(about.unet))
        elif part == "vae":
            module = kinds.AutoencoderKL.from_config(dict(about.vae))
        elif part == "text_encoder":
            module = CLIPTextModel(CLIPTextConfig(**about.text_encoders[0]))
        else:
            module = CLIPTextModelWithProjection(CLIPTextConfig(**about.text_encoders[1]))
    for name, parameter in list(module.named_parameters()):
        owner, _, last = name.rpartition(".")
        empty = torch.empty(parameter.shape, dtype=dtype)
        setattr(module.get_submodule(owner), last, torch.nn.Parameter(empty, requires_grad=False))
    return module


def _noise(model: Source, about: Description, prediction: str | None) -> dict[str, Any]:
    noise = dict(about.noise)
    if "v_pred" in model.tensors:
        noise["prediction_type"] = "v_prediction"
    if "ztsnr" in model.tensors:
        noise["rescale_betas_zero_snr"] = True
    if prediction is not None:
        noise["prediction_type"] = prediction
    return noise
