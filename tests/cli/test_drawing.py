"""``stockpot draw`` and ``stockpot grid``, on a small model with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from stockpot.checkpoints import FileSink, MemorySource
from stockpot.cli.main import app
from stockpot.draw import parse_infotext, read_parameters
from stockpot.errors import OutputExistsError, RequestError, UnknownNameError

MakeModel = Callable[..., MemorySource]
CARD = """a red heart
Negative prompt: dull
Steps: 2, Sampler: Euler, CFG scale: 4, Seed: 7, Size: 32x32, Model hash: {hash}, Model: {name}, \
Clip skip: 2, Version: v1.6.0"""


def run(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def files(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for i, name in enumerate("ab"):
        source = make_model(i)
        found[name] = folder / f"{name}.safetensors"
        sink = FileSink(found[name], dict(source.tensors), dict(source.metadata))
        for key in source.tensors:
            sink.write(key, 0, memoryview(source.read_bytes(key)))
            sink.tensor_done(key, None)
        sink.commit(dict(source.metadata))
    return found


def test_draw_a_payload(files: dict[str, Path], config: Path, tmp_path: Path) -> None:
    payload = tmp_path / "cat.json"
    payload.write_text(json.dumps({
        "prompt": "(a:0), [cat]", "negative_prompt": "dull", "seed": 5, "steps": 9, "n_iter": 2,
        "sampler_name": "Euler", "width": 512, "height": 512, "cfg_scale": 4, "enable_hr": True,
        "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7, "tiling": True,
        "restore_faces": True,
    }))  # fmt: skip
    out = tmp_path / "out"
    result = run("draw", files["a"], "--payload", payload, "--config", config, "-o", out,
                 "--size-scale", 0.0625, "--steps", 2, "--json")  # fmt: skip
    assert result.exit_code == 0
    drawn = json.loads(result.stdout)
    assert [Path(one["file"]).name for one in drawn] == ["cat-5.png", "cat-6.png"]
    assert "restore_faces: true is asked for, which is not done here" in result.stderr
    assert "cat: 5 tokens, negative 4; 2 pictures with a" in result.stderr
    assert "peak memory" in result.stderr
    read = parse_infotext(read_parameters(out / "cat-6.png"))
    request = read.request
    assert read.notes == ()
    assert (request.prompt, request.seed, request.settings.steps) == ("(a:0), [cat]", 6, 2)
    assert (request.settings.width, request.settings.height) == (32, 32)
    assert request.settings.hires is not None and request.settings.noise == "NV"
    assert request.settings.tiling
    assert request.model.name == "a" and len(request.model.hash) == 10
    again = ("draw", files["a"], "--payload", payload, "--config", config, "-o", out)
    with pytest.raises(OutputExistsError, match="cat-5.png, cat-6.png are there already"):
        run(*again)


def test_a_picture_is_drawn_again_from_its_card(
    files: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run("draw", files["a"], "--prompt", "a red heart", "--steps", 2, "--seed", 3,
        "--config", config, "-o", first)  # fmt: skip
    picture = first / "prompt-3.png"
    run("draw", "--models", files["a"].parent, "--infotext", picture, "--config", config,
        "-o", second)  # fmt: skip
    assert (second / "prompt-3-3.png").read_bytes() == picture.read_bytes()


def test_cards_find_their_model_by_hash(
    files: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    from stockpot.checkpoints import file_hashes

    card = tmp_path / "card.txt"
    card.write_text(CARD.format(hash=file_hashes(files["b"]).autov2, name="renamed"))
    result = run("draw", "--models", files["a"].parent, "--infotext", card, "--config", config,
                 "-o", tmp_path / "out")  # fmt: skip
    assert "1 pictures with b" in result.stderr
    card.write_text(CARD.format(hash="0123456789", name="lost"))
    with pytest.raises(RequestError, match="lost: no file on this machine has the hash 0123456789"):
        run("draw", "--models", files["a"].parent, "--infotext", card, "-o", tmp_path / "out2")
    plot = CARD.format(hash="", name="").replace(", Version", (
        ", Script: X/Y/Z plot, X Type: Checkpoint name, X Values: "
        f'"a.safetensors [{file_hashes(files["a"]).autov2}],'
        f'b.safetensors [{file_hashes(files["b"]).autov2}]", Version'))  # fmt: skip
    card.write_text(plot.replace("Model hash: , Model: , ", ""))
    run("draw", "--models", files["a"].parent, "--infotext", card, "--config", config,
        "-o", tmp_path / "plot")  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "plot").iterdir()) == [
        "card-a-7.png", "card-b-7.png"
    ]  # fmt: skip


def test_a_mix_is_drawn_as_its_file(files: dict[str, Path], config: Path, tmp_path: Path) -> None:
    soup = tmp_path / "soup.safetensors"
    run("mean", files["a"], files["b"], "-o", soup)
    how = ("--prompt", "a red heart", "--seed", 1, "--steps", 2, "--config", config)
    pool = ("--pool", files["a"], "--pool", files["b"])
    run("draw", "mean(a, b)", *pool, *how, "-o", tmp_path / "live")
    run("draw", soup, *how, "-o", tmp_path / "file")
    from stockpot.draw import from_png

    live, file = (from_png((tmp_path / n / "prompt-1.png").read_bytes()) for n in ("live", "file"))
    assert (live == file).all()
    text = read_parameters(tmp_path / "live" / "prompt-1.png")
    assert 'Stockpot mix: "model: mean(a, b)"' in text


def test_wrong_words_are_usage_errors(files: dict[str, Path], tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    for words, message in (
        (("draw", files["a"], *out), "say what to draw"),
        (("draw", files["a"], "--prompt", "x", "--size", "big", *out), "--size is like 512x768"),
        (("draw", files["a"], "--prompt", "x", "--set", "steps", *out), "--set takes field=value"),
        (("draw", files["a"], "--prompt", "x", "--vram", "tiny", *out), "--vram must be one of"),
        (("draw", "--prompt", "x", "--via", "nowhere", *out), "a web UI's address"),
        (("grid", files["a"], "--prompt", "x", *out), "a grid needs an axis"),
        (("grid", files["a"], "-x", "seed=1", "-y", "seed=2", "--prompt", "x", *out),
         "two axes are called"),
    ):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_grid_is_taken_up_where_it_was(
    files: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "grid"
    pool = ("--pool", files["a"], "--pool", files["b"])
    words = ("grid", "lerp(a, b, {t})", *pool, "-y", "ratio=0-1(+0.5)", "-x", "seed=1,2",
             "--prompt", "a red heart", "--set", "steps=2", "--config", config, "-o", out,
             "--json")  # fmt: skip
    first = json.loads(run(*words, "--reference", "ratio 0").stdout)
    assert first["n_drawn"] == 6 and len(first["cells"]) == 6
    assert {c["row"] for c in first["cells"] if "mse" in c} == {"ratio 0.5", "ratio 1"}
    html = (out / "grid.html").read_text()
    assert "ratio 0.5 − ratio 0" in html and "MSE" in html and "<script" not in html
    cells = sorted((out / "cells").iterdir())
    before = {cell: cell.read_bytes() for cell in cells}
    cells[0].unlink()
    cells[1].write_bytes(before[cells[1]][:50])  # cut off
    with pytest.raises(OutputExistsError, match="grid.png, grid.html are there already"):
        run(*words)
    second = json.loads(run(*words, "--overwrite").stdout)
    assert second["n_drawn"] == 2
    assert {cell: cell.read_bytes() for cell in cells} == before
    grown = [str(w).replace("seed=1,2", "seed=1-3") for w in words]
    assert json.loads(run(*grown, "--overwrite").stdout)["n_drawn"] == 3
    with pytest.raises(UnknownNameError, match="unknown row 'ratio 7'"):
        run(*words, "--overwrite", "--reference", "ratio 7")


def test_differences_are_measured_as_asked(
    files: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    from stockpot.draw import MEASURES

    words = ("grid", files["a"], "-x", "seed=1,2", "-y", "cfg=1,4", "--prompt", "a red heart",
             "--set", "steps=1", "--config", config, "--reference", "cfg 1", "-o",
             tmp_path / "grid", "--json", "--compare")  # fmt: skip
    asked = [name for name in MEASURES if name != "embedding"]
    found = json.loads(run(*words, ",".join(asked)).stdout)
    ((row, mean),) = found["means"].items()
    assert (found["reference"], row) == ("cfg 1", "cfg 4")
    compared = [cell for cell in found["cells"] if cell["row"] == "cfg 4"]
    for name in asked:
        assert mean[name] == pytest.approx(sum(cell[name] for cell in compared) / 2, abs=1e-5)
        assert not any(name in cell for cell in found["cells"] if cell["row"] == "cfg 1")
    html = (tmp_path / "grid" / "grid.html").read_text()
    for word in ("LPIPS-like 0.", "SIFT ", "detail +", "Mean of cfg 4"):
        assert word in html or word.replace("+", "-") in html
    with pytest.raises(UnknownNameError, match="unknown measure 'msee'; did you mean 'mse'"):
        run(*words, "msee")
    with pytest.raises(RequestError, match="comparing embeddings needs the folder of a network"):
        run(*words, "embedding")


def test_a_device_that_is_not_there(files: dict[str, Path], config: Path, tmp_path: Path) -> None:
    for words in (("draw", files["a"], "--prompt", "x"),
                  ("grid", files["a"], "--prompt", "x", "-x", "seed=1")):  # fmt: skip
        with pytest.raises(RequestError, match="this machine has no device 'cuda:99'"):
            run(*words, "--device", "cuda:99", "--config", config, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_axes_of_models_and_parts(files: dict[str, Path], config: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid"
    result = run("grid", "-y", f'model={files["a"]},{files["b"]}', "-x",
                 f'te={files["a"]},{files["b"]}', "-z", 'prompt_sr=red,"dark, blue"', "--prompt",
                 "a red heart", "--set", "steps=1", "--config", config, "-o", out,
                 "--json")  # fmt: skip
    cells = json.loads(result.stdout)["cells"]
    assert len({cell["file"] for cell in cells}) == 8
    assert cells[0]["row"] == "prompt sr red · a" and cells[0]["column"] == "a"
    pictures = [(out / "cells" / cell["file"]).read_bytes() for cell in cells]
    assert len(set(pictures)) == 8
    with pytest.raises(RequestError, match="an axis of ratios needs {t}"):
        run("grid", files["a"], "-x", "ratio=0,1", "--prompt", "x", "-o", tmp_path / "g2")
    with pytest.raises(RequestError, match="'green' is not in 'x'"):
        run("grid", files["a"], "-x", "prompt_sr=green,red", "--prompt", "x", "--config", config,
            "-o", tmp_path / "g3")  # fmt: skip


def test_what_the_model_has_not_is_said(
    files: dict[str, Path], config: Path, tmp_path: Path
) -> None:
    how = ("--prompt", "x", "--steps", 1, "--config", config, "-o", tmp_path / "out")
    with pytest.raises(RequestError, match="a: `width` must be a multiple of 4, but got 33"):
        run("draw", files["a"], *how, "--size", "33x32")
    with pytest.raises(RequestError, match="`clip_skip` must be at most 2"):
        run("draw", files["a"], *how, "--set", "clip_skip=9")
