"""Which names a stage or alias may have, by rules that several registries share. Pure.

A rule gives one sentence that says what is wrong with a name and what would do, and "" where nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from router.alias import parse_reference
from router.errors import InvalidReference

_GIT_REFUSES = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(/|$)|^[-/.]|[/.]$|^@$|^HEAD$", re.DOTALL
)
"""What `git check-ref-format` and `git tag` refuse (git's own manual, git-check-ref-format(1))."""


def reference_problem(name: str) -> str:
    """What clients could not name, nobody should point to."""
    if name.startswith("@"):
        return f"{name!r}: write the name without '@'"
    try:
        parse_reference(name)
    except InvalidReference as problem:
        return problem.message
    return ""


def git_problem(name: str) -> str:
    """What cannot be a tag in git."""
    if _GIT_REFUSES.search(name) or len(name) > 200:  # noqa: PLR2004 - files below .git have names too
        return (
            f"git takes no tag {name[:80]!r}: it has no blanks, none of ~ ^ : ? * [ \\ and neither '..', "
            "'//' nor '@{', does not begin with '-' or end in '.', and no part of it begins with '.' or ends "
            "in '.lock'"
        )
    return reference_problem(name)


def one_of_problem(what: str, name: str, known: Iterable[str], instead: str = "") -> str:
    """What is none of a few names; `what` has them, such as `MLflow`."""
    names = sorted(known)
    if name in names:
        return ""
    listed = " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "none"
    return f"{what} has no stage {name!r}; its stages are {listed}" + (f"; {instead}" if instead else "")
