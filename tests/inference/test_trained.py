"""A network comes back from its run's folder as it was, whatever it is made of."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import network, tiny_domain
from conf_plugins import load
from torch import nn

from graft.build.assembly import make_adapter
from graft.data.preprocessing import Preprocessing
from graft.errors import UserError
from graft.inference.judging import check_same_classes
from graft.inference.trained import Blueprint, choose_device, open_trained, temperature_of
from graft.models.adapters.base import Adapter
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network
from graft.pipeline import preprocessing_of, save_network

RECORD = {"classes": {"names": ["a", "b", "c"]}, "numerics": {"memory_format": "channels_last"}}


def adapter(name: str) -> Adapter:
    made = make_adapter(load("adapter", name))
    assert made is not None
    return made


def shaken(net: nn.Module) -> None:
    """Move everything, so that nothing is right by chance."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.05 * torch.rand_like(tensor)


@pytest.mark.parametrize("name", [None, "lora", "bottleneck", "visual_prompt", "side_tuning"])
def test_adapters_merged_or_not(name: str | None, tmp_path: Path) -> None:
    domain = tiny_domain(tmp_path)
    net = network("resnet20")
    how = None if name is None else adapter(name)
    if how is not None:
        net = Network(how.adapt(net.backbone, 32), net.mapping, net.head)
    shaken(net)
    save_network(net, tmp_path / "weights", preprocessing_of(domain))
    blueprint = Blueprint(partial(ResNetCifar, depth=20), IdentityMapping, how, LinearHead)
    generator = torch.get_rng_state()
    trained = open_trained(blueprint, tmp_path, RECORD)
    assert torch.equal(torch.get_rng_state(), generator)
    canvases = domain.datasets["test"][torch.arange(8).numpy()].x
    with torch.no_grad():
        expected = net.eval()(domain.view.evaluate(canvases))
    torch.testing.assert_close(trained.logits(canvases), expected, rtol=1e-4, atol=1e-4)
    assert trained.temperature is None
    assert torch.equal(trained.calibrated(expected), expected.double())


def test_precision_and_memory_format_are_the_runs(tmp_path: Path) -> None:
    domain, net = tiny_domain(tmp_path), network("cnn").bfloat16()
    save_network(net, tmp_path / "weights", preprocessing_of(domain))
    trained = open_trained(Blueprint(Cnn, IdentityMapping, None, LinearHead), tmp_path, RECORD)
    assert trained.network.dtype == torch.bfloat16
    convolutions = [module for module in trained.network.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.is_contiguous(memory_format=torch.channels_last) for module in convolutions)
    assert trained.preprocessing == Preprocessing(**vars(domain.preprocessing))


@pytest.mark.parametrize(("found", "used"), [(1.7, 1.7), (0.01, None), (100.0, None), (None, None)])
def test_a_temperature_at_its_limit_is_none(found: float | None, used: float | None) -> None:
    after = {} if found is None else {"temperature": {"temperature": found}}
    assert temperature_of({"after": after}) == used


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (("a", "b"), "only the run: 'c'"),
        (("a", "b", "c", "d"), "only new: 'd'"),
        (("b", "a", "c"), "class 0 is 'a' in the run and 'b' in new"),
        ((*"abc", *map(str, range(12))), "only new: '0', '1', '2', '3', '4', '5', '6', '7', '8', '9' and 2 more"),
    ],
)
def test_labels_must_mean_what_outputs_mean(names: tuple[str, ...], error: str) -> None:
    domain = SimpleNamespace(name="new", class_names=names)
    with pytest.raises(UserError) as caught:
        check_same_classes(("a", "b", "c"), domain)  # type: ignore[arg-type]
    assert str(caught.value) == f"the classes of new are not those of the run: {error}"
