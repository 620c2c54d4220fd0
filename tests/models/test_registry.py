"""Architectures as text."""

import pytest

from segpipe.models.architectures.network import Architecture, Option
from segpipe.models.architectures.registry import completed, options_of, parse
from segpipe.models.errors import ModelError


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("fcn8s-vgg16", "fcn8s-vgg16", {}),
        ("unet:depth=3,width=32", "unet", {"depth": 3, "width": 32}),
        ("segnet-vgg16:upsampling=transposed", "segnet-vgg16", {"upsampling": "transposed"}),
        ("deeplabv3-resnet50:pooling_window=512", "deeplabv3-resnet50", {"pooling_window": 512}),
    ],
)
def test_an_architecture_is_read_from_text(
    text: str, name: str, options: dict[str, Option]
) -> None:
    assert parse(text) == (name, options)
    assert options_of(name, text.partition(":")[2].split(",") if options else []) == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vgg", "no architecture is called 'vgg'"),
        ("vgg:depth=3", "no architecture is called 'vgg'"),
        ("unet:depth", "an option of unet is written as KEY=VALUE, got 'depth'"),
        ("unet:depth=3,", "an option of unet is written as KEY=VALUE, got ''"),
        ("unet:depth=deep", "depth is a whole number, got 'deep'"),
        ("unet:height=3", "unet has no option 'height'; its options are: depth, width"),
        ("fcn-resnet50:depth=3", "its options are: none"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(text)


def test_left_out_options_have_their_defaults() -> None:
    architecture = Architecture("unet", 4, 2, {"width": 8})
    assert completed(architecture) == Architecture("unet", 4, 2, {"depth": 4, "width": 8})
