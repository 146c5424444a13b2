import subprocess
import sys

import pytest

import graft
from graft.cli.main import command_names, explain, main
from graft.errors import UserError


def test_a_first_word_that_is_a_command_runs_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "scheduler"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "constant",
        "cosine",
        "inverse_decay",
        "one_cycle",
        "slanted_triangular",
        "step",
    ]


def test_errors_go_to_stderr_with_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strategy=lp_tf", "sead=1"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "graft: strategy=lp_tf: no such strategy; did you mean 'lp_ft'?",
        "graft: sead: no such key; did you mean 'seed'?",
    ]


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "strategy=lp_tf"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_all_errors_at_once_whoever_finds_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["strategy=gradual_unfreez", "+trainer.max_epoch=3", "seed=x", "targt=a", "optimizer.lr=0.1"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "graft: strategy=gradual_unfreez: no such strategy; did you mean 'gradual_unfreeze'?",
        "graft: targt: no such key; did you mean 'target'?",
        "graft: trainer.max_epoch: no such key; did you mean 'trainer.max_epochs'?",
        "graft: seed='x'; expected a whole number",
    ]


def test_an_error_brings_no_others_along(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backbone=mobilenet_v2", "backbone.weigths=x"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == "graft: backbone.weigths: no such key; did you mean 'backbone.weights'?"


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mutlirun"]) == 1
    assert capsys.readouterr().err == "graft: unrecognized arguments: --mutlirun; did you mean '--multirun'?\n"


def test_our_own_mistakes_are_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    explain(RuntimeError("out of luck\nand more"))
    assert capsys.readouterr().err.splitlines() == [
        "graft: RuntimeError: out of luck",
        "graft: --debug shows the traceback",
    ]
    explain(UserError("a\nb"))
    assert capsys.readouterr().err.splitlines() == ["graft: a", "graft: b"]


def test_an_interrupt_has_the_usual_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("graft.cli.commands.ls.main", interrupted)
    assert main(["ls"]) == 130
    assert capsys.readouterr().err == "graft: interrupted\n"


def test_help_names_every_command_and_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in [*command_names(), "strategy", "source", "target", "precision"])
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", command_names())
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "run":
        assert main([name, "--help"]) == 0
    else:
        with pytest.raises(SystemExit, match="0"):  # as argparse does
            main([name, "--help"])
    assert "graft" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["ls"], ["ls", "target"], ["show", "strategy/lp_ft"], ["plan", "--help"],
     ["rank", "--help"], ["rank", "--scores", "logmee"], ["soup", "--help"], ["soup", "nowhere"], ["sead=1"],
     ["predict", "--help"], ["predict", "nowhere", "."], ["evaluate", "--help"], ["export", "--help"],
     ["-sc", "install=bash"], ["--cfg", "job"]],
    ids=" ".join,
)  # fmt: skip
def test_answers_without_torch(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from graft.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'scipy', 'pytorch_lightning', 'torchvision'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"graft {graft.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("graft strategy=grad", "strategy=gradual_unfreeze"),
        ("graft plan strategy=grad", "strategy=gradual_unfreeze"),
        ("graft trainer.max_ep", "trainer.max_epochs="),
        ("graft pl", "plan"),
    ],
)
def test_completion(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert expected in capsys.readouterr().out.split()
