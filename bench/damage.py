"""Damaged copies of a checkpoint, each in exactly one way, with the diagnosis that is right.

    python bench/damage.py FOLDER             # write them all, from the zoo's base
    python bench/damage.py FOLDER --check     # ask `stockpot inspect --deep`, and mend what can be

`tests/inspect/test_damage.py` makes the same copies and asks the same.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

TEXT = "cond_stage_model.transformer.text_model."
UNET = "model.diffusion_model."
VAE = "first_stage_model."
IDS = f"{TEXT}embeddings.position_ids"
WEIGHT = f"{UNET}output_blocks.5.0.in_layers.2.weight"
OTHER = f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"
SQUARE = f"{VAE}decoder.mid.attn_1.q.weight"

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]


@dataclass(frozen=True)
class Damage:
    """One way to damage a checkpoint.

    Attributes:
        name: Of the copy.
        code: The finding that it must lead to.
        key: What the finding must point at; any where empty.
        repair: `alone`, `base`, or empty where nothing mends it.
        make: From the whole file's bytes to the copy's.
    """

    name: str
    code: str
    key: str
    repair: str
    make: Callable[[bytes], bytes]


def parse(file: bytes) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a well-formed file."""
    (size,) = struct.unpack("<Q", file[:8])
    header: dict[str, Any] = json.loads(file[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for key, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[key] = (entry["dtype"], tuple(entry["shape"]), file[begin:end])
    return tensors, metadata


def build(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """A well-formed file."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for key, (dtype, shape, data) in tensors.items():
        end = position + len(data)
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return with_header(json.dumps(entries).encode(), b"".join(d for _, _, d in tensors.values()))


def with_header(text: bytes, data: bytes) -> bytes:
    """Bytes of a header and data that may not fit each other."""
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tensors_changed(change: Callable[[Tensors], None]) -> Callable[[bytes], bytes]:
    """Change the tensors, and write the file anew."""

    def make(file: bytes) -> bytes:
        tensors, metadata = parse(file)
        change(tensors)
        return build(tensors, metadata)

    return make


def header_changed(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Change the header's entries, and leave the data as they are."""

    def make(file: bytes) -> bytes:
        (size,) = struct.unpack("<Q", file[:8])
        entries = json.loads(file[8 : 8 + size])
        change(entries)
        return with_header(json.dumps(entries).encode(), file[8 + size :])

    return make


def values_changed(key: str, value: float, dtype: str = "F16") -> Callable[[bytes], bytes]:
    """Set one value in the middle of a tensor."""

    def change(tensors: Tensors) -> None:
        _, shape, data = tensors[key]
        values = np.frombuffer(data, np.float16).astype({"F16": "<f2", "F32": "<f4"}[dtype])
        values[len(values) // 2] = value
        tensors[key] = (dtype, shape, values.tobytes())

    return tensors_changed(change)


def _ids(values: Any, dtype: str) -> Callable[[bytes], bytes]:
    def change(tensors: Tensors) -> None:
        tensors[IDS] = (dtype, (1, 77), values.tobytes())

    return tensors_changed(change)


def _without(prefix: str) -> Callable[[bytes], bytes]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(prefix)]:
            del tensors[key]

    return tensors_changed(change)


def _set(key: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Callable[[bytes], bytes]:
    return tensors_changed(lambda tensors: tensors.update({key: (dtype, shape, data)}))


def _reshape(tensors: Tensors) -> None:
    dtype, shape, data = tensors[SQUARE]
    tensors[SQUARE] = (dtype, shape[:2], data)


def _transpose(tensors: Tensors) -> None:
    dtype, shape, data = tensors[OTHER]
    tensors[OTHER] = (dtype, shape[::-1], data)


def _old_names(tensors: Tensors) -> None:
    renamed = {key.replace("text_model.", ""): value for key, value in tensors.items()}
    tensors.clear()
    tensors.update(renamed)


def _two_names(tensors: Tensors) -> None:
    key = f"{TEXT}final_layer_norm.bias"
    tensors[key.replace("text_model.", "")] = tensors[key]


def _ema(tensors: Tensors) -> None:
    kept = [key for key in tensors if key.startswith(UNET)][:-3]
    for key in kept:
        tensors["model_ema." + key.removeprefix("model.").replace(".", "")] = tensors[key]


def _wide(tensors: Tensors) -> None:
    for key, (dtype, shape, data) in tensors.items():
        if dtype == "F16":
            wide = np.frombuffer(data, "<f2").astype("<f4").tobytes()
            tensors[key] = ("F32", shape, wide)


def _mixed(tensors: Tensors) -> None:
    dtype, shape, data = tensors[WEIGHT]
    # Half a step beside an fp16 number, which fp16 cannot hold.
    wide = np.frombuffer(data, "<f2").astype("<f4") * np.float32(1 + 2**-12)
    tensors[WEIGHT] = ("F32", shape, wide.tobytes())


def _foreign(tensors: Tensors) -> None:
    """The text encoder of Stable Diffusion 2 in place of this one's: names count, not values."""
    for key in [key for key in tensors if key.startswith("cond_stage_model.")]:
        del tensors[key]
    width = 1024
    shapes = {
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,),
        "ln_2.bias": (width,), "attn.in_proj_bias": (3 * width,), "attn.out_proj.bias": (width,),
        "mlp.c_fc.bias": (4 * width,), "mlp.c_proj.bias": (width,),
    }  # fmt: skip
    for layer in range(23):
        for name, shape in shapes.items():
            key = f"cond_stage_model.model.transformer.resblocks.{layer}.{name}"
            tensors[key] = ("F16", shape, np.full(shape, 0.5, "<f2").tobytes())


def _quantised(tensors: Tensors) -> None:
    _, shape, data = tensors[WEIGHT]
    tensors[WEIGHT] = ("I8", shape, bytes(len(data) // 2))


def _zeros(tensors: Tensors) -> None:
    dtype, shape, data = tensors[SQUARE]
    tensors[SQUARE] = (dtype, shape, bytes(len(data)))


def _metadata(**fields: str) -> Callable[[bytes], bytes]:
    def make(file: bytes) -> bytes:
        tensors, metadata = parse(file)
        return build(tensors, {**metadata, **{k.replace("__", "."): v for k, v in fields.items()}})

    return make


def _twice(file: bytes) -> bytes:
    (size,) = struct.unpack("<Q", file[:8])
    entries = json.loads(file[8 : 8 + size])
    text = json.dumps(entries)
    again = f', "{OTHER}": {json.dumps(entries[OTHER])}}}'
    return with_header((text[:-1] + again).encode(), file[8 + size :])


def _gap(entries: dict[str, Any]) -> None:
    begin, end = entries[OTHER]["data_offsets"]
    entries[OTHER]["data_offsets"] = [begin + 2, end]
    entries[OTHER]["shape"] = [(end - begin - 2) // 2]


def _overlap(entries: dict[str, Any]) -> None:
    entries[OTHER]["data_offsets"] = entries[WEIGHT]["data_offsets"]
    entries[OTHER]["shape"] = entries[WEIGHT]["shape"]


def _negative(entries: dict[str, Any]) -> None:
    entries[OTHER]["shape"][0] *= -1


def _wrong_size(entries: dict[str, Any]) -> None:
    entries[OTHER]["shape"][0] += 1


_FLOAT_IDS = np.arange(77, dtype="<f4") * np.float32(0.95) + np.arange(77) * np.float32(0.05)
_WRONG_IDS = np.trunc(_FLOAT_IDS).astype("<i8")

DAMAGES = (
    # What a download or a disk does.
    Damage("empty", "not-a-checkpoint", "", "", lambda file: b""),
    Damage("web-page", "not-a-checkpoint", "", "", lambda file: b"<!DOCTYPE html><html></html>"),
    Damage("pointer", "not-a-checkpoint", "", "",
           lambda file: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    Damage("cut-in-data", "truncated", "", "", lambda file: file[: len(file) * 2 // 3]),
    Damage("cut-in-header", "truncated", "", "", lambda file: file[:1000]),
    Damage("trailing-bytes", "header", "", "", lambda file: file + b"more"),
    # What a program does to a header.
    Damage("huge-header", "header", "", "", lambda file: b"\xff" * 8 + file[8:]),
    Damage("not-json", "header", "", "", lambda file: file[:9] + b"}" + file[10:]),
    Damage("key-twice", "header", "", "", _twice),
    Damage("overlap", "header", "", "", header_changed(_overlap)),
    Damage("gap", "header", "", "", header_changed(_gap)),
    Damage("negative-shape", "header", "", "", header_changed(_negative)),
    Damage("wrong-size", "header", "", "", header_changed(_wrong_size)),
    # What a merge or a converter does to a model.
    Damage("missing-key", "missing-key", OTHER, "base", _without(OTHER)),
    Damage("no-vae", "missing-component", "vae", "base", _without(VAE)),
    Damage("no-text-encoder", "missing-component", "te", "base", _without("cond_stage_model.")),
    Damage("unknown-key", "unknown-key", "lora_unet_x.alpha", "",
           _set("lora_unet_x.alpha", "F16", (), bytes(2))),
    Damage("transposed", "shape", OTHER, "", tensors_changed(_transpose)),
    Damage("reshaped", "reshaped", SQUARE, "alone", tensors_changed(_reshape)),
    Damage("old-names", "old-names", "", "alone", tensors_changed(_old_names)),
    Damage("two-names", "two-names", "cond_stage_model.transformer.final_layer_norm.bias", "alone",
           tensors_changed(_two_names)),
    Damage("foreign-text-encoder", "foreign-component", "", "", tensors_changed(_foreign)),
    Damage("ids-float", "position-ids-float", IDS, "alone", _ids(_FLOAT_IDS.astype("<f4"), "F32")),
    Damage("ids-half", "position-ids-float", IDS, "alone",
           _ids(np.arange(77).astype("<f2"), "F16")),
    Damage("ids-cut", "position-ids-wrong", IDS, "alone", _ids(_WRONG_IDS, "I64")),
    Damage("ids-narrow", "position-ids-wrong", IDS, "alone",
           _ids(np.arange(77, dtype="<i4"), "I32")),
    Damage("ids-short", "position-ids-wrong", IDS, "alone",
           _set(IDS, "I64", (1, 76), np.arange(76, dtype="<i8").tobytes())),
    Damage("ema-incomplete", "ema-incomplete", "ema", "", tensors_changed(_ema)),
    Damage("quantised", "integer-weights", WEIGHT, "", tensors_changed(_quantised)),
    Damage("mixed-precision", "mixed-precision", "unet", "", tensors_changed(_mixed)),
    Damage("wide", "lossless-fp16", "", "", tensors_changed(_wide)),
    Damage("nan", "nan", WEIGHT, "base", values_changed(WEIGHT, float("nan"))),
    Damage("infinite", "inf", WEIGHT, "base", values_changed(WEIGHT, float("-inf"))),
    Damage("overflow", "fp16-overflow", WEIGHT, "", values_changed(WEIGHT, 70000.0, "F32")),
    Damage("zeros", "all-zero", SQUARE, "",
           tensors_changed(_zeros)),
    # What metadata claim.
    Damage("claims-sdxl", "other-claim", "modelspec.architecture", "",
           _metadata(modelspec__architecture="stable-diffusion-xl-v1-base")),
    Damage("claims-epsilon", "prediction-conflict", "modelspec.prediction_type", "",
           lambda file: _metadata(modelspec__prediction_type="epsilon")(
               _set("v_pred", "F16", (0,), b"")(file))),
)  # fmt: skip
"""Every damage; the first group cannot be opened at all."""


def write_all(whole: Path, folder: Path) -> Iterator[tuple[Damage, Path]]:
    """Write every damaged copy of a whole file."""
    file = whole.read_bytes()
    for damage in DAMAGES:
        path = folder / f"{damage.name}.safetensors"
        path.write_bytes(damage.make(file))
        yield damage, path


def check(damage: Damage, path: Path, whole: Path) -> list[str]:
    """Ask for the diagnosis, mend, and ask again; what is not as it must be comes back."""
    from stockpot.checkpoints import open_checkpoint
    from stockpot.errors import PreflightError
    from stockpot.inspect import Wanted, inspect_checkpoint, inspect_path, plan_repair, repair

    found = inspect_path(path, Wanted(deep=True))
    faults = []
    hits = [problem for problem in found.problems if problem.code == damage.code]
    if not any(problem.where == damage.key or not damage.key for problem in hits):
        faults.append(f"expected {damage.code} at {damage.key}, found {list(found.problems)[:5]}")
    if found.kind == "unreadable":
        return faults
    output = path.with_suffix(".mended.safetensors")
    with open_checkpoint(path) as source, open_checkpoint(whole) as base:
        if not damage.repair:
            plan = plan_repair(source, base)
            if any(problem.code == damage.code for problem in plan.mended):
                faults.append("a repair is planned that cannot be")
            return faults
        if damage.repair == "base" and damage.code != "missing-component":
            try:
                repair(source, output)
                faults.append("mended without a base")
            except PreflightError:
                pass
        repair(source, output, base=base if damage.repair == "base" else None)
        with open_checkpoint(output) as mended:
            after = inspect_checkpoint(mended, Wanted(deep=True))
            whole_found = inspect_checkpoint(base, Wanted(deep=True))
            if {p.code for p in after.problems} - {p.code for p in whole_found.problems}:
                faults.append(f"still there after mending: {after.problems}")
            values = {name: facts.hash for name, facts in after.components.items()}
            expected = {name: facts.hash for name, facts in whole_found.components.items()}
            if values != expected:
                faults.append(f"the mended copy differs from the whole file: {values}")
    output.unlink()
    return faults


def main() -> None:
    """Write the copies; with --check, ask about each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    from stockpot.zoo import member

    whole = member("base").path
    options.folder.mkdir(parents=True, exist_ok=True)
    n_bad = 0
    for damage, path in write_all(whole, options.folder):
        faults = check(damage, path, whole) if options.check else []
        n_bad += bool(faults)
        state = "; ".join(faults) or ("as it must be" if options.check else "written")
        print(f"{damage.name:<22} {damage.code:<22} {damage.repair or '–':<6} {state}")
    print(f"{len(DAMAGES)} damaged copies, {n_bad} not as they must be")
    sys.exit(bool(n_bad))


if __name__ == "__main__":
    main()
