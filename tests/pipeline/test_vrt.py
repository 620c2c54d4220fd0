"""A VRT gives the pixels of its sources, and can do nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window as RasterioWindow

from segpipe.pipeline.errors import CorruptInputError, InputRefusedError
from segpipe.pipeline.scenes import vrt
from segpipe.pipeline.scenes.raster import OPTIONS
from segpipe.pipeline.scenes.scene import open_scene
from segpipe.pipeline.window import Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
LANDSAT7 = Path(__file__).parents[2] / "examples" / "landsat7-nc-2000.tif"


def source(name: str, band: int = 1, relative: int = 1, kind: str = "SimpleSource") -> str:
    return (
        f'<{kind}><SourceFilename relativeToVRT="{relative}">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></{kind}>"
    )


def dataset(*bands: str, head: str = "", size: int = 64, kind: str = "UInt16") -> str:
    body = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{index}">{band}</VRTRasterBand>'
        for index, band in enumerate(bands, start=1)
    )
    return f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">{head}{body}</VRTDataset>'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(1, 60000, (1, 64, 64)).astype(np.uint16)
        with rasterio.open(
            tmp_path / f"B{index}.tif",
            "w",
            **{"driver": "GTiff", "count": 1, "height": 64, "width": 64, "dtype": "uint16"},
            **{"crs": "EPSG:32621", "transform": rasterio.Affine(30, 0, 5, 0, -30, 7)},
        ) as file:
            file.write(pixels)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# What a VRT is for


def test_a_stack_of_files_is_a_scene(folder: Path) -> None:
    head = "<SRS>EPSG:32621</SRS><GeoTransform>5, 30, 0, 7, 0, -30</GeoTransform>"
    bands = [
        f"<Description>{name}</Description><NoDataValue>0</NoDataValue>" + source(f"B{index}.tif")
        for index, name in enumerate(("red", "green", "blue"))
    ]
    path = write(folder / "stack.vrt", dataset(*bands, head=head))
    scene = open_scene(path, wanted=("blue", "red"))
    assert scene.band_indexes == (3, 1)
    assert scene.grid.transform == (30.0, 0.0, 5.0, 0.0, -30.0, 7.0)
    assert scene.nodata == (0.0, 0.0)
    with rasterio.open(path) as oracle:
        np.testing.assert_array_equal(
            scene.read(Window(3, 5, 40, 50))[0],
            oracle.read([3, 1], window=RasterioWindow(5, 3, 50, 40)),
        )
        assert rasterio.crs.CRS.from_wkt(scene.grid.crs) == oracle.crs


def test_what_gdal_writes_as_vrt_is_read(tmp_path: Path) -> None:
    path = tmp_path / "copy.vrt"
    rasterio.shutil.copy(LANDSAT7, path, driver="VRT")
    scene, plain = open_scene(path), open_scene(LANDSAT7)
    window = Window(100, 90, 200, 300)
    for one, two in zip(scene.read(window), plain.read(window), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (scene.grid.transform, scene.nodata) == (plain.grid.transform, plain.nodata)
    assert scene.band_names == plain.band_names


def test_vrts_inside_vrts_are_read(folder: Path) -> None:
    (folder / "deep").mkdir()
    write(folder / "deep" / "one & only.vrt", dataset(source("../B1.tif")))
    write(folder / "two.vrt", dataset(source("deep/one & only.vrt")))
    path = write(folder / "three.vrt", dataset(source("two.vrt"), source("B2.tif")))
    scene = open_scene(path)
    expected = [rasterio.open(folder / f"B{index}.tif").read(1) for index in (1, 2)]
    np.testing.assert_array_equal(scene.read(scene.grid.window)[0], np.stack(expected))
    with ThreadPoolExecutor(8) as pool:
        reads = pool.map(lambda _: scene.read(scene.grid.window)[0], range(64))
        assert all((read == np.stack(expected)).all() for read in reads)


def test_a_changed_source_is_a_changed_scene(folder: Path) -> None:
    write(folder / "inner.vrt", dataset(source("B1.tif")))
    scene = open_scene(write(folder / "a.vrt", dataset(source("inner.vrt"))))
    before = scene.identity(full=True)
    data = bytearray((folder / "B1.tif").read_bytes())
    data[-1] ^= 1
    (folder / "B1.tif").write_bytes(data)
    assert scene.identity(full=True) != before


def test_a_source_that_vanishes_under_way_is_corrupt_input(folder: Path) -> None:
    scene = open_scene(write(folder / "a.vrt", dataset(source("B0.tif"))))
    (folder / "B0.tif").unlink()
    with pytest.raises(CorruptInputError, match=r"rows 0 to 9, .*'B0.tif' isn't an existing"):
        scene.read(Window(0, 0, 9, 9))


def test_a_mask_band_hides_pixels(folder: Path) -> None:
    mask = np.full((1, 64, 64), 255, np.uint8)
    mask[0, 9, 11] = 0
    with rasterio.open(
        folder / "mask.tif",
        "w",
        **{"driver": "GTiff", "count": 1, "height": 64, "width": 64, "dtype": "uint8"},
    ) as file:
        file.write(mask)
    band = f'<VRTRasterBand dataType="Byte">{source("mask.tif")}</VRTRasterBand>'
    text = dataset(source("B0.tif"))
    end = "</VRTDataset>"
    path = write(folder / "a.vrt", text.replace(end, f"<MaskBand>{band}</MaskBand>{end}"))
    scene = open_scene(path)
    assert np.argwhere(~scene.read(scene.grid.window)[1]).tolist() == [[9, 11]]


@given(data=st.data())
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_resampled_source_reads_the_same_in_any_window(folder: Path, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(["near", "bilinear", "cubic"]))
    size = data.draw(st.sampled_from([32, 96, 128, 192]))
    rects = (
        '<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
        f'<DstRect xOff="0" yOff="0" xSize="{size}" ySize="{size}"/></SimpleSource>'
    )
    text = source("B0.tif").replace("<SimpleSource>", f'<SimpleSource resampling="{method}">')
    band = text.replace("</SimpleSource>", rects)
    scene = open_scene(write(folder / f"{method}{size}.vrt", dataset(band, size=size)))
    whole, _ = scene.read(scene.grid.window)
    top, left = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    height = data.draw(st.integers(1, size - top))
    width = data.draw(st.integers(1, size - left))
    window = Window(top, left, height, width)
    np.testing.assert_array_equal(scene.read(window)[0], whole[:, *window.slices])


# What it may not do

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(sys.argv[1], "a").write(self.path + "\\n")
        self.send_error(404)
    do_HEAD = do_GET
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Canary:
    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/bait.tif"
        self.log = log

    def visits(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    # GDAL holds the GIL while it waits, so the server is a process of its own.
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "5")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    log = tmp_path / "visits.txt"
    command = [sys.executable, "-c", SERVER, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Canary(int(process.stdout.readline()), log)
        process.kill()


def test_the_canary_sings(folder: Path, canary: Canary) -> None:
    """Without this module the attack works: else the tests below prove nothing."""
    path = write(folder / "a.tif", dataset(source(canary.url, relative=0)))
    with rasterio.open(path) as file, pytest.raises(rasterio.errors.RasterioIOError):
        file.read()
    assert canary.visits()


def attempt(path: Path) -> str:
    """The refusal's text; fails where the scene is read all the same."""
    try:
        scene = open_scene(path)
        scene.read(scene.grid.window)
    except (InputRefusedError, CorruptInputError) as error:
        assert "\n" not in str(error)  # noqa: PT017
        return str(error)
    pytest.fail(f"{path} was read")


