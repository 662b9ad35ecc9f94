"""Untrusted recipes of other tools: refused, or read, in bounded time."""

from __future__ import annotations

import json
import time

import pytest

from stockpot.errors import RecipeError
from stockpot.recipes.importers import import_text

A = "a" * 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sd_merge_recipe": ' + "[" * 500_000, "no JSON"),
        ('{"sd_merge_recipe": "' + "[" * 500_000 + '"}', "no JSON"),
        ('{"sd_merge_recipe": {"multiplier": ' + "9" * 100_000 + "}}", "no JSON|number"),
        ('{"sd_merge_recipe": {"interp_method": "Weighted sum", "multiplier": 1e999}}', "number"),
        ('{"sd_merge_recipe": {"interp_method": "Weighted sum", "multiplier": NaN}}', "number"),
        ('model "a"\n' + 'call "mean" &0\n' * 200_000, "10000 lines"),
        ('model "a"\ncall "x" ' + "&0 " * 300_000, "50000 arguments"),
        ('model "a"\ncall "x" &99999999999999999999', "cannot be read"),
        ('model "' + "a\\" * 300_000, "cannot be read"),
        ("a.ckpt\n" * 400_000, "10000 files"),
        ("0,1,2," + "," * 10**6 + ",score\n", "10000 characters"),
        ("modelA=a\nmodelB=b\n" + ",".join(["9" * 90_000] * 27), "number"),
        ("x" * (5 << 20), "4194304 characters"),
        ("\x00" * 10**6, "looks like no recipe"),
    ],
)
def test_refused_in_no_time(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(RecipeError, match=message) as caught:
        import_text(text)
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 1000


def test_paths_and_names_become_harmless() -> None:
    names = ["../../etc/passwd", "/etc/shadow", "C:\\Windows\\x.ckpt", "\\\\host\\share\\y.ckpt",
             "~/z", "a\x1b[31m.ckpt", "*", "..", "__class__", "mean", "x" * 500,
             "\u202egpj.exe"]  # fmt: skip
    models = {f"{i:064x}": {"name": name} for i, name in enumerate(names)}
    top = {"type": "webui", "primary_model_hash": f"{0:064x}", "secondary_model_hash": f"{1:064x}",
           "interp_method": "Weighted sum", "multiplier": 0.5}  # fmt: skip
    recipe = import_text(json.dumps({"sd_merge_recipe": top, "sd_merge_models": models})).recipe
    assert not recipe.outside() and not recipe.problems()
    assert all("/" not in e.file and "*" not in e.file for e in recipe.pool.values())
    lines = "\n".join(f'model "{name}"' for name in ("../x", "/y", "a/../../z", "\\\\h\\s\\w"))
    recipe = import_text(f'{lines}\ncall "n_average" &0 &1 &2 &3').recipe
    assert [e.file for e in recipe.pool.values()] == ["x", "y", "z", "w"]


def test_a_long_chain_is_read_without_recursion() -> None:
    lines = ['model "a"', 'model "b"']
    lines += [f'call "weighted_sum" &0 &{i} alpha=0.5' for i in range(1, 3000)]
    start = time.process_time()
    assert import_text("\n".join(lines)).facts.n_steps == 2999
    assert time.process_time() - start < 1


def test_many_names_take_little_time() -> None:
    start = time.process_time()
    assert import_text("".join(f"{i}.ckpt\n" for i in range(9_000))).facts.n_models == 9_000
    assert time.process_time() - start < 2
    names = {f"{i:064x}": {"name": f"{i}.ckpt"} for i in range(3_000)}
    record = {"type": "sd-webui-supermerger", "model_a": "x", "model_b": "y", "base_alpha": 0.5}
    names |= {
        f"f{i:063x}": {"name": f"m{i}.ckpt", "sd_merge_recipe": {**record, "model_b": f"{i}"}}
        for i in range(1_500)
    }
    text = json.dumps({"sd_merge_recipe": record, "sd_merge_models": names})
    start = time.process_time()
    assert import_text(text).facts.n_steps == 1_501
    assert time.process_time() - start < 2
