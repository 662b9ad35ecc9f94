"""`stockpot inspect` and `stockpot repair` as people type them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from stockpot.checkpoints import encode_header
from stockpot.cli.inspecting_view import same_as, short_paths
from stockpot.cli.main import app
from stockpot.inspect import CODES, ComponentFacts, Inspection
from stockpot.layouts import get_layout

RUNNER = CliRunner()
DOCS = Path(__file__).parents[2] / "docs"
ZOO = get_layout("zoo")
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
HOSTILE = "\x1b[31mred\x1b]0;title\x07\u202e<script>alert(1)</script>\u2066&amp;"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("STOCKPOT_CACHE", str(folder))
    return folder


def model(path: Path, seed: int = 0, **metadata: str) -> Path:
    arrays = {
        key: np.random.default_rng(seed).standard_normal(spec.shape).astype(np.float16)
        for key, spec in ZOO.specs.items()
        if not spec.optional
    }
    save_file(arrays, path, metadata)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two checkpoints that share nothing but a VAE, a LoRA, and a broken file."""
    place = tmp_path / "models"
    place.mkdir()
    model(place / "a.safetensors", 1, **{"modelspec.title": "A"})
    arrays = load_file(model(place / "b.safetensors", 2))
    arrays |= {k: v for k, v in load_file(place / "a.safetensors").items() if "first_stage" in k}
    save_file(arrays, place / "b.safetensors")
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    save_file({key: np.ones((4, 64), np.float16)}, place / "l.safetensors")
    (place / "x.safetensors").write_bytes(b"<!DOCTYPE html><html>")
    return place


def run(*arguments: str | Path, code: int = 0) -> str:
    result = RUNNER.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout


