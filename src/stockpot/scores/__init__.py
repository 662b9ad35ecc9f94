"""Scorers: pictures and prompts in, one number a picture out, higher is better.

Importing this package loads no torch; making a scorer with a network does.

Examples:
    >>> len(SCORERS)
    14
"""

from stockpot.scores._base import (
    Images,
    Need,
    Picture,
    Reading,
    Scale,
    Scorer,
    Scores,
    Setting,
    UnreadPromptWarning,
    check_images,
)
from stockpot.scores.aesthetic import CafeAesthetic, LaionAesthetic
from stockpot.scores.asking import PageAsker, TerminalAsker
from stockpot.scores.attributes import AttributeJudge, judge_network
from stockpot.scores.bradley_terry import Comparison, fit_strengths
from stockpot.scores.callables import CallableScorer, plugins
from stockpot.scores.clip import ClipReward
from stockpot.scores.clip_scores import ClipScore, PickScore
from stockpot.scores.commands import CommandScorer
from stockpot.scores.files import is_there, scorers_folder
from stockpot.scores.hpsv2 import HpsV2
from stockpot.scores.human import HumanChoice
from stockpot.scores.hybrid import Hybrid, Part
from stockpot.scores.imagereward import ImageReward
from stockpot.scores.making import SCORERS, make_scorer, read_scales, scales_to_json
from stockpot.scores.pictures import FITS, Transform, read_picture, read_texts
from stockpot.scores.piqe import Piqe, piqe
from stockpot.scores.plain import plain_prompt
from stockpot.scores.questions import Asker, Question
from stockpot.scores.statistics import (
    Colourfulness,
    Contrast,
    Detail,
    Sharpness,
    Statistics,
    picture_statistics,
)

__all__ = [
    "FITS",
    "SCORERS",
    "Asker",
    "AttributeJudge",
    "CafeAesthetic",
    "CallableScorer",
    "ClipReward",
    "ClipScore",
    "Colourfulness",
    "CommandScorer",
    "Comparison",
    "Contrast",
    "Detail",
    "HpsV2",
    "HumanChoice",
    "Hybrid",
    "ImageReward",
    "Images",
    "LaionAesthetic",
    "Need",
    "PageAsker",
    "Part",
    "PickScore",
    "Picture",
    "Piqe",
    "Question",
    "Reading",
    "Scale",
    "Scorer",
    "Scores",
    "Setting",
    "Sharpness",
    "Statistics",
    "TerminalAsker",
    "Transform",
    "UnreadPromptWarning",
    "check_images",
    "fit_strengths",
    "is_there",
    "judge_network",
    "make_scorer",
    "picture_statistics",
    "piqe",
    "plain_prompt",
    "plugins",
    "read_picture",
    "read_scales",
    "read_texts",
    "scales_to_json",
    "scorers_folder",
]
