"""What is read of a machine, from the texts of machines that are not here."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from djinn_fx.files.control_groups import memory_groups, processor_quota
from djinn_fx.hardware import machine
from djinn_fx.hardware.machine import GIB, Cache, Machine, machine_identity, parse_cpu_list, probe_machine, read_machine

HYPERTHREADS = "".join(
    f"""processor\t: {index}
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Some CPU @ 2.50GHz
cpu MHz\t\t: 3100.123
physical id\t: 0
core id\t\t: {index // 2}
flags\t\t: fpu sse2 avx fma avx2 hypervisor

"""
    for index in range(4)
)
ARM = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimdhp asimddp sve bf16 i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd asimdhp asimddp sve bf16 i8mm
CPU part\t: 0xd40
"""


def read(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], processors: frozenset[int] = frozenset(range(4))
) -> Machine:
    """The machine whose operating system has these files, with 64 GiB."""
    monkeypatch.setattr(machine, "text_of", lambda path: files.get(path, ""))
    monkeypatch.setattr(machine, "_allowed", lambda: processors)
    monkeypatch.setattr(machine, "_physical_memory", lambda: 64 * GIB)
    return read_machine()


def in_groups(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str]) -> None:
    """As if the process were in these control groups."""
    process = folder / "cgroup"
    process.write_text(files.get("/proc/self/cgroup", "0::/\n"))
    root = folder / "groups"
    for name, text in files.items():
        path = root / name.removeprefix("/sys/fs/cgroup/")
        if name.startswith("/sys/fs/cgroup/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for reader in (processor_quota, memory_groups):
        monkeypatch.setattr(machine, reader.__name__, functools.partial(reader, root, process))


def cache_files(cpu: int, index: int, level: int, kind: str, size: str, sharers: str) -> dict[str, str]:
    folder = f"/sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": f"{level}\n",
        f"{folder}/type": f"{kind}\n",
        f"{folder}/size": f"{size}\n",
        f"{folder}/shared_cpu_list": f"{sharers}\n",
    }


def test_hyperthreads_of_one_core_are_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, {"/proc/cpuinfo": HYPERTHREADS})
    assert (found.cores, found.threads, found.clock_hz) == (2, 4, 2.5e9)
    assert (found.model, found.part, found.virtual) == ("Some CPU @ 2.50GHz", "GenuineIntel 6", True)


@pytest.mark.parametrize(("processors", "cores"), [({0, 1}, 1), ({0, 2}, 2), ({3}, 1)])
def test_only_the_processors_this_process_may_use_count(
    monkeypatch: pytest.MonkeyPatch, processors: set[int], cores: int
) -> None:
    found = read(monkeypatch, {"/proc/cpuinfo": HYPERTHREADS}, frozenset(processors))
    assert (found.cores, found.threads) == (cores, len(processors))


def test_arm_tells_its_features_and_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, {"/proc/cpuinfo": ARM}, frozenset({0, 1}))
    assert found.isa == ("asimd", "asimdhp", "asimddp", "sve", "bf16", "i8mm")
    assert (found.part, found.cores) == ("0xd40", 2)


def test_a_machine_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, {}, frozenset({0}))
    assert (found.cores, found.threads, found.caches, found.last_cache_bytes) == (1, 1, (), 0)
    assert found.clock_hz > 0
    assert found.memory_bytes == 64 * GIB


