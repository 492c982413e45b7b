"""The admin API over a real gRPC server on loopback, asked by the CLI's client."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeVar

import grpc
import pytest

from gateway.admin import serve_admin
from gateway.cli.admin_client import AdminClient, connect
from gateway.config import Address
from gateway.operations import (
    AcceptedVersion,
    Change,
    Moved,
    ReferenceKind,
    RouteChange,
    RouteView,
    Said,
    VersionState,
)
from protos.gen.stagegate.admin.v1 import admin_pb2, admin_pb2_grpc
from router.errors import (
    ConfigInvalid,
    ConfigProblem,
    Conflict,
    InvalidInput,
    LoadFailed,
    NotFound,
    NotSupported,
    StagegateError,
    StateUnavailable,
    Unavailable,
)
from router.model import Arm, BackendModel, Fallback, Route, Shadow, Tolerance
from tests.fakes.operations import (
    AGREED,
    BROKEN,
    DETAILS,
    DIGITS,
    NOTES,
    PENDING,
    REFUSED,
    SHADOW_VIEWS,
    STATUS,
    SUMMARY,
    VERSIONS,
    FakeOperations,
)

LOOPBACK = Address("127.0.0.1", 0)
SPLIT = Route(DIGITS, (Arm("stable", "production", 9_000), Arm("canary", "@challenger", 1_000)), deadline=2.0)
BACKEND_ROUTE = Route(DIGITS, (Arm("stable", "", 10_000, BackendModel("resnet", "3")),), registry="prod")
SHADOWED = replace(
    SPLIT,
    shadows=(Shadow("next", "staging", 2_500, Tolerance(0.001, 0.01)), Shadow("old", "@champion")),
)
FALLBACK = replace(SPLIT, fallback=Fallback(("UNAVAILABLE", "INTERNAL"), "canary"))
Result = TypeVar("Result")


@pytest.fixture
def operations() -> FakeOperations:
    """The gateway behind the API."""
    return FakeOperations()


@pytest.fixture
async def server(operations: FakeOperations) -> AsyncIterator[str]:
    """Its address."""
    async with serve_admin(LOOPBACK, operations) as bound:
        yield str(bound)


async def ask(server: str, question: Callable[[AdminClient], Result], timeout: float = 10.0) -> Result:
    """What the blocking client gets, off the loop that serves it."""

    def run() -> Result:
        with connect(server, actor="ann@laptop", timeout=timeout) as client:
            return question(client)

    return await asyncio.to_thread(run)


async def refusal(server: str, question: Callable[[AdminClient], object]) -> StagegateError:
    """The error that the blocking client raises."""
    with pytest.raises(StagegateError) as caught:
        await ask(server, question)
    return caught.value


async def test_models_arrive_as_they_were(server: str) -> None:
    """Those that cannot be served included."""
    assert await ask(server, lambda client: client.models()) == (SUMMARY, BROKEN)


async def test_versions_arrive_as_they_were(server: str) -> None:
    """With states, metrics, digest and the reason of a failure."""
    assert await ask(server, lambda client: client.versions("digits")) == VERSIONS


@pytest.mark.parametrize("reference", ["", "1", "@challenger"])
async def test_all_that_is_known_of_a_version_arrives_as_it_was(server: str, reference: str) -> None:
    """What is not known is told from what is nothing."""
    detail = DETAILS["2" if reference == "@challenger" else "1"]

    assert await ask(server, lambda client: client.describe("digits", reference)) == detail


async def test_the_status_arrives_as_it_was(server: str) -> None:
    """A registry that was never read has no age, which is not age zero."""
    assert await ask(server, lambda client: client.status()) == STATUS


async def test_a_split_is_resolved_with_its_shares(server: str) -> None:
    """No reference: the route decides."""
    found = await ask(server, lambda client: client.resolve("digits", ""))

    assert (found.kind, found.arm, found.state) == (ReferenceKind.SPLIT, "stable", VersionState.READY)
    assert [(share.arm, share.weight) for share in found.shares] == [("stable", 9_000), ("canary", 1_000)]
    assert found.why == ("no reference was given, so the route decides",)


async def test_an_alias_is_resolved(server: str) -> None:
    """It pins its version."""
    found = await ask(server, lambda client: client.resolve("digits", "@challenger"))

    assert (found.kind, found.arm, found.version) == (ReferenceKind.ALIAS, "pinned", "2")


@pytest.mark.parametrize(
    "route",
    [SPLIT, BACKEND_ROUTE, SHADOWED, FALLBACK],
    ids=["references", "backend model", "shadows", "fallback"],
)
async def test_a_route_that_is_applied_is_the_route_that_is_read(
    server: str, operations: FakeOperations, route: Route
) -> None:
    """Every field of it; and who changed it and why are kept."""
    (change,) = await ask(
        server, lambda client: client.apply_routes([route], expected_revision=7, reason="try it")
    )
    view = await ask(server, lambda client: client.route("digits"))
    table = await ask(server, lambda client: client.routes())

    assert (change.before, change.after, change.revision) == (None, route, 8)
    assert (view.route, view.implicit, view.actor, view.reason) == (route, False, "ann@laptop", "try it")
    assert (table.revision, [listed.route for listed in table.routes]) == (8, [route])
    assert operations.stored[DIGITS].route == route


async def test_an_accepted_version_and_a_forced_route_arrive_as_they_were_said(
    server: str, operations: FakeOperations
) -> None:
    """With the versions that go with it."""
    accepted = await ask(server, lambda client: client.accept("digits", "2", reason="known"))
    for force in (True, False):
        await ask(
            server,
            lambda client, force=force: client.apply_routes(  # type: ignore[misc]
                [SPLIT], expected_revision=None, reason="x", force=force
            ),
        )

    assert accepted == AcceptedVersion("digits", "2", ("1",), revision=8)
    assert operations.forced == [True, False]


async def test_what_came_of_shadows_arrives_as_it_was(server: str, operations: FakeOperations) -> None:
    """Counts by result and kind, and the last differences; before the first comparison there is none."""
    operations.stored[DIGITS] = RouteView(SHADOWED, implicit=False, arms=(), at=1.0, shadows=SHADOW_VIEWS)

    assert (await ask(server, lambda client: client.route("digits"))).shadows == SHADOW_VIEWS


async def test_an_implicit_route_is_told_from_a_stored_one(server: str) -> None:
    """It has no author and no time."""
    view = await ask(server, lambda client: client.route("digits"))

    assert (view.implicit, view.actor, view.at, view.revision) == (True, "", None, 0)


async def test_history_is_newest_first_and_bounded(server: str) -> None:
    """A deletion is a change to nothing."""

    def change_and_look(client: AdminClient) -> tuple[tuple[RouteChange, ...], tuple[RouteChange, ...]]:
        client.apply_routes([SPLIT], expected_revision=None, reason="one")
        client.delete_route("digits", expected_revision=8, reason="two")
        return client.history("digits", 2), client.history("digits", 1)

    both, newest = await ask(server, change_and_look)

    assert [(change.reason, change.before, change.after) for change in both] == [
        ("two", SPLIT, None),
        ("one", None, SPLIT),
    ]
    assert [change.reason for change in newest] == ["two"]


async def test_a_lost_compare_and_set_carries_the_current_revision(
    server: str, operations: FakeOperations
) -> None:
    """And nothing was written."""
    error = await refusal(server, lambda client: client.apply_routes([SPLIT], expected_revision=3, reason=""))

    assert isinstance(error, Conflict)
    assert (error.current_revision, error.hint) == (7, "look again and retry")
    assert operations.changes == []


async def test_no_expected_revision_is_not_revision_zero(server: str, operations: FakeOperations) -> None:
    """Zero is a new store."""
    operations.revision = 7

    error = await refusal(server, lambda client: client.apply_routes([SPLIT], expected_revision=0, reason=""))

    assert isinstance(error, Conflict)


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (NotSupported("no", hint="h"), NotSupported),
        (StateUnavailable("no", hint="h"), Unavailable),
        (LoadFailed("no", hint="h"), Unavailable),
        (InvalidInput("no", hint="h"), InvalidInput),
    ],
)
async def test_errors_arrive_as_their_branch_of_the_tree(
    server: str, operations: FakeOperations, raised: StagegateError, arrives: type[StagegateError]
) -> None:
    """Message and hint apart, so that both can be shown well."""
    operations.failure = raised

    error = await refusal(server, lambda client: client.models())

    assert type(error) is arrives
    assert (error.message, error.hint) == ("no", "h")


async def test_an_unknown_model_is_not_found(server: str) -> None:
    """With what is near it."""
    error = await refusal(server, lambda client: client.versions("digit"))

    assert isinstance(error, NotFound)
    assert (error.message, error.hint) == ("there is no model 'digit'", "near it: digits")


async def test_a_refused_reload_brings_every_mistake(server: str, operations: FakeOperations) -> None:
    """Each with its path and line."""
    problems = (ConfigProblem("log.level", 3, "is loud"), ConfigProblem("threads", 0, "is lots"))
    operations.failure = ConfigInvalid("stagegate.yaml", problems)

    error = await refusal(server, lambda client: client.reload())

    assert isinstance(error, ConfigInvalid)
    assert (error.source, error.problems) == ("stagegate.yaml", problems)


async def test_a_bug_is_internal_and_tells_nothing_of_the_inside(
    server: str, operations: FakeOperations, caplog: pytest.LogCaptureFixture
) -> None:
    """The traceback is in the gateway's log, not in the answer."""
    operations.failure = KeyError("secret")

    error = await refusal(server, lambda client: client.models())

    assert str(error) == "internal error; the gateway's log has the details"
    assert "KeyError" in caplog.text


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (admin_pb2.ApplyRoutesRequest(), "no route is given"),
        (
            admin_pb2.ApplyRoutesRequest(
                routes=[admin_pb2.Route(model="m", arms=[admin_pb2.Arm(name="a", version="1", weight=9_999)])]
            ),
            "weights sum to 99.99, not 100",
        ),
        (
            admin_pb2.ApplyRoutesRequest(
                routes=[
                    admin_pb2.Route(model="m", arms=[admin_pb2.Arm(name="a", version="1", weight=10_000)])
                ]
                * 2
            ),
            "route of 'm' is given twice",
        ),
        (
            admin_pb2.ApplyRoutesRequest(
                routes=[
                    admin_pb2.Route(model="a b", arms=[admin_pb2.Arm(name="a", version="1", weight=10_000)])
                ]
            ),
            "model name 'a b' is not allowed",
        ),
        (
            admin_pb2.ApplyRoutesRequest(
                routes=[
                    admin_pb2.Route(
                        model="m",
                        arms=[admin_pb2.Arm(name="a", version="1", weight=10_000)],
                        deadline=float("nan"),
                    )
                ]
            ),
            "deadline must be",
        ),
        (
            admin_pb2.ApplyRoutesRequest(
                routes=[
                    admin_pb2.Route(model="m", arms=[admin_pb2.Arm(name="a", version="@@x", weight=10_000)])
                ]
            ),
            "more than one leading '@'",
        ),
        (admin_pb2.ApplyRoutesRequest(reason="x" * 1_001), "reason has 1001 characters"),
    ],
)
async def test_malformed_routes_change_nothing(
    server: str, operations: FakeOperations, request_: admin_pb2.ApplyRoutesRequest, message: str
) -> None:
    """Any client may send anything."""
    async with grpc.aio.insecure_channel(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin_pb2_grpc.AdminStub(channel).ApplyRoutes(request_)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in (caught.value.details() or "")
    assert operations.changes == []


async def test_a_client_that_does_not_say_who_it_is_is_known_by_its_address(
    server: str, operations: FakeOperations
) -> None:
    """Every change has an actor."""
    route = admin_pb2.Route(model="digits", arms=[admin_pb2.Arm(name="stable", version="1", weight=10_000)])
    async with grpc.aio.insecure_channel(server) as channel:
        await admin_pb2_grpc.AdminStub(channel).ApplyRoutes(admin_pb2.ApplyRoutesRequest(routes=[route]))

    assert operations.changes[0].actor.startswith("ipv4:127.0.0.1:")


async def test_an_actor_of_any_script_can_be_sent(server: str, operations: FakeOperations) -> None:
    """Metadata is ASCII; a name need not be."""

    def run() -> None:
        with connect(server, actor="jürgen@büro", timeout=10) as client:
            client.apply_routes([SPLIT], expected_revision=None, reason="")

    await asyncio.to_thread(run)

    assert operations.changes[0].actor == "j\\xfcrgen@b\\xfcro"


async def test_nobody_there_says_what_to_do() -> None:
    """The most common mistake of all."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{unused.getsockname()[1]}"
        error = await refusal(server, lambda client: client.models())

    assert isinstance(error, Unavailable)
    assert error.message == f"no gateway answers at {server}"
    assert "stagegate up" in error.hint


async def test_another_grpc_server_is_recognised() -> None:
    """Such as the inference port in place of the admin port."""
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        error = await refusal(f"127.0.0.1:{port}", lambda client: client.models())
    finally:
        await other.stop(None)

    assert isinstance(error, NotSupported)
    assert "does not speak the admin API" in error.message


async def test_a_port_in_use_is_told_as_such(server: str) -> None:
    """gRPC itself would share the port silently, or give no reason."""
    port = int(server.rpartition(":")[2])

    with pytest.raises(OSError, match="in use") as caught:
        async with serve_admin(Address("127.0.0.1", port), FakeOperations()):
            pass

    assert caught.value.errno == errno.EADDRINUSE


async def test_many_models_fit_into_one_answer() -> None:
    """100,000 of them exceed gRPC's own default of 4 MiB."""
    many = tuple(type(SUMMARY)(name=f"model-{n}", registry="local", versions=("1",)) for n in range(100_000))
    async with serve_admin(LOOPBACK, FakeOperations(summaries=many)) as bound:
        found = await ask(str(bound), lambda client: client.models(), timeout=60.0)

    assert [found[0].name, found[-1].name, len(found)] == ["model-0", "model-99999", 100_000]


async def test_a_model_name_reaches_the_gateway_checked(server: str) -> None:
    """Control characters and blanks never get further."""
    error = await refusal(server, lambda client: client.versions("a\nb"))

    assert isinstance(error, InvalidInput)
    assert "is not allowed" in error.message


async def test_what_a_request_says_decides_on_its_arm(server: str) -> None:
    """With the number of the rule that fits."""
    found = await ask(server, lambda client: client.resolve("digits", "", Said({"x-team": "risk"})))

    assert (found.arm, found.version, found.decided_by, found.rule) == ("canary", "2", "rule", 0)
    assert found.bucket is None


# === promotions, rollbacks, registry changes ===


async def test_a_promotion_arrives_as_it_was_asked_for(server: str, operations: FakeOperations) -> None:
    """And what came of it."""
    moved = await ask(
        server,
        lambda client: client.promote(
            "digits", "2", "@champion", keep_existing=True, force=True, reason="better"
        ),
    )

    assert moved == operations.moved
    assert operations.moves == [("@champion", "2", "promote", True, True, Change("ann@laptop", "better"))]


async def test_a_rollback_arrives_as_it_was_asked_for(server: str, operations: FakeOperations) -> None:
    """And that nothing was to be done."""
    operations.moved = Moved("digits", "", "arm", "stable", "2", "2", already=True, revision=9)
    moved = await ask(server, lambda client: client.rollback("digits", "production", "1", reason="worse"))

    assert moved == operations.moved
    assert operations.moves == [("production", "1", "rollback", False, False, Change("ann@laptop", "worse"))]


async def test_registry_changes_arrive_as_they_were(server: str) -> None:
    """Ended ones where they are asked for."""
    assert await ask(server, lambda client: client.writes(0)) == (PENDING, REFUSED)
    assert await ask(server, lambda client: client.writes(9)) == (PENDING, REFUSED, AGREED)


async def test_a_registry_change_is_given_up(server: str) -> None:
    """By its number; one that ended is not there."""
    row = await ask(server, lambda client: client.clear_write(5, reason="no need"))

    assert row == replace(REFUSED, state="cleared", note="given up by ann@laptop: no need")
    assert isinstance(await refusal(server, lambda client: client.clear_write(3, reason="")), NotFound)


async def test_a_route_says_where_the_registry_disagrees(server: str) -> None:
    """In sentences."""
    assert (await ask(server, lambda client: client.route("digits"))).notes == NOTES
