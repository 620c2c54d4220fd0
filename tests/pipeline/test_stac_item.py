"""STAC items in the styles of catalogues, made up: bands, numbers, and where they may lead."""

import contextlib
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pystac.extensions.eo import EOExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation import JsonSchemaSTACValidator

from segpipe.pipeline.errors import InputRefusedError
from segpipe.pipeline.scenes.location import Address
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.scenes.stac_item import beside, is_item, item_bands
from segpipe.pipeline.scenes.stack import BandFile
from tests import toys

Item = dict[str, Any]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(assets: Item, properties: Item, version: str = "1.0.0") -> Item:
    """An item with these assets."""
    return {
        "type": "Feature",
        "stac_version": version,
        "stac_extensions": [
            EOExtension.get_schema_uri(),
            RasterExtension.get_schema_uri(),
        ],
        "id": "scene",
        "geometry": {"type": "Point", "coordinates": [3.0, 51.0]},
        "bbox": [3.0, 51.0, 3.0, 51.0],
        "properties": {"datetime": "2023-01-01T10:53:29Z", **properties},
        "links": [],
        "assets": assets,
    }


def sentinel(**properties: object) -> Item:
    """As Earth Search has Sentinel-2, Level 2A."""
    reflectance = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}
    eo = {
        "red": {"name": "red", "common_name": "red", "center_wavelength": 0.665},
        "green": {"name": "green", "common_name": "green"},
        "blue": {"name": "blue", "common_name": "blue"},
        "nir": {"name": "nir", "common_name": "nir"},
        "nir08": {"name": "nir08", "common_name": "nir08"},
    }
    assets: Item = {
        name: {
            "href": f"{name}.tif",
            "type": COG,
            "roles": ["data", "reflectance"],
            "eo:bands": [band],
            "raster:bands": [reflectance],
        }
        for name, band in eo.items()
    }
    pictures = [eo["red"], eo["green"], eo["blue"]]
    assets |= {
        "visual": {"href": "TCI.tif", "type": COG, "roles": ["visual"], "eo:bands": pictures},
        "red-jp2": {"href": "B04.jp2", "type": "image/jp2", "eo:bands": [eo["red"]]},
        "thumbnail": {"href": "t.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "scl": {"href": "SCL.tif", "type": COG, "roles": ["data"]},
        "granule_metadata": {"href": "m.xml", "type": "application/xml", "roles": ["metadata"]},
    }
    return item(assets, properties)


def planetary(**properties: object) -> Item:
    """As the Planetary Computer has Sentinel-2, Level 2A."""
    bands = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B8A": "rededge"}
    eo = {key: {"name": key, "common_name": name} for key, name in bands.items()}
    assets: Item = {
        key: {"href": f"{key}.tif", "type": COG, "roles": ["data"], "eo:bands": [band]}
        for key, band in eo.items()
    }
    pictures = [eo["B04"], eo["B03"], eo["B02"]]
    assets["visual"] = {"href": "TCI.tif", "type": COG, "roles": ["data"], "eo:bands": pictures}
    return item(assets, properties)


def landsat(*, version: str = "1.0.0") -> Item:
    """As catalogues have Landsat, Collection 2, Level 2; before STAC 1.1, or after it."""
    bands = {"red": "OLI_B4", "nir08": "OLI_B5", "swir16": "OLI_B6"}
    numbers = {"nodata": 0, "data_type": "uint16"}

    def fields(name: str, key: str) -> Item:
        if version == "1.1.0":
            own = {"name": name, "eo:common_name": key, **numbers}
            return {"bands": [own], "raster:scale": 2.75e-05, "raster:offset": -0.2}
        scaled = {**numbers, "scale": 2.75e-05, "offset": -0.2}
        return {"eo:bands": [{"name": name, "common_name": key}], "raster:bands": [scaled]}

    assets = {
        key: {"href": f"./data/{name}.TIF", "type": COG, **fields(name, key)}
        for key, name in bands.items()
    }
    return item(assets, {}, version)


def save(folder: Path, content: Item, name: str = "item.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def found(path: Path) -> dict[str, BandFile]:
    """The bands by every name that they go by."""
    bands = item_bands(path)
    return {name: band for band in bands for name in band.aliases} | {
        band.name: band for band in bands
    }


def scalings(folder: Path, content: Item, name: str) -> Any:
    band = found(save(folder, content))[name]
    return band.scaling or band.usual


@pytest.mark.parametrize("content", [sentinel(), planetary(), landsat()])
def test_bands_are_those_that_pystac_reads(tmp_path: Path, content: Item) -> None:
    bands = found(save(tmp_path, content))
    seen = 0
    for key, asset in pystac.Item.from_dict(deepcopy(content)).assets.items():
        listed = EOExtension.ext(asset).bands or ()
        if len(listed) != 1 or asset.media_type == "image/jp2":
            continue
        band = listed[0]
        assert {bands[name].name for name in (key, band.name, str(band.common_name))} == {key}
        assert bands[key].place == Path(os.path.normpath(tmp_path / asset.href))
        for raster in RasterExtension.ext(asset).bands or ():
            assert bands[key].scaling == (raster.scale, raster.offset)
            assert bands[key].nodata == raster.nodata
        seen += 1
    assert seen >= 3


@pytest.mark.parametrize("content", [sentinel(), planetary(), landsat(), landsat(version="1.1.0")])
def test_the_made_up_items_are_valid(content: Item) -> None:
    # pystac brings the schema of the newest version alone, to which it takes older items.
    newest = pystac.Item.from_dict(deepcopy(content)).to_dict(include_self_link=False)
    JsonSchemaSTACValidator().validate_core(newest, pystac.STACObjectType.ITEM, "1.1.0")


def test_both_versions_say_the_same(tmp_path: Path) -> None:
    older = item_bands(save(tmp_path, landsat()))
    assert item_bands(save(tmp_path, landsat(version="1.1.0"))) == older
    assert older[0].scaling == (2.75e-05, -0.2)


def test_the_scene_is_the_files_that_the_item_names(tmp_path: Path) -> None:
    pixels = toys.landscape(30, 40)
    for name, plane in zip(("red", "green", "blue"), pixels, strict=True):
        toys.write_scene(tmp_path / f"{name}.tif", plane[None], names=("",), nodata=None)
    path = save(tmp_path, sentinel(**{"earthsearch:boa_offset_applied": False}))
    scene = open_scene(path, None, ("blue", "red", "green"))
    read, valid = scene.read(scene.grid.window)
    np.testing.assert_array_equal(read, pixels[[2, 0, 1]])
    np.testing.assert_array_equal(valid, (pixels != 0).all(0))  # nodata is the item's
    assert [(band.scale, band.offset) for band in scene.bands] == [(0.0001, -0.1)] * 3
    assert scene.band_names == ("blue", "red", "green")
    assert scene.path == str(path)
    chosen = open_scene(path, ["green", "3"], ("a", "b"))
    assert chosen.band_names == ("green", "blue")


def test_a_wider_name_is_meant_only_where_nothing_has_it(tmp_path: Path) -> None:
    assert found(save(tmp_path, landsat()))["nir"].name == "nir08"
    assert found(save(tmp_path, sentinel()))["nir"].name == "nir"
    content = planetary()
    content["assets"]["B8A"]["eo:bands"][0]["common_name"] = "nir08"
    assert found(save(tmp_path, content))["nir"].name == "B08"


def test_a_picture_of_several_bands_is_named_after_them(tmp_path: Path) -> None:
    content = planetary(**{"s2:processing_baseline": "05.09"})
    bands = [band for band in item_bands(save(tmp_path, content)) if "visual" in band.name]
    assert [(band.name, band.index) for band in bands] == [
        ("visual:B04", 1), ("visual:B03", 2), ("visual:B02", 3),
    ]  # fmt: skip
    assert all((band.aliases, band.usual) == ((), None) for band in bands)


def test_a_name_that_two_files_have_alike_is_not_guessed(tmp_path: Path) -> None:
    content = planetary()
    again = content["assets"]["again"] = dict(content["assets"]["B04"], roles=["overview"])
    assert found(save(tmp_path, content))["red"].name == "B04"
    again["roles"] = ["data"]
    with pytest.raises(InputRefusedError, match="say which are which"):
        open_scene(save(tmp_path, content), None, ("red",))


def test_an_offset_that_is_in_the_pixels_is_not_added_again(tmp_path: Path) -> None:
    for name in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        assert scalings(tmp_path, sentinel(**{name: True}), "red") == (0.0001, 0.0)
    told = {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}
    assert scalings(tmp_path, planetary(**told), "red") == (0.0001, 0.0)


def test_the_processing_baseline_tells_where_nothing_else_does(tmp_path: Path) -> None:
    for baseline, offset in (("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1)):
        content = planetary(**{"s2:processing_baseline": baseline})
        assert scalings(tmp_path, content, "red") == (0.0001, offset)
        assert scalings(tmp_path, content, "B8A") == (0.0001, offset)
    assert scalings(tmp_path, planetary(), "red") is None
    content = sentinel(**{"s2:processing_baseline": "05.09"})
    assert scalings(tmp_path, content, "scl") is None


def test_landsats_file_names_tell_where_nothing_else_does(tmp_path: Path) -> None:
    content = landsat()
    asset = content["assets"]["red"]
    del asset["raster:bands"]
    assert scalings(tmp_path, content, "red") is None
    asset["href"] = "LC08_L2SP_224077_20201101_20201107_02_T1_SR_B4.TIF"
    assert scalings(tmp_path, content, "red") == (0.0000275, -0.2)


@pytest.mark.parametrize(
    "href",
    [
        "../other/red.tif",
        "/etc/red.tif",
        "data/../../red.tif",
        "file:///etc/red.tif",
        "/vsicurl/http://host/red.tif",
        "ftp://host/red.tif",
        "javascript:red",
        "https://",
    ],
)
def test_an_item_leads_nowhere_but_beneath_its_folder(tmp_path: Path, href: str) -> None:
    content = sentinel()
    content["assets"]["red"] |= {"href": href}
    path = save(tmp_path, content)
    # What isn't asked for harms nobody.
    assert found(path)["green"].place == tmp_path / "green.tif"
    with pytest.raises(InputRefusedError, match="asset red") as refused:
        open_scene(path, None, ("red",))
    assert "\n" not in str(refused.value)


def test_absolute_files_of_its_own_folder_and_addresses_are_followed(tmp_path: Path) -> None:
    content = sentinel()
    content["assets"]["red"] |= {"href": str(tmp_path / "deep" / "red.tif")}
    content["assets"]["green"] |= {"href": "https://host/green.tif?signed=1"}
    content["assets"]["blue"] |= {"href": "s3://bucket/blue.tif"}
    bands = found(save(tmp_path, content))
    assert bands["red"].place == tmp_path / "deep" / "red.tif"
    assert str(bands["green"].place) == "https://host/green.tif"
    assert isinstance(bands["green"].place, Address)
    assert bands["green"].place.url == "https://host/green.tif?signed=1"
    assert str(bands["blue"].place) == "s3://bucket/blue.tif"


@pytest.mark.parametrize(
    ("base", "href", "expected"),
    [
        ("https://host/c/items/x?token=1", "./B4.tif", "https://host/c/items/B4.tif"),
        ("https://host/c/items/x", "../B4.tif", "https://host/c/B4.tif"),
        ("https://host/c/x.json", "/B4.tif", "https://host/B4.tif"),
        ("s3://bucket/c/x.json", "d/B4.tif", "s3://bucket/c/d/B4.tif"),
        ("s3://bucket/c/x.json", "../../../B4.tif", "s3://bucket/B4.tif"),
    ],
)
def test_relative_references_are_meant_beside_the_item(base: str, href: str, expected: str) -> None:
    assert str(beside(Address.of(base), href)) == expected


def test_what_is_an_item_is_told_by_its_name(tmp_path: Path) -> None:
    assert is_item(save(tmp_path, sentinel()))
    assert is_item(save(tmp_path, sentinel(), "scene.GEOJSON"))
    assert not is_item(tmp_path / "missing.json")
    assert not is_item(tmp_path)
    assert is_item(Address.of("https://host/item.json?signed=1"))
    assert is_item(Address.of("https://host/v1/collections/s2/items/S2A_1"))
    assert not is_item(Address.of("https://host/scene.tif"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "FeatureCollection"}, "isn't a STAC item of version 1 .type 'FeatureColl"),
        ({"type": "Collection"}, "name one item's own file"),
        ({"stac_version": "0.9.0"}, "isn't a STAC item"),
        ({"stac_version": None}, "isn't a STAC item"),
        ({"assets": []}, "assets is a table"),
        ({"assets": {}}, "none of its 0 assets"),
        ({"assets": {"red": 5}}, "assets.red is a table"),
        ({"assets": {"red": {"href": "red.png", "type": "image/png"}}}, "none of its 1 assets"),
        ({"assets": {"red": {"href": 5, "type": COG}}}, "none of its 1 assets"),
        ({"assets": {"red": {"href": "a.tif", "bands": 5}}}, "bands of asset red is a list"),
        ({"assets": {"red": {"href": "a.tif", "bands": [5]}}}, "bands of asset red is a table"),
        ({"assets": {"r": {"href": "a.tif", "raster:scale": "2"}}}, "asset r are numbers, got '2'"),
        ({"assets": {"r": {"href": "a.tif", "nodata": True}}}, "asset r are numbers, got True"),
        ({"properties": None}, "properties is a table"),
    ],
)
def test_what_is_no_item_is_refused_in_one_line(tmp_path: Path, change: Item, message: str) -> None:
    with pytest.raises(InputRefusedError, match=message) as refused:
        item_bands(save(tmp_path, sentinel() | change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "5", "[" * 100000, "\x00", '{"type": "Feature"}'])
def test_text_that_is_no_item_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "item.json").write_text(text)
    with pytest.raises(InputRefusedError, match=r"JSON|isn't a STAC item"):
        item_bands(tmp_path / "item.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACES = (
    (), ("properties",), ("assets",), ("assets", "red"), ("assets", "red", "eo:bands"),
    ("assets", "red", "eo:bands", 0), ("assets", "red", "raster:bands", 0),
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(PLACES),
    st.sampled_from(
        ["type", "href", "roles", "bands", "eo:bands", "raster:bands", "name", "common_name",
         "scale", "offset", "nodata", "raster:scale", "s2:processing_baseline", "assets"]
    ),
    VALUES,
)  # fmt: skip
def test_whatever_an_item_says_it_is_read_or_refused(
    tmp_path: Path, place: tuple[str | int, ...], key: str, value: object
) -> None:
    content: Any = sentinel()
    target = content
    for step in place:
        target = target[step]
    if isinstance(target, list):
        target.append(value)
    else:
        target[key] = value
    path = save(tmp_path, content)
    with contextlib.suppress(InputRefusedError):
        assert all(band.place is not None or band.refusal for band in item_bands(path))