@pytest.mark.parametrize("name", ["a.vrt", "a.tif", "a.jp2", "a"])
@pytest.mark.parametrize(
    "address",
    [
        "{}",
        "/vsicurl/{}",
        "/vsicurl?url={}",
        "/vsicurl_streaming/{}",
        "/vsizip//vsicurl/{}",
        "/vsis3/bucket/key.tif",
        "/vsimem/x.tif",
        "/vsistdin/",
        "/vsisubfile/0_10,/etc/passwd",
        "GTIFF_DIR:1:{}",
        "WMS:{}",
        "MEM:::DATAPOINTER=1",
        "<GDAL_WMS><Service><ServerUrl>{}</ServerUrl></Service></GDAL_WMS>",
        "vrt:///etc/passwd?bands=1",
        "/dev/zero",
        "missing.tif",
        "",
        ".",
    ],
)
@pytest.mark.parametrize("relative", [0, 1])
def test_sources_that_are_no_local_files(
    folder: Path, canary: Canary, address: str, name: str, relative: int
) -> None:
    text = dataset(source(address.format(canary.url), relative=relative))
    assert "isn't an existing plain local file" in attempt(write(folder / name, text))
    assert not canary.visits()


def test_an_attack_two_levels_down(folder: Path, canary: Canary) -> None:
    write(folder / "bad.tif", dataset(source("/vsicurl/" + canary.url, relative=0)))
    write(folder / "middle.vrt", dataset(source("bad.tif")))
    path = write(folder / "top.vrt", dataset(source("B0.tif"), source("middle.vrt")))
    assert "bad.tif: its source" in attempt(path)
    inline = dataset(source(dataset(source(canary.url, relative=0)), relative=0))
    assert "isn't an existing plain local file" in attempt(write(folder / "b.vrt", inline))
    assert not canary.visits()


