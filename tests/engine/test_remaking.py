"""Damage is named by tensor, and mended from the recipe: the file of before, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from stockpot.checkpoints import SafetensorsFile, encode_header, open_checkpoint
from stockpot.engine import Remade, Settings, merge, remake, replay, verify
from stockpot.engine.tensor_tables import TENSORS_KEY
from stockpot.errors import (
    CheckpointError,
    OutputExistsError,
    PreflightError,
)
from stockpot.recipes import make_recipe

ONE_THREAD = Settings(threads=1)
KEYS = tuple(f"k{i}" for i in range(5))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """``out/mix.safetensors``, made of ``pool/a``, ``b`` and ``c``."""
    pool, out = tmp_path / "pool", tmp_path / "out"
    pool.mkdir()
    out.mkdir()
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        tensors = {key: rng.standard_normal((30, 20)).astype(np.float16) for key in KEYS}
        save_file(tensors, pool / f"{name}.safetensors")
    recipe = make_recipe("ties(a, b, mean(b, c))", {n: f"{n}.safetensors" for n in "abc"})
    merge(recipe, out / "mix.safetensors", folder=pool, settings=ONE_THREAD)
    return out / "mix.safetensors"


def damage(file: Path, *keys: str) -> None:
    """Flip a bit in the middle of tensors."""
    with SafetensorsFile(file) as source:
        places = [source.header.offsets[key] + source.tensors[key].n_bytes // 2 for key in keys]
    with file.open("r+b") as stream:
        for place in places:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 4]))


def mend(file: Path, output: Path, **settings: object) -> Remade:
    chosen = Settings(threads=1, **settings)  # type: ignore[arg-type]
    with SafetensorsFile(file) as source:
        return remake(source, file.parent.parent / "pool", output, settings=chosen)


def found(file: Path) -> tuple[str, tuple[str, ...]]:
    with open_checkpoint(file) as source:
        verdict = verify(source, settings=ONE_THREAD)
    return verdict.answer, verdict.damaged


def test_damage_is_named_and_mended(made: Path) -> None:
    whole = made.read_bytes()
    assert found(made) == ("agrees", ())
    damage(made, "k1", "k4")
    assert found(made) == ("differs", ("k1", "k4"))
    output = made.with_name("mended.safetensors")
    done = mend(made, output)
    assert (done.remade, done.n_tensors) == (("k1", "k4"), 5)
    assert output.read_bytes() == whole
    assert made.read_bytes() != whole  # it is never written to unasked
    with pytest.raises(OutputExistsError, match="mended.safetensors: the file exists"):
        mend(made, output)


def test_only_the_damaged_tensors_are_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(made, "k3")
    read: set[tuple[str, str]] = set()
    real = SafetensorsFile.read_into

    def note(source: SafetensorsFile, key: str, *args: object) -> None:
        read.add((source.path.stem, key))
        real(source, key, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(SafetensorsFile, "read_into", note)
    mend(made, made.with_name("mended.safetensors"))
    assert {pair for pair in read if pair[0] != "mix"} == {(name, "k3") for name in "abc"}


def test_in_place(made: Path) -> None:
    whole = made.read_bytes()
    damage(made, "k0")
    mend(made, made, overwrite=True)
    assert made.read_bytes() == whole
    assert [path.name for path in made.parent.iterdir()] == ["mix.safetensors"]


def test_inputs_under_other_names(made: Path) -> None:
    whole = made.read_bytes()
    damage(made, "k0")
    pool = made.parent.parent / "pool"
    (pool / "b.safetensors").rename(pool / "x.safetensors")
    shutil.copy(pool / "a.safetensors", pool / "b.safetensors")  # an impostor, found out
    output = made.with_name("mended.safetensors")
    mend(made, output)
    assert output.read_bytes() == whole


def test_missing_and_changed_inputs(made: Path) -> None:
    damage(made, "k0")
    pool = made.parent.parent / "pool"
    shutil.copy(pool / "a.safetensors", pool / "b.safetensors")
    with pytest.raises(PreflightError, match="b.safetensors has its name and holds something else"):
        mend(made, made.with_name("mended.safetensors"))
    assert [path.name for path in made.parent.iterdir()] == ["mix.safetensors"]


def without_table(file: Path) -> None:
    with open_checkpoint(file) as source:
        infos = dict(source.tensors)
        metadata = {k: v for k, v in source.metadata.items() if k != TENSORS_KEY}
        body = b"".join(source.read_bytes(key) for key in infos)
    file.write_bytes(encode_header(infos, metadata) + body)


def test_older_files_are_made_in_full_to_find_the_damage(made: Path) -> None:
    without_table(made)
    whole = made.read_bytes()
    damage(made, "k2")
    assert found(made) == ("differs", ())
    output = made.with_name("mended.safetensors")
    assert mend(made, output).remade == ("k2",)
    assert output.read_bytes() == whole


def test_older_files_replay_without_a_table(made: Path) -> None:
    without_table(made)
    output = made.with_name("again.safetensors")
    with open_checkpoint(made) as source:
        replay(source, made.parent.parent / "pool", output, settings=ONE_THREAD)
    assert output.read_bytes() == made.read_bytes()


def test_a_file_of_one_component(tmp_path: Path, model: object) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    from safetensors.torch import save_file as save_torch

    tensors: dict[str, torch.Tensor] = model("vae")  # type: ignore[operator]
    save_torch(tensors, pool / "a.safetensors")
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / "vae.safetensors"
    merge(make_recipe("a", {"a": "a.safetensors"}), file, folder=pool, form="bare",
          settings=ONE_THREAD)  # fmt: skip
    whole = file.read_bytes()
    with SafetensorsFile(file) as source:
        key = list(source.tensors)[7]
    damage(file, key)
    answer, damaged = found(file)
    assert answer == "differs" and damaged == (f"first_stage_model.{key}",)
    output = tmp_path / "out" / "mended.safetensors"
    assert mend(file, output).remade == damaged
    assert output.read_bytes() == whole


def test_nothing_to_repair(made: Path) -> None:
    with pytest.raises(PreflightError, match="every tensor is what its recipe made"):
        mend(made, made.with_name("mended.safetensors"))


def retold(file: Path, **changes: str) -> None:
    with open_checkpoint(file) as source:
        infos, metadata = dict(source.tensors), {**source.metadata, **changes}
        body = b"".join(source.read_bytes(key) for key in infos)
    file.write_bytes(encode_header(infos, metadata) + body)


def test_what_cannot_be_trusted_is_refused(made: Path) -> None:
    with open_checkpoint(made) as source:
        recipe, table = source.metadata["stockpot.recipe"], source.metadata[TENSORS_KEY]
    damage(made, "k0")
    output = made.with_name("mended.safetensors")
    other = table[:-5] + ("A" if table[-5] != "A" else "B") + table[-4:]
    retold(made, **{TENSORS_KEY: other})  # an edited table: k4 is made again, too, and all is well
    assert mend(made, output).remade == ("k0", "k4")
    retold(made, **{"stockpot.recipe": recipe.replace("ties", "dare")})
    with pytest.raises(CheckpointError, match="was changed after the merge"):
        mend(made, made.with_name("other.safetensors"))


def test_damage_that_the_table_does_not_see_is_an_error(made: Path) -> None:
    from blake3 import blake3

    damage(made, "k0")
    with open_checkpoint(made) as source:
        import base64

        raw = b"".join(blake3(source.read_bytes(key)).digest()[:8] for key in KEYS)
    retold(made, **{TENSORS_KEY: "8:" + base64.b64encode(raw).decode()})
    with pytest.raises(CheckpointError, match="contradict each other"):
        mend(made, made.with_name("mended.safetensors"))


def test_a_file_without_a_recipe(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float16)}, tmp_path / "a.safetensors")
    with (
        SafetensorsFile(tmp_path / "a.safetensors") as source,
        pytest.raises(CheckpointError, match="there is no recipe with hashes"),
    ):
        remake(source, tmp_path, tmp_path / "b.safetensors")
