"""Requests as web UIs take them: the JSON of A1111's ``/sdapi/v1/txt2img``.

Every field is honoured, or is said to ask for nothing, or is reported. Field by field:
docs/drawing.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.draw.freeu import FreeU, FreeUStage
from stockpot.draw.guidance import Thresholding
from stockpot.draw.hires import Hires
from stockpot.draw.requests import Named, ReadRequest, Request
from stockpot.draw.samplers import SCHEDULES
from stockpot.draw.settings import DrawSettings
from stockpot.errors import Problem, RequestError, StockpotError

__all__ = ["parse_payload", "read_json", "read_payload", "to_payload"]

FREEU = "FreeU"
THRESHOLDING = "Dynamic Thresholding (CFG Scale Fix)"
_THRESHOLDING_FIELDS = (
    "mimic_scale", "percentile", "mimic_mode", "mimic_min", "cfg_mode", "cfg_min", "power",
    "separate_channels", "startpoint", "variability", "phi",
)  # fmt: skip
_RESCALE = "stockpot_cfg_rescale"

# Fields that ask for nothing while they have these values.
_IDLE: dict[str, tuple[Any, ...]] = {
    "restore_faces": (False, None),
    "styles": ([], None),
    "firstphase_width": (0, None),
    "firstphase_height": (0, None),
    "seed_resize_from_h": (-1, 0, None),
    "seed_resize_from_w": (-1, 0, None),
    "s_churn": (0, None),
    "s_tmin": (0, None),
    "s_tmax": (0, None),
    "s_noise": (1, None),
    "s_min_uncond": (0, None),
    "script_name": (None, ""),
    "script_args": ([], None),
    "refiner_checkpoint": (None, "", "None"),
    "refiner_switch_at": (None, 0, 0.8),
    "hr_checkpoint_name": (None, "", "Use same checkpoint"),
    "hr_scheduler": (None, "", "Use same scheduler", "Automatic"),
    "infotext": (None, ""),
    "comments": (None, {}, []),
    "disable_extra_networks": (False, None),
    "firstpass_image": (None,),
    "force_task_id": (None, ""),
    # Forge's, for models of other kinds than can be drawn here.
    "distilled_cfg_scale": (None, 3, 3.5),
    "hr_distilled_cfg": (None, 3, 3.5),
    "hr_additional_modules": (None, [], ["Use same choices"]),
    # Of AutoMBW, which sends such payloads: how it scores what comes back.
    "wildcard_type": ("none",),
    "reverse_scoring": (False,),
}
# How a server hands pictures over: nothing of the picture.
_DELIVERY = frozenset(
    "do_not_save_samples do_not_save_grid save_images send_images "
    "override_settings_restore_afterwards".split()
)


def read_payload(path: Path) -> ReadRequest:
    """Read a payload from a file.

    Args:
        path: JSON.

    Returns:
        The request, and what it asks for and will not get.

    Raises:
        RequestError: It is no JSON object, or asks for the impossible; all problems at once.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RequestError([Problem("no-object", "a payload is one JSON object, but this is not",
                                    str(path))])  # fmt: skip
    return parse_payload(content, str(path))


