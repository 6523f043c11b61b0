"""The lock of a run's folder: one run at a time, and no trace of those that died."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from detr_steps.training import lock
from detr_steps.training.lock import RunLock, owner

FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture
def quick(monkeypatch):
    """Seconds become hundredths."""
    monkeypatch.setattr(lock, "BEAT", 0.1)
    monkeypatch.setattr(lock, "WATCH", 0.5)
    monkeypatch.setattr(lock, "ASKING", 0.05)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.lock"


def note(host: str, pid: int = 7) -> str:
    return json.dumps({"pid": pid, "host": host, "since": "long ago"})


def hold(path, ready, worker=False):
    """What a run does until it is killed; `worker` as if it read pictures."""
    RunLock(path)
    child = os.fork() if worker else None
    if child == 0:
        time.sleep(60)
        os._exit(0)
    ready.put(child)
    time.sleep(60)


def held_by_another(path, worker=False):
    """A process that has the lock, and its worker's number."""
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=hold, args=(path, ready, worker), daemon=True)
    process.start()
    return process, ready.get(timeout=30)


def kill(process):
    process.kill()
    process.join()


def test_it_says_who_has_it_and_goes_with_its_owner(path):
    own = RunLock(path)
    said = json.loads(path.read_text())
    assert (said["pid"], said["host"]) == (os.getpid(), socket.gethostname())
    own.release()
    assert not path.exists()
    RunLock(path).release()


def test_a_second_run_in_the_same_process_is_refused(path):
    own = RunLock(path)
    with pytest.raises(FileExistsError, match=f"process {os.getpid()} on .* at work"):
        RunLock(path)
    assert path.exists()
    own.release()


@FORK
def test_a_run_at_work_keeps_others_out_until_it_is_killed(path):
    process, _ = held_by_another(path)
    with pytest.raises(FileExistsError, match=f"process {process.pid} "):
        RunLock(path)
    kill(process)
    assert path.exists()  # nobody could tidy up
    RunLock(path).release()
    assert not path.exists()


@FORK
def test_the_workers_of_a_killed_run_do_not_hold_its_lock(path):
    process, worker = held_by_another(path, worker=True)
    kill(process)
    try:
        RunLock(path).release()
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("left", ["", "{", '{"pid": 12', "[]", "null", '"x"', "\0\0"])
def test_what_a_kill_left_of_the_note_means_nothing(path, left):
    path.write_text(left)
    RunLock(path).release()
    assert not path.exists()


def test_a_number_that_another_process_has_now_means_nothing(path):
    path.write_text(note(socket.gethostname(), os.getppid()))
    RunLock(path).release()


def contend(path, barrier, results, end):
    barrier.wait(30)
    try:
        RunLock(path)
    except FileExistsError:
        results.put(False)
    else:
        results.put(True)
        end.wait(30)


@FORK
def test_of_many_that_start_beside_a_stale_lock_one_runs(path):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        path.write_text(note(socket.gethostname(), 1))
        barrier, end = context.Barrier(6), context.Event()
        results = context.Queue()
        arguments = path, barrier, results, end
        crowd = [context.Process(target=contend, args=arguments) for _ in range(6)]
        for process in crowd:
            process.start()
        assert sum(results.get(timeout=30) for _ in crowd) == 1
        end.set()
        for process in crowd:
            process.join()


def test_a_full_disk_is_named_and_leaves_no_lock(path, monkeypatch):
    def full(value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.json, "dumps", full)
    with pytest.raises(OSError, match="No space left.*run.lock"):
        RunLock(path)
    monkeypatch.undo()
    assert not path.exists()
    RunLock(path).release()


def test_a_run_that_died_on_another_host_is_taken_over_after_a_while(path, quick):
    path.write_text(note("elsewhere"))
    with pytest.warns(UserWarning, match="a run on elsewhere: waiting"):
        own = RunLock(path)
    assert json.loads(path.read_text())["host"] == socket.gethostname()
    own.release()


def test_a_run_at_work_on_another_host_is_seen_by_its_beats(path, quick):
    path.write_text(note("elsewhere"))
    end = threading.Event()

    def beat():
        while not end.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.warns(UserWarning), pytest.raises(FileExistsError, match="elsewh"):
            RunLock(path)
    finally:
        end.set()
        heart.join()
    assert path.read_text() == note("elsewhere")


