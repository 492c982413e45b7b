"""When Python looks through all of its memory for what refers to itself in a circle.

Such a look takes a second where a hundred thousand models are known, and everything in Python waits for it.
What is known at the end of a start mostly stays: it is looked through once and then left out of all looks.
What nobody refers to goes at once in any case, without them.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

NEVER = 1_000_000_000
"""So many looks at what is younger until all is looked at."""


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """While the context is open everything that is made mostly stays: only what is young is looked at."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


def settled() -> None:
    """Look through everything once, and leave what is there now out of later looks."""
    gc.collect()
    gc.freeze()
