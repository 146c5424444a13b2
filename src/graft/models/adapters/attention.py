"""Attention whose projections are layers of their own, so that adapters can be put around them."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.Module):
    """What `nn.MultiheadAttention` computes as self-attention over tokens [n, t, d].

    The native module multiplies with its projections' weights without calling any layer, so that whatever is put around
    its `out_proj` would be passed by. Here both projections are called. Parameters are shared with the native module.
    """

    def __init__(self, native: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = native.num_heads
        self.dropout = native.dropout
        self.in_proj = _linear(native.in_proj_weight, native.in_proj_bias)
        self.out_proj = _linear(native.out_proj.weight, native.out_proj.bias)
        self.training = native.training

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """[n, t, d] -> [n, t, d]; query, key and value are one tensor, and no attention weights are returned."""
        assert query is key is value
        assert not need_weights
        n, t, d = query.shape
        queries, keys, values = self.in_proj(query).view(n, t, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).reshape(n, t, d))
        return projected, None

    def closed(self) -> nn.MultiheadAttention:
        """The native module with these parameters."""
        weight, bias = self.in_proj.weight, self.in_proj.bias
        native = nn.MultiheadAttention(
            weight.shape[1], self.num_heads, self.dropout, bias is not None, batch_first=True, device="meta"
        )
        native.in_proj_weight = cast(nn.Parameter, weight)
        native.register_parameter("in_proj_bias", cast(nn.Parameter | None, bias))
        native.out_proj.weight, native.out_proj.bias = self.out_proj.weight, self.out_proj.bias
        return native.train(self.training)


def can_open(module: nn.Module) -> bool:
    """Whether `OpenAttention` computes what the module does, where that is used as self-attention."""
    return (
        type(module) is nn.MultiheadAttention
        and module.batch_first
        and module._qkv_same_embed_dim
        and module.bias_k is None
        and not module.add_zero_attn
    )


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer that shares these parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.register_parameter("weight", cast(nn.Parameter, weight))
    layer.register_parameter("bias", cast(nn.Parameter | None, bias))
    return layer
