"""Files of torch.save, against torch itself: every element, both formats, no import of torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.checkpoints import (
    SafetensorsFile,
    TorchFile,
    content_hash,
    hash_tensors,
    open_checkpoint,
)
from stockpot.checkpoints.strides import read_strided
from stockpot.engine import merge
from stockpot.errors import CheckpointError, HeaderError, TruncatedFileError
from stockpot.recipes import make_recipe
from stockpot.zoo import zoo_path

FORMATS = ("zip", "stream")
Save = Callable[[Any, str], Path]

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
}


@pytest.fixture(params=FORMATS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Write something with torch.save, in either format."""

    def write(what: Any, name: str = "model.ckpt") -> Path:
        path = tmp_path / name
        torch.save(what, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return write


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's elements in row-major order, as bytes."""
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def agree(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Whether a file reads as these tensors, whole and in pieces."""
    with open_checkpoint(path) as source:
        assert list(source.tensors) == list(tensors)
        for key, tensor in tensors.items():
            info = source.tensors[key]
            assert info.shape == tuple(tensor.shape), key
            assert info.dtype.name == TYPES[tensor.dtype], key
            whole = source.read_bytes(key)
            assert whole == raw(tensor), key
            size, n = info.dtype.itemsize, info.n_elements
            for start, stop in ((0, n), (0, n // 2), (n // 3, n), (n // 3, n // 2), (n, n)):
                out = bytearray((stop - start) * size)
                source.read_into(key, start, stop, memoryview(out))
                assert out == whole[start * size : stop * size], (key, start, stop)


def values(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Every bit pattern may come."""
    generator = torch.Generator().manual_seed(len(str(dtype)) + sum(shape))
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty(0, dtype=dtype).element_size()
    count = int(np.prod(shape)) * size
    return (
        torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
        .view(dtype)
        .reshape(shape)
    )


def test_every_type_reads_as_torch_reads_it(save: Save) -> None:
    tensors = {f"{name}.{i}": values(dtype, 3 + i, 5) for dtype, name in TYPES.items()
               for i in range(2)}  # fmt: skip
    agree(save(tensors), tensors)


def test_views_of_one_storage(save: Save) -> None:
    base = values(torch.float16, 6, 8, 4)
    tensors = {
        "whole": base,
        "again": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1:5, ::3],
        "column": base[:, 2, 1],
        "one": base[3, 3, 3],
        "none": base[:, 5:5],
        "flat": base.reshape(-1)[7:19],
        "reversed axes": base.permute(2, 1, 0)[1:, :, 2:],
    }
    agree(save(tensors), tensors)
    # Tied weights are told apart by nothing but their keys.
    with open_checkpoint(save(tensors)) as source:
        assert source.read_bytes("whole") == source.read_bytes("again")


def test_scalars_empty_tensors_and_parameters(save: Save) -> None:
    plain = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4), "long": torch.arange(77)}
    tensors = {**plain, "parameter": torch.nn.Parameter(values(torch.float32, 2, 3))}
    tensors["position_ids"] = torch.arange(77).expand((1, -1))
    agree(save(OrderedDict(tensors)), tensors)


def test_what_a_module_saves(save: Save) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    agree(save(module.state_dict()), module.state_dict())
    tensors = dict(module.named_parameters())
    tensors["0.weight"].mark = "kept with an attribute"  # type: ignore[attr-defined]
    agree(save(tensors), tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    tensors = OrderedDict(a=values(torch.float16, 4, 5), b=values(torch.bfloat16, 7))
    for new in (True, False):
        path = tmp_path / f"{new}.pt"
        torch.save({"state_dict": tensors, "epoch": 3, "set": {1, 2}}, path,
                   pickle_protocol=protocol, _use_new_zipfile_serialization=new)  # fmt: skip
        agree(path, tensors)


def test_what_trainers_leave_is_told_and_left_out(save: Save) -> None:
    weights = {"a": values(torch.float16, 3)}
    trained = {
        "state_dict": weights,
        "global_step": 470000,
        "epoch": 6,
        "lr": np.float64(1e-4),
        "best": torch.tensor(0.5),
        "pytorch-lightning_version": "1.4.2",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(9)}}}],
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.0)}},
        "hyper_parameters": {"path": Path("x"), "dtype": torch.float16, "size": torch.Size([2])},
    }
    path = save(trained)
    agree(path, weights)
    with open_checkpoint(path) as source:
        assert source.metadata == {
            "global_step": "470000",
            "epoch": "6",
            "pytorch-lightning_version": "1.4.2",
        }
        assert source.notes == (
            "left out, since they are no weights: 'lr', 'best', 'optimizer_states', 'callbacks', "
            "'hyper_parameters'",
            "the weights stand under 'state_dict', as trainers save them",
        )


