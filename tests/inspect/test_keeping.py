"""The cache: right, bounded, and never in the way; folders; who shares what."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stockpot.errors import CheckpointError
from stockpot.inspect import (
    CACHE_VARIABLE,
    Cache,
    Inspection,
    Wanted,
    cache_folder,
    find_checkpoints,
    inspect_path,
    inspect_paths,
    shared_components,
)
from stockpot.layouts import get_layout

HASHES = Wanted(components=True, file=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({"w": np.arange(100, dtype=np.float16)}, path, {"note": "one"})
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entries(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_the_second_look_opens_nothing(
    file: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = inspect_path(file, HASHES, cache=cache)
    monkeypatch.setattr("stockpot.inspect.folders.open_checkpoint", None)
    assert inspect_path(file, HASHES, cache=cache) == first
    # What is known is told, asked or not.
    assert inspect_path(file, cache=cache).content_hash == first.content_hash
    with pytest.raises(TypeError):
        inspect_path(file, Wanted(deep=True), cache=cache)


def test_more_is_read_once_and_nothing_is_forgotten(file: Path, cache: Cache) -> None:
    assert inspect_path(file, cache=cache).content_hash is None
    hashed = inspect_path(file, HASHES, cache=cache)
    deep = inspect_path(file, Wanted(deep=True), cache=cache)
    assert deep.deep and deep.file_hashes == hashed.file_hashes is not None
    again = inspect_path(file, cache=cache)
    assert again == deep


def test_names_do_not_count_and_content_does(file: Path, cache: Cache, tmp_path: Path) -> None:
    inspect_path(file, HASHES, cache=cache)
    link = tmp_path / "link.safetensors"
    os.link(file, link)
    found = inspect_path(link, cache=cache)
    assert found.content_hash is not None and found.path == str(link)
    # The same size and time, and other bytes: the samples tell.
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert inspect_path(file, cache=cache).content_hash is None
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert inspect_path(file, cache=cache).content_hash is None


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    file: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stockpot.inspect import folders

    def inspect_and_change(*arguments: object, **options: object) -> Inspection:
        os.utime(file, ns=(1, 1))
        return Inspection("x", "lora", "LoRA", "sd1")

    monkeypatch.setattr(folders, "inspect_checkpoint", inspect_and_change)
    assert inspect_path(file, cache=cache).kind == "lora"
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"x" * 100,
        lambda data: zlib.compress(b"[]"),
        lambda data: zlib.compress(b"{}"),
        lambda data: zlib.compress(b"[" * 100_000),
        lambda data: zlib.compress(bytes(64 << 20)),
        lambda data: zlib.compress(zlib.decompress(data).replace(b'"lora"', b'"lora')),
        lambda data: zlib.compress(
            json.dumps({**json.loads(zlib.decompress(data)), "found": {}}).encode()
        ),
        lambda data: zlib.compress(
            json.dumps({**json.loads(zlib.decompress(data)), "key": "other"}).encode()
        ),
        lambda data: zlib.compress(
            json.dumps({**json.loads(zlib.decompress(data)), "wanted": {"all": 1}}).encode()
        ),
    ],
)
def test_a_damaged_entry_counts_as_absent_and_is_replaced(
    file: Path, cache: Cache, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    first = inspect_path(file, HASHES, cache=cache)
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))
    assert inspect_path(file, HASHES, cache=cache) == first
    assert inspect_path(file, cache=cache) == first


def test_a_cache_that_cannot_be_written_is_no_trouble(file: Path, tmp_path: Path) -> None:
    # The user of the tests may be root, whom no permission stops: a file stands in the way.
    (tmp_path / "taken").write_text("a file")
    cache = Cache(tmp_path / "taken")
    assert inspect_path(file, HASHES, cache=cache).content_hash
    assert (tmp_path / "taken").read_text() == "a file"
    cache = Cache(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "inspect").write_text("a file")
    assert inspect_path(file, HASHES, cache=cache).content_hash


def test_many_at_a_time(file: Path, tmp_path: Path) -> None:
    expected = inspect_path(file, HASHES)
    results: list[Inspection] = []

    def work() -> None:
        for _ in range(10):
            results.append(inspect_path(file, HASHES, cache=Cache(tmp_path / "cache")))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80 and all(one == expected for one in results)
    assert len(entries(tmp_path)) == 1  # and no leftovers


def test_it_is_bounded(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = {"note": rng.bytes(60_000).hex()}
        found = Inspection("", "lora", "LoRA", "sd1", metadata=noise)
        cache.put(f"ab{number:062x}", found, Wanted())
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 1 << 20
    assert cache.get(f"ab{39:062x}") is not None and cache.get(f"ab{0:062x}") is None
    huge = Inspection("", "lora", "LoRA", "sd1", metadata={"note": rng.bytes(1 << 20).hex()})
    cache.put("cd" * 32, huge, Wanted())
    assert cache.get("cd" * 32) is None


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv(CACHE_VARIABLE, "")
    assert cache_folder() is None
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "stockpot"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "l"))
    monkeypatch.setattr("sys.platform", "win32")
    assert cache_folder() == tmp_path / "l" / "stockpot"
    monkeypatch.setattr("sys.platform", "darwin")
    assert str(cache_folder()).endswith("Library/Caches/stockpot")


def test_what_cannot_be_read_is_told_and_not_kept(cache: Cache, tmp_path: Path) -> None:
    absent = inspect_path(tmp_path / "no.safetensors", cache=cache)
    assert (absent.kind, absent.architecture) == ("unreadable", None)
    assert [problem.code for problem in absent.problems] == ["unreadable"]
    assert entries(tmp_path) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder as people have them."""
    root = tmp_path / "models"
    for name in ("b.safetensors", "a.safetensors", "notes.txt", "._a.safetensors", "old.ckpt",
                 "deep/c.safetensors", "deep/er/d.PT", "pipe/model_index.json",
                 "pipe/unet/x.safetensors", "settings/model_index.json",
                 "s-00001-of-00002.safetensors", "s-00002-of-00002.safetensors",
                 "s.safetensors.index.json", "s-other.safetensors"):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "loop").symlink_to(root)
    return root


