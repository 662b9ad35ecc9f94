"""Files made again from what they say of themselves: the whole chain, from renamed inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from stockpot.checkpoints import open_checkpoint
from stockpot.cli.main import app
from stockpot.engine import MergeResult, Settings, Shelf, find_route, merge, read_history, replay
from stockpot.errors import CheckpointError, PreflightError, VerificationError
from stockpot.recipes import PoolEntry, make_recipe
from stockpot.zoo import member
from stockpot.zoo.variants import derive

BLOCKS = ", ".join(str(number / 27) for number in range(27))
RAW = ("style-outline", "style-glossy", "content-warm", "te-trained", "content-night", "base",
       "content-round")  # fmt: skip


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def step(folder: Path, output: str, mix: str | Mapping[str, str], *names: str) -> Path:
    pool = {name: PoolEntry(f"{name}.safetensors") for name in names}
    settings = Settings(sha256=True, threads=1)
    path = folder / f"{output}.safetensors"
    merge(make_recipe(mix, pool), path, folder=folder, settings=settings)
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six operations on the zoo: mean, swap, blocks, prune, un-prune, add difference."""
    folder = tmp_path_factory.mktemp("chain")
    for name in RAW:
        shutil.copy(member(name).path, folder / f"{name}.safetensors")
    step(folder, "soup", "mean(pool)", *RAW[:3])
    step(folder, "swapped", {"unet": "soup", "te": '"te-trained"', "vae": "soup"},
         "soup", "te-trained")  # fmt: skip
    step(folder, "blocked", f'lerp(swapped, "content-night", blocks("autombw", [{BLOCKS}]))',
         "swapped", "content-night")  # fmt: skip
    step(folder, "pruned", {"unet": "blocked", "te": "blocked"}, "blocked")
    step(folder, "whole", "pruned | base", "pruned", "base")
    return step(folder, "final", 'add_difference(whole, "content-round", base, 0.5)',
                "whole", "content-round", "base")  # fmt: skip


@pytest.fixture
def pool(chain: Path, tmp_path: Path) -> Path:
    """The raw models alone, under other names and in folders of their own."""
    for number, name in enumerate(RAW):
        target = tmp_path / "pool" / str(number % 2) / f"model{number}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(chain.with_name(f"{name}.safetensors"), target)
    return tmp_path / "pool"


def replayed(file: Path, pool: Path, output: Path, **settings: int) -> MergeResult:
    with open_checkpoint(file) as source:
        return replay(source, pool, output, settings=Settings(threads=1, **settings))


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def test_six_operations_are_told_and_done_again_from_renamed_inputs(
    chain: Path, pool: Path, tmp_path: Path
) -> None:
    history = read_history(metadata_of(chain))
    assert history is not None and history.intact
    told = " ".join(made.recipe for _, _, _, made in history.walk() if made is not None)
    for words in ("mean(pool)", 'te: \'"te-trained"\'', "blocks(", "unet: blocked", "pruned | base",
                  "add_difference("):  # fmt: skip
        assert words in told
    assert len(history.earlier) == 5
    output = tmp_path / "again.safetensors"
    replayed(chain, pool, output)
    assert sha256(output) == sha256(chain)


def test_recipe_of_prints_all_six(chain: Path) -> None:
    shown = CliRunner().invoke(app, ["recipe", "of", str(chain)]).stdout
    for words in ("= mean(pool)", 'te = "te-trained"', "= lerp(swapped,", "unet = blocked",
                  "= pruned | base", "= add_difference("):  # fmt: skip
        assert words in shown


