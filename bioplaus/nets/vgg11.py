"""VGG-11 (configuration A without batch norm) without its last layer, or without any linear one,
from torchvision's layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bioplaus.nets.dropout import Dropout

WIDTHS = (64, 128, 256, 512, 4096)  # channels at the four map sizes, units of the two hidden layers
MAP_WIDTHS = WIDTHS[:4]  # without hidden layers


class VGG11(nn.Module):
    """torchvision's VGG-11 up to its second hidden layer, at any width.

    Convolutions w1, pool, w2, pool, w3, w3, pool, w4, w4, pool, w4, w4, pool, each followed by
    ReLU; mean pool to 7x7 (the 1x1 maps of 32x32 images are repeated); two linear layers of w5
    units, each with ReLU and dropout 0.5. Convolutions start Kaiming-normal (fan out), linear
    layers from N(0, 0.01), biases at 0; not pretrained.

    Parameters
    ----------
    widths : w1..w5; without w5 there are no linear layers, and the 7x7 maps are the features.
    in_channels : of the images; these are at least 32 pixels wide and high.
    generator : of the dropout masks.

    Attributes
    ----------
    n_features : w5, or 49 w4: the number of outputs per image.
    """

    def __init__(self, widths: Sequence[int], in_channels: int, generator: torch.Generator) -> None:
        from bioplaus._torchvision import models

        super().__init__()
        w1, w2, w3, w4, *hidden = widths
        self.features = models.vgg.make_layers(
            [w1, "M", w2, "M", w3, w3, "M", w4, w4, "M", w4, w4, "M"]
        )
        if in_channels != 3:
            self.features[0] = nn.Conv2d(in_channels, w1, 3, padding=1)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.n_features = hidden[0] if hidden else w4 * 49
        layers = [(w4 * 49, self.n_features), (self.n_features, self.n_features)] if hidden else []
        self.classifier = nn.Sequential(
            *(
                part
                for sizes in layers
                for part in (
                    nn.Linear(*sizes),
                    nn.ReLU(inplace=True),
                    Dropout(0.5, sizes[1], generator),
                )
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> features (batch, n_features)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
