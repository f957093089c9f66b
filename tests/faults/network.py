"""Machines of a network of its own: a namespace each, with one link to a switch.

    clients ──┐          ┌── node0 …
    etcd    ──┤  switch  ├── control0 …      each ── is a pair of veth devices

Everything is gone with the process that made it: a namespace lives as long as a process in it, and
the one that keeps it open ends when its standard input does. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass

_SUBNET = "10.77.0"
# What a slowed link is, the first that the kernel has. netem delays and loses packets. Where there
# is no such module, a narrow link with a short queue does both to whoever sends more than it takes.
_SLOW = (
    "netem delay 30ms 10ms loss 2%",
    "tbf rate 6mbit burst 32kb latency 60ms",
)


class _Namespace:
    """A network namespace, and how to run something there."""

    def __init__(self) -> None:
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo made && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        if not self._keeper.stdout.readline():
            raise OSError(self._keeper.communicate()[1].decode())

    @property
    def pid(self) -> int:
        """A process that is there."""
        return self._keeper.pid

    def command(self, *words: str) -> list[str]:
        """The words, as a command that runs there: nsenter becomes it."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *words]


@dataclass
class Machine:
    """A place on the network, and its link. `slowed` and `cut` say how the link is."""

    name: str
    host: str
    network: Network
    pid: int
    slowed: bool = False
    is_cut: bool = False

    def command(self, *words: str) -> list[str]:
        """The words, as a command that runs on this machine."""
        return ["nsenter", f"--target={self.pid}", "--net", "--", *words]

    def cut(self) -> None:
        """Pulls the cable."""
        self.network.run(f"ip link set {self.name} down")
        self.is_cut = True

    def slow(self) -> None:
        """Both ways from now on."""
        how = f"root {self.network.slow_words}"
        self.network.run(f"tc qdisc replace dev {self.name} {how}")
        _run(self.command(*shlex.split(f"tc qdisc replace dev eth0 {how}")))
        self.slowed = True

    def heal(self) -> None:
        """The link is as it was."""
        if self.slowed:
            self.network.run(f"tc qdisc delete dev {self.name} root")
            _run(self.command(*shlex.split("tc qdisc delete dev eth0 root")))
        if self.is_cut:
            self.network.run(f"ip link set {self.name} up")
        self.slowed = self.is_cut = False


class Network:
    """A switch, and the machines that are plugged into it."""

    def __init__(self) -> None:
        self._switch = _Namespace()
        self._namespaces = [self._switch]
        self._hosts = iter(range(1, 255))
        self.run("ip link add switch type bridge && ip link set switch up")
        self.slow_words = self._slow_words()

    def machine(self, name: str) -> Machine:
        """One more, in a namespace of its own."""
        namespace = _Namespace()
        self._namespaces.append(namespace)
        return self._plug(name, namespace.pid)

    def here(self, name: str) -> Machine:
        """This very process is on that machine."""
        return self._plug(name, os.getpid())

    def run(self, script: str) -> None:
        """Does something to the switch."""
        _run(self._switch.command("sh", "-ec", script))

    def _plug(self, name: str, pid: int) -> Machine:
        machine = Machine(name, f"{_SUBNET}.{next(self._hosts)}", self, pid)
        self.run(
            f"ip link add {name} type veth peer name eth0 netns {pid}\n"
            f"ip link set {name} master switch up"
        )
        inside = f"ip addr add {machine.host}/24 dev eth0; ip link set eth0 up; ip link set lo up"
        _run(machine.command("sh", "-ec", inside))
        return machine

    def _slow_words(self) -> str:
        for words in _SLOW:
            try:
                self.run(f"tc qdisc replace dev switch root {words}")
            except OSError:
                continue
            self.run("tc qdisc delete dev switch root")
            return words
        raise OSError("tc knows neither netem nor tbf here, so no link can be slowed")


def _run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, check=False)
    if ran.returncode != 0:
        raise OSError(f"{shlex.join(command)}: {ran.stderr.decode().strip()}")
