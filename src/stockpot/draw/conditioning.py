"""From prompts to what the UNet attends to: chunks, emphasis, clip skip, embeddings.

Emphasis multiplies the encoder's output token by token; "Original" then brings each chunk back to
its former mean. A word of weight 0 keeps its place in the sequence with a zero vector, which is
not the same as leaving it out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from stockpot.draw.attention import Emphasised, parse_attention
from stockpot.draw.chunks import Chunk, Chunked, TokenTable, cut_into_chunks
from stockpot.draw.embeddings import Embedding
from stockpot.draw.prompts import CutPromptWarning

if TYPE_CHECKING:
    import torch

    from stockpot.draw.parts import Parts

__all__ = ["EMPHASES", "Conditioner", "Conditioning", "EmphasisMode", "apply_emphasis"]

EmphasisMode = Literal["Original", "No norm", "Ignore", "None"]
EMPHASES: tuple[EmphasisMode, ...] = ("Original", "No norm", "Ignore", "None")
"""What weights do: multiply and restore the mean; multiply; nothing; brackets are text."""

_BATCH = 64


@dataclass(frozen=True)
class Conditioning:
    """One encoded prompt.

    Attributes:
        states: float32 `[77 × chunks, width]`; the widths of both encoders side by side in SDXL.
        pooled: `[width]`, SDXL only: the second encoder's summary of the first chunk.
        n_tokens: Tokens, as web UIs count them.
    """

    states: torch.Tensor
    pooled: torch.Tensor | None
    n_tokens: int


@dataclass(frozen=True)
class _Tower:
    """A text encoder and how its output is taken."""

    model: Any
    tokenizer: Any
    pad: int
    layer: Literal["skip", "last", "penultimate"]


@final
class Conditioner:
    """Encodes prompts with one model's text encoders.

    Args:
        parts: The loaded model.
        embeddings: Textual inversions by the names that call them; those of another width are
            passed over, as web UIs do.
        clip_skip: 1 for the last layer, 2 for the one before … ; SD2 and SDXL always take the
            last but one, whatever is asked.
        emphasis: See `EMPHASES`.
        max_chunks: Cut prompts after so many chunks of 75 tokens, with a warning; 0 never cuts.

    Raises:
        ValueError: The text encoder has not so many layers.
    """

    def __init__(
        self,
        parts: Parts,
        embeddings: Mapping[str, Embedding] | None = None,
        *,
        clip_skip: int = 1,
        emphasis: EmphasisMode = "Original",
        max_chunks: int = 0,
    ) -> None:
        self._emphasis, self._max_chunks = emphasis, max_chunks
        self._skip = max(1, clip_skip)
        self._towers = [
            _Tower(model, tokenizer, pad, layer)
            for model, tokenizer, pad, layer in _towers_of(parts)
        ]
        first = self._towers[0]
        n_layers = first.model.config.num_hidden_layers
        if first.layer == "skip" and self._skip > n_layers:
            raise ValueError(
                f"`clip_skip` must be at most {n_layers}, as many as the text encoder of "
                f"{parts.name} has layers, but got {clip_skip}"
            )
        self._embeddings = {
            name: found
            for name, found in (embeddings or {}).items()
            if len(found.vectors) == len(self._towers)
            and all(
                vectors.shape[1] == tower.model.config.hidden_size
                for vectors, tower in zip(found.vectors, self._towers, strict=True)
            )
        }
        self._known: dict[str, Conditioning] = {}
        self.used: dict[str, Embedding] = {}

    def encode(self, prompts: Iterable[str]) -> dict[str, Conditioning]:
        """Encode each distinct prompt once; what was encoded before is remembered.

        Args:
            prompts: With emphasis, without schedules.

        Returns:
            By prompt.

        Warns:
            CutPromptWarning: A prompt is longer than `max_chunks` allows.
        """
        import torch

        wanted = list(dict.fromkeys(prompts))
        fresh = [prompt for prompt in wanted if prompt not in self._known]
        columns = [self._tower(tower, i, fresh) for i, tower in enumerate(self._towers)]
        for i, prompt in enumerate(fresh):
            states = [column[i][0] for column in columns]
            n = max(len(state) for state in states)
            # Two tokenizers may need chunks of different number: the shorter repeats its end.
            joined = torch.cat([_lengthened(state, n) for state in states], dim=-1)
            self._known[prompt] = Conditioning(joined, columns[-1][i][1], columns[0][i][2])
        return {prompt: self._known[prompt] for prompt in wanted}

    def count(self, prompt: str) -> int:
        """Count a prompt's tokens as web UIs do, without encoding it.

        Args:
            prompt: With emphasis, without schedules.

        Returns:
            Tokens of the first text encoder.
        """
        return self._chunked(self._towers[0], 0, prompt).n_tokens

    def _chunked(self, tower: _Tower, index: int, prompt: str) -> Chunked:
        if self._emphasis == "None":
            runs: tuple[Emphasised, ...] = (Emphasised(prompt),)
        else:
            runs = parse_attention(prompt)
        return cut_into_chunks(runs, lambda texts: _token_lists(tower.tokenizer, texts),
                               self._table(tower, index))  # fmt: skip

    def _table(self, tower: _Tower, index: int) -> TokenTable:
        tokenizer = tower.tokenizer
        vocabulary = tokenizer.get_vocab()
        return TokenTable(
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
            vocabulary.get(",</w>"),
            min(tokenizer.model_max_length, tower.model.config.max_position_embeddings) - 2,
            {
                name: (tuple(_token_lists(tokenizer, [name])[0]), len(found.vectors[index]))
                for name, found in self._embeddings.items()
            },
        )

    def _tower(
        self, tower: _Tower, index: int, prompts: list[str]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None, int]]:
        import torch

        cut = [self._chunked(tower, index, prompt) for prompt in prompts]
        if self._max_chunks:
            cut = [
                self._shortened(tower, prompt, c) for prompt, c in zip(prompts, cut, strict=True)
            ]
        distinct = list(dict.fromkeys(chunk for one in cut for chunk in one.chunks))
        states: dict[Chunk, torch.Tensor] = {}
        pooled: dict[Chunk, torch.Tensor] = {}
        for start in range(0, len(distinct), _BATCH):
            some = distinct[start : start + _BATCH]
            hidden, summary = self._run(tower, index, some)
            for i, chunk in enumerate(some):
                states[chunk] = apply_emphasis(
                    hidden[i], torch.tensor(chunk.weights, device=hidden.device), self._emphasis
                )
                if summary is not None:
                    pooled[chunk] = summary[i]
        return [
            (
                torch.cat([states[chunk] for chunk in one.chunks]),
                pooled.get(one.chunks[0]),
                one.n_tokens,
            )
            for one in cut
        ]

    def _shortened(self, tower: _Tower, prompt: str, cut: Chunked) -> Chunked:
        if len(cut.chunks) <= self._max_chunks:
            return cut
        lost = [token for chunk in cut.chunks[self._max_chunks :] for token in chunk.tokens]
        special = (tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id)
        words = tower.tokenizer.decode([token for token in lost if token not in special])
        limit = self._max_chunks * (len(cut.chunks[0].tokens) - 2)
        warnings.warn(
            f"a prompt may have at most {limit} tokens, but got {cut.n_tokens}; left out: "
            f"{words!r}",
            CutPromptWarning,
            stacklevel=2,
        )
        return Chunked(cut.chunks[: self._max_chunks], limit)

    def _run(
        self, tower: _Tower, index: int, chunks: list[Chunk]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode chunks of one length: states `[n, 77, width]`, and the pooled ones."""
        import torch

        model = tower.model
        ids = torch.tensor([chunk.tokens for chunk in chunks])
        for row in ids:
            end = row.tolist().index(tower.tokenizer.eos_token_id)
            row[end + 1 :] = tower.pad
        hook = _placing(model, [self._vectors(chunk, index) for chunk in chunks])
        try:
            with torch.inference_mode():
                out = model(ids.to(model.device), output_hidden_states=True)
                if tower.layer == "penultimate":
                    hidden = out.hidden_states[-2]
                elif tower.layer == "skip" and self._skip > 1:
                    hidden = _body(model).final_layer_norm(out.hidden_states[-self._skip])
                else:
                    hidden = out.last_hidden_state
        finally:
            hook.remove()
        return hidden.float(), getattr(out, "text_embeds", None)

    def _vectors(self, chunk: Chunk, index: int) -> list[tuple[int, torch.Tensor]]:
        found = []
        for placed in chunk.embeddings:
            self.used[placed.name] = self._embeddings[placed.name]
            found.append((placed.at, self._embeddings[placed.name].vectors[index]))
        return found


