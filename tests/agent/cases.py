"""What a TransferAgent does with a real NIXL and real nodes.

`python -m tests.agent.cases` runs in an environment that has NIXL, imports it, and forks off a
process for every case that it reads from standard input: a line of JSON each, {"case", "folder",
"output", "nodes"}, answered with its exit status. test_transfer_agent.py asks for every function
here whose name begins with `case_`.
"""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import gc
import json
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from memkv_nixl._errors import ConfigError, NixlError, UnreachableError, UsageError
from memkv_nixl._nixl import load_nixl
from memkv_nixl.agent import Match, Namespace, Status, TransferAgent, register
from tests.agent.given import (
    GIVEN,
    OK,
    InterruptedCallError,
    UnreleasedHandle,
    block,
    halted,
    interrupted_after,
    names,
    own_nodes,
    refused,
    shared_agent,
)


def case_round_trip() -> None:
    sizes = [1, 4095, 65_536, 65_537, (4 << 20) + 3, 64 << 20]
    blocks = [block(i, size) for i, size in enumerate(sizes)]
    with shared_agent() as agent:
        assert agent.put(names(6), blocks) == [OK] * 6
        targets = [np.zeros_like(one) for one in blocks]
        assert agent.get(names(6), targets) == [OK] * 6
        assert all(map(np.array_equal, blocks, targets))


def case_any_buffer() -> None:
    with shared_agent() as agent:
        put = [
            b"bytes...",
            bytearray(b"array..."),
            memoryview(b"view...."),
            np.arange(2.0, dtype="f4"),
        ]
        assert agent.put(["a", "b", "c", "d"], put) == [OK] * 4
        got = [bytearray(8), memoryview(bytearray(8)), np.zeros(8, np.uint8), np.zeros(2, "f4")]
        assert agent.get([b"a", b"b", b"c", b"d"], got) == [OK] * 4
        assert [bytes(one) for one in got] == [bytes(one) for one in put]


def case_torch() -> None:
    torch = sys.modules.get("torch") or __import__("torch")
    with shared_agent() as agent:
        tensor = torch.arange(1000, dtype=torch.float32).to(torch.bfloat16).reshape(10, 100)
        assert agent.put(["t"], [tensor]) == [OK]
        target = torch.zeros_like(tensor)
        assert agent.get(["t"], [target]) == [OK]
        assert torch.equal(tensor, target)


def case_missing_among_present() -> None:
    with shared_agent() as agent:
        blocks = [block(i) for i in range(8)]
        assert agent.put(names(8)[::2], blocks[::2]) == [OK] * 4
        targets = [np.zeros_like(one) for one in blocks]
        assert agent.get(names(8), targets) == [OK, Status.NOT_FOUND] * 4
        assert all(np.array_equal(blocks[i], targets[i]) for i in range(0, 8, 2))


def case_put_once() -> None:
    with shared_agent() as agent:
        assert agent.put(["k"], [b"four"]) == [OK]
        again = agent.put(["k", "k2"], [b"four", b"other"])
        assert again == [Status.EXISTS, OK]
        assert all(status.good for status in again)
        assert agent.put(["k"], [b"seven.."]) == [Status.CONFLICT]


def case_offsets() -> None:
    whole = block(1, 1 << 20)
    with shared_agent() as agent:
        assert agent.put(["k"], [whole]) == [OK]
        offsets = [0, 1, 65_536, 777_777, (1 << 20) - 10]
        parts = [np.zeros(10, np.uint8) for _ in offsets]
        assert agent.get(["k"] * 5, parts, offset=offsets) == [OK] * 5
        for offset, part in zip(offsets, parts, strict=True):
            assert np.array_equal(part, whole[offset : offset + 10])
        beyond = agent.get(["k"], [bytearray(11)], offset=(1 << 20) - 10)
        assert not beyond[0].good


