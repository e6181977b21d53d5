"""Handling of signals: the program ends within seconds and leaves no incomplete files.

A signal becomes one exception in the main thread, raised outside of file libraries. If the main thread does not end
within the grace period, another thread removes incomplete files and ends the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Together with the clean-up, these stay within five seconds on a busy machine.
GRACE_SECONDS, CHILDREN_SECONDS, MESSAGE_SECONDS = 2.5, 0.7, 1.0
# Signals of batch systems before the time limit (the second is common with "--signal"), and of lost terminals.
NAMES = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP")
NOTHING_LEFT = "nothing incomplete was left behind"


class Stopped(Exception):
    """A run was stopped or failed before its end, not because of the request; the message states how to resume it."""


class Terminated(BaseException):
    """A signal was received; like KeyboardInterrupt, only the end of the run may catch it."""


class _State:
    """Signals received by this process; only the main thread receives them."""

    def __init__(self) -> None:
        # Names of the signals; an exception raised where Python ignores it would be lost.
        self.names: list[str] = []
        self.has_raised = False
        self.deferrals = 0
        self.drafts: set[Path] = set()
        self.end_messages: list[Callable[[], str]] = []


_STATE = _State()


def raise_if_signalled() -> None:
    """Raise KeyboardInterrupt or :class:`Terminated` if a signal was received, even if its exception was lost."""
    if _STATE.names:
        _STATE.has_raised = True
        raise KeyboardInterrupt if _STATE.names[0] == "SIGINT" else Terminated(_STATE.names[0])


def signal_word(error: BaseException) -> str | None:
    """Return "interrupted" or "terminated" if a signal caused an error, else None."""
    first = _STATE.names[0] if _STATE.names else None
    if isinstance(error, KeyboardInterrupt) or first == "SIGINT":
        return "interrupted"
    return "terminated" if isinstance(error, Terminated) or first else None


def status_of(names: list[str]) -> int:
    """Return the exit status of a program ended by the first of these signals, by the convention of shells.

    Examples
    --------
    >>> status_of(["SIGINT"]), status_of(["SIGTERM", "SIGINT"])
    (130, 143)
    """
    return 128 + int(getattr(signal, names[0]))


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals to the end of this block, which must be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _STATE.deferrals += 1
    try:
        yield
    finally:
        _STATE.deferrals -= 1
        # Only once: the clean-up passes through here again.
        if not _STATE.deferrals and not _STATE.has_raised:
            raise_if_signalled()


@contextmanager
def shield_children() -> Iterator[None]:
    """Start threads, and their child processes, that ignore Ctrl-C: the terminal sends it to all processes."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Processes started later would receive Ctrl-C again.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def ignore_signals() -> None:
    """Ignore signals from here on: the work is done and the process is ending."""
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@contextmanager
def register_draft(path: Path) -> Iterator[Path]:
    """Register a file or folder to remove if the process is ended within this block."""
    _STATE.drafts.add(path)
    try:
        yield path
    finally:
        _STATE.drafts.discard(path)


@contextmanager
def use_end_message(message: Callable[[], str]) -> Iterator[None]:
    """Print the text that ``message`` returns if the process is ended within this block; it may clean up."""
    _STATE.end_messages.append(message)
    try:
        yield
    finally:
        _STATE.end_messages.pop()


@contextmanager
def raise_on_signals() -> Iterator[list[str]]:
    """Raise an exception in this block at the first signal; a second one ends the process at once.

    Yields the names of the received signals, a list that remains valid after the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    # A process that ignores a lost terminal was started to outlive it.
    numbers = [n for n in _signals() if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
    with _install_handlers(numbers) as names, _watch_signals(numbers):
        yield names


@contextmanager
def raise_on_fatal_signals() -> Iterator[None]:
    """Raise :class:`Terminated` in this block at a signal that would end the process; for use in other programs.

    Handlers of the program or of :func:`raise_on_signals` remain, and so does Ctrl-C.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = [n for n in _signals() if signal.getsignal(n) is signal.SIG_DFL] if in_main_thread else []
    if not numbers:
        yield
        return
    with _install_handlers(numbers):
        yield


def _signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextmanager
def _install_handlers(numbers: list[signal.Signals]) -> Iterator[list[str]]:
    """Raise an exception at the first of these signals; yield the names of those received."""
    handlers = {number: signal.getsignal(number) for number in numbers}
    names: list[str] = []
    _STATE.names, _STATE.has_raised, _STATE.deferrals = names, False, 0

    def stop(number: int, frame: Any) -> None:
        names.append(signal.Signals(number).name)
        if len(names) == 1 and not _STATE.deferrals:
            raise_if_signalled()

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield names
    finally:
        _STATE.names = []
        for number in numbers:
            handler = handlers[number]
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _watch_signals(numbers: list[signal.Signals]) -> Iterator[None]:
    """Let a thread receive signals, too, and end the process in time if the main thread is in a long call."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    lock, is_over = threading.Lock(), threading.Event()

    def watch() -> None:
        first = _receive_signal(receiver, numbers)
        if first is None:
            return
        receiver.settimeout(GRACE_SECONDS)
        with suppress(TimeoutError):
            if _receive_signal(receiver, numbers) is None:
                return
        with lock:
            if not is_over.is_set():
                _end_process(first)

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    wakeup_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_fd)
        with lock:
            is_over.set()
        sender.close()
        thread.join()
        receiver.close()


def _receive_signal(receiver: socket.socket, numbers: list[signal.Signals]) -> signal.Signals | None:
    """Wait for one of the signals and return it, or None if the other end was closed."""
    while byte := receiver.recv(1):
        if byte[0] in numbers:
            return signal.Signals(byte[0])
    return None


def _end_process(number: signal.Signals) -> None:
    """End the process immediately, with one line, and remove incomplete files."""
    word = "interrupted" if number == signal.SIGINT else "terminated"
    messages = [NOTHING_LEFT]

    def prepare_message() -> None:
        with suppress(Exception):
            messages[:] = [_STATE.end_messages[-1]()] if _STATE.end_messages else messages
        with suppress(Exception):
            sys.stdout.flush()

    _end_children()
    _remove_drafts()
    # The main thread may hold the lock that this call needs.
    thread = threading.Thread(target=prepare_message, daemon=True)
    thread.start()
    thread.join(MESSAGE_SECONDS)
    _remove_drafts()
    with suppress(OSError):
        os.write(2, f"downscale: {word}; {' '.join(messages[0].split())}\n".encode())
    os._exit(status_of([number.name]))


def _end_children() -> None:
    """End the child processes, such as workers and readers, and wait for their exit."""
    if "multiprocessing.util" not in sys.modules:
        return
    import multiprocessing
    import multiprocessing.connection

    children = multiprocessing.active_children()
    waiting: list[Any] = [child.sentinel for child in children]
    for child in children:
        with suppress(Exception):
            child.kill()
    end = time.monotonic() + CHILDREN_SECONDS
    while waiting and time.monotonic() < end:
        ended = multiprocessing.connection.wait(waiting, CHILDREN_SECONDS)
        waiting = [sentinel for sentinel in waiting if sentinel not in ended]


def _remove_drafts() -> None:
    for path in list(_STATE.drafts):
        # Other threads may still write into a store.
        for _ in range(20):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if not path.exists():
                break
