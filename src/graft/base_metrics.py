"""torchmetrics without the metrics, until somebody wants them.

Of torchmetrics, Lightning needs the base classes `Metric` and `MetricCollection`. But `import torchmetrics` imports
every metric, and for them transformers, torchvision, SciPy and Matplotlib where these are installed, which takes longer
than all that a run needs of Lightning. Here the package begins with the base classes alone. Its own `__init__` runs in
the same module as soon as anything else is asked of it: whoever uses torchmetrics then finds all of it, made of the
very base classes that Lightning knows.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
PLOT = "torchmetrics.utilities.plot"


class BasesFirst(ModuleType):
    """The package with its base classes, which becomes all that it is otherwise once anything else is asked for."""

    def __getattr__(self, name: str) -> Any:
        self._become_whole()
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        self._become_whole()
        return dir(self)

    def _become_whole(self) -> None:
        self.__class__ = ModuleType  # type: ignore[assignment]
        try:
            self.__loader__.exec_module(self)  # type: ignore[union-attr]
        except BaseException:
            self.__class__ = BasesFirst  # the next who asks is told what is wrong, too
            raise


class BasesFirstLoader:
    """Loads the package as `BasesFirst`, or as always where it is not laid out as it is known to be."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module, still empty, as the package's own loader makes it."""
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        try:
            import_bases(module)
        except (ImportError, AttributeError):
            self.loader.exec_module(module)
        else:
            module.__class__ = BasesFirst


class BasesFirstFinder:
    """Finds torchmetrics where the path has it, and nothing else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The package's spec, to be loaded by `BasesFirstLoader`."""
        spec = PathFinder.find_spec(name, path) if name == PACKAGE else None
        if spec is None or spec.loader is None:
            return None
        spec.loader = BasesFirstLoader(spec.loader)  # type: ignore[assignment]
        return spec


def install() -> None:
    """Let torchmetrics begin with its base classes, unless it is imported already."""
    sys.meta_path.insert(0, BasesFirstFinder)


def import_bases(package: ModuleType) -> None:
    """Put into the package what Lightning asks of it, and what the modules of that ask of it.

    Raises:
        ImportError, AttributeError: these modules need more of the package, or do not hold what is asked for.
    """
    bases: Any = package
    bases.__version__ = import_module(f"{PACKAGE}.__about__").__version__
    bases._logger = logging.getLogger(PACKAGE)
    with plots_left_out():
        import_module(f"{PACKAGE}.utilities")  # before `metric`, which is imported in the midst of it
        bases.Metric = import_module(f"{PACKAGE}.metric").Metric
        bases.MetricCollection = import_module(f"{PACKAGE}.collections").MetricCollection


@contextmanager
def plots_left_out() -> Iterator[None]:
    """What is imported meanwhile gets a drawing function that imports Matplotlib when it is first called."""
    stand_in: Any = ModuleType(PLOT)
    stand_in._AX_TYPE = stand_in._PLOT_OUT_TYPE = object  # for annotations
    stand_in.plot_single_or_multi_val = plot_single_or_multi_val
    sys.modules[PLOT] = stand_in
    try:
        yield
    finally:
        del sys.modules[PLOT]


def plot_single_or_multi_val(*args: Any, **kwargs: Any) -> Any:
    """The function of this name in torchmetrics, which is what draws a metric."""
    return import_module(PLOT).plot_single_or_multi_val(*args, **kwargs)