def case_groups_lie_together() -> None:
    from memkv_nixl._native import Client
    from memkv_nixl._stat import parse_stats

    with own_nodes(4) as (agent, cluster):
        assert agent.put(names(32), [block(i, 1000) for i in range(32)], group="run") == [OK] * 32
        client = Client(list(cluster.addresses))
        held = [parse_stats(client.stat(i, 5000))["blocks"] for i in range(4)]
        client.close()
        assert sorted(held) == [0, 0, 0, 32], held
        targets = [np.zeros(1000, np.uint8) for _ in range(32)]
        assert agent.get(names(32), targets, group=["run"] * 32) == [OK] * 32
        assert agent.match(names(32), group="run") == [Match(True, 1000)] * 32


def case_metrics() -> None:
    from memkv_nixl import metrics

    page = Path(__file__).parents[2] / "docs/reference/metrics.md"
    documented = {
        line.split("`")[1]
        for line in page.read_text("utf-8").splitlines()
        if line.startswith("| `memkv_client_")
    }
    with shared_agent() as agent:
        assert agent.put(names(3), [block(i) for i in range(3)]) == [OK] * 3
        targets = [np.zeros_like(block(0)) for _ in range(2)]
        assert agent.get([names(1)[0], b"none"], targets) == [OK, Status.NOT_FOUND]
        lines = metrics.text().splitlines()
        assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == documented
        for sample in (
            "memkv_client_loaded 1",
            "memkv_client_backends 1",
            'memkv_client_puts_total{result="ok"} 3',
            "memkv_client_hits_total 1",
            "memkv_client_misses_total 1",
            f'memkv_client_bytes_total{{operation="get"}} {block(0).nbytes}',
            'memkv_client_put_seconds_count{outcome="stored"} 1',
            'memkv_client_get_seconds_count{outcome="miss"} 1',
            'memkv_client_get_seconds_count{outcome="hit"} 0',
            f'memkv_client_request_bytes_total{{operation="get",outcome="miss"}} {block(0).nbytes}',
        ):
            assert sample in lines, sample


def case_match_and_longest_prefix() -> None:
    with shared_agent() as agent:
        assert agent.longest_prefix(names(4)) == 0
        agent.put([b"key-0", b"key-1", b"key-3"], [block(i, 1000 + i) for i in (0, 1, 3)])
        assert agent.match(names(4)) == [
            Match(True, 1000),
            Match(True, 1001),
            Match(False),
            Match(True, 1003),
        ]
        assert agent.longest_prefix(names(4)) == 2
        assert agent.longest_prefix([]) == 0
        assert agent.match([]) == []


def case_awaited() -> None:
    async def main() -> None:
        async with shared_agent() as agent:
            blocks = [block(i) for i in range(64)]
            puts = [agent.aput(names(64)[i::8], blocks[i::8]) for i in range(8)]
            assert await asyncio.gather(*puts) == [[OK] * 8] * 8
            targets = [np.zeros_like(one) for one in blocks]
            gets = [agent.aget(names(64)[i::8], targets[i::8]) for i in range(8)]
            assert await asyncio.gather(*gets) == [[OK] * 8] * 8
            assert all(map(np.array_equal, blocks, targets))
            assert await agent.alongest_prefix([*names(64), b"none"]) == 64
            assert (await agent.amatch(["none"]))[0] == Match(False)

    asyncio.run(main())


def case_a_cancelled_task_lets_go_of_its_buffers() -> None:
    async def main() -> None:
        async with shared_agent() as agent:
            buffers = [block(i, 16 << 20) for i in range(8)]
            task = asyncio.create_task(agent.aput(names(8), buffers))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            else:
                raise AssertionError("the cancellation was swallowed")
            assert len(agent._port._memory) == 0
            assert await agent.aput(["after"], [b"works"]) == [OK]

    asyncio.run(main())


