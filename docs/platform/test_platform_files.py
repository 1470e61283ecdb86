# SPDX-License-Identifier: Apache-2.0
"""Linux: eventfds, files in memory, mappings, userfaultfds, pipes and process descriptors."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import stat
import struct
import threading
from pathlib import Path

import pytest

from docs.platform.kit import NOBODY, Tap, become, call, child, libc, udp, up
from ovs_vhost_plugin.lab.process import wait_until

PAGE = mmap.PAGESIZE
RWF_NOWAIT = 8


# -- eventfds -------------------------------------------------------------------------------------


def test_a_read_with_rwf_nowait_never_waits_for_an_eventfd():
    """Whatever its owner, who shares the flag O_NONBLOCK, does with that."""
    event = os.eventfd(0, os.EFD_CLOEXEC)  # one that blocks
    count = bytearray(8)
    with pytest.raises(BlockingIOError):
        os.preadv(event, [count], -1, RWF_NOWAIT)
    os.eventfd_write(event, 3)
    assert os.preadv(event, [count], -1, RWF_NOWAIT) == 8
    assert int.from_bytes(count, "little") == 3
    os.close(event)


def test_an_eventfd_adds_up_and_is_readable_until_it_is_read():
    event = os.eventfd(0, os.EFD_NONBLOCK)
    poll = select.poll()
    poll.register(event, select.POLLIN)
    os.eventfd_write(event, 1)
    os.eventfd_write(event, 1)
    assert poll.poll(0) == [(event, select.POLLIN)]
    assert os.eventfd_read(event) == 2
    assert poll.poll(0) == []
    os.close(event)


def test_a_full_eventfd_refuses_and_does_not_wait_if_it_is_non_blocking():
    event = os.eventfd(0, os.EFD_NONBLOCK)
    os.eventfd_write(event, (1 << 64) - 2)
    with pytest.raises(BlockingIOError):
        os.eventfd_write(event, 1)
    os.close(event)


def test_o_nonblock_belongs_to_all_who_have_the_file_open():
    event = os.eventfd(0, 0)
    other = os.dup(event)
    os.set_blocking(event, False)
    assert not os.get_blocking(other)
    os.close(event)
    os.close(other)


# -- the kind of a file, told by the kernel alone -------------------------------------------------


def test_the_kernel_calls_an_eventfd_by_a_name_that_no_path_has(tmp_path):
    event = os.eventfd(0)
    assert name_of(event) == "anon_inode:[eventfd]"
    os.close(event)
    with (tmp_path / "anon_inode:[eventfd]").open("w") as file:
        assert name_of(file.fileno()).startswith("/")


def name_of(fd):
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def test_only_files_in_memory_have_seals(tmp_path):
    memory = os.memfd_create("memory")  # without MFD_ALLOW_SEALING
    assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL
    os.close(memory)
    event, pipe = os.eventfd(0), os.pipe()
    for fd in (event, *pipe):
        with pytest.raises(OSError) as caught:
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        assert caught.value.errno == errno.EINVAL
        os.close(fd)


def test_only_pipes_have_a_size_of_their_buffer():
    pipe, memory = os.pipe(), os.memfd_create("memory")
    assert fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ) == 65536
    with pytest.raises(OSError) as caught:
        fcntl.fcntl(memory, fcntl.F_GETPIPE_SZ)
    assert caught.value.errno == errno.EBADF
    for fd in (*pipe, memory):
        os.close(fd)


def test_a_file_that_is_only_named_shows_o_path(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
    os.close(fd)


# -- memory ---------------------------------------------------------------------------------------


def test_touching_a_file_beyond_its_end_is_sigbus():
    def touch():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        memory = os.memfd_create("memory")
        os.ftruncate(memory, 2 * PAGE)
        mapped = mmap.mmap(memory, 2 * PAGE)
        os.ftruncate(memory, PAGE)
        _ = mapped[0], mapped[PAGE]

    assert child(touch) == -signal.SIGBUS


def test_seals_keep_a_file_s_length_whoever_has_it():
    memory = os.memfd_create("memory", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, PAGE)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    for change in (
        lambda: os.ftruncate(memory, 0),
        lambda: os.pwrite(memory, b"x", PAGE),
        lambda: fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    ):
        with pytest.raises(PermissionError):
            change()
    assert os.pwrite(memory, b"x", PAGE - 1) == 1
    os.close(memory)


def test_a_mapping_outlives_its_descriptor():
    memory = os.memfd_create("memory")
    os.ftruncate(memory, PAGE)
    first, second = mmap.mmap(memory, PAGE), mmap.mmap(memory, PAGE)
    os.close(memory)
    first[0] = 7
    assert second[0] == 7


def test_mremap_of_nothing_maps_shared_pages_once_more():
    memory = os.memfd_create("memory")
    os.ftruncate(memory, PAGE)
    mapped, room = mmap.mmap(memory, PAGE), mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE)
    libc.mremap.restype = ctypes.c_void_p
    arguments = map(ctypes.c_void_p, (address(mapped), 0, PAGE, 3, address(room)))
    assert libc.mremap(*arguments) == address(room)  # MREMAP_MAYMOVE | MREMAP_FIXED
    mapped[5] = 9
    assert room[5] == 9
    os.close(memory)


def test_a_hole_in_a_file_reads_as_zeros_for_all_who_map_it():
    memory = os.memfd_create("memory")
    os.ftruncate(memory, PAGE)
    first, second = mmap.mmap(memory, PAGE), mmap.mmap(memory, PAGE)
    first[0] = 7
    first.madvise(mmap.MADV_REMOVE)
    assert second[0] == 0
    os.close(memory)


def test_a_file_that_was_renamed_away_is_still_whoever_s_has_it_open(tmp_path):
    """A worker that was taken over cannot change the journal of the one after it."""
    name, new = tmp_path / "journal", tmp_path / "journal.new"
    name.write_bytes(b"old")
    fd = os.open(name, os.O_RDWR)
    new.write_bytes(b"new")
    new.rename(name)
    os.pwrite(fd, b"bad", 0)
    assert name.read_bytes() == b"new"
    os.close(fd)


def test_a_lock_by_flock_goes_with_its_process(tmp_path):
    name = tmp_path / "lock"
    name.touch()

    def lock_and_die():
        fcntl.flock(os.open(name, os.O_RDWR), fcntl.LOCK_EX)
        os.kill(os.getpid(), signal.SIGKILL)

    assert child(lock_and_die) == -signal.SIGKILL
    with name.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_by_flock_keeps_out_who_opened_the_file_anew(tmp_path):
    name = tmp_path / "lock"
    with name.open("w") as file, name.open() as other:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# -- userfaultfd ----------------------------------------------------------------------------------

UFFD_NEW, UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WAKE = 0xAA00, 0xC018AA3F, 0xC020AA00, 0x8010AA02
UFFD_EVENT_PAGEFAULT = 0x12


def userfaultfd(device, mapped):
    """A userfaultfd of this process that catches missing pages of a mapping."""
    fd = fcntl.ioctl(device, UFFD_NEW, os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(fd, UFFDIO_API, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))
    place = bytearray(struct.pack("=QQQQ", address(mapped), len(mapped), 1, 0))
    fcntl.ioctl(fd, UFFDIO_REGISTER, place)
    return fd


def faulting_pages(fd):
    """The page that somebody waits for, if any."""
    try:
        event = os.read(fd, 32)
    except BlockingIOError:
        return None
    assert event[0] == UFFD_EVENT_PAGEFAULT
    return struct.unpack_from("=16xQ", event)[0] & -PAGE


def test_a_system_call_waits_for_a_page_that_another_brings(namespace):
    """As writev into a tap does in postcopy: the kernel touches the page, and waits."""
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    memory = os.memfd_create("memory")
    os.ftruncate(memory, PAGE)
    mapped = mmap.mmap(memory, PAGE)
    fd = userfaultfd(device, mapped)
    tap = Tap("tap0")
    up(namespace, "tap0")
    done = []
    thread = threading.Thread(target=lambda: done.append(os.write(tap.fd, memoryview(mapped)[:60])))
    thread.start()
    page = wait_until(lambda: faulting_pages(fd), "the fault")
    assert (page, done) == (address(mapped), [])
    os.pwrite(memory, udp(b"hello"), 0)
    fcntl.ioctl(fd, UFFDIO_WAKE, struct.pack("=QQ", address(mapped), PAGE))
    thread.join()
    assert done == [60]
    for one in (fd, device, memory):
        os.close(one)
    tap.close()


def test_whoever_holds_the_device_makes_userfaultfds_for_kernel_faults_too():
    """Linux 6.1: permission was checked by open(2)."""
    device = os.open("/dev/userfaultfd", os.O_RDWR)

    def make():
        become(NOBODY)
        memory = os.memfd_create("memory")
        os.ftruncate(memory, PAGE)
        userfaultfd(device, mmap.mmap(memory, PAGE))

    assert child(make) == 0
    assert child(lambda: (become(NOBODY), os.open("/dev/userfaultfd", os.O_RDWR))) == errno.EACCES
    os.close(device)


# -- pipes, timers, processes ---------------------------------------------------------------------


def test_a_pipe_without_a_reader_breaks_and_one_that_is_full_does_not_wait():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    assert os.write(writer, bytes(1 << 20)) == 65536
    with pytest.raises(BlockingIOError):
        os.write(writer, b"x")
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"x")
    os.close(writer)


def test_a_timerfd_set_by_one_process_goes_off_in_another():
    timer = call("timerfd_create", 1, os.O_NONBLOCK)  # CLOCK_MONOTONIC
    once = (ctypes.c_long * 4)(0, 0, 0, 1_000_000)
    assert child(lambda: call("timerfd_settime", timer, 0, once, None)) == 0
    poll = select.poll()
    poll.register(timer, select.POLLIN)
    assert poll.poll(60_000)
    assert int.from_bytes(os.read(timer, 8), "little") == 1
    os.close(timer)


def test_a_pidfd_is_readable_when_its_process_has_ended_and_names_none_then():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(0) == []
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert poll.poll(60_000)
    os.waitpid(pid, 0)
    assert "Pid:\t-1\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def test_a_mount_is_told_of_a_file_without_asking_its_file_system(tmp_path):
    """statx(2) with an empty mask and AT_STATX_DONT_SYNC: the number is mountinfo's."""
    fd = os.open("/proc", os.O_PATH)
    status = (ctypes.c_char * 256)()
    call("statx", fd, b"", 0x1000 | 0x4000, 0x1000, status)  # AT_EMPTY_PATH; STATX_MNT_ID
    (mount,) = struct.unpack_from("=Q", status, 144)
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert [line[4] for line in mounts if int(line[0]) == mount] == ["/proc"]
    assert stat.S_ISDIR(os.fstat(fd).st_mode)
    os.close(fd)


def test_mountinfo_polls_exceptional_when_mounts_change(tmp_path):
    def watch():
        call("unshare", 0x20000)  # CLONE_NEWNS
        call("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
        mounts = os.open("/proc/self/mountinfo", os.O_RDONLY)
        poll = select.poll()
        poll.register(mounts, select.POLLPRI)
        poll.poll(0)
        assert poll.poll(0) == []
        call("mount", b"none", os.fsencode(tmp_path), b"tmpfs", 0, None)
        assert poll.poll(0)

    assert child(watch) == 0


def address(mapped):
    return ctypes.addressof(ctypes.c_char.from_buffer(mapped))
