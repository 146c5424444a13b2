"""Override lists that nobody would type, and some that people do: a clear error or an experiment, nothing else.

Keys, groups and names are those of the configuration, and misspelt ones; values are of every kind. A list is composed,
checked and built, as `graft` does before it runs. Anything but success or a `UserError` of a few short lines fails.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application, refuse
from graft.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf"
LONGEST = 2_000  # characters of an error; it may list every name of a group
ODD_VALUES = (
    "", "null", "???", "true", "-1", "0", "1e400", "nan", ".inf", "-0.0", "1_000", "0x10", "99999999999999999999",
    "[]", "{}", "[1,2]", "[a,[b]]", "{a:1}", "{1:{2:3}}", "''", "'a b'", '"\\""', "a b", "a=b", "a,b", "\u202e",
    "é", "\x00", "${seed}",
    "${nowhere}", "${oc.env:HOME}", "${oc.env:NO_SUCH}", "${seed:}", "${", "}", "$", "\\", "'", "[",
    "{", "interval(0,1)", "choice(a,b)", "range(1,3)", "glob(*)", "sort(3,1)", "tag(a,1)", "int(x)", "shuffle(1,2)",
    "../../etc/passwd", "/", "~", "(", "os.system", "builtins.eval", "torch.nn.Linear", "cifar10", "x" * 300,
)  # fmt: skip
PREFIXES = ("", "", "", "", "+", "++", "~")


def fuzz_config(num: int, first_seed: int = 0) -> Counter[str]:
    """Try so many override lists; returns how many were accepted and how many refused.

    Raises:
        AssertionError: hypothesis' report on the shortest list that ends otherwise.
    """
    outcomes: Counter[str] = Counter()
    with hydra_application() as hydra:
        overrides = override_lists(compose(hydra.config_loader, []))

        @seed(first_seed)
        @settings(
            max_examples=num,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(overrides)
        def attempt(overrides: list[str]) -> None:
            outcomes[outcome(hydra, overrides)] += 1

        attempt()
    return outcomes


def outcome(hydra: Hydra, overrides: list[str]) -> str:
    """What becomes of one list: "accepted", or "refused" in words that are fit to be read."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            config = compose(hydra.config_loader, overrides)
            refuse(validate(config))
            build_experiment(config)
        except UserError as error:
            message = str(error)
            assert message.strip(), f"an empty error for {overrides}"
            assert len(message) <= LONGEST, f"{len(message)} characters of error for {overrides}"
            assert "Traceback" not in message
            return "refused"
    return "accepted"


def override_lists(config: Mapping[str, Any]) -> st.SearchStrategy[list[str]]:
    """Up to five overrides of values and choices."""
    choices = [path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml") if path.parent != CONF]
    groups = sorted({str(choice.parent) for choice in choices} | {"source", "target"})
    names = sorted({choice.name for choice in choices})
    keys = sorted(leaves(config))
    value = st.one_of(
        st.sampled_from(ODD_VALUES),
        st.sampled_from(names),
        st.integers().map(str),
        st.floats().map(str),
        st.text(max_size=8),
        st.lists(st.sampled_from(names), max_size=3).map(lambda chosen: f"[{','.join(chosen)}]"),
    )
    key = st.one_of(st.sampled_from(keys), st.sampled_from(keys).flatmap(misspelt), st.text(max_size=6))
    likely = st.sampled_from(choices).map(lambda choice: f"{choice.parent}={choice.name}")
    choice = st.builds("{}={}".format, st.sampled_from(groups), st.sampled_from(names))
    setting = st.builds("{}{}={}".format, st.sampled_from(PREFIXES), key, value)
    return st.lists(st.one_of(likely, choice, setting, setting, st.text(max_size=12)), max_size=5)


def leaves(node: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted key of every node below."""
    for name, value in node.items():
        yield above + name
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")


def misspelt(key: str) -> st.SearchStrategy[str]:
    """The key with one character left out or doubled."""
    at = st.integers(0, len(key) - 1)
    return st.one_of(at.map(lambda i: key[:i] + key[i + 1 :]), at.map(lambda i: key[:i] + key[i] + key[i:]))