def read_json(path: Path) -> Any:
    """Read what a payload's file holds, a payload or a list of them.

    Args:
        path: JSON in UTF-8.

    Returns:
        Plain data.

    Raises:
        RequestError: The file cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        text = f"the payload cannot be read: {error.strerror or error}"
        raise RequestError([Problem("unreadable", text, str(path))]) from error
    except (ValueError, RecursionError) as error:
        text = f"the payload is no JSON: {error}"
        raise RequestError([Problem("unreadable", text, str(path))]) from error


def parse_payload(payload: Mapping[str, Any], where: str = "payload") -> ReadRequest:
    """Read a payload.

    Args:
        payload: The JSON object.
        where: What to call it in messages.

    Returns:
        The request, and what it asks for and will not get.

    Raises:
        RequestError: It asks for the impossible; all problems at once.

    Example:
        >>> read = parse_payload({"prompt": "a cat", "steps": 5, "restore_faces": True})
        >>> read.request.settings.steps, read.notes[0].code
        (5, 'not-done')
    """
    return _Reader(payload, where).read()


class _Reader:
    def __init__(self, payload: Mapping[str, Any], where: str) -> None:
        self._payload, self._where = payload, where
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []
        self._silent: list[str] = []
        self._seen: set[str] = set()

    def read(self) -> ReadRequest:
        batch, n_iter = self._int("batch_size", 1), self._int("n_iter", 1)
        settings = self._made(
            "settings",
            DrawSettings,
            steps=self._int("steps", 50),
            cfg=self._guidance(),
            sampler=self._sampler(),
            negative=self._text("negative_prompt"),
            width=self._int("width", 512),
            height=self._int("height", 512),
            batch=max(1, batch),
            schedule=_schedule(self._text("scheduler")),
            variation_seed=self._int("subseed", 0),
            variation=self._float("subseed_strength", 0.0),
            eta=self._float("eta", 0.0),
            cfg_rescale=self._float(_RESCALE, 0.0),
            hires=self._hires(),
            noise="NV",
            tiling=self._bool("tiling"),
        )
        settings = self._scripts(settings)
        settings, model, vae = self._overrides(settings)
        seed = self._int("seed", -1)
        request = Request(
            self._text("prompt"), seed, settings, max(1, batch) * max(1, n_iter), model, vae
        )
        if batch < 1 or n_iter < 1:
            self._problem("batch_size", "batches and their number must be at least 1")
        self._rest()
        if self._problems:
            raise RequestError(self._problems)
        return ReadRequest(request, tuple(self._notes), tuple(self._silent))

    def _problem(self, name: str, message: str, remedy: str = "") -> None:
        self._problems.append(Problem("payload", message, f"{self._where}: {name}", remedy))

    def _note(self, name: str, message: str) -> None:
        self._notes.append(Problem("not-done", message, f"{self._where}: {name}"))

    def _get(self, name: str, default: Any) -> Any:
        self._seen.add(name)
        value = self._payload.get(name)
        return default if value is None else value

    def _int(self, name: str, default: int) -> int:
        value = self._float(name, default)
        if value != int(value):
            self._problem(name, f"a whole number is needed, but got {value!r}")
            return default
        return int(value)

    def _float(self, name: str, default: float) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value \
                or abs(value) == float("inf"):  # fmt: skip
            self._problem(name, f"a number is needed, but got {value!r}")
            return default
        return value

    def _bool(self, name: str) -> bool:
        value = self._get(name, False)
        if value not in (True, False):
            self._problem(name, f"true or false is needed, but got {value!r}")
            return False
        if not value and name in self._payload:
            self._silent.append(name)
        return bool(value)

    def _text(self, name: str) -> str:
        value = self._get(name, "")
        if not isinstance(value, str):
            self._problem(name, f"a text is needed, but got {value!r}")
            return ""
        return value

    def _made(self, name: str, make: Callable[..., Any], **values: Any) -> Any:
        """A dataclass from values that may not suit it; then one from what does."""
        try:
            return make(**values)
        except (ValueError, TypeError, StockpotError) as error:
            self._problem(name, str(error))
            return make() if isinstance(make, type) else None

    def _guidance(self) -> float:
        value = self._float("cfg_scale", 7.0)
        if value < 1:
            self._note("cfg_scale", f"guidance of {value:g} is drawn as 1, which is no guidance")
        return max(1.0, value)

    def _sampler(self) -> str:
        name = self._text("sampler_name") or self._text("sampler_index") or "Euler"
        self._seen |= {"sampler_name", "sampler_index"}
        return name

    def _hires(self) -> Hires | None:
        names = ("denoising_strength", "hr_scale", "hr_upscaler", "hr_second_pass_steps",
                 "hr_resize_x", "hr_resize_y", "hr_sampler_name", "hr_prompt",
                 "hr_negative_prompt", "hr_cfg")  # fmt: skip
        self._seen |= {"enable_hr", *names}
        if not self._payload.get("enable_hr"):
            self._silent += [name for name in names if name in self._payload]
            return None
        sampler = self._text("hr_sampler_name")
        made = self._made(
            "hires fix",
            Hires,
            scale=self._float("hr_scale", 2.0),
            width=self._int("hr_resize_x", 0),
            height=self._int("hr_resize_y", 0),
            upscaler=self._text("hr_upscaler") or "Latent",
            steps=self._int("hr_second_pass_steps", 0),
            denoising=self._float("denoising_strength", 0.75),
            sampler="" if sampler == "Use same sampler" else sampler,
            prompt=self._text("hr_prompt"),
            negative=self._text("hr_negative_prompt"),
            cfg=self._float("hr_cfg", 0.0),
        )
        return made if isinstance(made, Hires) else None

    def _scripts(self, settings: DrawSettings) -> DrawSettings:
        scripts = self._get("alwayson_scripts", {})
        if not isinstance(scripts, Mapping):
            self._problem("alwayson_scripts", f"an object is needed, but got {scripts!r}")
            return settings
        for name, content in scripts.items():
            args = content.get("args", []) if isinstance(content, Mapping) else []
            if name.lower() == FREEU.lower():
                freeu = self._made(f"alwayson_scripts: {name}", _freeu, args=args)
                settings = replace(settings, freeu=freeu)
            elif name.lower().startswith("dynamic thresholding"):
                found = self._made(f"alwayson_scripts: {name}", _thresholding, args=args)
                settings = replace(settings, thresholding=found)
            else:
                self._note(f"alwayson_scripts: {name}", "this script is not known here; drawn "
                                                        "without")  # fmt: skip
        return settings

    def _overrides(self, settings: DrawSettings) -> tuple[DrawSettings, Named, Named]:
        found = self._get("override_settings", {})
        model, vae = Named(), Named()
        if not isinstance(found, Mapping):
            self._problem("override_settings", f"an object is needed, but got {found!r}")
            return settings, model, vae
        changes: dict[str, Any] = {}
        for name, value in found.items():
            if name == "CLIP_stop_at_last_layers":
                changes["clip_skip"] = value
            elif name == "sd_model_checkpoint":
                model = _named(str(value))
            elif name == "sd_vae":
                vae = Named() if value in ("None", "Automatic", None) else _named(str(value))
            elif name == "randn_source":
                changes["noise"] = "CPU" if value == "CPU" else "NV"
            elif name == "eta_noise_seed_delta":
                changes["step_delta"] = value
            elif name == "emphasis":
                changes["emphasis"] = value
            else:
                self._note(f"override_settings: {name}", "this setting is not known here")
        try:
            settings = replace(settings, **changes)
        except (ValueError, TypeError) as error:
            self._problem("override_settings", str(error))
        return settings, model, vae

    def _rest(self) -> None:
        for name, value in self._payload.items():
            if name in self._seen:
                continue
            if name in _DELIVERY or (name in _IDLE and value in _IDLE[name]):
                self._silent.append(name)
            elif name in _IDLE:
                self._note(name, f"{json.dumps(value)} is asked for, which is not done here")
            else:
                self._note(name, "this field is not known here, and nothing is done about it")


def _schedule(text: str) -> str:
    """Web UIs take a schedule by its label or by its short name, such as ``sgm_uniform``."""
    short = {name.lower().replace(" ", "_"): name for name in SCHEDULES}
    return short.get(text, text) or "Automatic"


def _named(text: str) -> Named:
    name, bracket, rest = text.rpartition(" [")
    return Named(name, rest[:-1]) if bracket and rest.endswith("]") else Named(text)


def _freeu(args: Any) -> FreeU | None:
    """From the extension's arguments: one object."""
    values = args[0] if isinstance(args, list) and args else args
    if not isinstance(values, Mapping):
        raise ValueError(
            "FreeU takes one object with start_ratio, stop_ratio, transition_smoothness, version "
            f"and stage_infos, but got {values!r}"
        )
    if values.get("enable", values.get("enabled", True)) is False:
        return None
    return FreeU(
        tuple(FreeUStage(**stage) for stage in values.get("stage_infos", [])),
        float(values.get("start_ratio", 0.0)),
        float(values.get("stop_ratio", 1.0)),
        float(values.get("transition_smoothness", 0.0)),
        int(values.get("version", 1)),
    )


