import sys
from copy import deepcopy

import pytest
import torch

from graft.errors import UserError
from graft.models.backbones.timm import TimmBackbone


def test_groups_are_views_of_the_parameters_in_use() -> None:
    backbone = TimmBackbone("test_vit")
    assert list(backbone.layer_groups) == ["stem", *(f"block{i}" for i in range(1, 7))]
    assert backbone.layer_groups["block2"].get_parameter("blocks.1.attn.qkv.weight") is (
        backbone.model.blocks[1].attn.qkv.weight
    )
    assert {"cls_token", "pos_embed"} <= set(backbone.layer_groups["stem"].state_dict())


def test_views_follow_a_copy_and_a_change_of_type() -> None:
    backbone = deepcopy(TimmBackbone("test_resnet")).double()
    tensors = [tensor for group in backbone.layer_groups.values() for tensor in group.state_dict().values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float64, torch.int64}
    used = {tensor.data_ptr() for tensor in backbone.state_dict().values()}
    assert {tensor.data_ptr() for tensor in tensors} == used


def test_a_last_group_of_norms_joins_the_stage_before() -> None:
    groups = TimmBackbone("convnext_atto").layer_groups
    assert list(groups) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert "head.norm.weight" in groups["stage4"].state_dict()


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"backbone\.name=resnet10x.*did you mean 'resnet10t'"):
        TimmBackbone("resnet10x")


def test_published_weights_come_with_the_chosen_one_first() -> None:
    assert TimmBackbone("resnet18").published_weights()[0] == "a1_in1k"
    assert TimmBackbone("resnet18.tv_in1k").published_weights()[0] == "tv_in1k"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'graft\[timm\]'"):
        TimmBackbone("test_vit")
