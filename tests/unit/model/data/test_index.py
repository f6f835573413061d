import json
import logging
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from model.data.index import index_path, load_or_make, read_index, write_index
from model.errors import InputError

IDENTITY = {"features": "f" * 64, "captions": "c" * 64}


def tables():
    return {
        "ids": np.arange(1000, dtype=np.int32),
        "names": np.array([b"a.rgn", b"bcd.rgn"]),
        "grid": np.arange(6.0).reshape(2, 3),
        "none": np.zeros(0, np.int64),
    }


def never():
    raise AssertionError("made again")


def same(found):
    assert list(found) == list(tables())
    for name, table in tables().items():
        assert found[name].dtype == table.dtype
        np.testing.assert_array_equal(found[name], table)


def test_tables_are_made_once_and_come_back_as_they_were(tmp_path):
    same(load_or_make(tmp_path / "new" / "cache", "keys", IDENTITY, tables))
    found = load_or_make(tmp_path / "new" / "cache", "keys", IDENTITY, never)
    same(found)
    assert not found["ids"].flags.writeable
    assert sorted(file.suffix for file in (tmp_path / "new" / "cache").iterdir()) == [".idx", ".lock"]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same(load_or_make(None, "keys", IDENTITY, tables))
    assert list(tmp_path.iterdir()) == []


def test_another_identity_has_another_file(tmp_path):
    load_or_make(tmp_path, "keys", IDENTITY, tables)
    other = {**IDENTITY, "captions": "d" * 64}
    assert index_path(tmp_path, "keys", other) != index_path(tmp_path, "keys", IDENTITY)
    assert load_or_make(tmp_path, "keys", other, lambda: {"x": np.ones(3)})["x"].tolist() == [1, 1, 1]
    same(load_or_make(tmp_path, "keys", IDENTITY, never))


def test_a_file_can_be_read_by_its_documentation(tmp_path):
    path = tmp_path / "a.idx"
    write_index(path, IDENTITY, tables())
    content = path.read_bytes()
    assert content[:12] == b"UVLINDEX\1\0\0\0"
    length = int.from_bytes(content[12:16], "little")
    header = json.loads(content[48 : 48 + length])
    first = -(-(48 + length) // 64) * 64
    assert header["identity"] == IDENTITY
    assert len(content) == first + header["bytes"]
    about = header["arrays"]["grid"]
    grid = np.frombuffer(content, about["dtype"], 6, first + about["offset"]).reshape(about["shape"])
    np.testing.assert_array_equal(grid, tables()["grid"])


def middle_of(array):
    def change(content):
        at = content.index(tables()[array].tobytes()) + 16
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:20], "unpack"),
        (lambda content: content[:-1], "bytes, expected"),
        (lambda content: content[: len(content) // 2], "bytes, expected"),
        (lambda content: content + b"\0", "bytes, expected"),
        (lambda content: b"X" + content[1:], "not an index of format 1"),
        (lambda content: content[:8] + b"\2" + content[9:], "not an index of format 1"),
        (lambda content: content[:60] + b"?" + content[61:], "damaged header"),
        (middle_of("ids"), "damaged array ids"),
        (middle_of("grid"), "damaged array grid"),
    ],
    ids=["empty", "stub", "cut", "half", "longer", "magic", "version", "header", "first array", "later array"],
)
def test_a_damaged_file_is_made_again(tmp_path, caplog, change, words):
    load_or_make(tmp_path, "keys", IDENTITY, tables)
    path = index_path(tmp_path, "keys", IDENTITY)
    path.write_bytes(change(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert read_index(path, IDENTITY) is None
    assert words in caplog.text
    assert str(path) in caplog.text
    same(load_or_make(tmp_path, "keys", IDENTITY, tables))
    same(load_or_make(tmp_path, "keys", IDENTITY, never))


def test_a_file_of_other_data_under_this_name_is_made_again(tmp_path, caplog):
    write_index(index_path(tmp_path, "keys", IDENTITY), {"features": "another"}, {"ids": np.zeros(3)})
    same(load_or_make(tmp_path, "keys", IDENTITY, tables))
    assert "made from other data" in caplog.text


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*cannot be kept.*set cache_path"):
        load_or_make(tmp_path / "file", "keys", IDENTITY, tables)


def test_what_making_raises_leaves_no_file(tmp_path):
    with pytest.raises(AssertionError, match="made again"):
        load_or_make(tmp_path, "keys", IDENTITY, never)
    assert not list(tmp_path.glob("*.idx*"))


def own_processes():
    """Processes that inherit nothing from this one, which by now holds servers and threads of other tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _open_slowly(folder, makers, begun):
    def make():
        makers.put(os.getpid())
        begun.set()
        time.sleep(0.4)
        return tables()

    same(load_or_make(folder, "keys", IDENTITY, make))


def test_of_several_processes_one_makes_and_the_others_wait(tmp_path):
    context = own_processes()
    makers, begun = context.Queue(), context.Event()
    several = [context.Process(target=_open_slowly, args=(tmp_path, makers, begun)) for _ in range(4)]
    for process in several:
        process.start()
    for process in several:
        process.join()
    assert [process.exitcode for process in several] == [0] * 4
    makers.get(timeout=5)
    assert makers.empty()


def test_a_process_killed_while_preparing_leaves_the_next_one_free(tmp_path):
    context = own_processes()
    makers, begun = context.Queue(), context.Event()
    killed = context.Process(target=_open_slowly, args=(tmp_path, makers, begun))
    killed.start()
    assert begun.wait(10)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert not list(tmp_path.glob("*.idx"))
    same(load_or_make(tmp_path, "keys", IDENTITY, tables))
