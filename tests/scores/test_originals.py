"""Each published network: its file's layout, loaded strictly, scores as transformers computes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.errors import CheckpointError, MissingWeightsError, ScorerError
from stockpot.scores import SCORERS, Scorer, Setting, make_scorer
from stockpot.scores.blip import UNUSED, BlipReward, BlipShape
from stockpot.scores.openclip import OpenClip, OpenClipShape

LAYOUTS = Path(__file__).parent / "layouts"
ORIGINALS = ("imagereward", "hpsv2", "pickscore", "clipscore", "aesthetic", "cafe")
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
SD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)


def make(name: str, folder: Path) -> Scorer:
    return make_scorer(name, Setting(folder=folder))


def resized(picture: np.ndarray, rows: int, columns: int) -> Any:
    from PIL import Image

    whole = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(whole)).permute(2, 0, 1).float() / 255


def cut_to_square(picture: np.ndarray, side: int) -> Any:
    """torchvision's `Resize` and `CenterCrop`, written out."""
    height, width = picture.shape[:2]
    if height < width:
        x = resized(picture, side, int(side * width / height))
    else:
        x = resized(picture, int(side * height / width), side)
    top, left = (int(round((size - side) / 2.0)) for size in x.shape[1:])
    return (x[:, top : top + side, left : left + side] - MEAN) / SD


def put_on_black(picture: np.ndarray, side: int) -> Any:
    """HPSv2's `ResizeMaxSize`, written out."""
    scale = side / max(picture.shape[:2])
    rows, columns = (round(size * scale) for size in picture.shape[:2])
    x = torch.nn.functional.pad(
        resized(picture, rows, columns),
        ((side - columns) // 2, side - columns - (side - columns) // 2,
         (side - rows) // 2, side - rows - (side - rows) // 2),
    )  # fmt: skip
    return (x - MEAN) / SD


def clip_pixels(folder: Path, pictures: list[np.ndarray]) -> Any:
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    return processor(images=list(pictures), return_tensors="pt")["pixel_values"]


def clip_tokens(folder: Path, prompts: list[str], length: int = 32) -> Any:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip-tokenizer", local_files_only=True)
    return tokenizer(prompts, padding="max_length", max_length=length, truncation=True,
                     return_tensors="pt")  # fmt: skip


def by_imagereward(
    network: Any, folder: Path, pictures: Any, prompts: list[str], side: int = 64
) -> Any:
    from transformers import BertTokenizer

    vision, text, head = network
    tokenizer = BertTokenizer.from_pretrained(folder / "bert-base-uncased", local_files_only=True)
    words = tokenizer(prompts, padding="max_length", max_length=35, truncation=True,
                      return_tensors="pt")  # fmt: skip
    seen = vision(torch.stack([cut_to_square(p, side) for p in pictures])).last_hidden_state
    states = text(
        input_ids=words["input_ids"],
        attention_mask=words["attention_mask"],
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long),
        is_decoder=False,
    ).last_hidden_state
    return (head(states[:, 0])[:, 0] - 0.16717362830052426) / 1.0333394966054072


def by_hpsv2(
    network: Any, folder: Path, pictures: Any, prompts: list[str], side: int = 56, length: int = 32
) -> Any:
    pixels = torch.stack([put_on_black(p, side) for p in pictures])
    out = network(pixel_values=pixels, **clip_tokens(folder, prompts, length))
    return (out.image_embeds * out.text_embeds).sum(dim=-1)


def by_pickscore(network: Any, folder: Path, pictures: Any, prompts: list[str]) -> Any:
    pixels = clip_pixels(folder / "pickscore", pictures)
    out = network(pixel_values=pixels, **clip_tokens(folder, prompts))
    return out.logits_per_image.diagonal()


def by_clipscore(network: Any, folder: Path, pictures: Any, prompts: list[str]) -> Any:
    texts = [f"A photo depicts {prompt}" for prompt in prompts]
    pixels = clip_pixels(folder / "clip", pictures)
    out = network(pixel_values=pixels, **clip_tokens(folder, texts))
    return 2.5 * torch.relu((out.image_embeds * out.text_embeds).sum(dim=-1))


