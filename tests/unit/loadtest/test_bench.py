"""The benchmark's own parts: what it counts, how it orders, what it starts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import parse_config
from loadtest.bench.callgrind import parse_annotated
from loadtest.bench.client import Run
from loadtest.bench.cpu import cpu_seconds, process_tree
from loadtest.bench.errors import BenchError, Missing
from loadtest.bench.measure import Pair, Running, Sample
from loadtest.bench.peers import DIRECT, all_peers
from loadtest.bench.peers.envoy import bootstrap
from loadtest.bench.peers.haproxy import HaproxyHttp
from loadtest.bench.peers.nginx import Nginx
from loadtest.bench.peers.stagegate import gateway_config
from loadtest.bench.process import Process, free_port
from loadtest.bench.results import Result, now, summarize, tables, write_json
from loadtest.bench.shapes import CPU_SHAPES
from loadtest.bench.stats import Summary, interleaved, paired_ratio


def _thread(proc: Path, pid: int, tid: int, *, nanoseconds: int, children: str = "") -> None:
    task = proc / str(pid) / "task" / str(tid)
    task.mkdir(parents=True)
    (task / "schedstat").write_text(f"{nanoseconds} 5 7\n")
    (task / "children").write_text(children)


def _sample(peer: str, number: int, cpu_us: float, bad: int = 0) -> Sample:
    run = Run(100 - bad, bad, "grpc-status 14" if bad else None, 1.0, 10.0, 9.0, 20.0)
    return Sample(peer, "32x1", number, cpu_us, run)


def _result(*samples: Sample, pairs: tuple[Pair, ...] = ()) -> Result:
    peers = [peer for peer in all_peers() if peer.name in {sample.peer for sample in samples}]
    running = tuple(Running(peer, 1, "v", None) for peer in peers)
    return Result(now(), 2, pinned=False, peers=running, samples=samples, pairs=pairs)


def test_cpu_time_is_that_of_all_threads_and_all_descendants(tmp_path: Path) -> None:
    """Workers and their threads are part of what a proxy costs."""
    _thread(tmp_path, 10, 10, nanoseconds=1_000_000_000, children="20 ")
    _thread(tmp_path, 10, 11, nanoseconds=500_000_000, children="30 ")
    _thread(tmp_path, 20, 20, nanoseconds=250_000_000)
    _thread(tmp_path, 30, 30, nanoseconds=125_000_000)

    assert sorted(process_tree(10, tmp_path)) == [10, 20, 30]
    assert cpu_seconds(10, tmp_path) == 1.875


def test_clock_ticks_count_where_the_kernel_keeps_no_schedstat(tmp_path: Path) -> None:
    """The name of a process may hold blanks and brackets."""
    (tmp_path / "10" / "task" / "10").mkdir(parents=True)
    fields = " ".join(["S", *["0"] * 10, "150", "50", *["0"] * 20])
    (tmp_path / "10" / "stat").write_text(f"10 (a) b) {fields}\n")

    assert cpu_seconds(10, tmp_path) == pytest.approx(2.0, rel=0.01)


def test_a_process_that_is_gone_has_used_nothing(tmp_path: Path) -> None:
    """A thread may end between being listed and being read."""
    assert cpu_seconds(10, tmp_path) == 0.0


@given(st.integers(1, 6), st.lists(st.integers(), min_size=1, max_size=6, unique=True), st.integers(0, 99))
def test_every_round_has_every_proxy_once(rounds: int, items: list[int], seed: int) -> None:
    """Interleaving leaves nobody out, and one seed means one order."""
    order = list(interleaved(rounds, items, seed))

    for number in range(rounds):
        assert sorted(item for at, item in order if at == number) == sorted(items)
    assert order == list(interleaved(rounds, items, seed))


def test_ratios_are_taken_within_rounds() -> None:
    """A slow second round slows both, so it does not change the ratio."""
    assert paired_ratio([10.0, 20.0, 10.0], [5.0, 10.0, 5.0]) == 2.0
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(1.0, 2.0, 3.0)


def test_a_summary_compares_with_the_yardsticks_that_are_there() -> None:
    """A machine without nginx has no column for it."""
    summary = summarize({"stagegate": [12.0, 12.0], "haproxy": [10.0, 8.0]})

    assert summary["stagegate"]["x_haproxy"] == pytest.approx(1.35)
    assert "x_nginx" not in summary["stagegate"]


def test_a_proxy_with_a_bad_answer_has_no_figure_and_is_named() -> None:
    """A cheap wrong answer must not win."""
    result = _result(
        _sample("haproxy", 0, 10.0),
        _sample("haproxy", 1, 12.0),
        _sample("nginx", 0, 1.0, bad=3),
        _sample("nginx", 1, 20.0),
    )

    assert result.cpu_by_peer("32x1") == {"haproxy": [10.0, 12.0]}
    assert result.bad() == ["nginx, 32x1: 3 bad answers, the first: grpc-status 14"]


def test_the_table_shows_every_figure_and_the_file_every_sample(tmp_path: Path) -> None:
    """People get the table, programs the file."""
    pair = Pair("haproxy", 0, 150.0, 100.0, 50.0, 140.0, 300.0, 0, None)
    result = _result(_sample("haproxy", 0, 10.0), _sample("haproxy", 1, 12.0), pairs=(pair,))

    first, latency = tables(result)
    written = json.loads(write_json(result, tmp_path).read_text())

    assert [column.header for column in first.columns] == ["proxy", "median", "min", "max", "x haproxy"]
    assert [list(column.cells) for column in latency.columns][1] == ["50.0"]
    assert [sample["cpu_us"] for sample in written["samples"]] == [10.0, 12.0]
    assert written["summary_us"]["32x1"]["haproxy"]["median"] == 11.0


def test_scaled_shapes_keep_their_form() -> None:
    """Slow proxies are asked less often, not differently; never so little that a figure means nothing."""
    shape = CPU_SHAPES[0]

    assert (shape.scaled(0.1).requests, shape.scaled(0.1).connections) == (2_000, 32)
    assert shape.scaled(0.0001).requests == 50
    assert shape.scaled(0.0001).warmup >= shape.connections * shape.streams


def test_every_proxy_has_its_own_name() -> None:
    """Figures are told apart by name."""
    names = [peer.name for peer in (*all_peers(), DIRECT)]

    assert len(set(names)) == len(names)


def test_envoy_splits_between_two_clusters_with_retries_and_outlier_detection() -> None:
    """It is compared in the shape that a gateway is built from it."""
    config = bootstrap(1234, 5678)["static_resources"]
    manager = config["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    action = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]

    assert [c["weight"] for c in action["weighted_clusters"]["clusters"]] == [90, 10]
    assert action["retry_policy"]["num_retries"] == 2
    assert all("outlier_detection" in cluster for cluster in config["clusters"])


@pytest.mark.parametrize("peer", [Nginx(), HaproxyHttp()], ids=lambda peer: peer.name)
def test_a_proxy_listens_on_loopback_only(
    peer: Nginx | HaproxyHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No measurement opens a port to others."""
    monkeypatch.setattr("loadtest.bench.tools.program", lambda name: name)
    monkeypatch.setattr("loadtest.bench.tools.packaged_program", lambda _package, name: name)

    launch = peer.launch(port=1234, backend_port=5678, folder=tmp_path)

    config = next(Path(word) for word in launch.command if word.startswith(str(tmp_path)) and "." in word)
    listening = [
        line for line in config.read_text().splitlines() if line.split()[:1] in (["listen"], ["bind"])
    ]
    assert [line.split()[1] for line in listening if ":" in line] == ["127.0.0.1:1234"]
    assert "127.0.0.1:5678" in config.read_text()


