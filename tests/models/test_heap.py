"""What a pass frees goes back before the next one if it is little, and is kept if it is much."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what is freed")

BLOCK = 200_000_000


PASSES = """
import sys, psutil, torch
from segpipe.models import heap

held = psutil.Process().memory_info
heap.CHEAP, block = int(sys.argv[1]), int(sys.argv[2])
heap.keep_freed_memory()
kept = heap.Kept()
for number in range(3):
    kept.before()
    torch.ones(block - (number << 20), dtype=torch.uint8)  # which fits where the last one was
    kept.after()
full = held().rss
kept.before()
print(full - held().rss)
"""


@pytest.mark.parametrize(("cheap", "goes_back"), [(2 * BLOCK, True), (BLOCK // 2, False)])
def test_little_goes_back_and_much_is_kept(cheap: int, goes_back: bool) -> None:
    # In a process of its own: other tests leave gaps in the heap.
    words = [sys.executable, "-c", PASSES, str(cheap), str(BLOCK)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert (int(told) > BLOCK // 2) == goes_back
