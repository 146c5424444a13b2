"""The text of `graft --help`, made from the commands and groups there are."""

from importlib import import_module
from textwrap import fill

from hydra.core.config_loader import ConfigLoader

from graft import __version__
from graft.cli.catalogue import all_groups

TEMPLATE = """\
graft {version}: transfer-learning experiments that measure whether transfer helped, by how much, and at what cost

  graft                         the default experiment: glyphs to handwritten digits; no network, no download
  graft KEY=VALUE ...           the same with other choices (strategy=linear_probe) or values (optimizer.lr=0.01)
  graft -m KEY=A,B,C ...        every combination, and one table with mean and spread
  graft COMMAND ...             a command; graft COMMAND --help says more

Commands
{commands}

Groups and their choices (graft ls GROUP describes them, graft show GROUP/NAME prints one)
{groups}

Examples
  graft strategy=gradual_unfreeze trainer.max_epochs=20 seed=1
  graft target=image_folder target.path=~/flowers backbone=mobilenet_v2 backbone.weights=DEFAULT
  graft -m strategy=scratch,linear_probe,fine_tune seed=0,1,2 target.labels_per_class=1,5,10
  graft -m hparams_search=strategy_lr_wd
  graft -m hydra/launcher=gpus seed=0,1,2,3
  graft plan strategy=lp_ft
  graft rank source=glyphs,mnist backbone=cnn,resnet20 target=usps
  graft "after=[wise_ft,temperature]"
  graft soup outputs/latest
  graft predict outputs/latest photos/ --top-k 3
  graft export outputs/latest --format onnx
  graft report outputs
  graft interpret outputs/latest
  graft tensorboard
  graft init my_project

Options
  -m, --multirun           run every combination of the values given
  -c, --cfg job            show the configuration instead of running it (--resolve, --package PART)
  -cd, --config-dir DIR    a folder with groups of your own, laid out like conf; in a project, that of graft.yaml
  -sc, --shell-completion  eval "$(graft -sc install=bash)", or install=zsh, install=fish
  -i, --info [WHAT]        what Hydra knows: defaults, defaults-tree, plugins, searchpath
  --debug                  show the traceback of an error
  --version                show the version"""


def program_help(loader: ConfigLoader) -> str:
    """The help of the whole program."""
    from graft.cli.main import command_names

    commands = [(name, summary(name)) for name in command_names()]
    choices = [(name, ", ".join(loader.get_group_options(name))) for name in all_groups(loader)]
    return TEMPLATE.format(version=__version__, commands=_two_columns(commands), groups=_two_columns(choices))


def summary(command: str) -> str:
    """The first line of a command's docstring."""
    return (import_module(f"graft.cli.commands.{command}").__doc__ or "").strip().partition("\n")[0]


def _two_columns(rows: list[tuple[str, str]], width: int = 110) -> str:
    left = max(len(name) for name, _ in rows) + 4
    return "\n".join(
        fill(text, width, initial_indent=f"  {name}".ljust(left), subsequent_indent=" " * left) for name, text in rows
    )
