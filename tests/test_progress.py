"""Progress: a bar on a terminal, few whole lines in a log."""

import io
import re

import pytest

from latte import progress
from latte.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(io.StringIO):
    __module__ = "ipykernel.iostream"


class Clock:
    """A clock that advances only when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def work(self, count: int, seconds: float):
        for i in range(count):
            self.now += seconds
            yield i


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.time", clock)  # tqdm reads it when a bar is created
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def lines(file: io.StringIO) -> list[str]:
    assert "\r" not in file.getvalue() and file.getvalue().endswith("\n")
    return file.getvalue().splitlines()


def test_a_log_gets_the_first_the_last_and_few_between(clock):
    log = io.StringIO()
    assert len([*Progress(clock.work(4096, 0.05), "encoding", total=4096, unit="clip", file=log)]) == 4096
    said = lines(log)
    assert said[0] == "encoding: 1 of 4096 clips, 00:00 elapsed"
    assert re.match("encoding: 60[12] of 4096 clips, 00:30 elapsed, 02:54 left", said[1])
    assert said[-1] == "encoding: 4096 of 4096 clips, 03:24 elapsed, 00:00 left, 20 clips/s"
    assert len(said) == 2 + 204.8 // progress.LINE_SECONDS


def test_a_single_item_is_in_the_singular(clock):
    log = io.StringIO()
    list(Progress(clock.work(1, 1.0), "counting", total=1, unit="variant", file=log))
    assert lines(log)[-1].startswith("counting: 1 of 1 variant, ")


def test_a_log_of_a_day_stays_short(clock):
    log = io.StringIO()
    list(Progress(clock.work(8640, 10.0), "training", total=8640, file=log))
    assert 290 < len(lines(log)) < 360


def test_a_step_log_shows_the_postfix_and_where_it_stopped(clock):
    log = io.StringIO()
    with Progress(desc="run", total=30, initial=10, file=log) as bar:
        for i, _ in enumerate(clock.work(5, 3.0)):
            bar.set_postfix_str(f"loss={i}", refresh=False)
            bar.update()
    assert lines(log) == [
        "run: 11 of 30 steps, 00:03 elapsed, loss=0",
        "run: 15 of 30 steps, 00:15 elapsed, 00:45 left, 3 s/step, loss=4",
    ]


@pytest.mark.parametrize(("seconds", "expected"), [(0.3, 0), (3.0, 2)])
def test_a_short_part_is_not_logged(seconds, expected, clock):
    log = io.StringIO()
    list(Progress(clock.work(10, seconds), "verifying", total=10, unit="file", leave=False, file=log))
    assert log.getvalue().count("\n") == expected


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_first_item_does_not_enter_the_estimate(kind, clock):
    """It warms up: here it takes a minute, and each of the others a second."""
    file = kind()
    with Progress(desc="run", total=100, file=file, mininterval=0) as bar:
        clock.now += 60
        bar.update()
        first = file.getvalue()
        clock.now += 30
        bar.update(30)
    said = file.getvalue()
    if kind is Terminal:
        assert "| 1/100 [01:00<?" in first and "| 31/100 [01:30<01:09,  1.00step/s]" in said
    else:
        assert lines(file) == [
            "run: 1 of 100 steps, 01:00 elapsed",
            "run: 31 of 100 steps, 01:30 elapsed, 01:09 left, 1 s/step",
        ]


def test_skipped_items_do_not_count_towards_the_speed(clock):
    log = io.StringIO()
    with Progress(desc="encoding", total=100, unit="video", file=log) as bar:
        bar.skip(90)
        list(bar.each(clock.work(5, 2.0)))
    assert lines(log)[-1] == "encoding: 95 of 100 videos, 00:10 elapsed, 00:10 left, 2 s/video"


@pytest.mark.parametrize("kind", [Terminal, Notebook])
def test_a_terminal_and_a_notebook_get_a_bar(kind, clock):
    screen = kind()
    list(Progress(clock.work(40, 1.0), "encoding", total=40, unit="clip", file=screen))
    drawn = screen.getvalue()
    assert drawn.count("\n") == 1 and drawn.count("\r") > 20
    assert re.search(r"encoding:  50%\|.*\| 20/40 \[00:20<00:20", drawn)


def test_only_the_first_process_shows_progress_unless_disabled(monkeypatch):
    for rank, disable, seen in (("0", False, True), ("0", True, False), ("1", False, False)):
        monkeypatch.setenv("RANK", rank)
        log = io.StringIO()
        list(Progress(range(3), "encoding", disable=disable, file=log))
        assert bool(log.getvalue()) == seen


def test_items_may_be_counted_in_parts(clock):
    log, terminal = io.StringIO(), Terminal()
    for file in (log, terminal):
        with Progress(desc="sampling", total=3, unit="video", file=file, mininterval=0) as bar:
            for _ in clock.work(30, 2.0):
                bar.update(0.1)
    said = lines(log)
    assert said[0] == "sampling: 0 of 3 videos, 00:02 elapsed"
    assert said[1] == "sampling: 1 of 3 videos, 00:32 elapsed, 00:27 left, 20 s/video" and said[-1].startswith(
        "sampling: 3 of 3 videos, 01:00 elapsed"
    )
    bars = terminal.getvalue().split("\r")
    assert any("| 1/3 [00:22<" in text for text in bars) and "| 3/3 [01:00<00:00, 20.00s/video]" in bars[-1]
