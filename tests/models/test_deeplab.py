"""DeepLabV3 with a sliding mean: the published network in the middle of its window, and exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from segpipe.models.architectures.deeplab import (
    DeepLabV3ResNet50,
    ImagePooling,
    WindowPooling,
    localised,
    sliding_mean,
)
from segpipe.models.architectures.registry import build, create
from segpipe.models.errors import ModelError
from segpipe.models.footprint import Footprint, measure
from segpipe.models.footprints.proof import prove


def deeplab(classes: int = 2, **options: int) -> DeepLabV3ResNet50:
    network = build("deeplabv3-resnet50", 3, classes, **options).eval()
    assert isinstance(network, DeepLabV3ResNet50)
    return network


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12))
def test_a_sliding_mean_is_the_mean_of_the_cells_inside(
    cells: int, height: int, width: int
) -> None:
    x = noise(1, 2, height, width)
    found = sliding_mean(x, cells)
    assert found.shape == x.shape
    for row in range(height):
        for column in range(width):
            top, left = row - cells // 2, column - cells // 2
            inside = x[..., max(top, 0) : top + cells, max(left, 0) : left + cells]
            torch.testing.assert_close(found[..., row, column], inside.mean((2, 3)))


@pytest.mark.parametrize("cells", [6, 7])
def test_the_middle_of_an_image_of_the_windows_size_sees_the_images_mean(cells: int) -> None:
    torch.manual_seed(0)
    whole, local = ImagePooling(16).double().eval(), WindowPooling(16, cells).double().eval()
    local.load_state_dict(whole.state_dict())
    x = noise(1, 16, cells, cells)
    middle = (..., cells // 2, cells // 2)
    with torch.no_grad():
        torch.testing.assert_close(local(x)[middle], whole(x)[middle], rtol=0, atol=1e-12)
        assert not torch.allclose(local(x), whole(x))


def test_a_window_that_covers_the_image_from_every_cell_is_the_published_network() -> None:
    torch.manual_seed(0)
    network = deeplab().double()
    local = localised(network, 2 * 32)
    image = noise(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(local(image), network(image), rtol=0, atol=1e-9)


def test_a_local_network_has_the_same_weights_of_its_own_and_an_architecture() -> None:
    network = deeplab()
    local = localised(network, 512)
    assert local.architecture is not None
    assert local.architecture.options == {"pooling_window": 512}
    assert not local.training
    with torch.device("meta"):
        assert create(local.architecture).state_dict().keys() == network.state_dict().keys()
    before = network.state_dict()
    for name, tensor in local.state_dict().items():
        assert tensor.equal(before[name])
        assert tensor.data_ptr() != before[name].data_ptr()
    back = localised(local, 256).architecture
    assert back is not None
    assert back.options == {"pooling_window": 256}


@pytest.mark.parametrize(
    ("window", "before", "after"), [(8, 516, 508), (584, 516, 508), (592, 524, 508)]
)
def test_the_footprint_covers_the_wider_of_dilations_and_window(
    window: int, before: int, after: int
) -> None:
    with torch.device("meta"):
        network = deeplab(pooling_window=window)
    assert measure(network) == Footprint(8, before, before, after, after, exact=True)


@pytest.mark.parametrize("cells", [5, 8])
def test_tiles_of_a_sliding_mean_equal_the_whole(cells: int) -> None:
    torch.manual_seed(0)
    pooling = nn.Sequential(nn.Conv2d(3, 8, 8, 8), WindowPooling(8, cells), nn.Upsample(None, 8))
    found = measure(pooling.eval())
    assert found.exact
    assert prove(pooling, found).holds


def test_labels_of_tiles_have_the_same_bits() -> None:
    x = noise(1, 4, 40, 50).float()
    whole = sliding_mean(x, 8)
    for start in (0, 3, 11):
        tile = sliding_mean(x[..., start : start + 20].contiguous(), 8)
        low = 0 if start == 0 else 4
        assert tile[..., low:-4].equal(whole[..., start + low : start + 16])


@pytest.mark.parametrize("window", [-8, 4, 100, 4096])
def test_windows_of_other_sides_are_refused(window: int) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match="pooling_window"):
        deeplab(pooling_window=window)


def test_a_window_of_nothing_is_refused() -> None:
    with torch.device("meta"):
        network = deeplab()
    with pytest.raises(ModelError, match="from 8 to 2048"):
        localised(network, 0)


def test_the_published_form_names_its_pooling() -> None:
    with torch.device("meta"):
        assert measure(deeplab()).reasons == (
            "adaptive_avg_pool2d in pyramid.branches.4 averages over the whole image",
        )
