"""Training goes on from an earlier model."""

import pytest
import torch

from segpipe.models.architectures.network import Architecture, Network
from segpipe.models.architectures.registry import build
from segpipe.models.card import ClassInfo, ModelCard
from segpipe.models.errors import ModelError
from segpipe.models.learning.stages import start_from
from segpipe.models.package import SegmentationModel


def model(network: Network) -> SegmentationModel:
    assert network.architecture is not None
    bands = tuple(f"b{n}" for n in range(network.architecture.bands))
    classes = tuple(ClassInfo(n, f"c{n}", "#808080") for n in range(network.architecture.classes))
    ones = (1.0,) * len(bands)
    return SegmentationModel(network, ModelCard("before", bands, classes, ones, ones))


def small(**options: int) -> Network:
    return build("unet", 3, 2, **{"depth": 1, "width": 2, **options})


def test_the_same_architecture_goes_on_with_its_weights() -> None:
    before, after = small(), small()
    start_from(after, model(before))
    pairs = zip(after.state_dict().values(), before.state_dict().values(), strict=True)
    assert all(one.equal(other) for one, other in pairs)
    assert after.training
    with torch.no_grad():
        next(after.parameters()).add_(1)
    assert not next(after.parameters()).equal(next(before.parameters()))


def test_a_package_older_than_an_option_counts_as_one_with_its_default() -> None:
    before, after = build("unet", 3, 2, width=1), build("unet", 3, 2, width=1)
    before.architecture = Architecture("unet", 3, 2, {"width": 1})
    start_from(after, model(before))
    assert next(after.parameters()).equal(next(before.parameters()))


def test_an_fcn_goes_on_from_a_coarser_one() -> None:
    torch.manual_seed(0)
    before, after = build("fcn32s-alexnet", 1, 2), build("fcn16s-alexnet", 1, 2)
    torch.nn.init.normal_(before.get_parameter("scores.0.weight"))
    start_from(after, model(before))
    image = torch.randn(1, 1, 96, 96)
    with torch.inference_mode():
        old, new = before.eval()(image), after.eval()(image)
    assert old.any()
    torch.testing.assert_close(new[..., :-15, :-15], old[..., :-15, :-15])


@pytest.mark.parametrize(
    ("after", "before", "message"),
    [
        (("unet", 3, 2), ("unet", 4, 2), "before has 4 bands, the network to train 3"),
        (("unet", 3, 2), ("unet", 3, 5), "before has 5 classes, the network to train 2"),
        (
            ("unet", 3, 2),
            ("fcn-compact", 3, 2),
            "unet:depth=4,width=64 can't go on from before, which is fcn-compact:depth=3,width=16",
        ),
        (("fcn32s-vgg16", 3, 2), ("fcn8s-vgg16", 3, 2), "goes on from one that scores fewer maps"),
    ],
)
def test_what_has_nothing_to_do_with_it_is_refused(
    after: tuple[str, int, int], before: tuple[str, int, int], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match=message):
        start_from(build(*after), model(build(*before)))


def test_a_foreign_network_is_refused() -> None:
    card = ModelCard("before", ("b",), (ClassInfo(1, "c", "#808080"),), (0.0,), (1.0,))
    foreign = SegmentationModel(torch.nn.Conv2d(1, 1, 1), card)
    with pytest.raises(ModelError, match="from a registered architecture"):
        start_from(small(), foreign)
