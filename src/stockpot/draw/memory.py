"""Drawing with little memory: tiles, slices, and parts that wait elsewhere; and what it took."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

from stockpot.errors import Problem, RequestError

if TYPE_CHECKING:
    from stockpot.draw.parts import Parts

__all__ = [
    "VRAM", "Vram", "check_device", "few_threads", "peak_bytes", "reset_peak", "save_memory",
    "vae_at_hand",
]  # fmt: skip

_SMALL_LATENT = 16

Vram = Literal["high", "medium", "low"]
VRAM: tuple[Vram, ...] = get_args(Vram)
"""How much memory the device has: ``medium`` decodes large pictures in tiles and one at a time;
``low`` also computes attention in slices, and keeps text encoders and VAE in main memory while
they are not needed. The pictures differ in rounding, and at the seams of tiles."""


def check_device(device: str) -> None:
    """Stop where torch cannot compute on a device, before anything is loaded.

    Args:
        device: Such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        RequestError: torch knows no such device, or sees none of it here; it says what there is.

    Example:
        >>> check_device("cpu")
    """
    import torch

    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        wanted = torch.device(device)
    except RuntimeError:
        wanted = None
    ok = wanted is not None and wanted.type in {name.partition(":")[0] for name in here}
    if ok and (wanted is None or wanted.index is None or wanted.type == "cpu" or device in here):
        return
    problem = Problem("device", f"this machine has no device {device!r} that torch "
                      f"{torch.__version__} can compute on", "--device",
                      f"use one of {', '.join(here)}")  # fmt: skip
    raise RequestError([problem])


def save_memory(parts: Parts, vram: Vram) -> None:
    """Arrange a model for a device with little memory.

    Args:
        parts: The model, on its device.
        vram: See `VRAM`.
    """
    if vram == "high":
        return
    parts.vae.enable_tiling()
    parts.vae.enable_slicing()
    if vram == "low":
        parts.unet.set_attention_slice("auto")
        for name in ("vae", "text_encoder", "text_encoder_2"):
            part = getattr(parts, name)
            if part is not None:
                part.to("cpu")


@contextmanager
def vae_at_hand(parts: Parts) -> Iterator[Any]:
    """Have the VAE on the UNet's device, and the UNet out of its way where it waited elsewhere.

    Args:
        parts: The model.

    Yields:
        The VAE.
    """
    vae, unet = parts.vae, parts.unet
    device = unet.device
    if vae.device == device:
        yield vae
        return
    unet.to("cpu")
    vae.to(device)
    try:
        yield vae
    finally:
        vae.to("cpu")
        unet.to(device)


@contextmanager
def few_threads(parts: Parts) -> Iterator[None]:
    """Let one thread draw pictures so small that more of them only wait for each other.

    Args:
        parts: The model; whether its pictures are small is in its UNet's description.

    Yields:
        Nothing; afterwards torch has as many threads as before.
    """
    import torch

    before = torch.get_num_threads()
    if int(parts.unet.config.sample_size) <= _SMALL_LATENT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reset_peak(device: str) -> None:
    """Begin measuring; only a graphics card can.

    Args:
        device: A torch device.
    """
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: str) -> int:
    """Tell the most memory that was in use.

    Args:
        device: A torch device.

    Returns:
        Bytes: on a graphics card since `reset_peak`, of tensors; else of this whole process since
        it began, 0 where the system does not say.
    """
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