def _thresholding(args: Any) -> Thresholding | None:
    """From the extension's arguments: a list that begins with whether it is on."""
    if not isinstance(args, list) or not args or len(args) > len(_THRESHOLDING_FIELDS) + 1:
        raise ValueError(
            "Dynamic thresholding takes a list: enabled, then "
            f"{', '.join(_THRESHOLDING_FIELDS)}; but got {args!r}"
        )
    if not args[0]:
        return None
    values = dict(zip(_THRESHOLDING_FIELDS, args[1:], strict=False))
    if "separate_channels" in values:
        values["separate_channels"] = str(values["separate_channels"]).lower() in ("true", "enable")
    return Thresholding(**values)


def to_payload(request: Request) -> dict[str, Any]:
    """Write a request as a payload; `parse_payload` reads the same request back.

    Args:
        request: What to draw.

    Returns:
        A JSON object for A1111's and Forge's API. Two things that their API has no field for are
        ``stockpot_cfg_rescale``, and FreeU by blocks, which is written as FreeU.

    Example:
        >>> to_payload(Request("a cat", 3))["seed"]
        3
    """
    settings = request.settings
    batch = min(settings.batch, request.n_pictures)
    batch = batch if request.n_pictures % batch == 0 else 1
    payload: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": settings.negative,
        "seed": request.seed,
        "sampler_name": settings.sampler,
        "batch_size": batch,
        "n_iter": request.n_pictures // batch,
        "steps": settings.steps,
        "cfg_scale": settings.cfg,
        "enable_hr": settings.hires is not None,
    }
    payload |= {
        name: value
        for name, value in (("width", settings.width), ("height", settings.height))
        if value is not None
    }
    if settings.schedule != "Automatic":
        payload["scheduler"] = settings.schedule
    if settings.variation:
        payload["subseed"] = settings.variation_seed
        payload["subseed_strength"] = settings.variation
    if settings.tiling:
        payload["tiling"] = True
    if settings.eta:
        payload["eta"] = settings.eta
    if settings.cfg_rescale:
        payload[_RESCALE] = settings.cfg_rescale
    if settings.hires is not None:
        payload |= _hires_fields(settings.hires)
    scripts: dict[str, Any] = {}
    if settings.freeu is not None:
        scripts[FREEU] = {"args": [_freeu_fields(settings.freeu)]}
    if settings.thresholding is not None:
        values = [getattr(settings.thresholding, name) for name in _THRESHOLDING_FIELDS]
        scripts[THRESHOLDING] = {"args": [True, *values]}
    if scripts:
        payload["alwayson_scripts"] = scripts
    payload["override_settings"] = _override_fields(request)
    return payload