def by_aesthetic(network: Any, folder: Path, pictures: Any, prompts: list[str]) -> Any:
    model, head = network
    pixels = clip_pixels(folder / "clip-vit-large-patch14", pictures)
    found = model.get_image_features(pixel_values=pixels)
    features = found if isinstance(found, torch.Tensor) else found.pooler_output
    return head(features / features.norm(dim=-1, keepdim=True))[:, 0]


def by_cafe(network: Any, folder: Path, pictures: Any, prompts: list[str]) -> Any:
    from transformers import BeitImageProcessorPil

    processor = BeitImageProcessorPil.from_pretrained(
        folder / "cafe-aesthetic", local_files_only=True
    )
    pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
    return network(pixel_values=pixels).logits.softmax(dim=-1)[:, 1]


BY_TRANSFORMERS = {
    "imagereward": by_imagereward,
    "hpsv2": by_hpsv2,
    "pickscore": by_pickscore,
    "clipscore": by_clipscore,
    "aesthetic": by_aesthetic,
    "cafe": by_cafe,
}


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.filterwarnings("ignore::stockpot.scores.UnreadPromptWarning")
@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")
def test_the_same_as_transformers_own_parts(
    name: str, originals: Any, pictures: list[np.ndarray], prompts: list[str]
) -> None:
    scores = make(name, originals.folder).score(pictures, prompts)
    with torch.no_grad():
        expected = BY_TRANSFORMERS[name](
            originals.networks[name], originals.folder, pictures, prompts
        )
    np.testing.assert_allclose(scores, expected.double().numpy(), atol=1e-4, rtol=0)
    # Were all scores the same, agreeing would mean little.
    assert np.ptp(scores) > 0.01


@pytest.mark.parametrize("name", ["imagereward", "hpsv2", "pickscore", "clipscore"])
@pytest.mark.filterwarnings("ignore::stockpot.scores.UnreadPromptWarning")
def test_the_prompt_matters(name: str, originals: Any, pictures: list[np.ndarray]) -> None:
    scorer = make(name, originals.folder)
    same = [pictures[1]] * 2
    first, second = scorer.score(same, ["a red circle", "blue stars"])
    # CLIPScore cuts negative cosines off.
    assert first != second or name == "clipscore" and first == 0


def listing(name: str) -> dict[str, tuple[int, ...]]:
    found = {}
    for line in (LAYOUTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        key, shape = line.split()
        sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        many = re.search(r"\{0-(\d+)\}", key)
        for i in range(int(many.group(1)) + 1) if many else [0]:
            found[re.sub(r"\{0-\d+\}", str(i), key)] = sizes
    return found


def test_imagereward_has_the_original_s_names_and_shapes() -> None:
    original = listing("imagereward")
    assert len(original) == 625
    with torch.device("meta"):
        ours = BlipReward(BlipShape()).state_dict()
    shapes = {key: tuple(value.shape) for key, value in ours.items()}
    assert shapes == {k: s for k, s in original.items() if not k.endswith(UNUSED)}
    # 446.7 million parameters, the position ids not counted.
    n = sum(int(np.prod(s)) for k, s in original.items() if not k.endswith("position_ids"))
    assert n == 446_665_953


def test_hpsv2_has_the_original_s_names_and_shapes() -> None:
    original = listing("hpsv2")
    with torch.device("meta"):
        ours = OpenClip(OpenClipShape()).state_dict()
    assert {key: tuple(value.shape) for key, value in ours.items()} == original


def test_sizes_are_read_from_the_original_s_shapes() -> None:
    with torch.device("meta"):
        blip = BlipReward(BlipShape()).state_dict()
        clip = OpenClip(OpenClipShape()).state_dict()
    config = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
              "intermediate_size": 3072, "vocab_size": 30524, "max_position_embeddings": 512,
              "layer_norm_eps": 1e-12}  # fmt: skip
    assert BlipShape.from_files(config, blip) == BlipShape()
    assert OpenClipShape.from_weights(clip) == OpenClipShape()


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_missing_file_tells_where_to_get_and_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        make(name, tmp_path)
    said = str(caught.value)
    for need in SCORERS[name].needs:
        assert str(tmp_path / need.path) in said and need.source in said
    assert "STOCKPOT_SCORERS" in said and "--files" in said


