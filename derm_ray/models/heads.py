"""Heads: from a feature map to class logits. A pooled head (BP, CAM-BP) is one more class of this shape."""

from torch import Tensor, nn

HEADS = ("gap", "fc")


class GapHead(nn.Module):
    """Global average pooling, batch norm, linear.

    The batch norm tames the large activations of the ImageNet trunk, on which a fresh linear layer diverges.
    """

    def __init__(self, channels: int, classes: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        logits: Tensor = self.classifier(self.dropout(self.norm(features_BCHW.mean(dim=(2, 3)))))
        return logits


class FcHead(nn.Module):
    """VGG-16's fc6, fc7 and a classifier, 4096 wide, on the pooled map (Simonyan and Zisserman 2014).

    Args:
        batch_norm: put batch norm behind fc6 and fc7, as for the paper's sub-network trained from scratch.
    """

    width = 4096

    def __init__(self, channels: int, classes: int, *, dropout: float, batch_norm: bool) -> None:
        super().__init__()

        def block(before: int) -> list[nn.Module]:
            norm = [nn.BatchNorm1d(self.width)] if batch_norm else []
            return [nn.Linear(before, self.width), *norm, nn.ReLU(), nn.Dropout(dropout)]

        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.fc6 = nn.Sequential(*block(channels * 49))
        self.fc7 = nn.Sequential(*block(self.width))
        self.classifier = nn.Linear(self.width, classes)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        logits: Tensor = self.classifier(self.fc7(self.fc6(self.pool(features_BCHW))))
        return logits


def make_head(name: str, channels: int, classes: int, *, dropout: float, from_scratch: bool) -> nn.Module:
    """Return a fresh head by its name in :data:`HEADS`.

    Args:
        from_scratch: nothing of it will be loaded from ImageNet, so that an fc head takes batch norm.
    """
    if name == "gap":
        return GapHead(channels, classes, dropout=dropout)
    return FcHead(channels, classes, dropout=dropout, batch_norm=from_scratch)
