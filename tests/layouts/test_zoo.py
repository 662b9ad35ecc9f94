"""The zoo's table, against the files that the zoo ships."""

from __future__ import annotations

import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.layouts import detect, get_layout
from stockpot.zoo import Member, family


@pytest.mark.parametrize("member", family(), ids=lambda member: member.name)
def test_files_of_the_zoo_fit(member: Member) -> None:
    with open_checkpoint(member.path) as source:
        answer = detect({key: info.shape for key, info in source.tensors.items()})
    assert answer.layout is get_layout("zoo"), answer.evidence
    assert not answer.fit.mismatched
    assert not answer.fit.unknown
    assert answer.fit.missing_components == (() if member.has_vae else ("vae",))
    assert set(answer.fit.missing_in) == set(answer.fit.missing_components)
