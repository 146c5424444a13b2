"""A little of what `scripts/fuzz` does at length."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "reliability"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return import_module


@pytest.mark.filterwarnings(r"ignore:::PIL\.")  # as `graft.data.decoding` does
def test_damaged_files_are_refused_or_read(scripts: Any, tmp_path: Path) -> None:
    outcomes = scripts("fuzz_readers").fuzz_readers(400, tmp_path)
    wrong = {name: sorted(set(found) - {"read", "refused"}) for name, found in outcomes.items()}
    assert not any(wrong.values()), wrong
    assert all(found["refused"] for found in outcomes.values())


def test_override_lists_are_refused_or_accepted(scripts: Any) -> None:
    outcomes = scripts("fuzz_config").fuzz_config(20)
    assert outcomes.keys() <= {"accepted", "refused"}


def test_damage_is_damage(scripts: Any) -> None:
    mutations, rng = scripts("mutations"), import_module("random").Random(0)
    for content in (b"", b"a", bytes(range(256)) * 4):
        assert all(mutations.mutate(content, b"foreign", rng) != content for _ in range(200))