def test_what_counts_in_a_folder(tree: Path) -> None:
    def names(recursive: bool) -> list[str]:
        found = find_checkpoints([tree], recursive=recursive)
        return [path.relative_to(tree).as_posix() for path in found]

    top = ["a.safetensors", "b.safetensors", "old.ckpt", "pipe", "s-other.safetensors",
           "s.safetensors.index.json"]  # fmt: skip
    assert names(False) == top
    assert sorted(names(True)) == sorted([*top, "deep/c.safetensors", "deep/er/d.PT"])
    named = [tree / "notes.txt", tree / "pipe", tree / "no"]
    assert find_checkpoints(named) == named
    assert find_checkpoints([tree, tree / "a.safetensors"]) == find_checkpoints([tree])


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match="cannot be listed"):
        find_checkpoints([tmp_path])


def test_a_sharded_file_and_a_diffusers_folder(tmp_path: Path, cache: Cache) -> None:
    for number in (1, 2):
        save_file({f"k{number}": np.ones(3, np.float16)}, tmp_path / f"m-{number}.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    weights = {"k1": "m-1.safetensors", "k2": "m-2.safetensors"}
    index.write_text(json.dumps({"weight_map": weights}))
    found = inspect_path(index, HASHES, cache=cache)
    assert found.components["model"].n_keys == 2
    assert found.content_hash and found.file_hashes is None
    folder = tmp_path / "pipe"
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        save_file({f"{part}.w": np.ones(3, np.float16)}, folder / part / "x.safetensors")
    (folder / "model_index.json").write_text("{}")
    found = inspect_path(folder, HASHES, cache=cache)
    assert found.kind == "diffusers" and list(found.components) == ["unet", "vae"]
    save_file({"vae.w": np.zeros(3, np.float16)}, folder / "vae" / "x.safetensors")
    after = inspect_path(folder, HASHES, cache=cache)
    assert after.components["vae"].hash != found.components["vae"].hash
    assert after.components["unet"].hash == found.components["unet"].hash


def test_who_shares_what(tmp_path: Path) -> None:
    zoo = get_layout("zoo")

    def write(name: str, te: float, vae: float, prefix: bool = True) -> Path:
        arrays = {}
        for key, spec in zoo.specs.items():
            value = {"te": te, "vae": vae}.get(spec.cell.component)
            if value is not None and not spec.optional and value:
                short = key if prefix else key.removeprefix("first_stage_model.")
                arrays[short] = np.full(spec.shape, value, np.float16)
        save_file(arrays, tmp_path / name)
        return tmp_path / name

    paths = [write("a", 1, 2), write("b", 3, 2), write("vae", 0, 2, prefix=False)]
    base = inspect_path(write("base", 3, 4), HASHES)
    found = inspect_paths(paths, HASHES)
    a, b, vae = map(str, paths)
    assert shared_components(found, base) == {
        base.path: {"te": [b]},
        a: {"vae": [b, vae]},
        b: {"te": [base.path], "vae": [a, vae]},
        vae: {"vae": [a, b]},
    }
    assert shared_components(inspect_paths(paths)) == {a: {}, b: {}, vae: {}}


def test_progress_counts_to_the_end(file: Path) -> None:
    steps: list[tuple[int, int]] = []
    inspect_paths([file], Wanted(components=True), progress=lambda *pair: steps.append(pair))
    assert steps and all(done <= total for done, total in steps)
