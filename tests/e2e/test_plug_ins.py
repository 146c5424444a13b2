"""Methods of one's own: a strategy is one YAML, a regulariser one file and one YAML."""

import json
import shutil
from pathlib import Path

import pytest
from builders import write_arrays
from processes import Graft

import graft as package

STRATEGY = r"""# The head for an epoch, then the last layer group with it.
_target_: graft.strategies.phases.Strategy
name: careful
initialize: source
phases:
  - name: head
    until: {epochs: 1}
    rules:
      '(mapping|head)\..*': {lr_scale: 1}
      'backbone\..*': null
  - name: last
    rules:
      '(mapping|head)\..*': {lr_scale: 1}
      'backbone\.<-1>\..*': {lr_scale: 0.1}
      'backbone\..*': null
"""
REGULARISER = """# Small logits.
small_logits:
  _target_: graft.regularisers.small_logits.SmallLogits
  weight: 0.5
"""
CLASS = '''
"""Small logits."""

from dataclasses import dataclass

from torch import Tensor

from graft.regularisers.base import Beginning, Regulariser, Step, Term


@dataclass(frozen=True)
class SmallLogits(Regulariser):
    """Adds the mean square of the logits."""

    weight: float = 1.0

    def begin(self, beginning: Beginning) -> Term:
        return SmallLogitsTerm(self.weight)


class SmallLogitsTerm(Term):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, step: Step) -> Tensor:
        return self.weight * step.outputs.logits.square().mean()
'''


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def checkout(tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of the program of its own, which the processes run."""
    shutil.copytree(Path(package.__file__).parent, tmp_path / "checkout" / "src" / "graft")
    (tmp_path / "checkout" / "conf").symlink_to(conf)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "checkout" / "src"))
    return tmp_path / "checkout"


def test_a_strategy_is_one_yaml_and_a_regulariser_one_file_and_one_yaml(
    graft: Graft, checkout: Path, tmp_path: Path
) -> None:
    write(tmp_path / "mine" / "strategy" / "careful.yaml", STRATEGY)
    write(tmp_path / "mine" / "regulariser" / "small_logits.yaml", REGULARISER)
    write(checkout / "src" / "graft" / "regularisers" / "small_logits.py", CLASS)
    for domain in ("one", "other"):
        write_arrays(tmp_path / f"{domain}.npz", num_per_class=8)

    for group, name, about in (
        ("strategy", "careful", "The head for an epoch, then the last layer group with it."),
        ("regulariser", "small_logits", "Small logits."),
    ):
        listed = graft("ls", group, "--config-dir", "mine")
        assert listed.returncode == 0, listed.stderr
        assert [name, about] in [line.split(maxsplit=1) for line in listed.stdout.splitlines()]

    data = ("source=arrays", "source.path=one.npz", "target=arrays", "target.path=other.npz")
    small = ("pretrain.max_epochs=1", "trainer.max_epochs=2", "logger=none")
    mine = ("strategy=careful", "regulariser=small_logits", "--config-dir", "mine")
    done = graft(*data, *small, *mine)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "outputs" / "latest" / "record.json").read_text())
    assert record["status"] == "done"
    assert record["strategy"] == "careful"
    assert record["config"]["regulariser"]["small_logits"]["weight"] == 0.5
    assert [row["phase"] for row in record["history"]] == ["head", "last"]
    assert all(row["train/small_logits"] > 0 for row in record["history"])
    moved = {group: row["moved"] > 0 for group, row in record["transferred"]["groups"].items()}
    assert moved == {"stem": False, "stage1": False, "stage2": False, "stage3": True}
