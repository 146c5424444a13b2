"""The bottleneck that SHOT puts between convolutions and head."""

from collections import OrderedDict

from torch import nn

NUM_FEATURES = 256
DROPOUT = 0.5


def bottleneck(num_inputs: int) -> nn.Sequential:
    """Linear to 256 features, batch norm, dropout: [n, num_inputs] -> [n, 256].

    Liang et al., "Do we really need to access the source data?", ICML 2020; initial weights and dropout as in the
    authors' published code for digits.
    """
    linear = nn.Linear(num_inputs, NUM_FEATURES)
    nn.init.xavier_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    norm = nn.BatchNorm1d(NUM_FEATURES)
    return nn.Sequential(OrderedDict(bottleneck=linear, bn=norm, dropout=nn.Dropout(DROPOUT)))
