"""Each in a process of its own, since what is imported stays imported."""

import subprocess
import sys
from textwrap import dedent

import pytest

HEAVY = {"transformers", "matplotlib", "scipy", "sklearn", "pandas", "nltk"}


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_run_imports_none_of_what_metrics_import() -> None:
    # The reader of the digits is what the default run imports beside the pipeline.
    run(f"import graft.pipeline, graft.data.readers.digits, sys; assert not {HEAVY!r} & sys.modules.keys()")
    run("import graft.reports.terminal, sys; assert 'scipy.stats' not in sys.modules")


def test_whoever_uses_torchmetrics_finds_all_of_it_and_the_bases_that_lightning_knows() -> None:
    code = """
        import graft.pipeline, torch, torchmetrics
        from pytorch_lightning.core import module as lightning
        bases = lightning.Metric, lightning.MetricCollection
        accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        accuracy.update(torch.tensor([0, 1]), torch.tensor([0, 2]))
        assert accuracy.compute() == 0.5
        assert bases == (torchmetrics.Metric, torchmetrics.MetricCollection)
        assert isinstance(accuracy, lightning.Metric)
        assert torchmetrics.metric.Metric is torchmetrics.Metric
        assert torchmetrics.functional.accuracy and torchmetrics.utilities.plot.__file__
        import matplotlib
        matplotlib.use("agg")
        assert len(accuracy.plot()) == 2
    """
    run(code)


@pytest.mark.parametrize(
    "first",
    [
        "from torchmetrics.classification import MulticlassAccuracy",
        "from torchmetrics import *",
        "import torchmetrics; assert 'Accuracy' in dir(torchmetrics)",
        "import torchmetrics.functional.text",
        "from torchmetrics.utilities.plot import plot_curve",
    ],
)
def test_it_does_not_matter_what_is_asked_for_first(first: str) -> None:
    run(
        f"""
        import graft
        {first}
        import torchmetrics
        from torchmetrics.classification import MulticlassAccuracy
        assert issubclass(MulticlassAccuracy, torchmetrics.Metric)
        assert torchmetrics.Accuracy and torchmetrics.__version__
        """
    )


def test_torchmetrics_that_is_imported_already_stays_as_it_is() -> None:
    run("import torchmetrics; whole = dir(torchmetrics); import graft.pipeline; assert dir(torchmetrics) == whole")


def test_what_is_not_there_is_an_attribute_error() -> None:
    run(
        """
        import graft, torchmetrics
        for _ in range(2):
            try:
                torchmetrics.no_such_metric
            except AttributeError as error:
                assert "torchmetrics" in str(error) and "no_such_metric" in str(error)
            else:
                raise AssertionError
        """
    )


def test_another_layout_of_torchmetrics_is_imported_as_always() -> None:
    run(
        """
        import sys, tempfile
        from pathlib import Path
        package = Path(tempfile.mkdtemp()) / "torchmetrics"
        package.mkdir()
        (package / "__init__.py").write_text("class Metric: pass")
        sys.path.insert(0, str(package.parent))
        import graft, torchmetrics
        assert torchmetrics.Metric.__module__ == "torchmetrics" and not hasattr(torchmetrics, "Accuracy")
        """
    )
