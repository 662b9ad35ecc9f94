"""Files against the safetensors library, byte by byte; ranges; shards; folders."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stockpot.checkpoints import (
    DTYPES,
    FileSink,
    GeneratedSource,
    JoinedSource,
    MemorySink,
    MemorySource,
    SafetensorsFile,
    Source,
    TensorInfo,
    encode_header,
    file_bytes,
    in_file_order,
    open_checkpoint,
)
from stockpot.errors import CheckpointError, HeaderError, StockpotError, UnknownNameError

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
Tensors = dict[str, tuple[TensorInfo, bytes]]


def some_tensors() -> Tensors:
    """One tensor of every type, with bytes that are all different, and odd shapes."""
    rng = np.random.default_rng(3)
    tensors: Tensors = {}
    for i, (name, dtype) in enumerate(DTYPES.items()):
        info = TensorInfo(f"layer.{i:02d}.{name}", dtype, (3, 5 + i))
        high = 2 if name == "BOOL" else 256
        tensors[info.key] = (info, rng.integers(0, high, info.n_bytes).astype(np.uint8).tobytes())
    for key, shape in (("scalar", ()), ("empty", (0,)), ("empty.2", (4, 0, 2)), ("ümlaut", (2,))):
        info = TensorInfo(key, DTYPES["F32"], shape)
        tensors[key] = (info, bytes(range(info.n_bytes)))
    return tensors


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write a file with our sink."""
    meta = {"format": "pt"} if metadata is None else metadata
    sink = FileSink(path, {key: info for key, (info, _) in tensors.items()}, meta)
    for key, (_, data) in tensors.items():
        sink.write(key, 0, memoryview(data))
        sink.tensor_done(key, None)
    sink.commit(meta)


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = some_tensors()
    write(tmp_path / "a.safetensors", tensors, {"format": "pt", "note": "größer"})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "größer"}
    loaded = load_file(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for key, (info, data) in tensors.items():
        assert loaded[key].dtype == TORCH[info.dtype.name]
        assert tuple(loaded[key].shape) == info.shape
        flat = loaded[key].contiguous().flatten()
        assert flat.view(torch.uint8).numpy().tobytes() == data if info.n_bytes else True


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    wanted = {
        key: torch.frombuffer(bytearray(data), dtype=TORCH[info.dtype.name]).reshape(info.shape)
        for key, (info, data) in some_tensors().items()
        if info.n_bytes
    }
    wanted["empty"] = torch.empty(0, 3)
    save_file(wanted, tmp_path / "a.safetensors", {"k": "v"})
    with open_checkpoint(tmp_path / "a.safetensors") as source:
        assert source.metadata == {"k": "v"}
        assert source.tensors.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert source.info(key).shape == tuple(tensor.shape)
            assert TORCH[source.info(key).dtype.name] == tensor.dtype
            if tensor.numel():
                raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
                assert source.read_bytes(key) == raw
            else:
                assert source.read_bytes(key) == b""


def test_the_file_is_exactly_this(tmp_path: Path) -> None:
    tensors: Tensors = {
        "b": (TensorInfo("b", DTYPES["F16"], (2,)), b"\x01\x02\x03\x04"),
        "a": (TensorInfo("a", DTYPES["F16"], (1,)), b"\x05\x06"),
        "z": (TensorInfo("z", DTYPES["I64"], ()), b"ABCDEFGH"),
        "c": (TensorInfo("c", DTYPES["U8"], (1,)), b"!"),
    }
    write(tmp_path / "x.safetensors", tensors)
    text = (
        b'{"__metadata__":{"format":"pt"},'
        b'"z":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F16","shape":[1],"data_offsets":[8,10]},'
        b'"b":{"dtype":"F16","shape":[2],"data_offsets":[10,14]},'
        b'"c":{"dtype":"U8","shape":[1],"data_offsets":[14,15]}}'
    )
    text += b" " * (-(8 + len(text)) % 8)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert content == struct.pack("<Q", len(text)) + text + b"ABCDEFGH\x05\x06\x01\x02\x03\x04!"
    infos = {key: info for key, (info, _) in tensors.items()}
    assert file_bytes(infos, {"format": "pt"}) == len(content)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


@given(names=st.lists(st.text(st.characters(codec="utf-8"), max_size=9), unique=True, max_size=6))
def test_data_start_at_a_multiple_of_eight(names: list[str]) -> None:
    infos = {name: TensorInfo(name, DTYPES["F16"], (3,)) for name in names}
    header = encode_header(infos, {"format": "pt"})
    assert len(header) % 8 == 0
    assert struct.unpack("<Q", header[:8])[0] == len(header) - 8
    json.loads(header[8:])


def test_order_does_not_show_in_the_file() -> None:
    infos = {key: info for key, (info, _) in some_tensors().items()}
    turned = dict(reversed(infos.items()))
    assert list(in_file_order(infos)) == list(in_file_order(turned))
    sizes = [info.dtype.itemsize for info in in_file_order(infos).values()]
    assert sizes == sorted(sizes, reverse=True)


def test_a_header_that_outgrows_its_room_is_refused() -> None:
    with pytest.raises(ValueError, match="the header needs 45 bytes, but only 16 were reserved"):
        encode_header({}, {"format": "1234567"}, 16)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Source]:
    """The same tensors as every kind of source."""
    folder = tmp_path_factory.mktemp("sources")
    tensors = some_tensors()
    write(folder / "a.safetensors", tensors)
    half = list(tensors)[::2]
    write(folder / "b.safetensors", {k: tensors[k] for k in half})
    write(folder / "c.safetensors", {k: v for k, v in tensors.items() if k not in half})

    def generate(info: TensorInfo, start: int, stop: int, out: memoryview) -> None:
        size = info.dtype.itemsize
        out[:] = tensors[info.key][1][start * size : stop * size]

    parts: list[tuple[str, Source]] = [
        ("", SafetensorsFile(folder / name)) for name in ("b.safetensors", "c.safetensors")
    ]
    return {
        "file": SafetensorsFile(folder / "a.safetensors"),
        "joined": JoinedSource("joined", parts),
        "memory": MemorySource(tensors),
        "generated": GeneratedSource([info for info, _ in tensors.values()], generate),
    }


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_range_of_any_tensor(sources: dict[str, Source], data: st.DataObject) -> None:
    tensors = some_tensors()
    source = sources[data.draw(st.sampled_from(sorted(sources)))]
    key = data.draw(st.sampled_from(sorted(tensors)))
    info, raw = tensors[key]
    start = data.draw(st.integers(0, info.n_elements))
    stop = data.draw(st.integers(start, info.n_elements))
    size = info.dtype.itemsize
    out = bytearray((stop - start) * size)
    source.read_into(key, start, stop, memoryview(out))
    assert out == raw[start * size : stop * size]


