"""What waits is told once for each version, however many names wait for it."""

from __future__ import annotations

from gateway.waiting import sentences
from router.model import ModelName, VersionId
from router.traffic.serving import Waiting

M = ModelName("m")
TROUBLE = "cannot move to version 4, its load failed: no memory; 3 GiB are free"


def wait(what: str, text: str, version: str = "4", differences: tuple[str, ...] = ()) -> Waiting:
    """One thing that waits, in the words of `router.traffic.serving`."""
    return Waiting(what, VersionId(version), f"{what} of model 'm': {text}", differences)


def test_one_alone_is_told_as_it_is() -> None:
    """Word for word."""
    alone = wait("stage production", f"{TROUBLE}; version 3 answers until then")

    assert sentences(M, [alone]) == [alone.sentence]


def test_the_trouble_of_a_version_is_told_once() -> None:
    """Of those that wait as well, what goes on for them is told where it is something else."""
    told = sentences(
        M,
        [
            wait("stage production", f"{TROUBLE}; version 3 answers until then"),
            wait("alias champion", f"{TROUBLE}; version 3 answers until then"),
            wait("arm canary", f"{TROUBLE}; until then: stable 100 %"),
        ],
    )

    assert told == [
        f"stage production of model 'm': {TROUBLE}; version 3 answers until then; alias champion too; "
        "arm canary too: until then: stable 100 %"
    ]


def test_what_to_do_about_a_contract_is_told_once() -> None:
    """The command stands behind what goes on, so the sentences differ in their middle."""
    broken = ("input x: int64, not float",)
    text = "version 4 breaks the contract of version 3: input x: int64, not float; {}; `stagegate accept m 4`"
    told = sentences(
        M,
        [
            wait("stage production", text.format("version 3 goes on"), differences=broken),
            wait("arm stable", text.format("until then: 3"), differences=broken),
        ],
    )

    assert told == [
        f"stage production of model 'm': {text.format('version 3 goes on')}; arm stable too: until then: 3"
    ]


def test_other_versions_and_other_troubles_are_their_own() -> None:
    """Also what waits for no version at all."""
    waiting = [
        wait("stage production", TROUBLE),
        wait("alias next", "waits for version 5 to be loaded", version="5"),
        wait("arm canary", "model 'm' has no version '9'", version=""),
        wait("arm other", "model 'm' has no version '9'", version=""),
        wait("arm stable", "version 4 breaks the contract", differences=("output y is gone",)),
    ]

    assert sentences(M, waiting) == [one.sentence for one in waiting]
