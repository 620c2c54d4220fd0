"""Product folders as USGS and ESA deliver them, made up: bands, names, and what numbers mean."""

from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.product import (
    product_bands,
    sentinel_scaling,
    usual_scaling,
)
from segpipe.pipeline.scenes.scene import open_scene
from tests import toys

LANDSAT_8 = "LC08_L2SP_224077_20201101_20201107_02_T1"
LANDSAT_5 = "LT05_L2SP_016036_19870529_20200917_02_T1"
LANDSAT_1 = "LC08_L1TP_224077_20201101_20201107_02_T1"
SENTINEL = "S2A_MSIL2A_20230101T105329_N{}_R051_T31UDQ_20230101T134500.SAFE"
TILE = "T31UDQ_20230101T105329"


def write(path: Path, metres: int = 30, number: int = 0) -> Path:
    """A band of one number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((1, 360 // metres, 360 // metres), number, np.uint16)
    return toys.write_scene(
        path, pixels, names=("",), nodata=None, transform=Affine(metres, 0, 0, 0, -metres, 0)
    )


def landsat(folder: Path, product: str = LANDSAT_8, surface: str = "SR_") -> Path:
    for number in range(1, 8):
        write(folder / f"{product}_{surface}B{number}.TIF", number=100 * number)
    for name in ("ST_B10", "QA_PIXEL", "SR_QA_AEROSOL"):
        write(folder / f"{product}_{name}.TIF")
    (folder / f"{product}_MTL.txt").write_text("GROUP = LANDSAT_METADATA_FILE")
    return folder


def sentinel(folder: Path, baseline: str = "0509") -> Path:
    images = folder / SENTINEL.format(baseline) / "GRANULE" / "L2A_T31UDQ_A000001" / "IMG_DATA"
    for metres, bands in {
        10: ("B02", "B03", "B04", "B08"),
        20: ("B02", "B03", "B04", "B05", "B8A", "B11", "B12"),
        60: ("B01", "B02", "B09"),
    }.items():
        for band in bands:
            number = int(band[1:].replace("A", "0"))
            write(images / f"R{metres}m" / f"{TILE}_{band}_{metres}m.tif", metres, 10 * number)
        write(images / f"R{metres}m" / f"{TILE}_TCI_{metres}m.tif", metres)
    return folder / SENTINEL.format(baseline)


METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/x.xsd"><n1:General_Info>
<Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">5000</BOA_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
<BOA_ADD_OFFSET_VALUES_LIST>{}</BOA_ADD_OFFSET_VALUES_LIST></Product_Image_Characteristics>
</n1:General_Info></n1:Level-2A_User_Product>"""


def test_a_landsat_folder_is_one_scene_by_common_names(tmp_path: Path) -> None:
    scene = open_scene(landsat(tmp_path / LANDSAT_8), None, ("nir", "red", "swir16", "blue"))
    pixels, valid = scene.read(scene.grid.window)
    assert [plane[0, 0] for plane in pixels] == [500, 400, 600, 200]
    assert valid.all()
    assert scene.band_names == ("B5", "B4", "B6", "B2")
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0000275, -0.2)}
    assert scene.nodata == (0, 0, 0, 0)


def test_the_sensor_decides_which_band_has_which_name(tmp_path: Path) -> None:
    scene = open_scene(landsat(tmp_path / "x", LANDSAT_5), None, ("blue", "nir08", "swir22"))
    assert scene.band_names == ("B1", "B4", "B7")


def test_bands_of_a_product_are_chosen_by_their_numbers_too(tmp_path: Path) -> None:
    scene = open_scene(landsat(tmp_path / "x"), ["B3", "coastal"], ("green", "x"))
    assert scene.band_names == ("B3", "B1")


def test_top_of_atmosphere_counts_have_no_scale_that_is_known(tmp_path: Path) -> None:
    scene = open_scene(landsat(tmp_path / "x", LANDSAT_1, surface=""), None, ("red",))
    assert [(band.scale, band.offset) for band in scene.bands] == [(1.0, 0.0)]


