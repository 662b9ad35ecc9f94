"""Headers and pickles made to break a reader: mutated, from a grammar, searched for."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Forge = Callable[[random.Random], bytes]

NUMBERS = [0, 1, 2, 4, 7, 8, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64]
NUMBERS += [-1, -(2**31), -(2**63), 10**30]
TYPES = ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U8", "BOOL", "F12", "", "f16"]


# Headers of safetensors.


def seed_header(rng: random.Random) -> bytes:
    """A good file of a few tensors."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "ünï": '\\"{}[],:'}}
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1, "BOOL": 1}
    place = 0
    for i in range(rng.randrange(5)):
        kind = rng.choice(list(sizes))
        shape = [rng.randrange(4) for _ in range(rng.randrange(4))]
        n_bytes = sizes[kind]
        for length in shape:
            n_bytes *= length
        span = [place, place + n_bytes]
        entries[f"model.{i}.weight"] = {"dtype": kind, "shape": shape, "data_offsets": span}
        place += n_bytes
    return framed(json.dumps(entries).encode(), bytes(place))


def framed(text: bytes, data: bytes) -> bytes:
    """A header with its right length."""
    return struct.pack("<Q", len(text)) + text + data


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The same with a few bytes changed, taken out, doubled or put in."""
    out = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4, 16])):
        begin = rng.randrange(len(out) + 1)
        end = min(len(out), begin + rng.choice([1, 1, 2, 4, 8, 40]))
        action = rng.randrange(6)
        if action == 0 and begin < len(out):
            out[begin] ^= 1 << rng.randrange(8)
        elif action == 1:
            del out[begin:end]
        elif action == 2:
            out[begin:begin] = out[begin:end] * rng.choice([1, 2, 50])
        elif action == 3:
            out[begin:end] = rng.randbytes(end - begin)
        elif action == 4:
            number = rng.choice(NUMBERS) & (2**64 - 1)
            out[begin : begin + 8] = struct.pack(rng.choice(["<Q", ">Q"]), number)
        else:
            other = rng.randrange(len(out) + 1)
            out[begin:begin] = out[other : other + rng.randrange(60)]
    return bytes(out)


def mutated_header(rng: random.Random) -> bytes:
    """A good file, mutated; half of the time with a length that fits."""
    data = seed_header(rng)
    if rng.random() < 0.5:
        return mutated(rng, data)
    (length,) = struct.unpack_from("<Q", data)
    return framed(mutated(rng, data[8 : 8 + length]), data[8 + length :])


def grammar_header(rng: random.Random) -> bytes:
    """A header whose every part may be wrong."""
    parts = [f"{quoted(rng)}:{grammar_entry(rng)}" for _ in range(rng.randrange(5))]
    if rng.random() < 0.3:
        parts.append(f'"__metadata__":{grammar_value(rng, 3)}')
    text = ("{" + ",".join(parts) + "}").encode("utf-8", "surrogatepass")
    return framed(text, rng.randbytes(rng.choice([0, 4, 8, 64])))


def quoted(rng: random.Random) -> str:
    """A key, some with what should not be in one."""
    names = ["a", "b", "a", "model.weight", "\x1b[2J", "\ud800", "é" * 3, "\u202e", "k" * 2000, ""]
    return json.dumps(rng.choice(names), ensure_ascii=rng.random() < 0.5)


def grammar_entry(rng: random.Random) -> str:
    """What stands under a key."""
    if rng.random() < 0.2:
        return grammar_value(rng, 3)
    begin = rng.choice([0, 0, 0, 4, *NUMBERS])
    fields = {
        "dtype": json.dumps(rng.choice(TYPES)),
        "shape": json.dumps([rng.choice(NUMBERS) for _ in range(rng.choice([0, 1, 2, 3, 40]))]),
        "data_offsets": json.dumps([begin, begin + rng.choice([0, 1, 4, 8, *NUMBERS])]),
    }
    chosen = [key for key in fields if rng.random() < 0.95] + ["dtype"] * (rng.random() < 0.05)
    wrong = {key: grammar_value(rng, 2) for key in chosen if rng.random() < 0.1}
    return "{" + ",".join(f'"{key}":{wrong.get(key, fields[key])}' for key in chosen) + "}"


def grammar_value(rng: random.Random, depth: int) -> str:
    """Any JSON, and some that is none."""
    kind = rng.randrange(10 if depth else 7)
    if kind < 3:
        return str(rng.choice(NUMBERS))
    if kind < 6:
        return rng.choice(
            ["null", "true", "NaN", "-Infinity", "1e999", "1.5", '"x"', "01", "", "]"]
        )
    if kind == 6:
        return quoted(rng)
    inner = [grammar_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return "[" * rng.choice([1, 1, 1, 3000]) + ",".join(inner) + "]"
    return "{" + ",".join(f"{quoted(rng)}:{value}" for value in inner) + "}"


def large_header(rng: random.Random) -> bytes:
    """Some megabytes of one thing, of which a reader might make much more."""
    n = rng.choice([1_000_000, 3_900_000, 24_000_000])
    entry = b'"%d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}'
    kinds: list[Callable[[], bytes]] = [
        lambda: b'{"a":' + b"[" * n,
        lambda: b'{"a":' + b'{"a":' * (n // 5),
        lambda: b'{"a":[' + b"{}," * (n // 3) + b"{}]}",
        lambda: b'{"a":[' + (b"[" * 400 + b"]" * 400 + b",") * (n // 801) + b"0]}",
        lambda: b'{"a":[' + b'"a",' * (n // 4) + b"0]}",
        lambda: (
            b"{" + b",".join(entry % (i, i, i + 1) for i in range(min(n // 52, 120_000))) + b"}"
        ),
        lambda: b"{" + b",".join(b'"%d":0' % i for i in range(min(n // 9, 490_000))) + b"}",
        lambda: b'{"__metadata__":{"\xf0\x9f\x8d\xb2":"' + b"x" * n + b'"}}',
        lambda: b'{"__metadata__":{"a":"' + b'\\"' * (n // 2) + b'"}}',
        lambda: b'{"__metadata__":{"a":"' + b"\\ud800" * (n // 6) + b'"}}',
        lambda: b'{"' + b"k" * n + b'":0}',
        lambda: b'{"a":' + b"9" * n + b"}",
        lambda: b'{"a":[' + b"123456789," * min(n // 10, 900_000) + b"0]}",
        lambda: b" " * n + b"{}",
        lambda: b'{"' + b"\\" * n,
    ]
    return framed(rng.choice(kinds)(), b"")


# Pickles of torch.

ALLOWED = [
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"), ("collections", "OrderedDict"),
    ("torch", "HalfStorage"), ("torch", "FloatStorage"), ("torch.storage", "UntypedStorage"),
    ("torch", "float16"), ("torch", "Size"), ("numpy", "dtype"), ("builtins", "set"),
    ("pytorch_lightning.callbacks", "ModelCheckpoint"),
    ("torch.nn.modules.container", "ParameterDict"),
]  # fmt: skip
EVIL = [
    ("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "getattr"), ("subprocess", "Popen"), ("torch.hub", "load"), ("torch", "load"),
    ("numpy", "load"), ("torch._utils", "_import_dotted_name"), ("importlib", "import_module"),
    ("collections", "OrderedDict.__init__"), ("stockpot.errors", "StockpotError"), ("", ""),
]  # fmt: skip


def op_text(value: str) -> bytes:
    """The instruction for a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def op_global(name: tuple[str, str]) -> bytes:
    """The instruction for a name."""
    return b"c" + "\n".join(name).encode() + b"\n"