@pytest.mark.parametrize(
    "content",
    [
        "<GDAL_WMS><Service name='TMS'><ServerUrl>{}</ServerUrl></Service></GDAL_WMS>",
        "<WCS_GDAL><ServiceURL>{}</ServiceURL></WCS_GDAL>",
        '{{"type": "FeatureCollection", "stac_version": "1.0.0", "href": "{}"}}',
    ],
)
def test_sources_of_other_formats(folder: Path, canary: Canary, content: str) -> None:
    write(folder / "wms.tif", content.format(canary.url))
    path = write(folder / "a.vrt", dataset(source("wms.tif")))
    assert "not a raster that is read here" in attempt(path)
    assert "not a raster that is read here" in attempt(folder / "wms.tif")
    assert not canary.visits()


PYTHON = (
    '<VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">'
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>"
    "<PixelFunctionCode><![CDATA[open('touched', 'w')]]></PixelFunctionCode></VRTRasterBand>"
)
RAW = (
    '<VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativetoVRT="0">/etc/passwd</SourceFilename></VRTRasterBand>'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (dataset(PYTHON), "VRTRasterBand in VRTRasterBand"),
        (f'<VRTDataset rasterXSize="8" rasterYSize="8">{PYTHON}</VRTDataset>', "VRTDerived"),
        (f'<VRTDataset rasterXSize="8" rasterYSize="8">{RAW}</VRTDataset>', "VRTRaw"),
        ('<VRTDataset subClass="VRTWarpedDataset"></VRTDataset>', "VRTWarpedDataset"),
        ('<VRTDataset subClass="VRTProcessedDataset"></VRTDataset>', "VRTProcessed"),
        (dataset("<PixelFunctionType>sum</PixelFunctionType>"), "PixelFunctionType in VRTRas"),
        (dataset(source("B0.tif", kind="KernelFilteredSource")), "KernelFilteredSource"),
        (dataset(source("B0.tif", kind="ArraySource")), "ArraySource"),
        (
            dataset(source("B0.tif").replace("<SourceBand>", "<OpenOptions/><SourceBand>")),
            "OpenOptions in SimpleSource",
        ),
        (
            dataset(source("B0.tif").replace("<Simple", '<Simple resampling="average"', 1)),
            "not a VRT that can be trusted|resampling",
        ),
        (
            dataset(source("B0.tif").replace("Source>", 'Source resampling="mode">', 1)),
            'resampling="mode" at SimpleSource',
        ),
        (dataset(source("B0.tif"), head="<SRS>http://127.0.0.1:1/srs</SRS>"), "its SRS is neither"),
        (dataset(source("B0.tif"), head="<SRS>/etc/passwd</SRS>"), "its SRS is neither"),
        (dataset(source("B0.tif"), head="<vrtrasterband/>"), "vrtrasterband in VRTDataset"),
        ("<vrtdataset/><!-- <VRTDataset -->", "root is VRTDataset, found vrtdataset"),
        ("<VRTDataset", "not a VRT that can be trusted"),
        ('<x:VRTDataset xmlns:x="y"/><!-- <VRTDataset -->', "root is VRTDataset, found"),
    ],
)
def test_vrts_that_are_more_than_a_mosaic(folder: Path, text: str, message: str) -> None:
    path = write(folder / "a.vrt", text)
    with pytest.raises(InputRefusedError, match=message):
        open_scene(path)
    assert not (folder / "touched").exists()


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE V [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE V [<!ENTITY a "B0.tif">]>',
        '<!DOCTYPE V SYSTEM "http://127.0.0.1:1/x.dtd">',
        '<!DOCTYPE V [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>',
        "<!DOCTYPE V>",
    ],
)
def test_documents_with_entities_are_refused(folder: Path, prolog: str) -> None:
    path = write(folder / "a.vrt", prolog + dataset(source("B0.tif")))
    with pytest.raises(InputRefusedError, match="declares a document type"):
        open_scene(path)