def test_the_whole_gateway_gets_a_configuration_that_it_accepts(tmp_path: Path) -> None:
    """The file is read by the gateway's own reader."""
    config = parse_config(gateway_config([1, 2, 3], 4), "stagegate.yaml", tmp_path, {})

    assert config.threads == 1
    assert [backend.control for backend in config.backends] == ["none"]


def test_a_missing_program_is_named_with_its_package() -> None:
    """What is left out of a table says how to get it in."""
    missing = Missing("nginx", "apt-get install nginx-light")

    assert str(missing) == "nginx is not installed: apt-get install nginx-light"
    assert isinstance(missing, BenchError)


def test_a_process_that_ends_early_tells_its_last_words(tmp_path: Path) -> None:
    """The log is shown, not only that something ended."""
    process = Process("odd", ["sh", "-c", "echo no such option >&2; exit 3"], folder=tmp_path, talks=True)

    with pytest.raises(BenchError, match="no such option"):
        process.hear()
    process.stop()


def test_a_stopped_process_is_gone(tmp_path: Path) -> None:
    """Nothing outlives a measurement, and stopping twice is harmless."""
    process = Process("cat", ["cat"], folder=tmp_path, talks=True)
    process.say("hello")
    assert process.hear() == "hello\n"

    process.stop()
    process.stop()

    assert not Path(f"/proc/{process.pid}").exists()


def test_annotated_lines_are_summed_by_function() -> None:
    """callgrind lists inlined pieces of one function by their source file."""
    text = """\
Ir
5,000 (10.0%)  src/a.rs:one::f [/bin/serve]
1,000 ( 2.0%)  /rustc/abc/library/core/src/ptr/mod.rs:one::f
  250 ( 0.5%)  ./malloc/malloc.c:_int_free [/lib/libc.so.6]
"""
    assert parse_annotated(text) == {"one::f": 6_000, "_int_free": 250}


def test_no_good_answer_is_no_figure() -> None:
    """Division by none is not a cost of zero."""
    assert _result(_sample("nginx", 0, math.nan, bad=100)).cpu_by_peer("32x1") == {}


_GATEWAY = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Handler.asked += 1
        if self.path != "/readyz" or Handler.asked < 3:
            print("still reading", file=sys.stderr, flush=True)
            return self.send_error(503)
        if "ends" in sys.argv:
            sys.exit(3)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *what):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_gateway_is_waited_for_until_it_says_that_it_is_ready(tmp_path: Path) -> None:
    """What it says meanwhile is told once, not with each look."""
    port = free_port()
    gateway = Process("gateway", [sys.executable, "-c", _GATEWAY, str(port)], folder=tmp_path)
    told: list[str] = []
    try:
        gateway.wait_until_ready(port, 30.0, told.append)
    finally:
        gateway.stop()

    assert told == ["still reading"]


def test_a_gateway_that_ends_is_waited_for_no_longer(tmp_path: Path) -> None:
    """The error has its end and what it said last."""
    port = free_port()
    gateway = Process("gateway", [sys.executable, "-c", _GATEWAY, str(port), "ends"], folder=tmp_path)
    try:
        with pytest.raises(BenchError, match=r"gateway ended with code 3"):
            gateway.wait_until_ready(port, 3600.0)
    finally:
        gateway.stop()
