"""What a pass frees goes back before the next one if it is little, and is kept if it is much."""

import sys

import psutil
import pytest
import torch

from segpipe.models import heap

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what is freed")

BLOCK = 200_000_000


def held() -> int:
    """Bytes that this process holds."""
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize(("cheap", "goes_back"), [(2 * BLOCK, True), (BLOCK // 2, False)])
def test_little_goes_back_and_much_is_kept(
    cheap: int, goes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heap, "CHEAP", cheap)
    heap.keep_freed_memory()
    kept = heap.Kept()
    for _ in range(3):
        kept.before()
        torch.ones(BLOCK, dtype=torch.uint8)
        kept.after()
    full = held()
    kept.before()
    assert (full - held() > BLOCK // 2) == goes_back
