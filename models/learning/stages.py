"""Training goes on from a model that was trained before."""

from segpipe.models.architectures.fcn import FCN, continue_from
from segpipe.models.architectures.network import Architecture, Network
from segpipe.models.architectures.registry import completed
from segpipe.models.errors import ModelError
from segpipe.models.package import SegmentationModel


def start_from(network: Network, model: SegmentationModel) -> None:
    """Gives `network` the weights of a trained model: of the same architecture or a coarser FCN.

    An FCN-16s goes on from an FCN-32s over the same encoder and an FCN-8s from either, as
    `continue_from` says.

    Raises:
        ModelError: the architectures have nothing to do with each other, or the numbers of bands
            or classes differ.
    """
    before = model.network
    if network.architecture is None or model.architecture is None:
        raise ModelError(f"{model.card.name}: training goes on from a registered architecture")
    after, trained = completed(network.architecture), completed(model.architecture)
    for title, wanted, found in (
        ("bands", after.bands, trained.bands),
        ("classes", after.classes, trained.classes),
    ):
        if wanted != found:
            raise ModelError(
                f"{model.card.name} has {found} {title}, the network to train {wanted}; "
                "training goes on with as many"
            )
    if after == trained:
        network.load_state_dict(before.state_dict())
    elif isinstance(network, FCN) and isinstance(before, FCN):
        continue_from(network, before)
    else:
        raise ModelError(
            f"{_text(after)} can't go on from {model.card.name}, which is {_text(trained)}: a "
            "network goes on from its own architecture, an FCN also from a coarser one"
        )


def _text(architecture: Architecture) -> str:
    options = ",".join(f"{key}={value}" for key, value in architecture.options.items())
    return f"{architecture.name}:{options}" if options else architecture.name