def test_another_encoding_is_refused(folder: Path) -> None:
    path = folder / "a.vrt"
    path.write_bytes(b"<!-- <VRTDataset -->" + dataset(source("B0.tif")).encode("utf-16"))
    with pytest.raises(InputRefusedError, match="not a VRT that can be trusted"):
        open_scene(path)


def test_size_depth_and_circles_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = write(folder / "loop.vrt", dataset(source("loop.vrt")))
    with pytest.raises(InputRefusedError, match="nested deeper than 4, or in a circle"):
        open_scene(loop)
    deep = write(folder / "deep.vrt", "<VRTDataset>" + "<MaskBand>" * 10**5)
    with pytest.raises(InputRefusedError, match="nested deeper than 32"):
        open_scene(deep)
    # Each of these holds the next 64 times: 64^4 sources, were they written out.
    write(folder / "bomb0.vrt", dataset(*[source("B0.tif")] * 64))
    for level in range(1, 4):
        write(folder / f"bomb{level}.vrt", dataset(*[source(f"bomb{level - 1}.vrt")] * 64))
    with pytest.raises(InputRefusedError, match="the VRTs inside take more than 16 MiB"):
        open_scene(folder / "bomb3.vrt")
    monkeypatch.setattr(vrt, "MAX_BYTES", 100)
    with pytest.raises(InputRefusedError, match="a VRT of more than"):
        open_scene(write(folder / "large.vrt", dataset(source("B0.tif"))))


# What a GeoTIFF may not do


@pytest.mark.parametrize("suffix", [".msk", ".ovr", ".MSK"])
def test_a_side_car_that_calls_out(folder: Path, canary: Canary, suffix: str) -> None:
    write(folder / f"B0.tif{suffix}", dataset(source(canary.url, relative=0)))
    assert "isn't a TIFF; move it away" in attempt(folder / "B0.tif")
    path = write(folder / "a.vrt", dataset(source("B0.tif")))
    assert "isn't a TIFF; move it away" in attempt(path)
    assert not canary.visits()


@pytest.mark.parametrize("where", ["side-car", "inside", "overview"])
def test_metadata_that_call_out(folder: Path, canary: Canary, where: str) -> None:
    path = folder / "B0.tif"
    target = path
    if where == "overview":
        target = folder / "B0.tif.ovr"
        target.write_bytes((folder / "B1.tif").read_bytes())
    if where == "inside":
        with rasterio.open(target, "r+") as file:
            file.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=canary.url)
    else:
        Path(f"{target}.aux.xml").write_text(
            f'<PAMDataset><SRS>{canary.url}</SRS><Metadata domain="OVERVIEWS">'
            f'<MDI key="OVERVIEW_FILE">{canary.url}</MDI></Metadata></PAMDataset>'
        )
    shrunk = (
        '<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
        '<DstRect xOff="0" yOff="0" xSize="16" ySize="16"/></SimpleSource>'
    )
    band = source("B0.tif").replace("</SimpleSource>", shrunk)
    assert "name another file as overview" in attempt(path)
    assert "name another file as overview" in attempt(
        write(folder / "a.vrt", dataset(band, size=16))
    )
    assert not canary.visits()


def test_the_second_line_holds_alone(
    folder: Path, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's settings keep it at home even for a file that nobody vetted."""
    monkeypatch.delenv("NO_PROXY")
    for address in (canary.url, "/vsicurl/" + canary.url):
        path = write(folder / "a.vrt", dataset(source(address, relative=0)))
        with (
            rasterio.Env(**OPTIONS),
            rasterio.open(path) as file,
            pytest.raises(rasterio.errors.RasterioIOError),
        ):
            file.read()
    assert not canary.visits()
