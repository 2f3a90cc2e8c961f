"""Folders of safetensors, good and bad; files that change while they are read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from djinn_fx.errors import ModelFileError
from djinn_fx.runtime.offload.shards import BLOCK, Shards, new_memory, span_of
from djinn_fx.runtime.offload.stored import INDEX, SINGLE, stored_in

RANDOM = np.random.default_rng(3)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def sharded(folder: Path) -> dict[str, np.ndarray]:
    values = {"a": array(3, 5), "b": array(7000), "c": array(2)}
    save_file({"a": values["a"]}, folder / "one.safetensors")
    save_file({"b": values["b"], "c": values["c"]}, folder / "two.safetensors")
    places = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return values


@pytest.mark.parametrize("direct", [True, False])
def test_shards_give_the_bytes_that_were_saved(tmp_path: Path, direct: bool) -> None:
    values = sharded(tmp_path)
    stored = stored_in(tmp_path)
    shards = Shards(stored.files)
    shards.direct = [one and direct for one in shards.direct]
    for name, value in values.items():
        one = stored.tensors[name]
        assert one.shape == value.shape
        memory = new_memory(span_of(one.start, one.size)[1])
        begins = shards.read(one.file, one.start, one.size, memoryview(memory))
        assert bytes(memory[begins : begins + one.size]) == value.tobytes()
    assert shards.read_bytes == sum(value.nbytes for value in values.values())


def test_a_range_of_no_bytes_needs_no_block() -> None:
    assert span_of(5000, 0)[1] == 0
    assert span_of(BLOCK - 1, 2) == (0, 2 * BLOCK)


def test_memory_is_of_one_process_alone() -> None:
    memory = new_memory(BLOCK)
    child = os.fork()
    if child == 0:
        memory[0] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert memory[0] == 0


def test_a_file_may_be_named_itself(tmp_path: Path) -> None:
    save_file({"a": array(2)}, tmp_path / "other.safetensors")
    assert set(stored_in(tmp_path / "other.safetensors").tensors) == {"a"}
    assert set(stored_in(tmp_path).tensors) == {"a"}


def test_every_damage_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    def fails(match: str) -> None:
        with pytest.raises(ModelFileError, match=match):
            stored_in(tmp_path)

    with pytest.raises(ModelFileError, match="nowhere"):
        stored_in(tmp_path / "nowhere")
    fails("no safetensors file")
    sharded(tmp_path)
    whole = (tmp_path / "two.safetensors").read_bytes()
    for kept in (0, 5, 40, len(whole) - 1):
        (tmp_path / "two.safetensors").write_bytes(whole[:kept])
        fails("two.safetensors")
    (tmp_path / "two.safetensors").unlink()
    fails("two.safetensors")
    (tmp_path / INDEX).write_text('{"weight_map": {"x": "one.safetensors"}}')
    fails("'x'")
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "../one.safetensors"}}')
    fails("not in its folder")
    for text in ("{", "[]", '{"weight_map": 3}'):
        (tmp_path / INDEX).write_text(text)
        fails("no index")


def test_two_files_without_an_index_must_not_hold_the_same_name(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": array(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelFileError, match=r"one.safetensors and in two.safetensors"):
        stored_in(tmp_path)


def test_a_file_that_changes_is_noticed_at_the_next_read(tmp_path: Path) -> None:
    path, value = tmp_path / SINGLE, array(5000)
    memory = memoryview(new_memory(2**20))

    def read_after(change: str) -> None:
        save_file({"a": value}, path)
        stored = stored_in(tmp_path)
        shards, one = Shards(stored.files), stored.tensors["a"]
        shards.check()
        assert shards.read(0, one.start, one.size, memory) is not None
        whole = path.read_bytes()
        if change == "cut":
            os.truncate(path, len(whole) - 8000)
        elif change == "written":
            path.write_bytes(whole[:-1] + b"x")
        elif change == "replaced":
            (tmp_path / "new").write_bytes(whole)
            os.replace(tmp_path / "new", path)
        else:
            path.unlink()
        for again in (lambda: shards.read(0, one.start, one.size, memory), shards.check):
            with pytest.raises(ModelFileError, match="load it again"):
                again()

    for change in ("cut", "written", "replaced", "removed"):
        read_after(change)