def test_the_owner_beats(path, quick):
    own = RunLock(path)
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while os.stat(path).st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.stat(path).st_mtime > 0
    own.release()


@pytest.mark.filterwarnings("ignore:.*waiting")
def test_where_a_file_system_has_no_locks_the_beats_decide(path, quick, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda file: None)
    own = RunLock(path)
    with pytest.raises(FileExistsError, match="at work"):
        RunLock(path)
    own._end.set()  # it dies: its note stays and does not beat
    own._heart.join()
    other = RunLock(path)
    other.release()
    assert not path.exists()


def test_of_two_hosts_that_watched_the_same_dead_run_one_goes_on(
    path, quick, monkeypatch
):
    """Where each host has locks of its own, both may have taken the file over."""
    monkeypatch.setattr(lock, "_lock", lambda file: True)
    monkeypatch.setattr(lock, "_host", lambda: threading.current_thread().name)
    watched = threading.Barrier(2)  # both, before either writes
    monkeypatch.setattr(RunLock, "_somebody_beats", lambda *_: watched.wait(10) < 0)
    path.write_text(note("elsewhere"))
    won, lost = [], []

    def run():
        try:
            won.append(RunLock(path))
        except FileExistsError as error:
            lost.append(str(error))

    hosts = [threading.Thread(target=run, name=name) for name in ("one", "two")]
    for host in hosts:
        host.start()
    for host in hosts:
        host.join()
    assert len(won) == len(lost) == 1
    assert json.loads(path.read_text()) == won[0].note  # not removed by the loser
    won[0].release()


def test_another_hosts_run_is_at_work_while_it_beats(path, quick):
    path.write_text(note("elsewhere", 12))
    assert owner(path)["pid"] == 12
    os.utime(path, (time.time() - 60,) * 2)
    assert owner(path) is None
    assert path.read_text() == note("elsewhere", 12)


def test_to_be_asked_for_its_owner_does_not_keep_a_run_from_starting(path):
    """A queue asks all the time; each time it holds the lock for an instant."""
    path.write_text(note(socket.gethostname()))
    file = open(path, "r+b")
    assert lock._lock(file)
    threading.Timer(0.1, file.close).start()
    RunLock(path).release()


def test_a_file_that_its_owner_removes_meanwhile_is_no_lock(path, monkeypatch):
    """Who locks the removed file must not run beside who makes a new one."""
    path.write_text(note(socket.gethostname()))
    real = lock._lock

    def removed_before(file):
        monkeypatch.setattr(lock, "_lock", real)
        path.unlink()
        return real(file)

    monkeypatch.setattr(lock, "_lock", removed_before)
    own = RunLock(path)
    with pytest.raises(FileExistsError):
        RunLock(path)
    own.release()
    assert not path.exists()


class Windows:
    """msvcrt as far as the lock needs it: byte ranges, and who has them."""

    LK_NBLCK = 2

    def __init__(self):
        self.taken = []

    def locking(self, number, mode, count):
        assert (mode, count) == (self.LK_NBLCK, 1)
        place = os.lseek(number, 0, os.SEEK_CUR)
        if place in self.taken:
            raise PermissionError(errno.EACCES, "Permission denied")
        self.taken.append(place)


def test_windows_locks_a_byte_behind_the_note(path, monkeypatch):
    windows = Windows()
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "msvcrt", windows, raising=False)
    own = RunLock(path)
    assert windows.taken == [lock.FAR]
    assert len(path.read_bytes()) < 200 < lock.FAR
    with pytest.raises(FileExistsError, match=f"process {os.getpid()}"):
        RunLock(path)
    own.release()
    assert not path.exists()


def test_a_note_torn_by_two_is_written_once_more(path, quick, monkeypatch):
    """Written at the same instant, neither note is readable: nobody may give up."""
    monkeypatch.setattr(lock, "_host", lambda: "one")
    monkeypatch.setattr(RunLock, "_somebody_beats", lambda *_: False)
    path.write_text(note("elsewhere"))
    notes = iter(["torn"])
    write = RunLock._write_note

    def tear(self):
        write(self)
        for text in notes:  # the first time only
            self.file.write(text.encode())

    monkeypatch.setattr(RunLock, "_write_note", tear)
    own = RunLock(path)
    assert json.loads(path.read_text()) == own.note
    own.release()