def test_intermediates_that_are_there_are_used(chain: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for name in ("whole", "content-round", "base"):
        shutil.copy(chain.with_name(f"{name}.safetensors"), pool / f"other-{name}.safetensors")
    history = read_history(metadata_of(chain))
    assert history is not None
    route = find_route(history, Shelf(pool))
    assert not route.rebuilt and not route.missing
    assert {book.path.stem for book in route.found.values()} == {
        "other-whole", "other-content-round", "other-base",
    }  # fmt: skip
    replayed(chain, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(chain)


def test_small_budgets_put_intermediates_on_the_disk(
    chain: Path, pool: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    replayed(chain, pool, out / "again.safetensors", memory=60 << 20)
    assert sha256(out / "again.safetensors") == sha256(chain)
    assert [path.name for path in out.iterdir()] == ["again.safetensors"]


def test_all_missing_models_are_named_at_once(chain: Path, pool: Path, tmp_path: Path) -> None:
    history = read_history(metadata_of(chain))
    assert history is not None
    (pool / "0" / "model0.safetensors").unlink()
    (pool / "1" / "model5.safetensors").unlink()
    with pytest.raises(PreflightError) as caught:
        replayed(chain, pool, tmp_path / "again.safetensors")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems) == 2
    assert any("'style-outline'" in line for line in lines)
    unet = history.last.inputs["base"].components["unet"]
    assert any("'base'" in line and f"unet {unet}" in line for line in lines)
    assert not (tmp_path / "again.safetensors").exists()


def test_stripped_and_retold_inputs_do(chain: Path, pool: Path, tmp_path: Path) -> None:
    """Inputs count by what they hold: their metadata and order may have changed."""
    for path in pool.rglob("*.safetensors"):
        with open_checkpoint(path) as source:
            tensors = {key: source.read_bytes(key) for key in source.tensors}
            kinds = {"F16": np.float16, "F32": np.float32, "I64": np.int64, "I32": np.int32}
            arrays = {
                key: np.frombuffer(tensors[key], kinds[info.dtype.name]).reshape(info.shape)
                for key, info in reversed(source.tensors.items())
            }
        save_file(arrays, path, {"note": "saved again"})
    replayed(chain, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(chain)


def test_a1111_reads_strings_with_hashes_of_all_ancestors(chain: Path) -> None:
    header = json.loads(
        chain.read_bytes()[8 : 8 + int.from_bytes(chain.read_bytes()[:8], "little")]
    )
    metadata = header["__metadata__"]
    assert all(isinstance(value, str) for value in metadata.values())
    # As A1111 does: a value that starts with a brace is JSON.
    assert metadata["sd_merge_recipe"].startswith("{")
    top, models = json.loads(metadata["sd_merge_recipe"]), json.loads(metadata["sd_merge_models"])
    hashes = {path.stem: sha256(path) for path in chain.parent.glob("*.safetensors")}
    assert top["type"] == "stockpot" and top["interp_method"] == "Add difference"
    assert top["primary_model_hash"] == hashes["whole"]
    assert top["secondary_model_hash"] == hashes["content-round"]
    assert top["tertiary_model_hash"] == hashes["base"]
    assert top["multiplier"] == 0.5
    assert {entry["name"]: key for key, entry in models.items()} == {
        name: digest for name, digest in hashes.items() if name != "final"
    }
    assert all(set(entry) == {"name", "legacy_hash", "sd_merge_recipe"}
               for entry in models.values())  # fmt: skip
    made = {entry["name"]: entry["sd_merge_recipe"] for entry in models.values()}
    assert made["base"] is None
    assert made["soup"]["model_hashes"] == {name: hashes[name] for name in RAW[:3]}
    assert made["swapped"]["mix"]["te"] == '"te-trained"'
    assert str(chain.parent) not in json.dumps(metadata)


def one_step(tmp_path: Path, mix: str, **files: Path) -> tuple[Path, Path]:
    """Merge files under the names given, and put them into a pool under others."""
    pool = tmp_path / "pool"
    pool.mkdir()
    entries = {name: PoolEntry(str(path)) for name, path in files.items()}
    merge(make_recipe(mix, entries), tmp_path / "out.safetensors", settings=Settings(threads=1))
    for number, path in enumerate(files.values()):
        shutil.copy(path, pool / f"{number}.safetensors")
    return tmp_path / "out.safetensors", pool


def test_blocks_that_were_read_alone_are_found(tmp_path: Path) -> None:
    """Of a large component that was read in part, only that part is hashed, and named."""
    weights = ", ".join(["1"] + ["0"] * 26)
    file, pool = one_step(tmp_path, f'lerp(a, b, blocks("autombw", [{weights}]))',
                          a=member("base").path, b=member("style-glossy").path)  # fmt: skip
    history = read_history(metadata_of(file))
    assert history is not None
    assert history.last.inputs["b"].parts["unet"].blocks == ("IN00",)
    assert not history.last.inputs["b"].parts["unet"].keys
    replayed(file, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(file)


def test_keys_that_filled_a_gap_are_found(tmp_path: Path) -> None:
    broken = derive(member("style-outline").path, "missing-key", tmp_path)
    file, pool = one_step(tmp_path, "a | b", a=broken, b=member("base").path)
    history = read_history(metadata_of(file))
    assert history is not None
    (key,) = history.last.inputs["b"].parts["unet"].keys
    assert key.endswith("attn2.to_k.weight") and not key.startswith("model.")
    assert "unet" not in history.last.inputs["a"].parts
    replayed(file, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(file)


def test_a_later_version_makes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pool = one_step(tmp_path, "mean(a, b)", a=member("base").path, b=member("outlier").path)
    monkeypatch.setattr("stockpot.__version__", "99.0")
    replayed(file, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(file)


def test_an_edited_recipe_makes_nothing(tmp_path: Path) -> None:
    file, pool = one_step(
        tmp_path, "lerp(a, b, 0.25)", a=member("base").path, b=member("outlier").path
    )
    data = file.read_bytes().replace(b"lerp(a, b, 0.25)", b"lerp(a, b, 0.26)")
    file.write_bytes(data)
    with pytest.raises(VerificationError, match="the recipe should make weights"):
        replayed(file, pool, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_files_without_a_recipe_or_hashes_say_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no recipe of Stockpot in it"):
        replayed(member("base").path, tmp_path, tmp_path / "again.safetensors")
    path = tmp_path / "unhashed.safetensors"
    recipe = make_recipe("a", {"a": PoolEntry(str(member("base").path))})
    merge(recipe, path, settings=Settings(threads=1, hashes=False))
    with pytest.raises(CheckpointError, match="has no hashes"):
        replayed(path, tmp_path, tmp_path / "again.safetensors")


def test_a_pool_is_searched_with_all_that_opens(tmp_path: Path) -> None:
    """Folders of diffusers and sharded files count as one checkpoint each, broken ones as none."""
    from safetensors.numpy import load_file

    weights = load_file(member("outlier").path)
    halves = sorted(weights)[: len(weights) // 2], sorted(weights)[len(weights) // 2 :]
    shards = tmp_path / "shards"
    shards.mkdir()
    names = [f"m-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, keys in zip(names, halves, strict=True):
        save_file({key: weights[key] for key in keys}, shards / name)
    table = {key: name for name, keys in zip(names, halves, strict=True) for key in keys}
    index = shards / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}), encoding="utf-8")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    shelf = Shelf(tmp_path)
    assert [book.path for book in shelf.books] == [index]
    assert len(shelf.notes) == 1 and "broken" in str(shelf.notes[0])
    recipe = make_recipe("a", {"a": PoolEntry(str(member("outlier").path))})
    out = tmp_path / "out"
    out.mkdir()
    merge(recipe, out / "x.safetensors", settings=Settings(threads=1))
    replayed(out / "x.safetensors", shards, out / "again.safetensors")
    assert sha256(out / "again.safetensors") == sha256(out / "x.safetensors")


def test_a_long_chain_is_made_again_without_keeping_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each intermediate goes away after the last step that reads it; views wait for theirs."""
    pool = tmp_path / "pool"
    pool.mkdir()
    for seed in range(12):
        weights = np.random.default_rng(seed).standard_normal((40, 50)).astype(np.float16)
        save_file({"w": weights}, pool / f"m{seed}.safetensors")
    before = "m0"
    for number in range(1, 12):
        mix = f"lerp({before}, m{number}, 1/{number + 1})" if number % 3 else before
        names = {before, f"m{number}"} if number % 3 else {before}
        step(pool, f"s{number}", mix, *names)
        before = f"s{number}"
    final = shutil.move(pool / "s11.safetensors", tmp_path / "final.safetensors")
    for path in pool.glob("s*"):
        path.unlink()
    held: list[int] = []
    real = os.unlink

    def unlink(path: str, **options: int) -> None:
        held.append(len(list(Path(path).parent.glob("*.safetensors"))))
        real(path, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    replayed(final, pool, tmp_path / "again.safetensors", memory=100 << 20)
    assert sha256(tmp_path / "again.safetensors") == sha256(final)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.safetensors", "final.safetensors", "pool",
    ]  # fmt: skip
    assert max(held) <= 2


def test_labels_of_other_tools_come_back_from_stripped_inputs(tmp_path: Path) -> None:
    """What A1111 said of a raw model then is told again, though the file has lost it."""
    theirs = {"f" * 64: {"name": "x", "legacy_hash": "0123abcd", "sd_merge_recipe": None}}
    told = {"sd_merge_recipe": json.dumps({"type": "webui"}), "sd_merge_models": json.dumps(theirs),
            "modelspec.prediction_type": "v"}  # fmt: skip
    weights = {"w": np.ones((3, 4), np.float16)}
    save_file(weights, tmp_path / "a.safetensors", told)
    file, pool = one_step(tmp_path, "2*a", a=tmp_path / "a.safetensors")
    assert "f" * 64 in metadata_of(file)["sd_merge_models"]
    save_file(weights, pool / "0.safetensors")
    replayed(file, pool, tmp_path / "again.safetensors")
    assert sha256(tmp_path / "again.safetensors") == sha256(file)