def case_an_exception_of_a_signal_leaves_nothing_under_way() -> None:
    with own_nodes(1) as (agent, cluster):
        assert agent.put(["k"], [block(1, 8 << 20)]) == [OK]
        calls = [
            lambda: agent.get(["k"], [bytearray(8 << 20)]),
            lambda: agent.put(["l"], [block(2, 8 << 20)]),
        ]
        # What is awaited ends by its task's cancellation, as above: a signal that strikes asyncio's
        # own code may leave its loop without the task, and nobody can promise anything then.
        for call in calls:
            # Once within the wait, and at times that fall anywhere into the call.
            for seconds in (0.2, *(i * 100e-6 for i in range(1, 12))):
                with halted(cluster):
                    try:
                        with interrupted_after(seconds):  # on a busy machine before the call
                            call()
                    except InterruptedCallError:
                        # The traceback still holds the call's frames: nothing was only dropped.
                        assert not agent._port._open
                    else:
                        raise AssertionError("nothing interrupted it")
        assert agent.get(["k"], [bytearray(8 << 20)]) == [OK]


def case_handles() -> None:
    with own_nodes(1) as (agent, cluster):
        with halted(cluster):
            transfer = agent.begin_put(["k"], [block(1, 8 << 20)])
            assert not transfer.done
            with refused(UnreachableError, "timeout"):
                transfer.wait(0.01)
        assert transfer.wait() == [OK]
        assert transfer.done
        assert transfer.wait() == [OK]  # as often as one likes
        transfer.cancel()  # too late, and harmless
        assert transfer.wait() == [OK]
        with halted(cluster):
            cancelled = agent.begin_get(["k"], [bytearray(8 << 20)])
            cancelled.cancel()
        assert cancelled.done
        assert cancelled.wait() == [Status.CANCELLED]
        assert agent.begin_put([], []).wait() == []


def case_buffers_live_as_long_as_their_transfer() -> None:
    with own_nodes(1) as (agent, cluster):
        assert agent.put(["k"], [block(1)]) == [OK]
        with halted(cluster):
            target = np.zeros_like(block(1))
            alive = weakref.ref(target)
            transfer = agent.begin_get(["k"], [target])
            del target
            gc.collect()
            assert alive() is not None
        assert transfer.wait() == [OK]
        gc.collect()
        assert alive() is None
        with halted(cluster):
            target = np.zeros_like(block(1))
            alive = weakref.ref(target)
            agent.begin_get(["k"], [target])  # dropped at once, and so cancelled
            assert len(agent._port._memory) == 0
            del target
            gc.collect()
            assert alive() is None