def apply_emphasis(states: torch.Tensor, weights: torch.Tensor, mode: EmphasisMode) -> torch.Tensor:
    """Weigh the encoder's output of one chunk.

    Args:
        states: `[n_tokens, width]`.
        weights: `[n_tokens]`.
        mode: ``Original`` multiplies and scales the whole back to its former mean; ``No norm``
            multiplies; else nothing happens.

    Returns:
        `[n_tokens, width]`.

    Example:
        >>> import torch
        >>> apply_emphasis(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]), "Original")
        tensor([[0.],
                [4.]])
    """
    if mode not in ("Original", "No norm") or bool((weights == 1).all()):
        return states
    weighed = states * weights[:, None]
    if mode == "No norm":
        return weighed
    before, after = states.mean(), weighed.mean()
    return weighed if after == 0 else weighed * (before / after)


def _towers_of(
    parts: Parts,
) -> list[tuple[Any, Any, int, Literal["skip", "last", "penultimate"]]]:
    first, second = parts.text_encoder, parts.text_encoder_2
    if second is not None:
        return [
            (first, parts.tokenizer, parts.tokenizer.eos_token_id, "penultimate"),
            (second, parts.tokenizer_2, 0, "penultimate"),
        ]
    if parts.layout == "sd2":
        # Its configuration has one layer less than the file: the last is the one before the last.
        return [(first, parts.tokenizer, 0, "last")]
    return [(first, parts.tokenizer, parts.tokenizer.eos_token_id, "skip")]


def _token_lists(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # It logs a warning of its own about lengths unless it is told to be silent.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    return ids


def _body(model: Any) -> Any:
    return getattr(model, "text_model", model)


def _placing(model: Any, places: list[list[tuple[int, torch.Tensor]]]) -> Any:
    """Put vectors where chunks have embeddings, once the tokens' own were looked up."""

    def place(_: Any, __: Any, found: torch.Tensor) -> torch.Tensor:
        if not any(places):
            return found
        found = found.clone()
        for row, placed in enumerate(places):
            for at, vectors in placed:
                found[row, at : at + len(vectors)] = vectors.to(found)
        return found

    return _body(model).embeddings.token_embedding.register_forward_hook(place)


def _lengthened(states: torch.Tensor, n: int) -> torch.Tensor:
    import torch

    if len(states) == n:
        return states
    return torch.cat([states, states[-1:].expand(n - len(states), -1)])