def test_caches_are_counted_by_who_shares_them(monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, str] = {}
    for cpu in range(4):
        pair = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        files |= cache_files(cpu, 0, 1, "Data", "48K", str(cpu))
        files |= cache_files(cpu, 1, 1, "Instruction", "32K", str(cpu))
        files |= cache_files(cpu, 2, 2, "Unified", "2M", pair)
        files |= cache_files(cpu, 3, 3, "Unified", "32768K", pair)
    found = read(monkeypatch, files)
    assert found.caches == (
        Cache(level=1, size_bytes=48 * 1024, shared_by=1, count=4),
        Cache(level=2, size_bytes=2 * 1024**2, shared_by=2, count=2),
        Cache(level=3, size_bytes=32 * 1024**2, shared_by=2, count=2),
    )
    assert found.last_cache_bytes == 64 * 1024**2
    # One die of the two is out of reach for a process that may not run there.
    assert read(monkeypatch, files, frozenset({0, 1})).last_cache_bytes == 32 * 1024**2


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"/sys/fs/cgroup/memory.max": "4294967296\n"}, 4 * GIB),
        ({"/sys/fs/cgroup/memory.max": "max\n"}, None),
        (
            {
                "/proc/self/cgroup": "0::/jobs/one\n",
                "/sys/fs/cgroup/jobs/memory.max": "2147483648\n",
                "/sys/fs/cgroup/jobs/one/memory.max": "max\n",
            },
            2 * GIB,
        ),
        (
            {
                "/proc/self/cgroup": "4:memory:/job\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1073741824\n",
            },
            GIB,
        ),
        ({"/sys/fs/cgroup/memory.max": str(128 * GIB)}, None),
    ],
)
def test_a_control_groups_memory_limit_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], limit: int | None
) -> None:
    in_groups(monkeypatch, tmp_path, files)
    found = read(monkeypatch, files)
    assert found.memory_limit_bytes == limit
    assert found.memory_bytes == (limit or 64 * GIB)


@pytest.mark.parametrize(
    ("files", "quota", "threads"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, 2),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None, 4),
        (
            {
                "/proc/self/cgroup": "3:cpu:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1.0,
            1,
        ),
        (
            {
                "/proc/self/cgroup": "3:cpu,cpuacct:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
            4,
        ),
    ],
)
def test_a_control_groups_quota_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], quota: float | None, threads: int
) -> None:
    in_groups(monkeypatch, tmp_path, files)
    found = read(monkeypatch, {"/proc/cpuinfo": HYPERTHREADS})
    assert (found.quota, found.threads) == (quota, threads)
    assert found.cores == min(threads, 2)


def test_memory_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = "/sys/devices/system/node"
    files = {f"{nodes}/online": "0-1\n"}
    for number in (0, 1):
        files[f"{nodes}/node{number}/cpulist"] = f"{2 * number}-{2 * number + 1}\n"
        files[f"{nodes}/node{number}/meminfo"] = f"Node {number} MemTotal:       33554432 kB\n"
    found = read(monkeypatch, files)
    assert [(node.number, node.processors, node.memory_bytes) for node in found.numa] == [
        (0, (0, 1), 32 * GIB),
        (1, (2, 3), 32 * GIB),
    ]


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8\n", (0, 1, 2, 3, 8)), ("5", (5,)), ("", ()), ("\n", ()), ("0-1,4-5", (0, 1, 4, 5))]
)
def test_lists_of_processors(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == numbers


@pytest.mark.parametrize(
    ("size", "gib"), [(int(23.54 * GIB), 24), (int(15.6 * GIB), 16), (int(62.7 * GIB), 64), (int(0.4 * GIB), 1)]
)
def test_memory_is_rounded_as_machines_are_sold(size: int, gib: int) -> None:
    assert machine._round_up_gib(size) == gib
    # A kernel that keeps 100 MiB more or less to itself changes nothing.
    assert machine._round_up_gib(size - 100 * 1024**2) == gib


def test_the_identity_is_stable_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    first = machine_identity()
    probe_machine.cache_clear()
    assert machine_identity() == first == json.loads(json.dumps(first))
    assert set(first) == {"model", "architecture", "cores", "threads", "isa", "last_cache_bytes", "memory_gib"}


def test_the_identity_does_not_flutter_with_the_present_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def identity(clock: str) -> dict[str, str | int]:
        text = HYPERTHREADS.replace(" @ 2.50GHz", "").replace("3100.123", clock)
        found = read(monkeypatch, {"/proc/cpuinfo": text})
        monkeypatch.setattr(machine, "probe_machine", lambda: found)
        return machine_identity()

    assert identity("3100.123") == identity("2200.000")


def test_this_machine_is_read_once_and_plausible() -> None:
    found = probe_machine()
    assert found is probe_machine()
    assert 1 <= found.cores <= found.threads
    assert found.memory_bytes > 0
    assert [cache.level for cache in found.caches] == sorted({cache.level for cache in found.caches})