def test_a_model_of_parts_is_joined_with_dots(save: Save) -> None:
    a, b = values(torch.float16, 3), values(torch.float16, 4)
    agree(save({"model": {"a": a, "b": b}, "step": 3}), {"a": a, "b": b})
    agree(save({"model": {"a": a}, "b": b}), {"model.a": a, "b": b})
    agree(save({"unet": {"a": a, "deep": {"b": b}}, "vae": {"a": b}, "optimizer": {"a": b}}),
          {"unet.a": a, "unet.deep.b": b, "vae.a": b})  # fmt: skip
    agree(save({"state_dict": {"state_dict": {"a": a}}}), {"a": a})


def test_classes_of_trainers_are_placeholders(tmp_path: Path) -> None:
    # GLOBAL, EMPTY_TUPLE, NEWOBJ, EMPTY_DICT, BUILD: an object of a class that is not installed.
    leftover = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)\x81}b"
    path = tmp_path / "light.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": 1}, path)
    patch_pickle(path, lambda data: data.replace(b"K\x01u.", leftover + b"u."))
    agree(path, {"a": torch.ones(2)})
    assert "pytorch_lightning" not in sys.modules


def patch_pickle(path: Path, patch: Callable[[bytes], bytes]) -> None:
    """Write a zip file of torch anew, with another pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            changed = patch(data) if name.endswith("data.pkl") else data
            assert changed != data or not name.endswith("data.pkl")
            archive.writestr(name, changed)


def test_textual_inversion(save: Save) -> None:
    vectors = values(torch.float32, 2, 8)
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    for holder in ({"*": vectors}, parameters):
        path = save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": holder,
                     "name": "cat", "step": 500})  # fmt: skip
        with open_checkpoint(path) as source:
            assert list(source.tensors) == ["string_to_token.*", "string_to_param.*"]
            assert source.read_bytes("string_to_param.*") == raw(vectors)
            assert source.metadata == {"name": "cat", "step": "500"}


def test_big_endian_storages_are_turned_round(tmp_path: Path) -> None:
    tensors = {"a": values(torch.float32, 3, 4).t(), "b": values(torch.float16, 5)}
    path = tmp_path / "big.pt"
    torch.save(tensors, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if name.endswith("byteorder"):
                data = b"big"
            elif name.endswith(("data/0", "data/1")):
                size = 4 if name.endswith("0") else 2
                data = np.frombuffer(data, f"u{size}").byteswap().tobytes()
            archive.writestr(name, data)
    assert all(torch.equal(torch.load(path)[key].view(torch.uint8), tensors[key].contiguous()
               .view(torch.uint8)) for key in ("b",))  # fmt: skip
    agree(path, tensors)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_strided_ranges_are_what_numpy_says(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=0, max_size=4)))
    strides = tuple(data.draw(st.sampled_from([0, 1, 2, 3, 7, 30, 5000])) for _ in shape)
    size = data.draw(st.sampled_from([1, 2, 4, 8]))
    n_storage = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    store = np.arange(n_storage, dtype=np.uint64).astype(f"u{size}")
    steps = tuple(step * size for step in strides)
    whole = np.ndarray(shape, store.dtype, store, 0, steps).reshape(-1)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    out = bytearray((stop - start) * size)

    def read(place: int, piece: memoryview) -> None:
        assert 0 <= place <= place + len(piece) <= store.nbytes
        piece[:] = store.tobytes()[place : place + len(piece)]

    read_strided(read, shape, strides, size, start, stop, memoryview(out))
    assert out == whole[start:stop].tobytes()


def test_a_large_transposed_tensor_is_read_by_range(tmp_path: Path) -> None:
    tensor = values(torch.float32, 700, 1100).t()
    path = tmp_path / "t.pt"
    torch.save({"a": tensor}, path)
    agree(path, {"a": tensor})


@pytest.mark.parametrize("member", ["base", "v-prediction", "content-angular"])
def test_the_zoo_as_torch_files_is_the_same(save: Save, tmp_path: Path, member: str) -> None:
    from safetensors.torch import load_file

    original = zoo_path() / f"{member}.safetensors"
    path = save({"state_dict": load_file(original), "global_step": 1}, f"{member}.ckpt")
    with open_checkpoint(original) as one, open_checkpoint(path) as other:
        assert set(one.tensors) == set(other.tensors)
        assert all(one.tensors[key] == other.tensors[key] for key in one.tensors)
        hashes = hash_tensors(one)
        assert hashes == hash_tensors(other)
        assert content_hash(one.tensors, hashes) == content_hash(other.tensors, hashes)


def test_a_merge_of_torch_files_has_the_same_bytes(save: Save, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    names = ("base", "style-glossy")
    pool = {name.replace("-", "_"): zoo_path() / f"{name}.safetensors" for name in names}
    torch_pool = {
        name: save({"state_dict": load_file(path)}, f"{name}.ckpt") for name, path in pool.items()
    }
    results = [
        merge(make_recipe("mean(pool)", {name: str(path) for name, path in files.items()}), out)
        for files, out in (
            (pool, tmp_path / "a.safetensors"),
            (torch_pool, tmp_path / "b.safetensors"),
        )
    ]
    assert results[0].content_hash == results[1].content_hash
    notes = [str(note) for note in results[1].notes]
    for name, path in torch_pool.items():
        assert (
            f"{name}: {path}: the weights stand under 'state_dict', as trainers save them" in notes
        )


def test_inspect_says_the_same_of_both(save: Save) -> None:
    from safetensors.torch import load_file
    from typer.testing import CliRunner

    from stockpot.cli.main import app

    original = zoo_path() / "base.safetensors"
    path = save({"state_dict": load_file(original)}, "base.ckpt")
    result = CliRunner().invoke(app, ["inspect", str(original), str(path), "--json", "--hash"])
    assert result.exit_code == 0, result.output
    one, other = json.loads(result.stdout)
    assert one["architecture"] == other["architecture"] == "zoo"
    assert one["components"] == other["components"]
    assert all(component["hash"] for component in other["components"].values())


def test_formats_are_told_by_content_not_by_name(save: Save, tmp_path: Path) -> None:
    path = save({"a": torch.ones(2)}, "wrong.safetensors")
    with open_checkpoint(path) as source:
        assert isinstance(source, TorchFile)
        assert source.notes == ("the name ends in .safetensors, but it is a file of torch.save",)
    right = tmp_path / "wrong.ckpt"
    right.write_bytes((zoo_path() / "base.safetensors").read_bytes())
    with open_checkpoint(right) as source:
        assert isinstance(source, SafetensorsFile)
        assert source.notes == ("the name ends in .ckpt, but it is a safetensors file",)


def test_shards_and_diffusers_folders_of_torch_files(save: Save, tmp_path: Path) -> None:
    a, b = values(torch.float16, 3), values(torch.float16, 4)
    unet = tmp_path / "pipeline" / "unet"
    unet.mkdir(parents=True)
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    save({"a": a}, "pipeline/unet/diffusion_pytorch_model-00001-of-00002.bin")
    save({"b": b}, "pipeline/unet/diffusion_pytorch_model-00002-of-00002.bin")
    index = unet / "diffusion_pytorch_model.bin.index.json"
    shards = {
        key: f"diffusion_pytorch_model-0000{i}-of-00002.bin" for i, key in ((1, "a"), (2, "b"))
    }
    index.write_text(json.dumps({"weight_map": shards}))
    agree(index, {"a": a, "b": b})
    (tmp_path / "pipeline" / "text_encoder").mkdir()
    save({"c": a}, "pipeline/text_encoder/pytorch_model.bin")
    agree(tmp_path / "pipeline", {"text_encoder/c": a, "unet/a": a, "unet/b": b})
    agree(tmp_path / "pipeline" / "text_encoder", {"c": a})
    # Where both are, safetensors are read.
    (tmp_path / "pipeline" / "text_encoder" / "model.safetensors").write_bytes(
        (zoo_path() / "base.safetensors").read_bytes()
    )
    with open_checkpoint(tmp_path / "pipeline" / "text_encoder") as source:
        assert isinstance(source, SafetensorsFile)


def test_cutting_a_file_anywhere_is_seen(save: Save, tmp_path: Path) -> None:
    data = save({"state_dict": {"a": torch.ones(3), "b": torch.zeros(2, 2).t()}}).read_bytes()
    cut = tmp_path / "cut.ckpt"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        with pytest.raises((TruncatedFileError, HeaderError)):
            open_checkpoint(cut)
    cut.write_bytes(data + b"x")
    with pytest.raises(CheckpointError):
        open_checkpoint(cut)


def test_a_closed_file_says_so_by_not_reading(save: Save) -> None:
    source = open_checkpoint(save({"a": torch.ones(2)}))
    source.close()
    source.close()
    with pytest.raises(CheckpointError):
        source.read_bytes("a")


def test_torch_is_never_imported(save: Save) -> None:
    path = save({"state_dict": {"a": torch.ones(4, 3).t()}})
    program = (
        "import sys\n"
        "from stockpot.checkpoints import open_checkpoint\n"
        f"source = open_checkpoint({str(path)!r})\n"
        "assert source.read_bytes('a')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_objects_are_no_checkpoints(save: Save) -> None:
    for what in ([torch.ones(2)], {"optimizer": {"a": torch.ones(2)}}, {}, 3, {1: "a"}):
        with pytest.raises(HeaderError, match="must hold a dictionary of tensors"):
            open_checkpoint(save(what))
    with pytest.raises(HeaderError, match="a tensor's key must be text"):
        open_checkpoint(save({(1, 2): torch.ones(2)}))
    with pytest.raises(HeaderError, match="the element type is none that a checkpoint here"):
        open_checkpoint(save({"a": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(HeaderError, match=r"repeats elements: 4000 bytes from a storage of 4;"):
        open_checkpoint(save({"a": torch.ones(1).expand(1000)}))


def test_a_buffer_is_no_file() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_checkpoint("no such file.ckpt")
