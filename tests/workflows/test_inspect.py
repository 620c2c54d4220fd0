"""`segpipe inspect` gives the numbers of Long, Shelhamer and Darrell (2015), table 1."""

import json

import numpy as np
import pytest
import torch

from segpipe.models.architectures.network import Sizes, sizes
from segpipe.models.architectures.registry import build
from segpipe.models.footprints.graph_walk import follow
from tests.workflows.conftest import Command


@pytest.mark.parametrize(
    ("name", "without_upsampling", "encoder", "field"),
    [
        ("fcn32s-alexnet", 56_954_261, 56_868_224, 355),
        ("fcn8s-vgg16", 134_362_751, 134_260_544, 404),
        ("fcn32s-googlenet", 5_995_077, 5_973_552, 907),
    ],
)
def test_the_papers_table(
    name: str, without_upsampling: int, encoder: int, field: int, segpipe: Command
) -> None:
    found = json.loads(segpipe("inspect", name, "--json").out)
    assert found["parameters_without_upsampling"] == without_upsampling
    assert found["encoder_parameters"] == encoder
    assert found["receptive_field"] == field
    assert found["footprint"]["stride"] == 32
    with torch.device("meta"):
        fixed = build(name, 3, 21, upsampling="fixed")
    assert sizes(fixed) == Sizes(without_upsampling, encoder, 0)


def test_the_paper_is_quoted_for_people(segpipe: Command) -> None:
    words = " ".join(segpipe("inspect", "fcn32s-alexnet").out.split())
    assert "56,954,261 without upsampling kernels; 56,868,224 in the encoder" in words
    assert "receptive field 355 pixels" in words
    assert "stride 32, a pixel sees 208 up, 208 left, 207 down, 207 right" in words


def test_a_network_that_was_no_classifier_has_no_receptive_field(segpipe: Command) -> None:
    found = json.loads(segpipe("inspect", "unet:depth=2,width=4", "--json").out)
    assert found["receptive_field"] is None
    assert found["encoder_parameters"] is None
    assert found["parameters"] > found["parameters_without_upsampling"]
    assert found["footprint"]["stride"] == 4
    assert "receptive field" not in segpipe("inspect", "unet:depth=2,width=4").out


def test_a_wrong_option_is_one_line(segpipe: Command) -> None:
    outcome = segpipe("inspect", "segnet-vgg16:upsampling=nearest")
    assert outcome.code == 4
    assert outcome.lines == ["segpipe: upsampling is unpooling or transposed, got 'nearest'"]


def test_an_architecture_with_options_is_no_model_to_run(segpipe: Command) -> None:
    outcome = segpipe("run", "scene.tif", "-m", "unet:depth=2")
    assert outcome.code == 4
    assert "unet:depth=2 is an architecture without weights" in outcome.err


def test_an_output_pixel_of_fcn8s_sees_436_to_468_pixels() -> None:
    with torch.device("meta"):
        network = build("fcn8s-vgg16", 3, 2)
    walk = follow(network, 3, 1920, 3840)
    for span in (walk.rows, walk.columns):
        inner = np.flatnonzero(~span.edge)
        seen = (span.high - span.low + 1)[inner]
        assert (seen.min(), seen.max()) == (436, 468)
