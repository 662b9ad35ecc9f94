"""Chunks, emphasis, clip skip, embeddings: hand-made cuts and agreement with transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stockpot.checkpoints import MemorySource
from stockpot.draw import (
    Conditioner,
    Embedding,
    Emphasised,
    Parts,
    TokenTable,
    cut_into_chunks,
    load_parts,
    read_embedding,
)
from stockpot.errors import CheckpointError

MakeModel = Callable[..., MemorySource]
START, END, COMMA = 1000, 1001, 7


@pytest.fixture(scope="module")
def parts(make_model: MakeModel, config: Path) -> Parts:
    return load_parts(make_model(), config)


def numbers(texts: list[str]) -> list[list[int]]:
    return [[int(word) for word in text.split()] for text in texts]


def cut(*runs: tuple[str, float] | None, embeddings: dict[str, tuple[tuple[int, ...], int]]
        | None = None) -> tuple[list[list[int]], list[list[float]], int]:  # fmt: skip
    """Cut texts whose words are token numbers; None is BREAK. Fillings are left out."""
    found = cut_into_chunks(
        [Emphasised("0", ends_chunk=True) if run is None else Emphasised(*run) for run in runs],
        numbers,
        TokenTable(START, END, COMMA, embeddings=embeddings or {}),
    )
    tokens, weights = [], []
    for chunk in found.chunks:
        assert len(chunk.tokens) == len(chunk.weights) == 77
        assert chunk.tokens[0] == START and chunk.tokens[-1] == END
        n = 76
        while chunk.tokens[n - 1] == END:
            n -= 1
        tokens.append(list(chunk.tokens[1:n]))
        weights.append(list(chunk.weights[1:n]))
    return tokens, weights, found.n_tokens


def text(n: int, start: int = 100) -> str:
    return " ".join(str(start + i) for i in range(n))


def test_short_prompts_are_one_chunk() -> None:
    assert cut(("", 1.0)) == ([[]], [[]], 0)
    assert cut(("100 101", 1.0), ("102", 0.0)) == ([[100, 101, 102]], [[1, 1, 0]], 3)
    assert [len(chunk) for chunk in cut((text(75), 1.0))[0]] == [75]
    assert [len(chunk) for chunk in cut((text(76), 1.0))[0]] == [75, 1]


def test_a_comma_among_the_last_twenty_moves_the_cut() -> None:
    near = f"{text(60)} {COMMA} {text(14, 300)} {text(5, 400)}"  # 60, comma, 19 behind it
    tokens, _, n_tokens = cut((near, 1.5))
    assert [len(chunk) for chunk in tokens] == [61, 19]
    assert tokens[0][-1] == COMMA and tokens[1][0] == 300
    assert n_tokens == 75 + 19
    far = f"{text(50)} {COMMA} {text(30, 300)}"
    assert [len(chunk) for chunk in cut((far, 1.0))[0]] == [75, 6]
    # The comma that is the 76th token itself goes to the next chunk.
    last = f"{text(75)} {COMMA} 300"
    assert [chunk[:1] for chunk in cut((last, 1.0))[0]] == [[100], [COMMA]]


def test_break_fills_a_chunk() -> None:
    tokens, weights, n_tokens = cut(("100 101", 1.0), None, ("102", 1.2))
    assert tokens == [[100, 101], [102]]
    assert weights == [[1, 1], [1.2]]
    assert n_tokens == 76
    assert cut(None, ("100", 1.0))[0] == [[], [100]]


def test_embeddings_are_never_parted() -> None:
    known = {"star": ((5, 6), 4), "star two": ((5, 6, 8), 2)}
    found = cut_into_chunks(
        [Emphasised(f"{text(73)} 5 6 9", 0.5)], numbers, TokenTable(START, END, COMMA,
                                                                    embeddings=known)
    )  # fmt: skip
    first, second = found.chunks
    assert first.embeddings == () and first.tokens[74] == END
    assert [(p.name, p.at) for p in second.embeddings] == [("star", 1)]
    assert second.tokens[1:7] == (0, 0, 0, 0, 9, END)
    assert second.weights[1:6] == (0.5,) * 5
    table = TokenTable(START, END, COMMA, embeddings=known)
    longest = cut_into_chunks([Emphasised("5 6 8")], numbers, table)
    assert longest.chunks[0].embeddings[0].name == "star two"


def plain_states(parts: Parts, prompt: str) -> torch.Tensor:
    tokens = parts.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        states: torch.Tensor = parts.text_encoder(tokens.input_ids).last_hidden_state[0]
    return states


def test_plain_prompts_agree_with_transformers(parts: Parts) -> None:
    got = Conditioner(parts).encode(["a red heart", ""])
    for prompt, cond in got.items():
        assert torch.allclose(cond.states, plain_states(parts, prompt), atol=1e-6)


def test_emphasis_by_hand(parts: Parts) -> None:
    plain = plain_states(parts, "ab c")  # start, a, b, c, ends
    weights = torch.ones(77)
    weights[1:3] = 1.5
    for mode in ("Original", "No norm"):
        got = Conditioner(parts, emphasis=mode).encode(["(ab:1.5) c"])["(ab:1.5) c"]  # type: ignore[arg-type]
        expected = plain * weights[:, None]
        if mode == "Original":
            expected = expected * plain.mean() / expected.mean()
        assert torch.allclose(got.states, expected, atol=1e-5)
    ignored = Conditioner(parts, emphasis="Ignore").encode(["(ab:1.5) c"])["(ab:1.5) c"]
    assert torch.allclose(ignored.states, plain, atol=1e-6)
    literal = Conditioner(parts, emphasis="None").encode(["(ab:1.5) c"])["(ab:1.5) c"]
    assert torch.allclose(literal.states, plain_states(parts, "(ab:1.5) c"), atol=1e-6)


def test_weight_zero_keeps_the_place(parts: Parts) -> None:
    conditioner = Conditioner(parts, emphasis="No norm")
    got = conditioner.encode(["(ab:0) c"])["(ab:0) c"].states
    plain = plain_states(parts, "ab c")
    assert not got[1:3].any()
    assert torch.allclose(got[3:], plain[3:], atol=1e-6)
    assert not torch.allclose(got[1:], plain_states(parts, "c")[1:], atol=1e-2)


def test_clip_skip_takes_an_earlier_layer(parts: Parts) -> None:
    tokens = parts.tokenizer("ab", padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        out = parts.text_encoder(tokens.input_ids, output_hidden_states=True)
        expected = parts.text_encoder.text_model.final_layer_norm(out.hidden_states[-2])[0]
    got = Conditioner(parts, clip_skip=2).encode(["ab"])["ab"].states
    assert torch.allclose(got, expected, atol=1e-6)
    assert not torch.allclose(got, out.last_hidden_state[0], atol=1e-3)
    with pytest.raises(ValueError, match="`clip_skip` must be at most 2, .* but got 3"):
        Conditioner(parts, clip_skip=3)


def test_long_prompts_are_chunks_side_by_side(parts: Parts) -> None:
    first, second = "x" * 75, "y" * 30
    got = Conditioner(parts).encode([first + second])[first + second]
    assert got.states.shape == (154, parts.text_encoder.config.hidden_size)
    assert got.n_tokens == 105


def own_vectors(parts: Parts, word: str) -> torch.Tensor:
    ids = parts.tokenizer(word, add_special_tokens=False).input_ids
    table: torch.Tensor = parts.text_encoder.get_input_embeddings().weight
    return table[ids].clone()


def test_an_embedding_of_a_words_own_vectors_changes_nothing(parts: Parts) -> None:
    vectors = own_vectors(parts, "ab")
    same = Embedding("zz9", (vectors,), "00", Path("zz9.safetensors"))
    plain = Conditioner(parts).encode(["a ab c"])["a ab c"].states
    conditioner = Conditioner(parts, {"zz9": same})
    assert torch.allclose(conditioner.encode(["a zz9 c"])["a zz9 c"].states, plain, atol=1e-6)
    assert list(conditioner.used) == ["zz9"]
    other = Embedding("zz9", (vectors.flip(1),), "00", Path("zz9.safetensors"))
    moved = Conditioner(parts, {"zz9": other}).encode(["a zz9 c"])["a zz9 c"].states
    assert not torch.allclose(moved, plain, atol=1e-2)
    # One of another width is no word here.
    wide = Embedding("zz9", (torch.zeros(1, 999),), "00", Path("zz9.safetensors"))
    assert torch.allclose(
        Conditioner(parts, {"zz9": wide}).encode(["zz9"])["zz9"].states,
        plain_states(parts, "zz9"),
        atol=1e-6,
    )


def test_embeddings_of_all_forms_are_read(tmp_path: Path) -> None:
    vectors = torch.randn(3, 8)
    save_file({"emb_params": vectors}, tmp_path / "a.safetensors")
    save_file({"clip_l": vectors, "clip_g": vectors + 1}, tmp_path / "b.safetensors")
    torch.save({"string_to_param": {"*": vectors}, "name": "c", "step": 5}, tmp_path / "c.pt")
    torch.save({"<word>": vectors[0]}, tmp_path / "d.bin")
    assert torch.equal(read_embedding(tmp_path / "a.safetensors").vectors[0], vectors)
    assert len(read_embedding(tmp_path / "b.safetensors").vectors) == 2
    assert read_embedding(tmp_path / "c.pt").name == "c"
    assert read_embedding(tmp_path / "d.bin").vectors[0].shape == (1, 8)
    save_file({"x": vectors, "y": vectors + 1}, tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match="e.safetensors: an embedding holds one tensor, or"):
        read_embedding(tmp_path / "e.safetensors")
    (tmp_path / "f.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="f.pt: the embedding cannot be read"):
        read_embedding(tmp_path / "f.pt")
