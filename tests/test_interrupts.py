"""Signals: one exception in the main thread, outside of libraries, and an end within seconds whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from run_process import ROOT

from downscale.io.library import LIBRARY, library
from downscale.process.interrupts import (
    Terminated,
    defer_signals,
    raise_if_signalled,
    raise_on_fatal_signals,
    raise_on_signals,
    register_draft,
    signal_word,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
LONGEST = 5.0


def kind_of(number: int) -> type[BaseException]:
    return KeyboardInterrupt if number == signal.SIGINT else Terminated


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_exception_and_handlers_are_put_back(number):
    before = [signal.getsignal(one) for one in SIGNALS]
    come: list[str] = []

    def run() -> None:
        with raise_on_signals() as heard:
            try:
                signal.raise_signal(number)
                time.sleep(1)
            finally:
                come.extend(heard)

    with pytest.raises(kind_of(number)):
        run()
    assert come == [signal.Signals(number).name]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_call_from_another_program_leaves_its_handlers():
    ours, before = list[int](), [signal.getsignal(one) for one in SIGNALS]
    signal.signal(signal.SIGHUP, lambda number, frame: ours.append(number))
    kept = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGHUP)]

    def run() -> None:
        with raise_on_fatal_signals(), raise_on_fatal_signals():
            assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGHUP)] == kept
            signal.raise_signal(signal.SIGHUP)
            assert ours == [signal.SIGHUP]
            with defer_signals():
                signal.raise_signal(signal.SIGTERM)
                ours.append(0)
            ours.append(1)

    try:
        with pytest.raises(Terminated, match="SIGTERM"):
            run()
        assert ours == [signal.SIGHUP, 0]
        with raise_on_signals() as heard, contextlib.suppress(Terminated), raise_on_fatal_signals():
            signal.raise_signal(signal.SIGTERM)
        assert heard == ["SIGTERM"]
    finally:
        signal.signal(signal.SIGHUP, before[SIGNALS.index(signal.SIGHUP)])
    assert [signal.getsignal(one) for one in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_shield_puts_a_signal_off_to_its_end(number):
    passed = []

    def run() -> None:
        with raise_on_signals():
            with defer_signals(), defer_signals():
                signal.raise_signal(number)
                passed.append("inside")
            passed.append("behind")

    with pytest.raises(kind_of(number)):
        run()
    assert passed == ["inside"]


def test_what_cleans_up_after_a_signal_is_not_interrupted_again():
    passed = []

    def run() -> None:
        with raise_on_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                with library():
                    passed.append("first")
                passed.append("second")

    with pytest.raises(Terminated):
        run()
    assert passed == ["first", "second"]


def test_a_signal_that_was_lost_is_heard_at_the_next_chance():
    def run() -> None:
        with raise_on_signals():
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            raise_if_signalled()

    with pytest.raises(KeyboardInterrupt) as raised:
        run()
    assert signal_word(raised.value) == "interrupted"
    raise_if_signalled()


def script(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """A program under the guard that says when it is ready."""
    code = f"""
import sys, time, threading
from pathlib import Path
from downscale.process.interrupts import *
from downscale.process.interrupts import defer_signals, register_draft, use_end_message, raise_on_signals
draft = Path({str(tmp_path / "draft")!r})
with raise_on_signals():
{body}
"""
    line = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


STUCK = {
    "in a long call of a library": """
    with register_draft(draft), defer_signals():
        draft.touch()
        print("ready", flush=True)
        time.sleep(60)
""",
    "at a lock that nobody lets go of": """
    with register_draft(draft):
        draft.touch()
        lock = threading.Lock()
        lock.acquire()
        try:
            print("ready", flush=True)
            time.sleep(60)
        finally:
            lock.acquire()
""",
    "where errors are ignored": """
    with register_draft(draft):
        draft.mkdir()
        (draft / "chunk").touch()
        while True:
            try:
                print("ready", flush=True)
                time.sleep(60)
            except BaseException:
                pass
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("body", STUCK.values(), ids=STUCK)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_main_thread_that_is_stuck_is_ended_and_leaves_nothing(tmp_path, body, number):
    process = script(tmp_path, body)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    begin = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begin < LONGEST
    assert process.returncode == 128 + number
    assert len(said.splitlines()) == 1
    assert said.startswith("downscale: ")
    assert not (tmp_path / "draft").exists()


def test_a_second_signal_ends_at_once_with_the_words_for_what_is_kept(tmp_path):
    body = STUCK["in a long call of a library"]
    body = body.replace("with register_draft", 'with use_end_message(lambda: "three kept"), register_draft')
    process = script(tmp_path, body)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - begin < 2
    assert said == "downscale: terminated; three kept\n"
    assert not (tmp_path / "draft").exists()


def test_children_do_not_hear_a_ctrl_c(tmp_path):
    """Neither the first one nor later ones: Python's own tracker of what they share starts with the first."""
    code = """
import multiprocessing, signal, sys
from downscale.process.interrupts import shield_children

def mask(pipe):
    pipe.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    for _ in range(2):
        here, there = spawn.Pipe()
        with shield_children():
            child = spawn.Process(target=mask, args=(there,))
            lock = spawn.Lock()
            child.start()
        print(here.recv(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        child.join()
"""
    (tmp_path / "program.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["True", "False"] * 2, done.stderr


def test_a_signal_after_the_end_changes_nothing(tmp_path):
    """The exit status of a program whose work is done stays 0 while the interpreter ends."""
    code = """
import atexit, os, signal, sys
from downscale.__main__ import program
atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGINT)])
sys.argv = ["downscale", "--version"]
sys.exit(program())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_is_half_made_only_within_its_block(tmp_path):
    with register_draft(tmp_path / "a") as path:
        path.touch()
    assert path.exists()


def test_the_lock_of_the_library_is_entered_again_by_its_thread_only():
    taken = []
    with library(), library():
        LIBRARY.acquire()
        # As a Ctrl-C leaves it at the first line of a release.
        other = threading.Thread(target=lambda: taken.append(LIBRARY.acquire(blocking=False)))
        other.start()
        other.join()
    assert taken == [False]
    other = threading.Thread(target=lambda: taken.append(LIBRARY.acquire(blocking=False)) or LIBRARY.release())
    other.start()
    other.join()
    assert taken == [False, True]


def test_the_lock_of_the_library_is_one_for_a_process():
    assert pickle.loads(pickle.dumps(LIBRARY)) is LIBRARY