@pytest.mark.parametrize("kind", ["file", "joined", "memory", "generated"])
def test_ranges_and_names_are_checked(sources: dict[str, Source], kind: str) -> None:
    source = sources[kind]
    key = "layer.02.F16"
    with pytest.raises(CheckpointError, match=r"layer.02.F16: a range must lie in 0..21, .* 0..22"):
        source.read_into(key, 0, 22, memoryview(bytearray(44)))
    with pytest.raises(CheckpointError, match="the buffer must hold 4 bytes, but holds 5"):
        source.read_into(key, 0, 2, memoryview(bytearray(5)))
    with pytest.raises(UnknownNameError, match="did you mean 'layer.02.F16'"):
        source.read_bytes("layer.02.F15")


def test_a_buffer_of_the_wrong_size_is_refused() -> None:
    info = TensorInfo("a", DTYPES["F16"], (2,))
    with pytest.raises(CheckpointError, match=r"memory: a: F16 \[2\] needs 4 bytes, but got 3"):
        MemorySource({"a": (info, b"123")})


def test_memory_takes_what_a_file_takes() -> None:
    tensors = some_tensors()
    sink = MemorySink({key: info for key, (info, _) in tensors.items()})
    for key, (info, data) in tensors.items():
        half = info.n_elements // 2
        cut = half * info.dtype.itemsize
        sink.write(key, half, memoryview(data)[cut:])
        sink.write(key, 0, memoryview(data)[:cut])
        sink.tensor_done(key, None)
    sink.commit({"a": "b"})
    source = sink.source("made")
    assert {key: source.read_bytes(key) for key in source.tensors} == {
        key: data for key, (_, data) in tensors.items()
    }
    assert (source.name, source.metadata) == ("made", {"a": "b"})


