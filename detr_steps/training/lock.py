"""One run at a time in a folder, and no trace of a run that was killed.

The operating system holds the lock for the process, so that any kind of death frees
it at that moment; what `run.lock` says is a note for people, and may be torn.

Hosts may share a folder over a network. NFS and Windows shares hand such locks from
host to host; some file systems (Lustre's localflock, sshfs, folders shared with a
container's host) keep them to one host or have none. So the owner also touches the
file every few seconds, and where the lock alone proves nothing, because the note is
another host's or the file system has no locks, we watch the file for a while first.
Watching needs no clock that two hosts agree on, and a job that was killed on one host
goes on by itself on another.
"""

import contextlib
import errno
import json
import os
import random
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

BEAT = 10.0  # seconds between two touches of the file by its owner
WATCH = 35.0  # seconds without one that prove its owner dead: three beats and some
TORN = 5  # times that a torn note is written again
ASKING = 0.5  # seconds, far more than `owner` takes
FAR = 1 << 30  # Windows locks bytes, also against reading: take one behind the note
HELD_BY_ANOTHER = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}

_held: set[BinaryIO] = set()


class RunLock:
    """Hold `path` for this process until `release` or its death.

    Raises: FileExistsError when another run is at work there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file, trusted = self._take()
        _held.add(self.file)
        try:
            self._write_note()
            if not trusted:
                self._check_that_it_stays_ours()
        except FileExistsError:  # the file is another's now
            self._close()
            raise
        except BaseException:
            self._remove()
            raise
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def _take(self) -> tuple[BinaryIO, bool]:
        """Open and lock the file; and whether that alone proves that it is ours."""
        while True:
            # unbuffered: closing it must not try once more what a full disk refused
            file = open(self.path, "a+b", buffering=0)
            try:
                locked = _lock_in_time(file)
                note = _note(file)
                trusted = locked and note.get("host", _host()) == _host()
                if locked is False or not trusted and self._somebody_beats(note):
                    raise self._refusal(note)
                if _is_at(file, self.path):
                    return file, trusted
            except BaseException:
                file.close()
                raise
            file.close()  # its owner has removed it while we opened it: once more

    def _somebody_beats(self, note: dict) -> bool:
        before = _touched(self.path)
        if not note or before is None:
            return False
        warnings.warn(
            f"{self.path} names a run on {note.get('host')}: waiting {WATCH:.0f} "
            "seconds to see whether it is at work",
            stacklevel=2,
        )
        end = time.monotonic() + WATCH
        while time.monotonic() < end and _touched(self.path) == before:
            time.sleep(min(1.0, WATCH / 10))
        return _touched(self.path) not in (before, None)

    def _check_that_it_stays_ours(self) -> None:
        """Two that watched the same dead owner may both have written: the last wins.

        Had they written at the same instant, the note is torn: each writes once more,
        after a while of its own.
        """
        for _ in range(TORN):
            time.sleep(BEAT)
            with open(self.path, "rb") as file:
                now = _note(file)
            if now == self.note:
                return
            if now:
                raise self._refusal(now)
            time.sleep(random.uniform(0, BEAT))
            self._write_note()
        raise self._refusal({})

    def _refusal(self, note: dict) -> FileExistsError:
        owner = f"process {note.get('pid', '?')} on {note.get('host', 'some host')}"
        return FileExistsError(
            f"another run ({owner}) is at work in {self.path.parent}: wait for its "
            "end, or name another folder"
        )

    def _write_note(self) -> None:
        self.note = {"pid": os.getpid(), "host": _host(), "since": time.ctime()}
        try:
            self.file.truncate(0)
            self.file.write(json.dumps(self.note).encode())
            self.file.flush()
        except OSError as error:  # a full disk: say where
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _beat(self) -> None:
        place = self.file.fileno() if os.utime in os.supports_fd else self.path
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):  # a network that is away for a moment
                os.utime(place)

    def release(self) -> None:
        """Let other runs use the folder."""
        self._end.set()
        self._heart.join()  # before its file descriptor may become another file's
        self._remove()

    def _remove(self) -> None:
        ours = _is_at(self.file, self.path)
        with contextlib.suppress(OSError):
            if ours and fcntl:  # still locked: nobody can have taken it in between
                self.path.unlink()
        self._close()
        with contextlib.suppress(OSError):
            if ours and not fcntl:  # Windows removes no open file, nor another's
                self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        _held.discard(self.file)
        self.file.close()


def owner(path: Path) -> dict | None:
    """The note of the run that is at work; None where nobody is.

    Another host's is believed as long as it has beaten lately, by this host's clock.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            note, locked = _note(file), _lock(file)
    except OSError:
        return None
    if locked and note.get("host", _host()) == _host():
        return None
    beats = time.time() - (_touched(path) or 0) / 1e9 < WATCH
    return note if locked is False or beats else None


def _lock(file: BinaryIO) -> bool | None:
    """True: locked; False: another process has it; None: there are no locks here."""
    try:
        if fcntl:
            # flock, not lockf: that lock would go when any part of this process
            # closes the file, and a second run in this process would get it as well
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            file.seek(FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        return False if error.errno in HELD_BY_ANOTHER else None
    return True


def _lock_in_time(file: BinaryIO) -> bool | None:
    """Who only asks for the owner holds the lock for an instant: try for a second."""
    end = time.monotonic() + ASKING
    while (locked := _lock(file)) is False and time.monotonic() < end:
        time.sleep(ASKING / 20)
    return locked


def _note(file: BinaryIO) -> dict:
    """What the owner wrote; {} where it is empty or torn."""
    file.seek(0)
    try:
        note = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Is the open file still the one of that name?"""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _touched(path: Path) -> int | None:
    """When the file was last touched; None where it is gone.

    Opened anew each time: a network's client may answer `stat` from its memory.
    """
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _host() -> str:
    return socket.gethostname()


def _close_in_child() -> None:
    """Workers that read pictures must not hold the lock of a run that was killed."""
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
