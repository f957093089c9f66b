"""`memkv node serve --control`: a real memkvd, its agent and control plane, each of them killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl._placement import node_id_of
from memkv_nixl.bench._control import NUMBERS
from memkv_nixl.cli import EXIT_DISMISSED
from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._node_agent import Pauses
from tests.control.certificates import certificates
from tests.control.processes import Machine, Operator, Served, control, operator
from tests.integration.nodes import DEADLINE_S, memkv

SPACE = namespace_id("agent")
FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "60000")
SERVING = map_pb2.NODE_STATE_SERVING


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "machine"
    folder.mkdir()
    made = Machine(folder)
    yield made
    made.kill_memkvd()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Served]:
    with control(tmp_path / "state", *FAST) as served:
        yield served


def put(address: str) -> str:
    return transfer(address, b"block")


def get(address: str) -> str:
    return transfer(address, bytearray(5))


def transfer(address: str, block: bytes | bytearray) -> str:
    """The code of putting a block (bytes), or of getting it (a bytearray)."""
    client = Client([address])
    call = client.put if isinstance(block, bytes) else client.get
    request = call(SPACE, [b"key"], [block])
    assert request.wait(DEADLINE_S * 1000)
    client.close()
    (code,) = request.codes()
    assert CODES[code] != "ok" or block == b"block"
    return CODES[code]


def test_it_registers_and_beats_with_what_memkvd_counts(machine: Machine, plane: Served) -> None:
    domain = ("--failure-domain", "rack 1", "--weight", "7")
    with machine.agent(plane.address, *domain) as agent, operator(plane.address) as we:
        assert not agent.said["adopted"]
        assert put(agent.address) == "ok"
        we.wait_event("node_joined")
        node = we.wait_node(lambda node: node.stats.get("puts") == 1)
        assert (node.address, node.node_id) == (agent.address, node_id_of(agent.address))
        assert (node.weight, node.failure_domain, node.state) == (7, "rack 1", SERVING)
        assert node.software.startswith("memkvd ")
        assert node.stats["weight"] == 7
        assert NUMBERS * 0.9 < len(node.stats) <= NUMBERS, "what the control plane's cost goes by"
        we.wait_node(lambda node: node.epoch > 1)
        log = agent.end()
        assert "stopped" in (machine.folder / "agent" / "memkvd.log").read_text("utf-8")
        assert any("registered with" in line["what"] for line in log)
        we.wait_event("node_silent")


def test_memkvd_outlives_its_agent_and_the_next_one_adopts_it(
    machine: Machine, plane: Served
) -> None:
    with operator(plane.address) as we:
        with machine.agent(plane.address) as agent:
            pid = agent.said["pid"]
            we.wait_event("node_joined")
            assert put(agent.address) == "ok"
            agent.kill()
        we.wait_event("node_silent")
        assert get(machine.address) == "ok"
        with machine.agent(plane.address) as agent:
            assert (agent.said["pid"], agent.said["adopted"]) == (pid, True)
            we.wait_event("node_returned")
            we.wait_node(lambda node: node.state == SERVING)
            assert get(machine.address) == "ok"
    assert not alive(pid), "an agent that is stopped stops what it adopted"


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_dead_control_plane_stops_nothing_and_is_found_again(
    machine: Machine, tmp_path: Path
) -> None:
    with control(tmp_path / "state", *FAST) as plane:
        address = plane.address
        with machine.agent(address) as agent:
            with operator(address) as we:
                we.wait_event("node_joined")
                before = we.wait_node(lambda node: node.stats)
            plane.kill()
            assert put(agent.address) == "ok"
            with control(tmp_path / "state", *FAST, listen=address), operator(address) as we:
                after = we.wait_node(lambda node: node.stats.get("puts") == 1)
                assert (after.membership, after.epoch) == (before.membership, before.epoch)
                assert after.state == SERVING


def test_a_memkvd_that_dies_is_started_again(machine: Machine, plane: Served) -> None:
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        assert put(agent.address) == "ok"
        we.wait_event("node_joined")
        we.wait_node(lambda node: node.stats.get("records_waiting", 1) == 0)
        we.wait_node(lambda node: node.stats.get("dirty_bytes", 1) == 0)
        machine.kill_memkvd()
        node = we.wait_node(lambda node: node.stats["boot"] == 2)
        assert node.stats["epoch"] > 1, "it goes on with the map that it was handed before"
        assert get(agent.address) == "ok"
        said = [line for line in agent.end() if line["what"].startswith("client: node")]
    # The agent's own client lost memkvd: a line of the native library, and like all others.
    assert ("warning", agent.address) in {(line["level"], line["node"]) for line in said}


def test_a_memkvd_that_hangs_is_silent_and_returns(machine: Machine, tmp_path: Path) -> None:
    """Its agent is well meanwhile, hears within a second that STAT is not answered, and says
    nothing for it until the control plane's deadline is over."""
    times = (*FAST, "--deadline-ms", "2500")
    with (
        control(tmp_path / "state", *times) as plane,
        machine.agent(plane.address) as agent,
        operator(plane.address) as we,
    ):
        we.wait_event("node_joined")
        we.wait_node(lambda node: node.state == SERVING)
        os.kill(agent.said["pid"], signal.SIGSTOP)
        try:
            said(agent, "does not answer STAT")
            we.wait_event("node_silent")
            we.wait_node(lambda node: node.state == map_pb2.NODE_STATE_SILENT)
        finally:
            os.kill(agent.said["pid"], signal.SIGCONT)
        we.wait_event("node_returned")
        node = we.wait_node(lambda node: node.state == SERVING)
        assert node.stats["boot"] == 1, "it was not started anew"
        assert put(agent.address) == "ok"


