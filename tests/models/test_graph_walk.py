"""The walk's intervals against a network that is really run, pixel column by pixel column."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.models.footprints.graph_walk import follow
from segpipe.models.footprints.operators import UnknownOperationError

BANDS, HEIGHT, WIDTH = 4, 16, 24
Function = Callable[[Tensor], Tensor]


class Lambda(nn.Module):
    """A function as a network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


class Unpooled(nn.Module):
    """A pooling and its inverse."""

    def forward(self, image: Tensor) -> Tensor:
        values, places = F.max_pool2d(image, 2, return_indices=True)
        return F.max_unpool2d(values, places, [2, 2])


class Windowed(nn.Module):
    """Attention inside windows of 4 x 4 places, with a bias for each pair of places."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(BANDS, 3 * BANDS)
        self.bias = nn.Parameter(torch.randn(16, 16))

    def forward(self, image: Tensor) -> Tensor:
        n, c, h, w = image.shape
        places = image.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1)
        q, k, v = self.mix(places.reshape(-1, 16, c)).chunk(3, dim=-1)
        weights = (q @ k.transpose(1, 2) + self.bias).softmax(-1)
        windows = (weights @ v).view(n, h // 4, w // 4, 4, 4, c)
        joined: Tensor = windows.permute(0, 5, 1, 3, 2, 4)
        return joined.reshape(n, c, h, w)


def written(image: Tensor) -> Tensor:
    moved = torch.zeros_like(image)
    moved[..., 2:] = image[..., :-2]
    return moved + image


def merged(image: Tensor) -> Tensor:
    parts = [image[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.cat(parts, 1)


MODULES: dict[str, nn.Module] = {
    "conv": nn.Conv2d(4, 3, (3, 5), padding=(1, 2)),
    "conv, strided and dilated": nn.Conv2d(4, 4, 3, stride=2, padding=3, dilation=2, groups=2),
    "conv, same": nn.Conv2d(4, 4, 4, padding="same", dilation=2),
    "conv, valid": nn.Conv2d(4, 4, 3, padding="valid"),
    "conv, reflected": nn.Conv2d(4, 4, 5, padding=2, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
    "transposed, output padding": nn.ConvTranspose2d(
        4, 4, 3, stride=2, padding=1, output_padding=1, dilation=2
    ),
    "max-pool": nn.MaxPool2d(3, 2, 1),
    "max-pool, ceiled": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average-pool": nn.AvgPool2d((2, 4)),
    "halving adaptive pool": Lambda(lambda x: F.adaptive_avg_pool2d(x, (8, 12))),
    "max-unpool": Unpooled(),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest by a half": Lambda(lambda x: F.interpolate(x, scale_factor=0.5)),
    "nearest-exact": nn.Upsample(scale_factor=2, mode="nearest-exact"),
    "bilinear": nn.Upsample(scale_factor=4, mode="bilinear"),
    "bilinear to a size": nn.Upsample(size=(32, 48), mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "pixel shuffle": nn.PixelShuffle(2),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "crop and pad": Lambda(lambda x: F.pad(x[:, :, 1:-1, 2:], (1, 3, 0, 2))),
    "cat and chunk": Lambda(lambda x: torch.cat([*x.chunk(2, 1), x.narrow(1, 0, 1)], 1)),
    "cat of columns": Lambda(lambda x: torch.cat([x[..., 1:], x[..., :1] * 2], -1)),
    "stack": Lambda(lambda x: torch.stack([x, x * 2], 2).flatten(1, 2)),
    "difference of neighbours": Lambda(lambda x: x[..., 1:] - x[..., :-1]),
    "written through a view": Lambda(written),
    "patches merged": Lambda(merged),
    "window attention": Windowed(),
    "channel softmax": nn.Softmax(1),
    "channels last": Lambda(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).movedim(-1, 1)),
    "einsum": Lambda(lambda x: torch.einsum("nchw,cd->ndhw", x, torch.ones(4, 2))),
    "batch norm": nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU(inplace=True)),
}


def changed_columns(network: nn.Module, dim: int) -> NDArray[np.bool_]:
    """Whether an output's row or column can be changed by one of the input, (output, input)."""
    generator = torch.Generator().manual_seed(0)
    found = []
    with torch.no_grad():
        for _ in range(3):
            image = torch.randn(1, BANDS, HEIGHT, WIDTH, generator=generator)
            before = network(image.clone())
            hits = []
            for index in range(image.shape[dim]):
                poisoned = image.clone()
                poisoned.select(dim, index).fill_(torch.nan)
                differs = network(poisoned) != before
                hits.append(differs.movedim(dim, 0).flatten(1).any(1).numpy())
            found.append(np.stack(hits, 1))
    return np.asarray(np.any(found, axis=0))


@pytest.mark.parametrize("name", MODULES)
def test_an_output_reads_what_changes_it(name: str) -> None:
    network = MODULES[name].eval()
    found = follow(network, BANDS, HEIGHT, WIDTH)
    assert found.reasons == ()
    for dim, span in ((-2, found.rows), (-1, found.columns)):
        hits = changed_columns(network, dim)
        assert span.low.shape == hits.shape[:1]
        inner = ~span.edge & hits.any(1)
        assert inner.sum() >= len(inner) // 2 - 3
        assert (span.low == hits.argmax(1))[inner].all()
        assert (span.high == hits.shape[1] - 1 - hits[:, ::-1].argmax(1))[inner].all()


def test_a_constant_beside_the_image_is_an_edge() -> None:
    found = follow(Lambda(written), BANDS, HEIGHT, WIDTH)
    assert found.columns.edge.tolist() == [True, True] + [False] * (WIDTH - 2)


def test_an_operation_that_is_not_known_is_named() -> None:
    network = nn.Sequential(nn.Identity(), Lambda(lambda x: x.cumsum(-1)))
    with pytest.raises(UnknownOperationError, match="cumsum in 1 isn't known"):
        follow(network, BANDS, HEIGHT, WIDTH)


def test_training_mode_is_restored() -> None:
    network = nn.Sequential(nn.BatchNorm2d(BANDS), nn.Dropout().eval())
    follow(network, BANDS, HEIGHT, WIDTH)
    assert [module.training for module in network.modules()] == [True, True, False]