def test_a_folder_without_weights_is_named(originals: Any, tmp_path: Path) -> None:
    for path in ("pickscore", "clip-tokenizer"):
        (tmp_path / path).mkdir()
        for file in (originals.folder / path).iterdir():
            if file.suffix == ".json":
                (tmp_path / path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(MissingWeightsError, match="the folder has no model.safetensors or"):
        make("pickscore", tmp_path)


def test_files_may_be_anywhere(originals: Any, tmp_path: Path, pictures: Any) -> None:
    elsewhere = tmp_path / "head.pth"
    kept = originals.folder / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth"
    elsewhere.write_bytes(kept.read_bytes())
    files = {"head": elsewhere, "clip": originals.folder / "clip-vit-large-patch14"}
    scorer = SCORERS["aesthetic"](tmp_path, files=files)  # type: ignore[call-arg]
    expected = make("aesthetic", originals.folder).score(pictures)
    assert np.array_equal(scorer.score(pictures), expected)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
def test_other_weights_are_refused(change: str, originals: Any, tmp_path: Path) -> None:
    path = originals.folder / "imagereward" / "ImageReward.pt"
    state = torch.load(path, weights_only=True)
    match = {"missing": r"1 missing \(mlp.layers.7.bias\)", "unknown": r"1 unknown \(extra\)",
             "shape": r"mlp.layers.7.bias \[2\] instead of \[1\]",
             "nan": r"1 not finite \(mlp.layers.7.bias\)"}[change]  # fmt: skip
    if change == "missing":
        del state["mlp.layers.7.bias"]
    else:
        key = "extra" if change == "unknown" else "mlp.layers.7.bias"
        state[key] = {"unknown": torch.ones(1), "shape": torch.ones(2),
                      "nan": torch.tensor([float("nan")])}[change]  # fmt: skip
    torch.save(state, tmp_path / "changed.pt")
    with pytest.raises(ScorerError, match=match):
        SCORERS["imagereward"](  # type: ignore[call-arg]
            originals.folder, files={"weights": tmp_path / "changed.pt"}
        )


def test_safetensors_hold_the_same(originals: Any, tmp_path: Path, pictures: Any,
                                   prompts: list[str]) -> None:  # fmt: skip
    from safetensors.torch import save_file

    path = originals.folder / "imagereward" / "ImageReward.pt"
    save_file(torch.load(path, weights_only=True), tmp_path / "reward.safetensors")
    scorer = SCORERS["imagereward"](  # type: ignore[call-arg]
        originals.folder, files={"weights": tmp_path / "reward.safetensors"}
    )
    expected = make("imagereward", originals.folder).score(pictures, prompts)
    assert np.array_equal(scorer.score(pictures, prompts), expected)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-run"),))


def test_nothing_in_a_file_is_run(originals: Any, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    torch.save({"layers.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil.pth"):
        SCORERS["aesthetic"](  # type: ignore[call-arg]
            originals.folder, files={"head": tmp_path / "evil.pth"}
        )
    assert not (tmp_path / "was-run").exists()


def test_half_precision_is_near(originals: Any, pictures: Any, prompts: list[str]) -> None:
    full = make("hpsv2", originals.folder).score(pictures, prompts)
    setting = Setting(folder=originals.folder, dtype="bfloat16")
    half = make_scorer("hpsv2", setting).score(pictures, prompts)
    np.testing.assert_allclose(half, full, atol=0.05)
    assert not np.array_equal(half, full)


def test_helpful_errors(originals: Any) -> None:
    folder = originals.folder
    with pytest.raises(LookupError, match="did you mean 'float16'"):
        make_scorer("hpsv2", Setting(folder=folder, dtype="float61"))
    with pytest.raises(LookupError, match="did you mean 'stretch'"):
        make_scorer("hpsv2", Setting(folder=folder, fit="strech"))
    with pytest.raises(ScorerError, match="a device that torch has, but got 'tpu9'"):
        make_scorer("hpsv2", Setting(folder=folder, device="tpu9"))
    with pytest.raises(LookupError, match="unknown file of aesthetic 'haed'; did you mean 'head'"):
        SCORERS["aesthetic"](folder, files={"haed": folder})  # type: ignore[call-arg]