def test_memkvd_holds_the_map_and_keeps_it_for_a_broken_one(
    machine: Machine, plane: Served
) -> None:
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        we.wait_event("node_joined")
        node = we.wait_node(lambda node: node.stats.get("epoch", 1) > 1)
        assert (node.epoch, node.stats["map_nodes"]) == (node.stats["epoch"], 1)
        we.drain(agent.address)
        first = node.stats["epoch"]
        later = we.wait_node(lambda node: node.stats["epoch"] > first and node.epoch > first)
        assert later.stats["epoch"] == first + 1
        (machine.folder / "agent" / "map.frame").write_bytes(b"no map")
        os.kill(agent.said["pid"], signal.SIGHUP)
        after = we.wait_node(lambda node: node.stats["maps_refused"] == 1)
        assert after.stats["epoch"] == later.stats["epoch"]
        assert put(agent.address) == "ok"


def test_other_settings_are_another_memkvd(machine: Machine, plane: Served) -> None:
    with machine.agent(plane.address) as agent:
        pid = agent.said["pid"]
        agent.kill()
    with machine.agent(plane.address, "--weight", "3") as agent, operator(plane.address) as we:
        assert not agent.said["adopted"]
        assert not alive(pid)
        we.wait_event("node_joined")
        assert we.wait_node(lambda node: node.stats.get("weight") == 3).weight == 3


def test_a_drained_node_is_told(machine: Machine, plane: Served) -> None:
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        we.wait_event("node_joined")
        we.drain(agent.address)
        node = we.wait_node(lambda node: node.state == map_pb2.NODE_STATE_DRAINING)
        epoch = node.epoch
        we.wait_node(lambda node: node.epoch >= epoch)
        assert put(agent.address) == "ok", "it serves as long as it runs"
        assert any("DRAINING" in line["what"] for line in agent.end())


def test_the_agent_of_a_removed_node_ends_and_memkvd_serves_on(
    machine: Machine, plane: Served
) -> None:
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        we.wait_event("node_joined")
        we.remove(agent.address)
        status, words = agent.died()
        assert status == EXIT_DISMISSED
        assert "was removed from the pool" in words
        assert put(agent.address) == "ok"


