"""Processes that wait for each other when a command starts."""

import os
import socket
import time

import pytest
import torch
from forks import fork, start_together, status

from latte import processes as module
from latte.cli import main
from latte.processes import COLLECTIVE_TIMEOUT, Ranks, make_mesh, processes

CPU = torch.device("cpu")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "START_TIMEOUT", 1.0)
    monkeypatch.setattr(module, "START_NOTICE", 0.2)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def join():
    with processes(CPU):
        pass


def set_variables(monkeypatch, **values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("rank", "other"), [("0", "1, 2"), ("1", "0")])
def test_a_missing_process_is_named_with_its_address(rank, other, impatient, port, monkeypatch):
    set_variables(monkeypatch, RANK=rank, WORLD_SIZE="3", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    start = time.monotonic()
    where = f"at 127.0.0.1:{port} for process {other}"
    said, advice = f"process {rank} of 3 waits {where}", f"gave up: .*{where}.*with torchrun"
    with pytest.warns(UserWarning, match=said), pytest.raises(ValueError, match=advice):
        join()
    assert time.monotonic() - start < 8


def test_the_command_reports_a_missing_process_in_one_line(impatient, port, monkeypatch, tmp_path, capsys):
    set_variables(monkeypatch, RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert main(["train", "--config", "shapes", "--device", "cpu", "--run", str(tmp_path / "run"), "steps=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "gave up: process 1 of 2 waited" in lines[1] and not list(tmp_path.iterdir())


def check_timeouts():
    with processes(CPU):
        world, mesh = torch.distributed.group.WORLD, make_mesh("cpu", (2, 2), ("a", "b"))
        for group in (world, mesh.get_group("a"), mesh.get_group("b")):
            assert group._get_backend(CPU).options._timeout == COLLECTIVE_TIMEOUT


def test_the_groups_of_a_mesh_wait_as_long_as_all_processes(tmp_path):
    children = start_together(4, check_timeouts, tmp_path / "log")
    assert [status(child) for child in children] == [0, 0, 0, 0], (tmp_path / "log").read_text()


def test_a_dead_launcher_is_reported(impatient, port, monkeypatch):
    """torchrun itself serves the address, also for rank 0."""
    set_variables(monkeypatch, RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    set_variables(monkeypatch, TORCHELASTIC_USE_AGENT_STORE="True")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"gave up: .*refused"):
        join()


def test_an_address_in_use_is_reported(impatient, monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        set_variables(monkeypatch, RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        with pytest.raises(ValueError, match=f":{port} is in use by another program: give another MASTER_PORT"):
            join()


@pytest.mark.parametrize(
    ("values", "say"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one', not a number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1', not a number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE is '', not a number"),
        ({"RANK": "0"}, "MASTER_ADDR is ''"),
        ({"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "99999"}, "MASTER_PORT '99999'"),
    ],
)
def test_contradictory_variables_are_rejected(values, say, monkeypatch):
    set_variables(monkeypatch, **values)
    with pytest.raises(ValueError, match=f"{say}.*torchrun"):
        join()


def test_nested_contexts_share_the_same_processes(tmp_path):
    def work():
        with processes(CPU) as outer:
            with processes(CPU) as inner:
                assert inner == outer == Ranks(int(os.environ["RANK"]), 2)
            assert inner.broadcast(inner.rank) == 0

    assert [status(pid) for pid in start_together(2, work, tmp_path / "log")] == [0, 0], (tmp_path / "log").read_text()


def test_a_late_process_is_waited_for(port, tmp_path):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    first = fork(join, tmp_path / "log", RANK="1", **address)
    time.sleep(0.5)
    second = fork(join, tmp_path / "log", RANK="0", **address)
    assert [status(first), status(second)] == [0, 0], (tmp_path / "log").read_text()


class Unsendable(ValueError):
    """An error that pickle cannot copy: its constructor's parameters differ from `args`."""

    def __init__(self, name, reason):
        super().__init__(f"{name}: {reason}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "run/x"), "OSError: [Errno 28] No space left on device: 'run/x'"),
        (Unsendable("x", "is odd"), "RuntimeError: Unsendable: x: is odd"),
        (None, "found [3]"),
    ],
)
def test_an_error_in_the_first_process_is_raised_in_all(error, said, tmp_path):
    def work():
        with processes(CPU) as ranks:
            called = []

            def only_there():
                called.append(ranks.rank)
                if error:
                    raise error
                return [3]

            try:
                print("found", ranks.first_only(only_there))
            finally:
                assert called == [0] * ranks.first
        raise SystemExit

    pids = start_together(2, work, tmp_path / "log")
    assert [status(pid) for pid in pids] == [1, 1]
    assert (tmp_path / "log").read_text().count(f"{said}\n") == 2


def test_a_single_process_raises_the_original_error():
    error = Unsendable("x", "is odd")
    with pytest.raises(Unsendable) as caught:
        Ranks().first_only(lambda: (_ for _ in ()).throw(error))
    assert caught.value is error and Ranks().first_only(lambda: 3) == 3


@pytest.mark.parametrize("size", [1, 3])
def test_work_that_is_shared_is_done_once_and_known_to_all(size, tmp_path):
    def work():
        with processes(CPU) as ranks:
            mine = []
            results = list(ranks.share(11, lambda i: mine.append(i) or torch.full((2,), i), block=2))
            assert torch.equal(torch.stack(results), torch.arange(11)[:, None].expand(11, 2))
            assert sorted(mine) == list(range(ranks.rank, 11, size))

    pids = start_together(size, work, tmp_path / "log")
    assert [status(pid) for pid in pids] == [0] * size, (tmp_path / "log").read_text()


def test_an_error_in_one_share_is_raised_in_all(tmp_path):
    def piece(i):
        if i == 3:
            raise ValueError(f"clip {i} is damaged")
        return i

    def work():
        with processes(CPU) as ranks:
            results = ranks.share(6, piece, block=1)
            assert [next(results), next(results)] == [0, 1]
            with pytest.raises(ValueError, match="clip 3 is damaged"):
                next(results)

    assert [status(pid) for pid in start_together(2, work, tmp_path / "log")] == [0, 0], (tmp_path / "log").read_text()
