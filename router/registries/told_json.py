"""JSON of other servers, so that all text in it can be written down again.

JSON may hold half a surrogate pair, which is no character: no file, no message and no table of the
data plane can hold it. It becomes U+FFFD here, as in a browser.
"""

from __future__ import annotations

import json
import re

_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def parse(page: bytes) -> object:
    """What a page holds. Raises ValueError for what is no JSON, nests too deep, or has endless numbers."""
    try:
        found: object = json.loads(page)
        if _HALF.search(page) and _HALF.search(_PAIR.sub(b"", page)):
            text = json.dumps(found, ensure_ascii=False)
            found = json.loads(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    return found