def fits(value: Any, schema: Any, root: Any, place: str = "$") -> None:
    """Check a value against the part of JSON Schema that our schema uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    known = {"type", "enum", "required", "properties", "additionalProperties", "items",
             "title", "$schema", "$defs"}  # fmt: skip
    assert set(schema) <= known, place
    if "enum" in schema:
        assert value in schema["enum"], (place, value)
    if "type" in schema:
        kinds = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict,
                 "null": type(None)}  # fmt: skip
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert type(value) in {kinds[name] for name in names}, (place, value)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), place
        for key, inner in value.items():
            part = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
            assert part is not False, f"{place}.{key}"
            fits(inner, part, root, f"{place}.{key}")
    if isinstance(value, list):
        for number, inner in enumerate(value):
            fits(inner, schema["items"], root, f"{place}[{number}]")


@pytest.mark.parametrize("options", [(), ("--hash",), ("--deep", "--toolkit", "--hash")])
def test_json_is_as_the_schema_says(folder: Path, options: tuple[str, ...]) -> None:
    schema = json.loads((DOCS / "inspect.schema.json").read_text())
    told = json.loads(run("inspect", folder, "--json", *options, code=1))
    fits(told, schema, schema)
    assert [Path(one["path"]).stem for one in told] == ["a", "b", "l", "x"]
    assert [one["kind"] for one in told] == ["checkpoint", "checkpoint", "lora", "unreadable"]
    assert told[3]["problems"][0]["code"] == "not-a-checkpoint"
    hashed = bool(options)
    for one in told[:3]:
        for facts in one["components"].values():
            assert (facts["hash"] is not None) == hashed
        assert (one["hashes"]["sha256"] is not None) == ("--hash" in options)
    assert set(told[0]["shared"]) == ({"vae"} if hashed else set())
    assert (told[0]["toolkit"] == "----/----/----") == ("--toolkit" in options)


def test_hashes_are_null_until_somebody_asked_and_kept_then(folder: Path) -> None:
    path = folder / "a.safetensors"

    def content(*options: str) -> str | None:
        (told,) = json.loads(run("inspect", path, "--json", *options))
        return told["hashes"]["content"]  # type: ignore[no-any-return]

    assert content() is None
    asked = content("--hash")
    assert asked is not None
    assert content() == asked and content("--no-cache") is None


def test_a_table_for_many_and_details_for_one(folder: Path) -> None:
    text = run("inspect", folder, code=1)
    assert "4 files" in text and "1 with errors" in text and "not-a-checkpoint" in text
    assert "(a small Stable" in text and "LoRA, rank 4" in text
    assert "ModelSpec" not in text
    one = run("inspect", folder / "a.safetensors")
    assert "UNet: 686 of 686 keys" in one and "ModelSpec" in one and "(ask with --hash)" in one
    both = run("inspect", folder, "--details", code=1)
    assert "4 files" in both and "UNet: 686 of 686 keys" in both
    deep = run("inspect", folder / "a.safetensors", "--hash", "--deep", "--toolkit")
    for label in ("content hash", "sha256", "AutoV2", "AutoV3", "legacy", "embedding", "toolkit"):
        assert label in deep


def test_relations_to_a_base(folder: Path) -> None:
    base = folder / "a.safetensors"
    told = json.loads(run("inspect", folder / "b.safetensors", "--base", base, "--json"))
    assert told[0]["shared"] == {"vae": [str(base)]}
    assert "vae: the base's" in run("inspect", folder / "b.safetensors", "--base", base)
    text = RUNNER.invoke(app, ["inspect", str(base), "--base", str(folder / "x.safetensors")])
    assert text.exit_code == 1 and "--base" in text.stderr


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["inspect", str(tmp_path)])
    assert result.exit_code == 0 and "there is no checkpoint" in result.stderr
    assert json.loads(run("inspect", tmp_path, "--json")) == []


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A file whose name, keys, metadata and training tags all try to break out."""
    place = tmp_path / "<script>alert(1)<"
    place.mkdir()
    path = place / f"{HOSTILE.replace('/', '_')}.safetensors"
    key = "k\u202e<script>alert(1)</script>"
    entry = {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}
    tags = {HOSTILE: {HOSTILE: 3}}
    metadata = {
        HOSTILE: HOSTILE,
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.title": HOSTILE,
        "modelspec.prediction_type": "v" + HOSTILE,
        "sd_merge_models": json.dumps({"a" * 64: {"name": HOSTILE, "sd_merge_recipe": None}}),
        "sd_merge_recipe": json.dumps({"primary_model_hash": "a" * 64, "interp_method": HOSTILE}),
    }
    text = json.dumps({"__metadata__": metadata, key: entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\xff\x7f" * 2)
    return path


def harmless(text: str) -> bool:
    """Nothing in it moves a cursor, rings a bell or turns the direction of writing."""
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("options", [(), ("--deep", "--hash", "--details")])
def test_hostile_text_is_text_in_the_terminal(hostile: Path, options: tuple[str, ...]) -> None:
    broken = hostile.with_name("\x1b[2Jbroken.safetensors")
    broken.write_bytes(b"")
    result = RUNNER.invoke(app, ["inspect", str(hostile), str(broken), *options])
    assert harmless(result.stdout) and harmless(result.stderr)
    result = RUNNER.invoke(app, ["inspect", str(hostile), *options])
    assert result.exit_code == 0 and harmless(result.stdout)
    assert "\\x1b[31mred" in result.stdout and "<script>" in result.stdout
    assert "[31mred" not in result.stdout.replace("\\x1b[31mred", "")


def test_hostile_text_is_text_in_json(hostile: Path) -> None:
    text = run("inspect", hostile, "--json", "--deep")
    # JSON escapes control characters; whoever prints it on a terminal is safe with the rest too.
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    (told,) = json.loads(text)
    assert told["path"] == str(hostile)
    assert told["metadata"][HOSTILE] == HOSTILE
    assert told["problems"][0]["code"] == "nan"


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    import os

    name = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    with open(name, "wb") as file:
        file.write(encode_header({}, {}))
    assert "\\udcff" in run("inspect", tmp_path)
    (told,) = json.loads(run("inspect", tmp_path, "--json"))
    assert os.fsencode(told["path"]) == name


def test_hostile_text_is_text_in_html(hostile: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run("inspect", hostile, "--html", page, "--deep", "--hash")
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "&lt;script&gt;alert(1)" in html
    assert "\x1b" not in html and "\u202e" not in html
    assert "nan" in html and "red" in html
    again = RUNNER.invoke(app, ["inspect", str(hostile), "--html", str(page)])
    assert again.exit_code == 1
    run("inspect", hostile, "--html", page, "--overwrite")


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_table_fits_the_terminal(
    folder: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stockpot.cli import inspecting_view
    from stockpot.inspect import Wanted, inspect_paths, shared_components

    monkeypatch.setattr(inspecting_view, "_console", lambda: Console(width=width))
    found = inspect_paths(sorted(folder.iterdir()), Wanted(components=True))
    inspecting_view.print_overview(found, shared_components(found))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert ("types" in lines[1]) == (width >= 110)
    for stem in "abl":
        assert any(line.lstrip().startswith(stem) for line in lines)


def test_paths_are_shortened_to_what_tells_them_apart() -> None:
    long = [f"/a/b/{'x' * 80}{n}.safetensors" for n in range(3)]
    short = short_paths(long, 40)
    assert all(len(text) == 40 and "…" in text for text in short) and len(set(short)) == 3
    assert short_paths(["/a/b/c", "d"], 40) == ["/a/b/c", "d"]
    assert short_paths(["/a/\x1b"], 40) == ["\\x1b"]
    assert short_paths([], 40) == []


def test_shared_components_are_told_together() -> None:
    shared = {"unet": ["x/b.safetensors"], "te": ["base"], "vae": ["base", "x/b.safetensors"]}
    base = Inspection("base", "checkpoint", "checkpoint", "sd1")
    assert same_as(shared, base) == ["unet: same as b", "te, vae: the base's"]
    both = {"unet": ["x/b.st", "c"], "te": ["x/b.st", "c"]}
    assert same_as(both, None) == ["unet, te: same as b and 1 more"]
    assert ComponentFacts("te", 1, 1, 1, {}).hash is None


def test_repair_from_the_command_line(tmp_path: Path) -> None:
    arrays = load_file(model(tmp_path / "base.safetensors", 1))
    arrays[IDS] = np.arange(77, dtype=np.float32).reshape(1, 77)
    arrays["model.diffusion_model.out.2.bias"][0] = np.nan
    path, output, base = (tmp_path / f"{n}.safetensors" for n in ("in", "out", "base"))
    save_file(arrays, path)
    refused = RUNNER.invoke(app, ["repair", str(path), "-o", str(output)])
    assert refused.exit_code == 1 and not output.exists()
    text = run("repair", path, "--base", base, "--dry-run")
    assert "would be mended" in text and not output.exists()
    told = json.loads(run("repair", path, "-o", output, "--base", base, "--json"))
    assert {one["code"] for one in told["mended"]} == {"position-ids-float", "nan"}
    assert told["left"] == [] and told["output"] == str(output)
    assert "findings" not in run("inspect", output, "--deep")
    assert json.loads(run("inspect", output, "--deep", "--json"))[0]["problems"] == []
    again = RUNNER.invoke(app, ["repair", str(path), "-o", str(output), "--base", str(base)])
    assert again.exit_code == 1  # the output is there
    nothing = RUNNER.invoke(app, ["repair", str(base), "--dry-run"])
    assert nothing.exit_code == 1 and "no problem that a repair would mend" in nothing.stdout
    assert RUNNER.invoke(app, ["repair", str(path)]).exit_code == 2


def test_the_documentation_names_every_code_kind_and_option() -> None:
    text = (DOCS / "inspect.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (error|warning|note) \|", text, re.MULTILINE))
    assert rows == {code.name: code.level for code in CODES.values()}
    schema = json.loads((DOCS / "inspect.schema.json").read_text())
    for kind in schema["items"]["properties"]["kind"]["enum"]:
        assert f"`{kind}`" in text
    for option in ("--recursive", "--hash", "--deep", "--toolkit", "--base", "--details", "--html",
                   "--no-cache", "--json", "STOCKPOT_CACHE"):  # fmt: skip
        assert option in text


def test_headers_alone_load_no_numpy_and_no_engine(tmp_path: Path) -> None:
    import subprocess
    import sys

    infos = {}
    (tmp_path / "e.safetensors").write_bytes(encode_header(infos, {}))
    script = (
        "import sys\n"
        f"sys.argv = ['stockpot', 'inspect', {str(tmp_path)!r}]\n"
        "from stockpot.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "loaded = {'torch', 'numpy', 'yaml', 'stockpot.engine'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
