"""Output of any length in a file of bounded length."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.supervisor.logs import MARKER_LENGTH, CappedLog, LogTarget, Pump


def target(path: Path) -> LogTarget:
    return LogTarget(path=path, head_bytes=10, tail_bytes=8)


def flushed(log: CappedLog, path: Path) -> bytes:
    log.write(log.take())
    return path.read_bytes()


def test_short_output_is_kept_whole(tmp_path):
    log = CappedLog(target(tmp_path / "deep" / "log"))
    assert log.take() == []
    log.feed(b"0123456789")
    assert flushed(log, tmp_path / "deep" / "log") == b"0123456789"
    log.feed(b"abcdefgh")
    assert flushed(log, tmp_path / "deep" / "log") == b"0123456789abcdefgh"
    assert log.left_out == 0
    assert log.take() == []


@given(pieces=st.lists(st.tuples(st.binary(max_size=40), st.booleans()), max_size=30))
def test_head_and_tail_are_kept_however_it_comes(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("log") / "log"
    log = CappedLog(target(path))
    whole = b""
    for data, flush in pieces:
        log.feed(data)
        whole += data
        if flush:
            log.write(log.take())
    log.write(log.take())
    kept = path.read_bytes() if path.exists() else b""
    if len(whole) <= 18:
        assert kept == whole
    else:
        assert kept[:10] == whole[:10]
        assert kept[-8:] == whole[-8:]
        assert len(kept) == 18 + MARKER_LENGTH
        marker = kept[10:-8]
        assert marker.startswith(f"\n----- {len(whole) - 18} bytes are left out here -".encode())
        assert marker.endswith(b"-\n")
    assert log.tail == whole[-4096:].decode(errors="replace")


def test_memory_is_bounded(tmp_path):
    log = CappedLog(target(tmp_path / "log"))
    for _ in range(1000):
        log.feed(b"x" * 100)
    assert sum(len(piece.data) for piece in log.take()) <= 10 + 8 + MARKER_LENGTH


def test_the_pump_empties_the_pipe_although_somebody_holds_it_open(tmp_path):
    async def run() -> CappedLog:
        pipe, held = os.pipe()
        log = CappedLog(LogTarget(path=tmp_path / "log"))
        pump = Pump(pipe, log)
        os.write(held, b"last words")
        await pump.finish()
        pump.close()  # again
        os.close(held)
        return log

    log = asyncio.run(run())
    assert log.tail == (tmp_path / "log").read_text() == "last words"


def test_the_file_can_be_read_while_it_grows(tmp_path):
    async def run() -> None:
        pipe, output = os.pipe()
        pump = Pump(pipe, CappedLog(LogTarget(path=tmp_path / "log")))
        os.write(output, b"epoch 1\n")
        async with asyncio.timeout(10):
            while not (tmp_path / "log").exists() or not (tmp_path / "log").read_bytes():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        os.close(output)
        await pump.finish()

    asyncio.run(run())
    assert (tmp_path / "log").read_text() == "epoch 1\n"


@pytest.mark.parametrize("data", ["\xe4" * 3000, "\U0001f600" * 1500])
def test_the_tail_is_text_even_when_it_is_cut_inside_a_character(tmp_path, data):
    log = CappedLog(LogTarget(path=tmp_path / "log"))
    log.feed(b"x" + data.encode())
    assert log.tail.endswith(data[-100:])
