"""The page of a study: the answer in words, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import stockpot
from stockpot.report import Facts, Figures, Note, Page, Section

if TYPE_CHECKING:
    from stockpot.studies import Answer, Setting, Study

__all__ = ["study_json", "study_page"]


def study_page(study: Study, answer: Answer, setting: Setting) -> Page:
    """Describe what a study found.

    Args:
        study: The question.
        answer: The answer.
        setting: What it was given.

    Returns:
        The page; its figures are the answer's.
    """
    sections: list[Section] = [Note("Answer", answer.words), *answer.sections]
    sections += [Figures(chart.title, [(chart.title, chart)]) for chart in answer.charts.values()]
    sections.append(_facts(setting))
    return Page(
        title=study.question,
        lead="Every candidate drew the same requests from the same noise. Intervals are over "
        "these requests; what they say of other requests and other models is a guess.",
        sections=sections,
        footer=f"Stockpot {stockpot.__version__}, study {study.letter}: {study.name}. Figures as "
        f"PNG, CSV and JSON lie in figures/{study.name}/, all numbers in {study.name}.json.",
    )


def study_json(study: Study, answer: Answer, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Give an answer as plain data.

    Args:
        study: The question.
        answer: The answer.
        asked: All that decides it.

    Returns:
        JSON's kinds of values.
    """
    from stockpot.studies import plain_data

    found: dict[str, Any] = plain_data(
        {
            "study": study.name,
            "letter": study.letter,
            "question": study.question,
            "answer": list(answer.words),
            "data": answer.data,
            "asked": asked,
        }
    )
    return found


def _facts(setting: Setting) -> Facts:
    return Facts(
        "What it was asked of",
        [
            ("models that are mixed", ", ".join(setting.models)),
            ("base", setting.base or "not given"),
            ("outliers", ", ".join(setting.outliers) or "none named"),
            ("set aside", ", ".join(setting.pool.aside) or "none"),
            ("requests", f"{len(setting.exam.tasks)} of {len(setting.exam.payloads)} payloads"),
            ("score", setting.score or "none"),
            ("VAE of all candidates", setting.pool.vae),
            ("permutations", str(setting.n_permutations)),
            ("seed", str(setting.seed)),
        ],
    )
