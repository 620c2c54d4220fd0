"""Where an FCN's scores lie, what they start as, and how a finer one goes on from a coarser one."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from segpipe.models.architectures import alexnet, googlenet, vgg
from segpipe.models.architectures.alexnet import AlexNet
from segpipe.models.architectures.fcn import FCN, Coarsest, continue_from
from segpipe.models.architectures.googlenet import GoogLeNet
from segpipe.models.architectures.layers import Upsampling
from segpipe.models.architectures.network import FeatureMap
from segpipe.models.architectures.registry import build
from segpipe.models.architectures.vgg import VGG16
from segpipe.models.errors import ModelError
from segpipe.models.footprints.graph_walk import follow

ENCODERS = [
    pytest.param(VGG16, vgg.MAPS, id="vgg16"),
    pytest.param(AlexNet, alexnet.MAPS, id="alexnet"),
    pytest.param(GoogLeNet, googlenet.MAPS, id="googlenet"),
]


class Flat(nn.Module):
    """An encoder of one convolution a map, whose units lie where another encoder's do."""

    def __init__(self, maps: Sequence[FeatureMap]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(1, 4, one.stride, one.stride) for one in maps)
        self.strides = [one.stride for one in maps]

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        return {
            stride: stage(image) for stride, stage in zip(self.strides, self.stages, strict=True)
        }


def flat(maps: Sequence[FeatureMap], finest: int, upsampling: str = "learned") -> FCN:
    """A light FCN in float64 with the upsampling of a real one."""
    thin = [FeatureMap(one.stride, 4, one.centre) for one in maps]
    return FCN(Flat(thin), thin, finest, 3, upsampling).double()


def trained(network: FCN) -> FCN:
    """The network with other scores than zero."""
    for weight in network.scores.parameters():
        nn.init.normal_(weight)
    return network


@pytest.mark.parametrize(("encoder", "maps"), ENCODERS)
def test_units_see_pixels_around_the_middle_that_is_told(
    encoder: type[nn.Module], maps: Sequence[FeatureMap]
) -> None:
    with torch.device("meta"):
        network = encoder(1)
    for one in maps:
        found = follow(Coarsest(network, one.stride), 1, 1344, 2688)
        for span in (found.rows, found.columns):
            inner = (~span.edge).nonzero()[0]
            assert len(inner) > 10
            middles = (span.low + span.high)[inner] / 2
            assert (middles == one.centre + one.stride * inner).all()


@pytest.mark.parametrize("maps", [vgg.MAPS, alexnet.MAPS, googlenet.MAPS])
@pytest.mark.parametrize("finest", [32, 16, 8])
def test_scores_lie_around_the_middle_of_what_their_units_see(
    maps: Sequence[FeatureMap], finest: int
) -> None:
    network = flat(maps, finest, "fixed")
    scored = {one.stride: one for one in maps}
    for stride, scores in impulses(network):
        row, column = 3, 5
        scores[..., row, column] = 1
        pixels = upsampled(network, stride, scores)[0, 0]
        for total, unit in ((pixels.sum(1), row), (pixels.sum(0), column)):
            place = torch.arange(len(total), dtype=torch.float64)
            middle = float((total * place).sum() / total.sum())
            assert middle == pytest.approx(scored[stride].centre + stride * unit, abs=1e-9)
            seen = total.nonzero()
            assert float(seen.min() + seen.max()) / 2 == pytest.approx(middle, abs=1e-9)