def _hires_fields(hires: Hires) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "denoising_strength": hires.denoising,
        "hr_scale": hires.scale,
        "hr_upscaler": hires.upscaler,
        "hr_second_pass_steps": hires.steps,
        "hr_resize_x": hires.width,
        "hr_resize_y": hires.height,
    }
    optional = {"hr_sampler_name": hires.sampler, "hr_prompt": hires.prompt,
                "hr_negative_prompt": hires.negative, "hr_cfg": hires.cfg}  # fmt: skip
    return fields | {name: value for name, value in optional.items() if value}


def _freeu_fields(freeu: FreeU) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "enable": True,
        "start_ratio": freeu.start,
        "stop_ratio": freeu.stop,
        "transition_smoothness": freeu.smoothness,
        "version": str(freeu.version),
        "stage_infos": [asdict(stage) for stage in freeu.stages],
    }


def _override_fields(request: Request) -> dict[str, Any]:
    settings = request.settings
    fields: dict[str, Any] = {
        "CLIP_stop_at_last_layers": settings.clip_skip,
        "randn_source": settings.noise,
    }
    if settings.step_delta:
        fields["eta_noise_seed_delta"] = settings.step_delta
    if settings.emphasis != "Original":
        fields["emphasis"] = settings.emphasis
    for name, file in (("sd_model_checkpoint", request.model), ("sd_vae", request.vae)):
        if file.name:
            fields[name] = f"{file.name} [{file.hash}]" if file.hash else file.name
    return fields