def test_what_is_wrong_is_said(machine: Machine, plane: Served) -> None:
    device = ("--device", str(machine.folder / "blocks"), "--capacity", "1GiB")
    folder = ("--agent-dir", str(machine.folder / "agent"))
    base = ("node", "serve", "--control", plane.address, *device, *folder)
    nowhere = memkv(*base, "--listen", "0.0.0.0:9900", "--insecure")
    assert nowhere.returncode == 2
    assert b"--advertise" in nowhere.stderr
    half = memkv(*base, "--listen", "127.0.0.1:0", "--tls-cert", "x.pem")
    assert half.returncode == 2
    assert b"all three" in half.stderr
    with machine.agent(plane.address):
        second = memkv(*base, "--listen", "127.0.0.1:0")
    assert second.returncode == 1
    assert b"another agent works in" in second.stderr
    tiny = memkv(
        "node",
        "serve",
        "--control",
        plane.address,
        *folder,
        "--device",
        str(machine.folder / "tiny"),
        "--capacity",
        "1MiB",
        "--listen",
        "127.0.0.1:0",
    )
    assert tiny.returncode == 1
    assert b"did not start" in tiny.stderr


def said(agent: Served, what: str) -> str:
    """The next line of its log with this in it; it is waited for."""
    assert agent.process.stderr is not None
    return next(line for line in agent.process.stderr if what in line)


def test_a_folder_that_cannot_be_written_ends_no_agent(machine: Machine, plane: Served) -> None:
    folder = machine.folder / "agent"
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        we.wait_event("node_joined")
        first = we.wait_node(lambda node: node.epoch > 1).epoch
        (folder / "cluster.new").mkdir()  # where a file should be: root may write everywhere else
        we.drain(agent.address)
        assert f"the map of epoch {first + 1} cannot be written" in said(
            agent, "cannot be written to"
        )
        (folder / "memkvd.log").rename(folder / "former.log")
        (folder / "memkvd.log").mkdir()
        machine.kill_memkvd()
        assert "memkvd.log cannot be written" in said(agent, "cannot be started again")
        (folder / "memkvd.log").rmdir()
        (folder / "cluster.new").rmdir()
        node = we.wait_node(lambda node: node.epoch > first)
        assert node.stats["boot"] == 2
    (folder / "memkvd.log").rename(folder / "later.log")
    (folder / "memkvd.log").mkdir()
    device = ("--device", str(machine.folder / "blocks"), "--listen", machine.address)
    dead = memkv(
        *("node", "serve", "--control", plane.address, *device, "--agent-dir", str(folder))
    )
    assert dead.returncode == 1
    assert b"memkvd.log cannot be written: Is a directory" in dead.stderr
    assert b"Traceback" not in dead.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_both(machine: Machine, plane: Served, number: signal.Signals) -> None:
    with machine.agent(plane.address) as agent:
        agent.end(number)
        assert not alive(agent.said["pid"])


def test_agents_and_control_plane_show_certificates(machine: Machine, tmp_path: Path) -> None:
    certificates(tmp_path)
    tls = [
        word
        for name in ("tls_cert", "tls_key", "tls_ca")
        for word in (f"--{name.replace('_', '-')}", str(tmp_path / f"{name}.pem"))
    ]
    pem = {name: (tmp_path / f"{name}.pem").read_bytes() for name in ("tls_cert", "tls_key")}
    with control(tmp_path / "state", *FAST, *tls) as plane:
        credentials = grpc.ssl_channel_credentials(pem["tls_cert"], pem["tls_key"], pem["tls_cert"])
        with grpc.secure_channel(plane.address, credentials) as channel:
            we = Operator(channel)
            with machine.agent(plane.address, *tls):
                we.wait_event("node_joined")
                we.wait_node(lambda node: node.stats)


def test_while_one_replica_answers_an_agent_asks_again_within_a_second() -> None:
    """… also when the last one of the round, or all of former rounds, did not: it came to 5 s."""
    pauses = Pauses()
    silent = [pauses.next() for _ in range(8)]
    assert silent == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    for _ in range(3):
        pauses.answered()
        assert pauses.next() == 1.0
    assert [pauses.next() for _ in range(3)] == [2.0, 4.0, 5.0]
