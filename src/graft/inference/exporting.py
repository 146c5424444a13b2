"""A trained network as a file for other programs, checked against the network that it was made from."""

import json
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from graft.errors import UserError
from graft.inference.choices import SUFFIXES
from graft.inference.kinds import kind_of
from graft.inference.trained import Trained
from graft.models.weights import save_weights
from graft.records.files import temporary_beside

TOLERANCE = 1e-4  # of probabilities, and of logits as a share of the largest
BATCHES = (1, 2, 5)  # samples in the batches that a file is checked with

Outputs = tuple[Tensor, Tensor]


class Deployable(nn.Module):
    """Stored samples, such as pixels uint8 [n, c, size, size], to `logits` [n, k] and `probabilities` [n, k].

    It scales and normalises pixels itself, and divides the logits by the run's temperature for the probabilities. All
    is computed in float32.
    """

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.preprocessing, self.kind = trained.preprocessing, kind_of(trained.preprocessing)
        self.inside = self.kind.inside(trained.preprocessing)
        self.network = deepcopy(trained.network).cpu().float().to(memory_format=torch.contiguous_format)
        self.temperature = trained.temperature or 1.0
        self.metadata = {
            "preprocessing": json.dumps(trained.preprocessing.as_dict()),
            "classes": json.dumps(trained.class_names),
            "temperature": json.dumps(trained.temperature),
        }
        self.eval()

    def forward(self, samples: Tensor) -> Outputs:
        """Logits and probabilities [n, k]."""
        logits = self.network(self.inside(samples))
        return logits, (logits / self.temperature).softmax(dim=1)

    def noise(self, num_samples: int) -> Tensor:
        """Random samples [n, ...], such as pixels uint8 [n, c, size, size], the same in every call."""
        return self.kind.example(self.preprocessing, num_samples, Generator().manual_seed(num_samples))


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    write: Callable[[Deployable, Path], None]
    read: Callable[[Deployable, Path], Callable[[Tensor], Sequence[Any]]]  # what computes the outputs from the file
    packages: tuple[str, ...] = ()  # that it needs beside torch


@dataclass(frozen=True)
class Difference:
    """How far a file's outputs are from those of the network."""

    logits: float  # the largest, as a share of the largest logit, or absolute where all are below 1
    probabilities: float  # the largest

    @property
    def is_small(self) -> bool:
        """Whether it can be put down to rounding."""
        return max(self.logits, self.probabilities) <= TOLERANCE  # False for NaN


def export(trained: Trained, name: str, path: Path) -> Difference:
    """Write the network in the format of that name, read it back, and compare on batches of several sizes.

    Raises:
        UserError: packages are missing, the network cannot be written like this, or the file computes something else;
            then no file is left.
    """
    kind = FORMATS[name]
    missing = [package for package in kind.packages if find_spec(package) is None]
    if missing:
        raise UserError(f"--format {name}: {', '.join(missing)} not installed; pip install 'graft[export]'")
    deployable = Deployable(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path).with_suffix(SUFFIXES[name])
    try:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of exporters to those who call them
                kind.write(deployable, temporary)
                difference = compare(deployable, kind.read(deployable, temporary))
        except Exception as error:  # each exporter raises errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"--format {name}: this network cannot be exported: {reason}") from error
        if not difference.is_small:
            raise UserError(
                f"--format {name}: the file computes something else than the network: logits differ by "
                f"{difference.logits:.2g} of the largest, probabilities by {difference.probabilities:.2g}; at most "
                f"{TOLERANCE:g} is rounding"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return difference


def compare(deployable: Deployable, exported: Callable[[Tensor], Sequence[Any]]) -> Difference:
    """The largest differences over batches of random samples; a file that refuses a size of batch raises."""
    logits, probabilities = [], []
    for num_samples in BATCHES:
        samples = deployable.noise(num_samples)
        expected, found = deployable(samples), [torch.as_tensor(output) for output in exported(samples)]
        gaps = [(ours - theirs).abs().max() for ours, theirs in zip(expected, found, strict=True)]
        logits.append(gaps[0] / expected[0].abs().max().clamp(min=1))
        probabilities.append(gaps[1])
    return Difference(*(float(torch.stack(values).max()) for values in (logits, probabilities)))


def _write_torch_export(deployable: Deployable, path: Path) -> None:
    torch.export.save(torch.export.export(deployable, (deployable.noise(2),), dynamic_shapes=_dynamic_batch()), path)


def _read_torch_export(deployable: Deployable, path: Path) -> Callable[[Tensor], Sequence[Any]]:
    return torch.export.load(path).module()


def _write_onnx(deployable: Deployable, path: Path) -> None:
    torch.onnx.export(
        deployable,
        (deployable.noise(2),),
        path,
        dynamo=True,
        dynamic_shapes=_dynamic_batch(),
        input_names=[deployable.kind.inputs],
        output_names=["logits", "probabilities"],
        external_data=False,
        verbose=False,
    )


def _read_onnx(deployable: Deployable, path: Path) -> Callable[[Tensor], Sequence[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda samples: session.run(["logits", "probabilities"], {deployable.kind.inputs: samples.numpy()})


def _write_torchscript(deployable: Deployable, path: Path) -> None:
    torch.jit.save(torch.jit.trace(deployable, (deployable.noise(2),)), path)


def _read_torchscript(deployable: Deployable, path: Path) -> Callable[[Tensor], Sequence[Any]]:
    script: Callable[[Tensor], Sequence[Any]] = torch.jit.load(path)
    return script


def _write_safetensors(deployable: Deployable, path: Path) -> None:
    save_weights(deployable.network, path, deployable.metadata)


def _read_safetensors(deployable: Deployable, path: Path) -> Callable[[Tensor], Sequence[Any]]:
    copy = deepcopy(deployable)
    copy.network.load_state_dict(load_file(path))
    return copy


def _dynamic_batch() -> dict[str, Any]:
    return {"samples": {0: torch.export.Dim("n")}}


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": Format(_write_torch_export, _read_torch_export),
    "safetensors": Format(_write_safetensors, _read_safetensors),
    "torchscript": Format(_write_torchscript, _read_torchscript),
}
