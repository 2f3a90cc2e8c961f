"""How much of the machine a pool takes: control groups of both versions, predictions, and what a child is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from djinn_fx.pool import procfs
from djinn_fx.pool.admission import NoRoom, Room, room_for
from djinn_fx.pool.limits import GIB, PoolLimits, available_bytes, total_bytes, usable_cores
from tests.pool.support import MIB, Waiter, alive, job, limits, pool_of
from tests.waiting import until

MEMINFO = f"MemTotal: {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n"
UNLIMITED_V1 = 9223372036854771712


def machine(tmp_path: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path, Path]:
    """Files that look like a machine: where control groups are mounted, which this process is in, its memory."""
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cgroup").mkdir(exist_ok=True)
    (tmp_path / "groups").write_text(groups)
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path / "cgroup", tmp_path / "groups", tmp_path / "meminfo"


class TestMachine:
    def test_without_control_groups(self, tmp_path: Path) -> None:
        where = machine(tmp_path, "", {})
        assert (total_bytes(*where), available_bytes(*where)) == (16 * GIB, 8 * GIB)

    def test_version_2_counts_every_group_above_and_not_the_cache(self, tmp_path: Path) -> None:
        where = machine(
            tmp_path,
            "0::/outer/inner\n",
            {
                "outer/inner/memory.max": "max\n",
                "outer/inner/memory.current": "5\n",
                "outer/memory.max": f"{4 * GIB}\n",
                "outer/memory.current": f"{3 * GIB}\n",
                "outer/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7\n",
            },
        )
        assert (total_bytes(*where), available_bytes(*where)) == (4 * GIB, 2 * GIB)

    def test_version_1(self, tmp_path: Path) -> None:
        where = machine(
            tmp_path,
            "9:cpu,cpuacct:/\n4:memory:/box\n",
            {
                "memory/box/memory.limit_in_bytes": f"{2 * GIB}\n",
                "memory/box/memory.usage_in_bytes": f"{GIB}\n",
                "memory/box/memory.stat": f"cache 9\ntotal_inactive_file {GIB // 2}\n",
                "memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
                "memory/memory.usage_in_bytes": "12\n",
            },
        )
        assert (total_bytes(*where), available_bytes(*where)) == (2 * GIB, 3 * GIB // 2)

    def test_in_a_container_the_path_may_be_one_that_cannot_be_seen(self, tmp_path: Path) -> None:
        files = {"memory.max": f"{3 * GIB}\n", "memory.current": f"{4 * GIB}\n"}
        where = machine(tmp_path, "0::/../docker/123\n", files)
        assert (total_bytes(*where), available_bytes(*where)) == (3 * GIB, 0)

    def test_a_machine_that_does_not_say(self, tmp_path: Path) -> None:
        nothing = (tmp_path / "a", tmp_path / "b", tmp_path / "c")
        assert (total_bytes(*nothing), available_bytes(*nothing)) == (None, None)

    @pytest.mark.parametrize(
        ("groups", "files", "most"),
        [
            ("0::/box\n", {"box/cpu.max": "100000 100000\n"}, 1),
            ("0::/box\n", {"box/cpu.max": "50000 100000\n"}, 1),
            ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
            ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
            ("0::/box\n", {"box/cpu.max": "max 100000\n"}, None),
        ],
    )
    def test_cores_are_bounded_by_quota(
        self, tmp_path: Path, groups: str, files: dict[str, str], most: int | None
    ) -> None:
        root, processes, _ = machine(tmp_path, groups, files)
        assert usable_cores(root, processes) == (most or len(os.sched_getaffinity(0)))

    def test_the_default_takes_at_most_half(self) -> None:
        total = total_bytes()
        assert total is not None
        default = PoolLimits.default()
        assert default.memory_bytes <= total / 2
        assert 1 <= default.children <= max(1, usable_cores() // 2)


class TestPredictions:
    def test_a_build_may_double_or_take_a_gigabyte_more_within_the_pool(self) -> None:
        pool = limits(memory_bytes=8 * GIB)
        assert pool.hard_bytes(3 * GIB) == 6 * GIB
        assert pool.hard_bytes(100 * MIB) == 100 * MIB + GIB
        assert pool.hard_bytes(5 * GIB) == 8 * GIB
        assert pool.hard_bytes(0) == 8 * GIB  # not known

    def test_a_pool_without_children_or_memory_is_none(self) -> None:
        for wrong in ({"children": 0}, {"memory_bytes": 0}):
            with pytest.raises(ValueError):
                limits(**wrong)


class Idle:
    def __init__(self, kind: str, resident: int, idle_since: float) -> None:
        self.kind, self.resident, self.idle_since = kind, resident, idle_since


class TestRoom:
    def room(
        self, need: int, *, held: tuple[int, ...] = (), idle: tuple[Idle, ...] = (), free: int = 10**6
    ) -> Room | NoRoom:
        """Room for a job of kind "a" in a pool that may use 1000 bytes."""
        return room_for(
            need,
            "a",
            held_bytes=held,
            idle=idle,  # type: ignore[arg-type]
            limits=limits(memory_bytes=1000, check_available=True),
            available=lambda: free,
        )

    def test_it_fits(self) -> None:
        assert self.room(400, held=(600,)) == Room(None, ())

    def test_the_pool_is_full_until_another_ends(self) -> None:
        assert self.room(401, held=(600,)) == NoRoom(400, ever=True)

    def test_an_idle_child_of_the_kind_is_used_the_last_one_first(self) -> None:
        idle = (Idle("a", 300, 1.0), Idle("a", 300, 2.0), Idle("b", 300, 3.0))
        assert self.room(400, idle=idle) == Room(idle[1], ())  # type: ignore[arg-type]

    def test_others_leave_the_oldest_first_when_there_is_no_room_with_them(self) -> None:
        idle = (Idle("b", 300, 2.0), Idle("c", 300, 1.0))
        assert self.room(600, idle=idle) == Room(None, (idle[1],))  # type: ignore[arg-type]
        assert self.room(900, idle=idle) == Room(None, (idle[1], idle[0]))  # type: ignore[arg-type]

    def test_the_machine_must_have_it_free_and_what_runs_may_still_grow(self) -> None:
        assert self.room(400, free=399) == NoRoom(399, ever=False)
        assert self.room(400, held=(100,), free=450) == NoRoom(350, ever=True)
        assert self.room(400, held=(100,), free=500) == Room(None, ())

    def test_what_idle_children_hold_can_be_had_back(self) -> None:
        own, other = Idle("a", 100, 1.0), Idle("b", 200, 1.0)
        assert self.room(400, idle=(own,), free=300) == Room(own, ())  # type: ignore[arg-type]
        assert self.room(400, idle=(other,), free=200) == Room(None, (other,))  # type: ignore[arg-type]
        assert isinstance(self.room(400, idle=(other,), free=199), NoRoom)


class TestChild:
    @pytest.mark.parametrize("idle_class", [False, True])
    def test_it_gives_way_to_everybody(self, mark: str, idle_class: bool) -> None:
        pool = pool_of({"modules": "tests.pool.modules:build"}, idle_class=idle_class, nice=15)
        seen = Waiter(pool, job(worker="modules")).artefact().header
        assert (seen["nice"], seen["oom_score_adj"]) == (15, 1000)
        assert seen["policy"] == (os.SCHED_IDLE if idle_class else os.SCHED_OTHER)
        assert not {"torch", "numpy"} & set(seen["modules"])
        pool.close()

    def test_its_tree_is_seen_whole_however_it_is_found(self, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = pool_of()
        waiter = Waiter(pool, job("grandchild"))
        assert until(lambda: len(alive(mark)) == 3)
        assert set(alive(mark)) <= set(procfs.descendants(os.getpid()))
        monkeypatch.setattr(procfs, "has_children_files", lambda: False)
        assert set(alive(mark)) <= set(procfs.descendants(os.getpid()))
        assert all(procfs.resident_bytes(pid) > MIB for pid in alive(mark))
        pool.cancel(waiter.ticket)
        pool.close()

    def test_a_process_that_is_gone_has_neither_memory_nor_parent(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        assert until(lambda: procfs.parent_of(gone.pid) is None)  # dead, and not yet buried
        gone.wait()
        assert (procfs.resident_bytes(gone.pid), procfs.peak_bytes(gone.pid)) == (0, 0)
        assert procfs.proportional_bytes(gone.pid) is None