def shard(folder: Path) -> Tensors:
    """A checkpoint of two shards and its index."""
    tensors = some_tensors()
    keys = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((keys[:7], keys[7:])):
        name = f"model-{i + 1:05d}-of-00002.safetensors"
        write(folder / name, {key: tensors[key] for key in part})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tensors


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = shard(tmp_path)
    for place in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with open_checkpoint(place) as source:
            assert source.tensors.keys() == tensors.keys()
            assert {p.name for p in source.files} == {p.name for p in tmp_path.glob("*of*")}
            for key, (_, data) in tensors.items():
                assert source.read_bytes(key) == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["weight_map"].update(more="model-00001-of-00002.safetensors"),
         "its shards lack more; get them again"),
        (lambda index: index["weight_map"].pop("ümlaut"), "its shards have, unlisted, ümlaut"),
        (lambda index: index["weight_map"].update(scalar="../x.safetensors"),
         "scalar: a shard must be a file beside the index, but is '../x.safetensors'"),
        (lambda index: index["weight_map"].update(scalar=7), "scalar: a shard must be a file"),
        (lambda index: index["weight_map"].update(scalar="gone.safetensors"),
         "gone.safetensors: the file cannot be opened: No such file"),
        (lambda index: index.pop("weight_map"), "an index must have a weight_map"),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_refused(tmp_path: Path, change: object, message: str) -> None:
    shard(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    change(index)  # type: ignore[operator]
    path.write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert message in str(caught.value)


def test_an_index_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors.index.json"
    path.write_text("{")
    with pytest.raises(HeaderError, match="the index is not JSON"):
        open_checkpoint(path)
    with pytest.raises(CheckpointError, match="the index cannot be read: No such file"):
        open_checkpoint(tmp_path / "y.safetensors.index.json")


def test_parts_with_one_key_are_refused(tmp_path: Path) -> None:
    source = MemorySource(some_tensors())
    with pytest.raises(CheckpointError, match="both: layer.00.F64 stands in two parts"):
        JoinedSource("both", [("", source), ("", source)])


def test_a_diffusers_folder(tmp_path: Path) -> None:
    one: Tensors = {"w": (TensorInfo("w", DTYPES["F16"], (2,)), b"1234")}
    two: Tensors = {"w": (TensorInfo("w", DTYPES["F16"], (1,)), b"56")}
    (tmp_path / "model_index.json").write_text("{}")
    for name in ("unet", "vae", "scheduler"):
        (tmp_path / name).mkdir()
    write(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", one)
    write(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", two)
    write(tmp_path / "vae" / "anything.safetensors", two)
    with open_checkpoint(tmp_path) as source:
        assert list(source.tensors) == ["unet/w", "vae/w"]
        assert source.read_bytes("unet/w") == b"1234"
        assert source.read_bytes("vae/w") == b"56"


def test_folders_that_say_too_little(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="but has 0 files and 0 indexes; name the one"):
        open_checkpoint(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", some_tensors())
    with pytest.raises(CheckpointError, match="but has 2 files and 0 indexes; name the one"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="diffusers folder must hold .safetensors or .bin"):
        open_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no.safetensors: the file cannot be opened: No such"
    ):
        open_checkpoint(tmp_path / "no.safetensors")


def test_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, some_tensors())
    with open_checkpoint(path) as source:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        key = list(in_file_order(source.tensors))[-1]
        with pytest.raises(StockpotError, match="the file ends at byte .* get it again"):
            source.read_bytes(key)


def test_closing_twice_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", some_tensors())
    source = SafetensorsFile(tmp_path / "a.safetensors")
    source.close()
    source.close()