def case_registered_memory() -> None:
    with shared_agent() as agent:
        pool = np.zeros(64 * 4096, np.uint8)
        pool[:] = np.arange(64 * 4096) // 4096
        agent.register_memory(pool)
        pages = [pool[i * 4096 : (i + 1) * 4096] for i in range(64)]
        assert agent.put(names(64), pages) == [OK] * 64
        pool[:] = 255
        assert agent.get(names(64), pages) == [OK] * 64
        assert np.array_equal(pool, (np.arange(64 * 4096) // 4096).astype(np.uint8))
        agent.deregister_memory(pool)
        with refused(UsageError, "never registered"):
            agent.deregister_memory(pool)
        assert agent.get(["key-7"], [pages[0]]) == [OK]  # registered on the fly


def case_memory_is_registered_while_a_slice_of_it_is_under_way() -> None:
    with own_nodes(1) as (agent, cluster):
        pages = [block(i, 65_536) for i in range(3)]
        assert agent.put(names(3), pages) == [OK] * 3
        pool = np.zeros((3, 65_536), np.uint8)
        with halted(cluster):
            first = agent.begin_get([b"key-1"], [pool[1]])
            agent.register_memory(pool)
            others = [agent.begin_get([names(3)[i]], [pool[i]]) for i in (2, 0)]
        assert first.wait() == [OK]
        assert [other.wait() for other in others] == [[OK], [OK]]
        assert np.array_equal(pool, np.array(pages))
        agent.deregister_memory(pool)


def case_threads() -> None:
    failures: list[BaseException] = []

    def work(agent: TransferAgent, number: int) -> None:
        try:
            for turn in range(10):
                keys = [b"%d-%d-%d" % (number, turn, i) for i in range(4)]
                blocks = [block(hash(key) & 0xFFFF, 50_000) for key in keys]
                assert agent.put(keys, blocks) == [OK] * 4
                targets = [np.zeros_like(one) for one in blocks]
                assert agent.longest_prefix(keys) == 4
                assert agent.get(keys, targets) == [OK] * 4
                assert all(map(np.array_equal, blocks, targets))
        except BaseException as error:
            failures.append(error)
            raise

    with shared_agent() as agent:
        threads = [threading.Thread(target=work, args=(agent, i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def case_many_descriptors() -> None:
    with shared_agent() as agent:
        pool = block(1, 4096 * 64)
        blocks = [pool[i * 64 : (i + 1) * 64] for i in range(4096)]
        assert agent.put(names(4096), blocks) == [OK] * 4096
        copy = np.zeros_like(pool)
        targets = [copy[i * 64 : (i + 1) * 64] for i in range(4096)]
        assert agent.get(names(4096), targets) == [OK] * 4096
        assert np.array_equal(pool, copy)
        assert agent.longest_prefix(names(4097)) == 4096


def case_a_dead_node_costs_its_blocks_only() -> None:
    with own_nodes(2, timeout_ms=3000) as (agent, cluster):
        blocks = [block(i) for i in range(32)]
        assert agent.put(names(32), blocks) == [OK] * 32
        cluster.kill_node(1)
        targets = [np.zeros_like(one) for one in blocks]
        statuses = agent.get(names(32), targets)
        assert set(statuses) <= {OK, Status.UNREACHABLE, Status.TIMEOUT}
        assert 0 < statuses.count(OK) < 32, statuses
        for one, target, status in zip(blocks, targets, statuses, strict=True):
            assert status is not OK or np.array_equal(one, target)
        there = [match.found for match in agent.match(names(32))]
        assert there == [status is OK for status in statuses]


def case_namespaces_do_not_mix() -> None:
    one = TransferAgent(GIVEN.nodes, dataclasses.replace(GIVEN.space, layout="NHD"))
    other = TransferAgent(GIVEN.nodes, dataclasses.replace(GIVEN.space, layout="HND"))
    named = TransferAgent(GIVEN.nodes, GIVEN.space.salt)
    assert one.put(["k"], [b"one"]) == [OK]
    assert other.get(["k"], [bytearray(3)]) == [Status.NOT_FOUND]
    assert named.put(["k"], [b"longer"]) == [OK]
    assert one.match(["k"]) == [Match(True, 3)]
    for agent in (one, other, named):
        agent.close()


def case_the_native_client_sees_the_same_blocks() -> None:
    from memkv_nixl._native import Client

    with shared_agent() as agent:
        assert agent.put(names(16), [key * 3 for key in names(16)], group="g") == [OK] * 16
        client = Client(list(GIVEN.nodes))
        targets = [bytearray(len(key) * 3) for key in names(16)]
        got = client.get(GIVEN.space.fingerprint, names(16), targets, groups=[b"g"] * 16)
        assert got.wait(10_000)
        assert got.codes() == [0] * 16
        assert targets == [key * 3 for key in names(16)]
        client.close()


def case_wrong_use_is_refused_before_anything_moves() -> None:
    with shared_agent() as agent:
        for call in (
            lambda: agent.get(["k"], [b"read-only"]),
            lambda: agent.put(["k"], [b""]),
            lambda: agent.put(["k", "l"], [b"one"]),
            lambda: agent.put("key", [b"one"]),
            lambda: agent.put([b"x" * 513], [b"one"]),
            lambda: agent.put(["k"], [np.zeros((4, 4))[:, ::2]]),
            lambda: agent.put(["k"], [b"one"], depth=[1, 2]),
        ):
            with refused(UsageError, ""):
                call()
        assert not agent.match(["k"])[0].found


def case_a_closed_agent_says_so() -> None:
    agent = shared_agent()
    under_way = agent.begin_put(["k"], [block(1, 16 << 20)])
    agent.close()
    agent.close()
    assert under_way.done
    assert "closed" in repr(agent)
    for call in (
        lambda: agent.put(["k"], [b"one"]),
        lambda: agent.match(["k"]),
        lambda: agent.register_memory(bytearray(8)),
    ):
        with refused(UsageError, "closed"):
            call()


def case_a_close_in_another_thread_ends_a_wait() -> None:
    with own_nodes(1) as (agent, cluster), halted(cluster):
        transfer = agent.begin_put(["k"], [block(1, 8 << 20)])
        closer = threading.Thread(target=agent.close)
        closer.start()
        assert transfer.wait() == [Status.CANCELLED]
        closer.join()


def case_what_nixl_does_not_let_go_of_stops_nothing() -> None:
    with own_nodes(1) as (agent, cluster):
        with halted(cluster):
            target = bytearray(1000)
            stuck = agent.begin_get(["stuck"], [target])
            other = agent.begin_get(["other"], [bytearray(1000)])
            assert stuck._posted is not None
            stuck._posted.handle = UnreleasedHandle(stuck._posted.handle)
            stuck.cancel()
            assert stuck.wait() == [Status.CANCELLED]
            with refused(BufferError, ""):
                target.clear()  # somebody may write there: it is kept
            open_still = agent.begin_get(["open"], [bytearray(1000)])
            assert open_still._posted is not None
            open_still._posted.handle = UnreleasedHandle(open_still._posted.handle)
        assert other.wait() == [Status.NOT_FOUND]
        assert agent.put(["k"], [b"one"]) == [OK]
        agent.close()
        assert agent._port.closed


def case_after_a_fork_the_child_makes_an_agent_of_its_own() -> None:
    with shared_agent() as agent:
        assert agent.put(["k"], [b"one"]) == [OK]
        child = os.fork()
        if child == 0:
            target = bytearray(3)
            got = shared_agent().get(["k"], [target])
            os._exit(0 if (got, target) == ([OK], b"one") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert agent.get(["k"], [bytearray(3)]) == [OK]


def case_a_look_up_that_waits_lets_the_event_loop_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with own_nodes(1, query_timeout_ms=5000) as (agent, cluster):
            assert await agent.amatch(["k"]) == [Match(False)]  # connected
            with halted(cluster):
                began = loop.time()
                look_up = asyncio.create_task(agent.amatch(["k"]))
                done, _ = await asyncio.wait({look_up}, timeout=0.1)
                assert not done
                assert loop.time() - began < 4, "the loop stood still until the look-up was over"
            assert await look_up == [Match(False)]

    asyncio.run(main())


def case_settings_come_from_the_environment() -> None:
    os.environ["MEMKV_NODES"] = ",".join(GIVEN.nodes)
    os.environ["MEMKV_NAMESPACE"] = GIVEN.space.salt
    with TransferAgent() as agent:
        assert agent.nodes == GIVEN.nodes
        assert agent.namespace == GIVEN.space.salt
        assert agent.put(["k"], [b"one"]) == [OK]
    del os.environ["MEMKV_NODES"]
    with refused(ConfigError, "MEMKV_NODES"):
        TransferAgent()


def case_one_file_is_for_both_readers() -> None:
    """This package reads it, and so does the plugin, in C++."""
    nodes = ", ".join(GIVEN.nodes)
    text = f"nodes: [{nodes}]\nnamespace: file\nnode: {{device: /dev/none, dram: 1GiB}}  # here\n"
    Path("memkv.yaml").write_text(text, encoding="utf-8")
    os.environ["MEMKV_CONFIG"] = "memkv.yaml"
    with TransferAgent() as agent:
        assert agent.nodes == GIVEN.nodes
        assert agent.match(["none"]) == [Match(False)]


def case_a_process_may_end_with_everything_open() -> None:
    globals()["never closed"] = agent = shared_agent()
    assert agent.put(["k"], [b"one"]) == [OK]
    globals()["under way"] = agent.begin_put(["big"], [block(1, 64 << 20)])


def case_register_keeps_the_others_and_is_idempotent() -> None:
    before = set(load_nixl().plugin_names())
    first = register()
    assert register() == first
    assert first.plugin.name == "libplugin_MEMKV.so"
    assert set(load_nixl().plugin_names()) == before | {"MEMKV"}


def case_register_works_where_plugins_are_elsewhere() -> None:
    only_posix = Path.cwd()
    folder = load_nixl().plugin_folder
    (only_posix / "libplugin_POSIX.so").symlink_to(folder / "libplugin_POSIX.so")
    os.environ["NIXL_PLUGIN_DIR"] = str(only_posix)
    assert register().how == "added"
    assert set(load_nixl().plugin_names()) == {"POSIX", "MEMKV"}


def case_register_links_where_folders_cannot_be_added() -> None:
    import memkv_nixl._nixl as module

    module._ADD_FOLDER = "a_symbol_that_this_nixl_has_not"
    own = {path.name for path in load_nixl().plugin_folder.iterdir()}
    assert {"libplugin_UCX.so", "libplugin_POSIX.so"} <= own
    assert register().how == "linked"
    assert {"MEMKV", "UCX", "POSIX"} <= set(load_nixl().plugin_names())
    folder = Path(os.environ["NIXL_PLUGIN_DIR"])
    # They look for their libraries beside the link; once these were not there.
    for name in ("POSIX", "UCX"):
        ctypes.CDLL(str(folder / f"libplugin_{name}.so"))
    if (child := os.fork()) == 0:
        sys.exit(0)  # with all that is to be done at exit
    os.waitpid(child, 0)
    assert folder.is_dir(), "a child that ended took it along"
    with shared_agent() as agent:
        assert agent.put(["k"], [b"one"]) == [OK]


def case_register_refuses_an_unknown_interface() -> None:
    import memkv_nixl._abi_guard as guard

    guard.TABLE_BYTES += 8  # a table with one function more than this NIXL's
    with refused(NixlError, "binary interface"):
        register()
    with refused(NixlError, "binary interface"):
        TransferAgent(GIVEN.nodes, GIVEN.space)
    assert "MEMKV" not in load_nixl().plugin_names()


def case_register_too_late_is_said() -> None:
    import memkv_nixl._nixl as module

    module._ADD_FOLDER = "a_symbol_that_this_nixl_has_not"
    load_nixl().plugin_names()  # somebody's first agent
    with refused(NixlError, "before the first nixl_agent"):
        register()


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}


def run(order: dict[str, str], cases: dict[str, Callable[[], None]], answers: int) -> int:
    """A case, in its child. It leaves as any program does, through all its destructors."""
    os.close(answers)  # or the test would wait for what a case leaves behind
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(order["folder"])
    GIVEN.nodes = tuple(order["nodes"].split(","))
    GIVEN.space = Namespace(model="cases", salt=order["folder"])
    try:
        cases[order["case"]]()
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        traceback.print_exc()
        return 1
    return 0


def main(cases: dict[str, Callable[[], None]]) -> int:
    load_nixl()
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in iter(sys.stdin.buffer.raw.readline, b""):
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            return run(order, cases, answers)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
    return 0


if __name__ == "__main__":
    sys.exit(main(CASES))