def op_storage(key: str, n: int, kind: str = "HalfStorage") -> bytes:
    """The instructions for a storage."""
    head = b"(" + op_text("storage") + op_global(("torch", kind)) + op_text(key) + op_text("cpu")
    return head + b"M" + struct.pack("<H", n) + b"tQ"


def op_tensor(rng: random.Random) -> bytes:
    """The instructions for a tensor, mostly a good one."""
    n = 16
    shape, strides = rng.choice([((4, 4), (4, 1)), ((4, 4), (1, 4)), ((16,), (1,)), ((2,), (8,)),
                                 ((), ()), ((0,), (1,)), ((3, 2), (5, 2))])  # fmt: skip
    made = op_global(ALLOWED[0]) + b"(" + op_storage(rng.choice("01"), n)
    made += b"K" + bytes([rng.choice([0] * 9 + [1, 9])])
    for numbers in (shape, strides):
        made += b"(" + b"".join(b"K" + bytes([number]) for number in numbers) + b"t"
    return made + b"\x89" + op_global(("collections", "OrderedDict")) + b")RtR"


def seed_pickle(rng: random.Random) -> bytes:
    """A good pickle of a few tensors, some in a trainer's wrapping."""
    items = b"".join(op_text(f"k{i}") + op_tensor(rng) for i in range(rng.randrange(1, 4)))
    inner = b"}(" + items + b"u"
    if rng.random() < 0.5:
        rest = op_text("epoch") + b"K\x03" + op_text("x") + op_global(ALLOWED[-2]) + b")\x81}b"
        inner = b"}(" + op_text("state_dict") + inner + rest + b"u"
    return b"\x80\x02" + inner + b"."