@pytest.mark.parametrize(
    ("baseline", "offset"), [("0301", 0.0), ("0400", -0.1), ("0509", -0.1), ("0214", 0.0)]
)
def test_a_sentinel_folder_takes_the_finest_file_of_each_band(
    tmp_path: Path, baseline: str, offset: float
) -> None:
    wanted = ("red", "nir", "nir08", "swir16", "coastal")
    scene = open_scene(sentinel(tmp_path, baseline), None, wanted)
    assert scene.band_names == ("B04", "B08", "B8A", "B11", "B01")
    assert scene.grid.shape == (36, 36)
    assert [Path(file).name[23:] for file in scene.files] == [
        "B04_10m.tif", "B08_10m.tif", "B8A_20m.tif", "B11_20m.tif", "B01_60m.tif",
    ]  # fmt: skip
    assert {(band.scale, band.offset) for band in scene.bands} == {(0.0001, offset)}
    pixels, _ = scene.read(scene.grid.window)
    assert [plane[5, 5] for plane in pixels] == [40, 80, 800, 110, 10]


def test_the_products_own_metadata_go_before_its_name(tmp_path: Path) -> None:
    folder = sentinel(tmp_path)
    offsets = '<BOA_ADD_OFFSET band_id="3">-500</BOA_ADD_OFFSET>'
    (folder / "MTD_MSIL2A.xml").write_text(METADATA.format(offsets))
    red, nir = open_scene(folder, None, ("red", "nir")).bands
    assert (red.scale, red.offset) == (0.0002, -0.1)
    assert (nir.scale, nir.offset) == (0.0002, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "<not XML",
        "",
        METADATA.format("")
        .replace("?>\n", '?>\n<!DOCTYPE x [<!ENTITY number "5000">]>')
        .replace(">5000<", ">&number;<"),
        METADATA.format("").replace("5000", "nan"),
        METADATA.format("").replace("5000", "0"),
        METADATA.format("").replace("5000", "five"),
    ],
)
def test_metadata_that_say_nothing_sound_change_nothing(tmp_path: Path, text: str) -> None:
    folder = sentinel(tmp_path, "0400")
    (folder / "MTD_MSIL2A.xml").write_text(text)
    (band,) = open_scene(folder, None, ("red",)).bands
    assert (band.scale, band.offset) == (0.0001, -0.1)


def test_files_of_two_products_are_not_one_scene(tmp_path: Path) -> None:
    landsat(landsat(tmp_path / "x"), LANDSAT_5)
    assert product_bands(tmp_path / "x") is None
    assert product_bands(tmp_path) is None
    assert product_bands(tmp_path / "missing") is None


def test_a_band_that_the_product_lacks_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match=r"7 bands: 1 B1, .*model wants 2 .red, thermal"):
        open_scene(landsat(tmp_path / "x"), None, ("red", "thermal"))


def test_order_never_stands_for_names_in_a_product(tmp_path: Path) -> None:
    with pytest.raises(InputRefusedError, match="say which are which with --bands"):
        open_scene(landsat(tmp_path / "x"), None, tuple("abcdefg"))


@pytest.mark.parametrize(
    ("name", "scaling"),
    [
        (f"/data/{LANDSAT_8}_SR_B4.TIF", (0.0000275, -0.2)),
        (f"https://host/a/{LANDSAT_8}_SR_B4.TIF", (0.0000275, -0.2)),
        (f"/data/{LANDSAT_8}_SR_B10.TIF", None),
        (f"/data/{LANDSAT_8}_ST_B10.TIF", None),
        (f"/data/{LANDSAT_1}_B4.TIF", None),
        (f"/data/{SENTINEL.format('0510')}/GRANULE/x/{TILE}_B04_10m.jp2", (0.0001, -0.1)),
        (f"/data/{SENTINEL.format('0300')}/{TILE}_B8A.jp2", (0.0001, 0.0)),
        (f"/data/{TILE}_B04_10m.jp2", None),
        ("/data/B4.tif", None),
    ],
)
def test_a_files_name_tells_its_scaling(name: str, scaling: tuple[float, float] | None) -> None:
    assert usual_scaling(name) == scaling


@pytest.mark.parametrize("baseline", ["", "4", "x.y", "04.0", "٠٤٠٠"])
def test_what_is_no_baseline_tells_nothing(baseline: str) -> None:
    assert sentinel_scaling(baseline) is None
