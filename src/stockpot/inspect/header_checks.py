"""Findings that a header alone can tell, position ids included, which are a few hundred bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from stockpot.checkpoints import Source, TensorInfo
from stockpot.errors import Problem
from stockpot.inspect.adapters import claimed_architecture
from stockpot.inspect.identity import Identity
from stockpot.inspect.inspection import Traits, Waste
from stockpot.layouts import KeySpec, counter_values, get_layout

__all__ = [
    "MOST_LISTED",
    "check_header",
    "find_traits",
    "find_waste",
    "is_wide",
    "limited",
    "position_ids",
]

MOST_LISTED = 200
"""How many findings of one code are listed; the last one then says how many more there are."""

_WIDE = {"F32": 2, "F64": 4}
# Schedules, counters and strangers have types of their own for a reason.
_MIXED = {"ema", "other", "unknown"}
_FIRST = "model.diffusion_model.input_blocks.0.0.weight"
_PURPOSES = {9: "inpainting", 8: "instruct-pix2pix", 5: "depth to image"}
_MOST_COUNTER_BYTES = 1 << 16


def limited(code: str, problems: Sequence[Problem]) -> Iterator[Problem]:
    """Cut a long list of findings of one code.

    Args:
        code: The code.
        problems: All of them.

    Yields:
        At most `MOST_LISTED`, and one more that counts the rest.

    Example:
        >>> found = list(limited("nan", [Problem("nan", "one value", str(i)) for i in range(300)]))
        >>> len(found), found[-1].message
        (201, 'and 100 more like this')
    """
    yield from problems[:MOST_LISTED]
    if len(problems) > MOST_LISTED:
        yield Problem(code, f"and {len(problems) - MOST_LISTED} more like this")


def find_traits(source: Source, identity: Identity, counters: Mapping[str, str]) -> Traits:
    """Say how a model is meant to be used.

    Args:
        source: The checkpoint; markers and metadata are looked at.
        identity: What it is.
        counters: State of each text encoder's position ids.

    Returns:
        The traits.
    """
    first = next(
        (
            source.tensors[key].shape
            for key in (_FIRST.removeprefix(identity.prefix), "unet/conv_in.weight")
            if key in source.tensors and len(source.tensors[key].shape) == 4
        ),
        None,
    )
    channels = first[1] if first else None
    prediction, said_by = _prediction(source)
    flags = (
        source.metadata.get(key, "").lower()
        for key in ("ss_zero_terminal_snr", "modelspec.zero_terminal_snr")
    )
    return Traits(
        prediction,
        said_by,
        "ztsnr" in source.tensors or any(flag == "true" for flag in flags),
        channels,
        _PURPOSES.get(channels or 4, "" if channels in (4, None) else "unknown"),
        any(key.startswith("model_ema.") for key in source.tensors),
        dict(counters),
    )


def _prediction(source: Source) -> tuple[str | None, str]:
    if "v_pred" in source.tensors:
        return "v", "v_pred"
    claim = _claimed_prediction(source.metadata)
    return claim if claim is not None else (None, "")


def _claimed_prediction(metadata: Mapping[str, str]) -> tuple[str, str] | None:
    key = "modelspec.prediction_type"
    if key in metadata:
        value = metadata[key].lower()
        if value.startswith("v"):
            return "v", key
        if value.startswith("eps"):
            return "epsilon", key
    key = "ss_v_parameterization"
    if metadata.get(key, "").lower() == "true":
        return "v", key
    return None


def is_wide(component: str, info: TensorInfo) -> bool:
    """Say whether a tensor would be narrower in most people's files.

    Args:
        component: Of the tensor; noise schedules have their precision for a reason.
        info: Its facts; a single number wastes nothing.
    """
    if info.dtype.name not in _WIDE or component == "other" or info.n_elements < 2:
        return False
    return not info.key.endswith("position_ids")  # of a wrong type: a fault of their own


def find_waste(members: Mapping[str, Sequence[TensorInfo]]) -> Waste:
    """Count bytes that the file could do without, from types alone.

    Args:
        members: Tensors by component.

    Returns:
        The bytes; `lossless` is for whoever read the values.
    """
    wide = sum(
        info.n_bytes - info.n_bytes // _WIDE[info.dtype.name]
        for name, infos in members.items()
        for info in infos
        if is_wide(name, info)
    )
    return Waste(sum(info.n_bytes for info in members.get("ema", ())), wide, None)


def position_ids(source: Source, identity: Identity) -> tuple[dict[str, str], list[Problem]]:
    """Look at the position ids of each text encoder that may have them.

    Args:
        source: The checkpoint; a few hundred bytes are read.
        identity: What it is.

    Returns:
        State by component: ``absent``, ``right``, ``wrong`` or ``float``; and what is wrong.
    """
    specs = {s.key: s for s in identity.layout.specs.values() if s.role == "counter"}
    held: dict[str, str] = {}
    for key in source.tensors:
        spec = identity.layout.spec_of(identity.prefix + key) if specs else None
        if spec is not None and spec.role == "counter":
            held[spec.key] = key
    states, problems = {}, []
    present = {identity.component_of(key) for key in source.tensors}
    for spec in specs.values():
        component = spec.cell.component
        if component not in present:
            continue
        states[component] = "absent"
        if spec.key in held:
            key = held[spec.key]
            states[component], problem = _counter_state(source, key, spec)
            problems += [problem] if problem else []
    return states, problems


def _counter_state(source: Source, key: str, spec: KeySpec) -> tuple[str, Problem | None]:
    info = source.tensors[key]
    expected = counter_values(spec)
    remedy = "stockpot repair writes the right ones"
    if not spec.accepts(info.shape) or info.n_bytes > _MOST_COUNTER_BYTES:
        message = f"must be {list(spec.shape)}, but are {list(info.shape)[:8]}"
        return "wrong", Problem("position-ids-wrong", message, key, remedy)
    import numpy as np

    from stockpot.inspect.values import as_half

    data = source.read_bytes(key)
    if info.dtype.is_float:
        kind = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(info.dtype.name)
        if kind is not None:
            values = np.frombuffer(data, kind).astype(np.float64)
        elif info.dtype.itemsize == 2:
            values = as_half(memoryview(data), info.dtype).view(np.float16).astype(np.float64)
        else:
            values = np.full(len(expected), np.nan)
        with np.errstate(invalid="ignore"):
            cut = np.where(np.isfinite(values), np.trunc(values), -1)
        n_wrong = int((cut != np.array(expected)).sum())
        effect = f"{n_wrong} of {len(expected)} are wrong" if n_wrong else "all are right"
        return "float", Problem(
            "position-ids-float",
            f"must be whole numbers (I64), but are {info.dtype}; cut to whole numbers {effect}",
            key,
            remedy,
        )
    kind_name = {"I": "int", "U": "uint", "B": "uint"}[info.dtype.name[0]]
    numbers = np.frombuffer(data, f"{kind_name}{8 * info.dtype.itemsize}").astype(np.int64)
    n_wrong = int((numbers != np.array(expected)).sum())
    if n_wrong:
        message = f"must be 0, 1, 2 …, but {n_wrong} of {len(expected)} are not"
        return "wrong", Problem("position-ids-wrong", message, key, remedy)
    if info.dtype.name != "I64":
        message = f"must be I64, but are {info.dtype}"
        return "wrong", Problem("position-ids-wrong", message, key, remedy)
    return "right", None


def check_header(
    source: Source,
    identity: Identity,
    members: Mapping[str, Sequence[TensorInfo]],
    traits: Traits,
) -> list[Problem]:
    """Find what is wrong or worth knowing in a header.

    Args:
        source: The checkpoint; nothing of it is read.
        identity: What it is.
        members: Its tensors by component.
        traits: Of the model.

    Returns:
        Problems, in the order of `CODES`, except those of position ids.
    """
    found: list[Problem] = []
    found += _against_table(source, identity)
    found += _precision(members)
    found += _weights_as_integers(source, identity)
    found += _contradictions(source, identity, traits)
    return found


def _against_table(source: Source, identity: Identity) -> Iterator[Problem]:
    fit, layout = identity.detection.fit, identity.layout
    own = identity.prefix
    foreign = {key for one in identity.foreign for key in one.keys}
    # Foreign keys stand where ours should, so ours are missing: one finding says both.
    replaced = {
        part.component.name
        for one in identity.foreign
        for part in layout.parts
        if any(key.startswith(part.component.prefix.split(".")[0]) for key in one.keys[:1])
    }

    def name(full: str) -> str:
        return full.removeprefix(own)

    if identity.kind == "checkpoint":
        for component in fit.missing_components:
            if component not in replaced:
                yield Problem(
                    "missing-component",
                    f"there is no {component} in this file",
                    component,
                    "take it from another file: stockpot repair --base",
                )
    remedy = "get the file again, or take them from its base: stockpot repair --base"
    missing = [
        Problem("missing-key", f"{layout.title} has this key in its {component}", name(key), remedy)
        for component, keys in fit.missing_in.items()
        if component not in fit.missing_components
        for key in keys
    ]
    yield from limited("missing-key", missing)
    shapes = [
        Problem("shape", f"should be {list(expected)}, but is {list(got)[:8]}", name(key))
        for key, got, expected in fit.mismatched
        if key not in foreign and not (key == _FIRST and got[1:2] in {(n,) for n in _PURPOSES})
        and not _is_counter(identity, key)
    ]  # fmt: skip
    yield from limited("shape", shapes)
    for one in identity.foreign:
        yield Problem(
            "foreign-component",
            f"{len(one.keys)} keys are those of the {one.title} of {get_layout(one.layout).title}",
            one.keys[0],
        )
    unknown = [key for key in fit.unknown if key not in foreign]
    if identity.kind == "clip":
        unknown = []  # the part that looks at pictures
    twice = [key for key in unknown if layout.canonical_key(key) in source.tensors]
    twice = [key for key in twice if layout.canonical_key(key) != key]
    known_twice = set(twice)
    yield from limited(
        "unknown-key",
        [
            Problem("unknown-key", f"{layout.title} has no such key", name(key))
            for key in unknown
            if key not in known_twice
        ],
    )
    yield from limited(
        "two-names",
        [
            Problem(
                "two-names",
                f"is there as {layout.canonical_key(key)} too; which one is used depends on the "
                "program",
                name(key),
                "stockpot repair keeps the usual name",
            )
            for key in twice
        ],
    )
    if fit.aliased:
        yield Problem(
            "old-names",
            f"{len(fit.aliased)} tensors lack `text_model.` in their names, as in NovelAI's files; "
            "some programs do not find them",
            name(next(iter(fit.aliased))),
            "stockpot repair gives them the usual names",
        )
    if fit.reshaped:
        key, (got, expected) = next(iter(fit.reshaped.items()))
        yield Problem(
            "reshaped",
            f"{len(fit.reshaped)} tensors hold the right numbers in another shape: here "
            f"{list(got)}, usually {list(expected)}; some programs refuse them",
            name(key),
            "stockpot repair gives them the usual shape",
        )


def _is_counter(identity: Identity, key: str) -> bool:
    spec = identity.layout.spec_of(key)
    return spec is not None and spec.role == "counter"


def _precision(members: Mapping[str, Sequence[TensorInfo]]) -> Iterator[Problem]:
    wide: dict[str, Counter[str]] = {}
    for name, infos in members.items():
        kinds = Counter(
            info.dtype.name
            for info in infos
            if info.dtype.is_float and not info.key.endswith("position_ids")
        )
        if len(kinds) > 1 and name not in _MIXED:
            counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
            yield Problem("mixed-precision", f"its {name} holds {counts}", name)
        found = Counter(info.dtype.name for info in infos if is_wide(name, info))
        if found:
            wide[name] = found
    if members.get("ema"):
        n_ema = len(members["ema"])
        yield Problem("ema", f"{n_ema} tensors are an EMA copy of the UNet", "ema",
                      "only training on needs it")  # fmt: skip
        if n_ema < len(members.get("unet", ())):
            message = f"it has {n_ema} tensors, and the UNet {len(members['unet'])}"
            yield Problem("ema-incomplete", message, "ema")
    if wide:
        kinds = sum(wide.values(), Counter[str]())
        counts = " and ".join(f"{n} tensors in {kind}" for kind, n in kinds.most_common())
        message = f"{counts}; --deep tells whether fp16 would hold the same values"
        remedy = "stockpot merge -e a --dtype fp16 makes it narrower"
        yield Problem("wide", message, ", ".join(wide), remedy)


def _weights_as_integers(source: Source, identity: Identity) -> Iterator[Problem]:
    found = []
    for key, info in source.tensors.items():
        if info.dtype.is_float or not info.n_elements:
            continue
        spec = identity.layout.spec_of(identity.prefix + key)
        if spec is not None and spec.role == "weight":
            found.append(
                Problem(
                    "integer-weights",
                    f"is {info.dtype}: packed by a quantiser, and of no use without its scales",
                    key,
                )
            )
    yield from limited("integer-weights", found)


def _contradictions(source: Source, identity: Identity, traits: Traits) -> Iterator[Problem]:
    claim = _claimed_prediction(source.metadata)
    if claim is not None and claim[0] != traits.prediction:
        yield Problem(
            "prediction-conflict",
            f"the key {traits.prediction_from} says {traits.prediction}, but the metadata say "
            f"{claim[0]}",
            claim[1],
        )
    named = claimed_architecture(source.metadata)
    if (
        named is not None
        and identity.architecture not in ("generic", named[0])
        and named[0] not in identity.detection.also
    ):
        yield Problem(
            "other-claim",
            f"the metadata say {get_layout(named[0]).title}, but the keys and shapes are of "
            f"{get_layout(identity.architecture).title}",
            named[1],
        )
