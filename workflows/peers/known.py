"""Which tools there are, how each is installed, and with which settings it is measured."""

from collections.abc import Iterator
from dataclasses import dataclass

from segpipe.workflows.errors import OptionError
from segpipe.workflows.peers.process import Options


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a tool: in words but for its patches, and what its adapter is told."""

    words: str
    options: Options

    @property
    def title(self) -> str:
        """The setting as people say it."""
        patch = self.options.get("patch")
        return f"patches of {patch}, {self.words}" if patch else self.words

    def with_patch(self, side: int) -> "Setting":
        """The same with patches of this side, one at a time."""
        changed = {"patch": side, "batch": 1}
        options = {name: changed.get(name, value) for name, value in self.options.items()}
        return Setting(self.words, options)


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool that takes any network.

    Attributes:
        title: as people call it.
        adapter: the module of this folder that runs it.
        settings: its defaults first.
        packages: what is installed without what it asks for; empty for what segpipe brings along.
        needs: what is installed with all that it asks for.
    """

    title: str
    adapter: str
    settings: tuple[Setting, ...]
    packages: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def measured(self, tile: int) -> Iterator[Setting]:
        """Its settings, and its first one with patches as large as segpipe's tiles."""
        yield from self.settings
        equal = self.settings[0].with_patch(tile)
        if tile and equal.title != self.settings[0].title:
            yield equal


_TORCHVISION = "torchvision"
"""Of the version that belongs to torch's, as `environment` asks for it."""

PEERS = {
    "loop": Peer(
        "plain loop",
        "plain_loop",
        (Setting("50 % shared, gaussian", {"patch": 512, "overlap": 0.5}),),
    ),
    "window": Peer(
        "classifier on crops",
        "crops",
        (Setting("one by one", {"batch": 1}), Setting("in batches", {"batch": 0})),
    ),
    "monai": Peer(
        "MONAI",
        "monai_windows",
        (
            Setting("25 % shared", {"patch": 512, "overlap": 0.25, "mode": "constant", "batch": 1}),
            Setting(
                "50 % shared, gaussian",
                {"patch": 512, "overlap": 0.5, "mode": "gaussian", "batch": 1},
            ),
        ),
        ("monai==1.6.1",),
    ),
    "geoai": Peer(
        "geoai",
        "geoai_tiles",
        (Setting("25 % shared, spline", {"patch": 256, "overlap": 0.25, "batch": 4}),),
        ("geoai-py==0.40.1",),
        ("geopandas", "leafmap", "rioxarray", "scipy", "scooby", "tqdm"),
    ),
    "omnicloudmask": Peer(
        "OmniCloudMask",
        "omnicloudmask_patches",
        (Setting("30 % shared", {"patch": 1000, "overlap": 0.3, "batch": 1}),),
        ("omnicloudmask==1.8.1", "segmentation-models-pytorch", "timm", _TORCHVISION),
        ("classcounter", "gdown", "huggingface-hub", "pillow", "platformdirs", "tqdm"),
    ),
    "rastervision": Peer(
        "Raster Vision",
        "rastervision_chips",
        (
            Setting("none shared", {"patch": 300, "overlap": 0.0, "batch": 8}),
            Setting("50 % shared, counted", {"patch": 512, "overlap": 0.5, "batch": 8}),
        ),
        (
            "rastervision-core==0.31.1",
            "rastervision-pipeline==0.31.1",
            "rastervision-pytorch-learner==0.31.1",
            "albucore==0.0.24",
            "albumentations==2.0.8",
            _TORCHVISION,
        ),
        (
            "boto3",
            "cython",
            "everett[ini]",
            "geopandas",
            "humanize",
            "matplotlib",
            "opencv-python-headless",
            "pycocotools",
            "pydantic",
            "pystac",
            "scikit-image",
            "scikit-learn",
            "scipy",
            "simsimd",
            "stackstac",
            "stringzilla",
            "tensorboard",
            "tqdm",
            "xarray",
        ),
    ),
}
"""By the names that `--peer` takes. MONAI has no default patch; 512 is what the loop has too."""


def chosen(names: tuple[str, ...]) -> dict[str, Peer]:
    """The tools of these names, in their order; all of them where there are none.

    Raises:
        OptionError: there is no such tool.
    """
    for name in names:
        if name not in PEERS:
            raise OptionError(f"the peers are {', '.join(PEERS)}, got {name}")
    return {name: PEERS[name] for name in names or PEERS}
