from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import network

from graft.errors import UserError
from graft.models.adapters.layers import Targets
from graft.models.adapters.lora import Lora
from graft.models.adapters.saved import adapter_state, load_adapter, save_adapter
from graft.models.network import Network

LORA = Lora(name="lora", targets=Targets(), rank=2)


def adapted(seed: int = 0, adapter: Lora = LORA, num_classes: int = 3) -> Network:
    made = network("resnet20", num_classes, seed)
    made.backbone = adapter.adapt(made.backbone, 32)
    return made


def test_it_holds_adapter_head_and_norm_buffers_and_no_fixed_weight() -> None:
    names = set(adapter_state(adapted()))
    parts = {"lora_A", "lora_B", "head", "running_mean", "running_var", "num_batches_tracked"}
    assert all(any(part in name for part in parts) for name in names)
    assert all(any(part in name for name in names) for part in parts)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: adapted(seed=1), "made for another weights"),
        (lambda: adapted(adapter=replace(LORA, alpha=3.0)), "made for another adapter.*alpha"),
    ],
)
def test_it_belongs_to_its_weights_and_settings(other: object, message: str, tmp_path: Path) -> None:
    save_adapter(adapted(), tmp_path / "adapter.safetensors")
    with pytest.raises(UserError, match=message):
        load_adapter(other(), tmp_path / "adapter.safetensors")  # type: ignore[operator]


def test_a_loaded_adapter_is_the_saved_one(tmp_path: Path) -> None:
    first, second = adapted(), adapted()
    with torch.no_grad():
        for name, _, parameter in first.named_group_parameters():
            if name not in first.fixed_names:
                parameter.normal_()
    save_adapter(first, tmp_path / "adapter.safetensors")
    load_adapter(second, tmp_path / "adapter.safetensors")
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())
