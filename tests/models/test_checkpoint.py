"""Checkpoints: what wrappers add is taken off, and what is bad is refused without any code run."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segpipe.models.errors import ModelError
from segpipe.models.formats import checkpoint
from segpipe.models.formats.checkpoint import PREFIXES, read_state
from tests.models.test_package import Malice, peak_rss

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(4, dtype=torch.float16)}


def same(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[n], STATE[n]) for n in STATE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.bin"):
        safetensors.torch.save_file(STATE, tmp_path / name)
        assert same(read_state(tmp_path / name))


@given(st.lists(st.sampled_from(PREFIXES), max_size=2), st.sampled_from(checkpoint.NESTS))
def test_wrappers_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, prefixes: list[str], nest: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "net.ckpt"
    state = {"".join(prefixes) + name: tensor for name, tensor in STATE.items()}
    for saved in (state, {nest: state, "epoch": 3, "optimizer": {"lr": 0.1}}):
        torch.save(saved, path)
        assert same(read_state(path))


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "net.pth")
    assert read_state(tmp_path / "net.pth").keys() == {"model.a", "b"}


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_needs_code_is_refused_unrun(archive: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "net.pth"
    content = {"state_dict": STATE, "extra": Malice(marker)}
    if archive:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match="nothing of it was run") as caught:
        read_state(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malice(marker)))
    assert marker.exists(), "the pickle is harmless, so this test shows nothing"


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", b"\0" * (32 << 20))
    return file.getvalue()


def claim() -> bytes:
    size = 17 << 30
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(header)) + header


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (bytes, "can't be read|isn't a file"),
    "text": (lambda: b"no weights at all", "isn't a file of torch.save|can't be read"),
    "cut": (lambda: saved(STATE)[:-300], "can't be read as a checkpoint"),
    "cut safetensors": (lambda: safetensors.torch.save(STATE)[:-3], "can't be read as safetensors"),
    "17 GB": (claim, "can't be read as safetensors"),
    "zip bomb": (bomb, "unpacks to more"),
    "nan": (lambda: saved({"a": torch.tensor([torch.nan])}), "a holds NaN or infinity"),
    "list": (lambda: saved([1, 2]), "holds a list and no tensors"),
    "nothing": (lambda: saved({}), "no tensors"),
    "number": (lambda: saved({**STATE, "epoch": 3}), "holds 'epoch', a int"),
    "sparse": (lambda: saved({"a": torch.eye(3).to_sparse()}), "sparse or quantised"),
    "repeated": (lambda: saved({"a": torch.zeros(1).expand(1 << 33)}), "more than 8 GB"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    content, message = BAD[kind]
    path = tmp_path / "net.pth"
    path.write_bytes(content())
    before = peak_rss()
    with pytest.raises(ModelError, match=message) as caught:
        read_state(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert peak_rss() - before < 64 << 20


def test_a_sparse_file_of_17_gb_takes_no_memory(tmp_path: Path) -> None:
    for name, start in (("net.safetensors", claim()), ("net.pth", b"PK\x03\x04")):
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(len(start) + (17 << 30))
        with pytest.raises(ModelError, match="more than 8 GB"):
            read_state(tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be read: No such file"):
        read_state(tmp_path / "none.pth")