def impulses(network: FCN) -> Iterator[tuple[int, Tensor]]:
    for stride in network.strides:
        yield stride, torch.zeros(1, 3, 512 // stride, 640 // stride, dtype=torch.float64)


def upsampled(network: FCN, stride: int, scores: Tensor) -> Tensor:
    """What scores of one map become, alone."""
    with torch.no_grad():
        for upsampling in network.upsamplings[network.strides.index(stride) :]:
            scores = upsampling(scores)
    assert scores.shape[-2:] == (512, 640)
    return scores


@pytest.mark.parametrize("maps", [vgg.MAPS, alexnet.MAPS, googlenet.MAPS])
def test_upsampling_continues_a_ramp_to_the_pixel(maps: Sequence[FeatureMap]) -> None:
    """Scores that say where their units lie become the pixels' own numbers."""
    network = flat(maps, 8, "fixed")
    for one in maps:
        units = torch.arange(640 // one.stride, dtype=torch.float64) * one.stride + one.centre
        rows = units.expand(1, 3, 512 // one.stride, len(units))
        pixels = upsampled(network, one.stride, rows)[0, 0, 256]
        inner = slice(2 * one.stride, -2 * one.stride)
        numbers = torch.arange(640, dtype=torch.float64)
        torch.testing.assert_close(pixels[inner], numbers[inner])


@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_upsampling_gives_the_whole_size_from_any_place(factor: int) -> None:
    for twice in range(2 * factor - 1):
        layer = Upsampling(2, factor, learned=True, place=twice / 2)
        fine = layer(torch.ones(1, 2, 5, 3))
        assert fine.shape == (1, 2, 5 * factor, 3 * factor)
        inner = fine[..., factor : 4 * factor, factor : 2 * factor]
        torch.testing.assert_close(inner, torch.ones_like(inner))


def difference(finer: FCN, coarser: FCN, image: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = (finer(image) - coarser(image)).abs()
    return result


@pytest.fixture
def image() -> Tensor:
    return torch.randn(
        1, 1, 256, 320, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def test_over_alexnet_the_finer_network_starts_with_the_coarser_ones_scores(image: Tensor) -> None:
    coarse, middle, fine = (trained(flat(alexnet.MAPS, stride)) for stride in (32, 16, 8))
    continue_from(middle, coarse)
    off = difference(middle, coarse, image)
    assert float(off[..., :-15, :-15].max()) < 1e-12
    assert float(off[..., -15:, :].min()) > 0  # the map ends there, and zeros come sooner
    trained(middle)
    continue_from(fine, middle)
    assert float(difference(fine, middle, image).max()) < 1e-12


@pytest.mark.parametrize("stride", [32, 16])
def test_over_vgg16_the_finer_network_starts_with_the_bends_rounded_off(
    stride: int, image: Tensor
) -> None:
    coarser, finer = (trained(flat(vgg.MAPS, finest)) for finest in (stride, stride // 2))
    continue_from(finer, coarser)
    # All scores but the last map's are zero, so that the others' own bends don't join in.
    for score in coarser.scores[:-1]:
        for weight in score.parameters():
            nn.init.zeros_(weight)
    continue_from(finer, coarser)
    off = difference(finer, coarser, image)
    rows, columns = (straight(side, stride) for side in image.shape[-2:])
    assert float(off[..., rows, :][..., columns].max()) < 1e-12
    assert float(off[..., ~rows, :][..., ~columns].median()) > 1e-6


def straight(side: int, stride: int) -> Tensor:
    """Pixels further than a quarter of the stride from a unit and from the image's edge."""
    pixel = torch.arange(side)
    from_unit = (pixel % stride - (stride - 1) / 2).abs()
    return (from_unit > stride / 4) & (pixel >= stride / 4) & (pixel < side - stride / 4)


def test_bends_are_rounded_off_by_an_eighth_of_the_second_difference() -> None:
    once = Upsampling(1, 32, learned=False).double()
    twice = nn.Sequential(
        Upsampling(1, 2, learned=False), Upsampling(1, 16, learned=False)
    ).double()
    scores = torch.randn(
        1, 1, 1, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    rows = scores.expand(1, 1, 12, 12)
    off = (once(rows) - twice(rows)).abs()[0, 0, 200, 64:-64].view(8, 32)
    bend = scores.flatten().diff(n=2).abs()[1:-1]
    assert (off.amax(1) <= bend / 8).all()
    torch.testing.assert_close(off[:, 15], bend / 8 * 15 / 16)


def test_what_the_coarser_network_learned_is_kept() -> None:
    coarser, finer = (trained(flat(vgg.MAPS, finest)) for finest in (16, 8))
    for weight in coarser.upsamplings.parameters():
        nn.init.normal_(weight)
    for weight in finer.upsamplings.parameters():
        nn.init.normal_(weight)
    continue_from(finer, coarser)
    before, after = coarser.state_dict(), finer.state_dict()
    kept = {name for name in before if after[name].equal(before[name])}
    assert before.keys() - kept == {"upsamplings.1.weight"}
    assert not any(weight.any() for weight in finer.scores[2].parameters())
    fresh = flat(vgg.MAPS, 8).state_dict()
    assert all(
        after[f"upsamplings.{n}.weight"].equal(fresh[f"upsamplings.{n}.weight"]) for n in (1, 2)
    )


def test_the_same_network_goes_on_with_all_weights(image: Tensor) -> None:
    one, other = (trained(flat(vgg.MAPS, 8)) for _ in range(2))
    for weight in one.upsamplings.parameters():
        nn.init.normal_(weight)
    continue_from(other, one)
    assert not difference(other, one, image).any()


@pytest.mark.parametrize(
    ("network", "coarser", "message"),
    [
        ("fcn32s-vgg16", "fcn16s-vgg16", "scores fewer maps, strides 32 don't go on from 32, 16"),
        ("fcn16s-alexnet", "fcn32s-vgg16", "of the same encoder, bands and classes"),
        ("fcn32s-googlenet", "fcn32s-alexnet", "of the same encoder, bands and classes"),
    ],
)
def test_what_cannot_go_on_is_refused(network: str, coarser: str, message: str) -> None:
    with torch.device("meta"):
        finer, other = build(network, 3, 2), build(coarser, 3, 2)
    assert isinstance(finer, FCN)
    assert isinstance(other, FCN)
    with pytest.raises(ModelError, match=message):
        continue_from(finer, other)


@pytest.mark.parametrize(
    ("factor", "place"), [(2, 0), (2, 0.5), (2, 1), (8, 0), (16, 7.5), (32, 16)]
)
def test_tiles_are_upsampled_to_the_same_bits(factor: int, place: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Upsampling(5, factor, learned=False, place=place)
    layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator))
    scores = torch.randn(1, 5, 17, 23, generator=generator)
    whole = layer(scores)
    for start in (1, 4, 9):
        tile = layer(scores[..., start : start + 12].contiguous())
        inner = slice(2 * factor, -2 * factor)
        expected = whole[..., start * factor : (start + 12) * factor]
        assert tile[..., inner].equal(expected[..., inner])