def grammar_pickle(rng: random.Random) -> bytes:
    """Instructions in any order, with arguments that fit."""
    pieces: list[Callable[[], bytes]] = [
        lambda: bytes([rng.randrange(256)]),
        lambda: op_global(rng.choice(ALLOWED)),
        lambda: op_global(rng.choice(ALLOWED)),
        lambda: op_global(rng.choice(EVIL)) if rng.random() < 0.2 else b"N",
        lambda: op_storage(rng.choice("012"), rng.choice([0, 2, 16])),
        lambda: op_tensor(rng),
        lambda: op_text(rng.choice(["state_dict", "a", "b", "storage", "é", "", "_parameters"])),
        lambda: rng.choice(
            [b"K\x00", b"K\x02", b"J\xff\xff\xff\xff", b"\x88", b"N", b"G" + bytes(8)]
        ),
        lambda: b"\x8a\x09" + rng.randbytes(9),
        lambda: rng.choice([b"(", b"(", b")", b"]", b"}", b"}", b"\x8f"]),
        lambda: rng.choice([b"t", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a", b"e", b"d", b"l"]),
        lambda: rng.choice([b"R", b"R", b"b", b"\x81", b"o", b"Q", b"\x93", b"0", b"1", b"\x90"]),
        lambda: rng.choice([b"q", b"h"]) + bytes([rng.randrange(4)]),
        lambda: b"\x94",
    ]
    body = b"".join(rng.choice(pieces)() for _ in range(rng.choice([3, 8, 20, 60])))
    if rng.random() < 0.7:
        good = b"}" + op_text("good") + op_tensor(rng) + b"s"
        body = good + op_text("a") + body + b"s"
    return b"\x80\x02" + body + b"."


def large_pickle(rng: random.Random) -> bytes:
    """Some megabytes of one instruction."""
    n = rng.choice([300_000, 3_000_000])
    kinds: list[Callable[[], bytes]] = [
        lambda: b"]" * n,
        lambda: b"}" * n,
        lambda: b"\x8f" * n,
        lambda: b")" + b"\x85" * n,
        lambda: b"}" + b"N" * n,
        lambda: b"}(" + b"NN" * (n // 2) + b"u",
        lambda: b"}" + b"".join(b"r" + struct.pack("<I", i * 4096) for i in range(n // 5)),
        lambda: b"]\x94" * (n // 2),
        lambda: op_text("🍲" * n),
        lambda: op_text("🍲" + "x" * 4 * n),
        lambda: (op_text("k") + b"]\x94]\x86") * (n // 10),
        lambda: op_global(ALLOWED[0]) * (n // 35),
        lambda: b"}(" + b"".join(op_text(str(i)) + op_tensor(rng) for i in range(n // 300)) + b"u",
    ]
    return b"\x80\x02" + rng.choice(kinds)() + b"."


def zipped(rng: random.Random, data: bytes) -> bytes:
    """A torch file with this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key in "01":
            archive.writestr(f"archive/data/{key}", bytes(range(32)))
        if rng.random() < 0.2:
            archive.writestr("archive/byteorder", rng.choice(["little", "big", "none"]))
    return buffer.getvalue()


def streamed(data: bytes) -> bytes:
    """The older format with this pickle."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    keys = [key for key in "01" if op_text(key) in data]
    storages = (struct.pack("<q", 16) + bytes(range(32))) * len(keys)
    tail = pickle.dumps(keys, 2) + storages
    return b"".join(pickle.dumps(value, 2) for value in head) + data + tail


def in_file(rng: random.Random, data: bytes) -> bytes:
    """A torch file of either format."""
    return zipped(rng, data) if rng.random() < 0.6 else streamed(data)


def mutated_pickle(rng: random.Random) -> bytes:
    """A good file, mutated in its pickle or anywhere."""
    data = seed_pickle(rng)
    if rng.random() < 0.6:
        return in_file(rng, mutated(rng, data))
    return mutated(rng, in_file(rng, data))


KINDS: dict[str, dict[str, Forge]] = {
    "headers": {"mutated": mutated_header, "grammar": grammar_header, "large": large_header},
    "pickles": {
        "mutated": mutated_pickle,
        "grammar": lambda rng: in_file(rng, grammar_pickle(rng)),
        "large": lambda rng: in_file(rng, large_pickle(rng)),
    },
}


def forged_by_hypothesis(kind: str, count: int, attempt: Callable[[str, bytes], None]) -> None:
    """Let hypothesis look for files, too."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    numbers = st.sampled_from(NUMBERS) | st.integers()
    texts = st.text(max_size=8) | st.sampled_from(TYPES)
    json_values = st.recursive(
        st.none() | st.booleans() | numbers | texts | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    )
    fields = {"dtype": st.sampled_from(TYPES) | json_values,
              "shape": st.lists(numbers, max_size=3) | json_values,
              "data_offsets": st.lists(numbers, max_size=2) | json_values}  # fmt: skip
    entries = st.dictionaries(texts, st.fixed_dictionaries(fields) | json_values, max_size=3)
    wild = st.builds(lambda e, data: framed(json.dumps(e).encode(), data), entries,
                     st.binary(max_size=16))  # fmt: skip
    seeds = st.integers(0, 2**32).map(random.Random)
    values = numbers | st.lists(numbers, max_size=3) | st.sampled_from(TYPES) | json_values

    def replaced(rng: random.Random, field: str, value: Any) -> bytes:
        """A good file with one fact of a tensor replaced."""
        data = seed_header(rng)
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        keys = [key for key in header if key != "__metadata__"]
        if keys and field:
            header[rng.choice(keys)][field] = value
        return framed(json.dumps(header).encode(), data[8 + length :])

    def inserted(rng: random.Random, body: bytes, place: float) -> bytes:
        """A good pickle with something put in."""
        data = seed_pickle(rng)
        at = 2 + int(place * (len(data) - 3))
        return in_file(rng, data[:at] + body + data[at:])

    rng = random.Random(0)
    known = [op_text("a"), op_text("storage"), op_storage("0", 16), op_tensor(rng), b"K\x02"]
    names = [op_global(name) for name in (*ALLOWED, *EVIL)]
    pieces = st.sampled_from([bytes([i]) for i in range(256)] + names + known)
    bodies = st.lists(pieces | st.binary(max_size=4), max_size=12).map(b"".join)
    headers = wild | st.builds(replaced, seeds, st.sampled_from(["", *fields]), values)
    pickles = st.builds(inserted, seeds, bodies, st.floats(0, 1))

    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(headers if kind == "headers" else pickles)
    def search(data: bytes) -> None:
        attempt("hypothesis", data)

    search()
