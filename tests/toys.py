"""Small networks and scenes, and the reference that every map is compared with."""

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.transform import Affine
from torch import Tensor, nn

from segpipe.models.architectures.network import Option
from segpipe.models.architectures.registry import build
from segpipe.models.engine import default_threads
from segpipe.models.package import ClassInfo, ModelCard, SegmentationModel
from segpipe.pipeline.grid import Grid

COLORS = ("#b22222", "#e6c35c", "#1b6e3a", "#3b6fb5", "#808080")
LANDSAT = Affine(28.5, 0, 630534, 0, -28.5, 228114)


def card(
    name: str = "toy", bands: tuple[str, ...] = ("red", "green", "blue"), classes: int = 5
) -> ModelCard:
    """A card for the bands of the Landsat 8 example."""
    infos = tuple(ClassInfo(n + 1, f"class {n + 1}", COLORS[n % 5]) for n in range(classes))
    return ModelCard(name, bands, infos, (6700.0,) * len(bands), (2900.0,) * len(bands))


def alive(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights under which every path counts and classes change all the time."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
    # Statistics of the kind of numbers that the network will see keep deep ones from running off.
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(torch.randn(2, 3, 256, 256, generator=generator))
    return network.eval()


def model(
    architecture: str = "unet", seed: int = 0, name: str = "toy", **options: Option
) -> SegmentationModel:
    """A registered architecture with random weights."""
    # Some layers start at random, and dropout has its part in the norms' statistics.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = alive(build(architecture, 3, 5, **options), seed)
    return SegmentationModel(network, card(name))


class Balanced(nn.Module):
    """A network whose scores are shifted and scaled so that every class wins somewhere."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            scores = network(image)
        self.mean = nn.Parameter(scores.mean((0, 2, 3))[:, None, None])
        self.std = nn.Parameter(scores.std((0, 2, 3))[:, None, None])

    def forward(self, image: Tensor) -> Tensor:
        """Scores of mean 0 and deviation 1, about."""
        scores: Tensor = (self.network(image) - self.mean) / self.std
        return scores


def balanced(
    architecture: str, pixels: NDArray[np.generic] | None = None, **options: Option
) -> SegmentationModel:
    """A registered architecture with random weights of which every class wins somewhere.

    Somewhere in `pixels` (band, row, column), whose sides are multiples of the stride.
    """
    plain = model(architecture, 0, "toy", **options)
    example = landscape(256, 256) if pixels is None else pixels
    values = torch.from_numpy(example.astype(np.float32))
    image = (values - plain.card.mean[0]) / plain.card.std[0]
    return SegmentationModel(Balanced(plain.network, image[None]), plain.card)


def small(seed: int = 0, name: str = "toy") -> SegmentationModel:
    """A U-Net that computes a million pixels in a fraction of a second."""
    return model("unet", seed, name, depth=2, width=4)


def write_scene(
    path: Path,
    pixels: NDArray[np.generic],
    *,
    nodata: float | None = 0,
    crs: str | None = "EPSG:32119",
    transform: Affine = LANDSAT,
    names: tuple[str, ...] = ("red", "green", "blue"),
    **options: object,
) -> Path:
    """A GeoTIFF of `pixels` (band, row, column)."""
    count, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        nodata=nodata,
        crs=crs,
        transform=transform,
        **options,
    ) as file:
        file.write(pixels)
        file.descriptions = names[:count]
    return path


def landscape(height: int, width: int, seed: int = 0) -> NDArray[np.uint16]:
    """Three bands of smooth numbers with some nodata, (band, row, column)."""
    random = np.random.default_rng(seed)
    coarse = random.normal(6700, 2900, (3, height // 8 + 2, width // 8 + 2))
    fine = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    pixels = np.clip(fine + random.normal(0, 900, fine.shape), 1, 65535).astype(np.uint16)
    pixels[:, random.random((height, width)) < 0.01] = 0
    return pixels


def whole_scores(
    network: nn.Module,
    card: ModelCard,
    stride: int,
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
) -> Tensor:
    """Scores (class, row, column) of one forward pass over all, with nothing of segpipe in it."""
    height, width = valid.shape
    values = torch.from_numpy(pixels.astype(np.float32))
    mean = torch.tensor(card.mean)[:, None, None]
    std = torch.tensor(card.std)[:, None, None]
    image = torch.where(torch.from_numpy(valid), (values - mean) / std, torch.zeros(()))
    padded = nn.functional.pad(image, (0, -width % stride, 0, -height % stride))
    # Another test may have left another count, under which last bits differ.
    torch.set_num_threads(default_threads())
    with torch.inference_mode():
        scores: Tensor = network(padded[None])[0, :, :height, :width]
    return scores


def whole_image(
    network: nn.Module,
    card: ModelCard,
    stride: int,
    pixels: NDArray[np.generic],
    valid: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """The law's reference: the labels of one forward pass over all."""
    best = whole_scores(network, card, stride, pixels, valid).argmax(0).numpy()
    labels = np.array([info.value for info in card.classes], np.uint8)[best]
    return np.where(valid, labels, np.uint8(255))


def is_tie(scores: Tensor, places: NDArray[np.bool_]) -> bool:
    """Whether at all `places` the best two scores are equal but for the last bits.

    Torch sums 1 x 1 convolutions in an order that depends on the image's size, so that there a
    plain forward pass may give either label.
    """
    best, second = scores[:, torch.from_numpy(places)].topk(2, dim=0).values
    return bool(((best - second) <= 1e-5 * scores.std()).all())


def grid(height: int, width: int) -> Grid:
    """A grid of that size."""
    return Grid(height, width, (28.5, 0.0, 630534.0, 0.0, -28.5, 228114.0), "EPSG:32119")


def repeated(path: Path, tile: Path, side: int) -> Path:
    """A square scene as a VRT that shows a raster again and again, `side` pixels wide."""
    with rasterio.open(tile) as file:
        height, width, count = file.height, file.width, file.count
        kind = {"uint8": "Byte", "uint16": "UInt16"}[file.dtypes[0]]
        crs, names = file.crs.to_wkt(), file.descriptions
    bands = []
    for band in range(1, count + 1):
        sources = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="0">{tile}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/>'
            f'<DstRect xOff="{left}" yOff="{top}" xSize="{w}" ySize="{h}"/></SimpleSource>'
            for top in range(0, side, height)
            for left in range(0, side, width)
            for h, w in [(min(height, side - top), min(width, side - left))]
        )
        bands.append(
            f'<VRTRasterBand dataType="{kind}" band="{band}"><Description>{names[band - 1]}'
            f"</Description><NoDataValue>0</NoDataValue>{sources}</VRTRasterBand>"
        )
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{escape(crs)}</SRS>'
        f"<GeoTransform>0, 30, 0, 0, 0, -30</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return path
