# SPDX-License-Identifier: Apache-2.0
"""Linux: what a process can give up for good, and what is then left of it."""

import errno
import mmap
import os
import resource
import signal
import socket
import struct
import threading
from pathlib import Path

import pytest

from docs.platform.kit import NOBODY, become, call, child

try:
    import seccomp
except ImportError:
    import pyseccomp as seccomp

from ovs_vhost_plugin.lab.process import wait_until

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
MIB = 1 << 20


def no_new_privileges():
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# -- system calls ---------------------------------------------------------------------------------


def filtered(action, name):
    """From now on this system call has that end; all others are allowed."""
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.add_rule(action, name)
    rules.load()


def test_a_forbidden_system_call_ends_the_process_by_sigsys():
    def forbidden():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        filtered(seccomp.KILL_PROCESS, "getppid")
        os.getppid()

    assert child(forbidden) == -signal.SIGSYS


def test_a_forbidden_system_call_of_a_thread_ends_the_whole_process():
    def forbidden():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        filtered(seccomp.KILL_PROCESS, "getppid")
        thread = threading.Thread(target=os.getppid)
        thread.start()
        thread.join()

    assert child(forbidden) == -signal.SIGSYS


def test_a_filter_stays_over_fork_and_cannot_be_taken_back():
    def forbidden():
        filtered(seccomp.ERRNO(errno.EPERM), "socket")
        no_new_privileges()
        filtered(seccomp.ERRNO(errno.ENOENT), "bind")  # all filters count
        assert child(lambda: socket.socket()) == errno.EPERM
        socket.socket()

    assert child(forbidden) == errno.EPERM


def test_threads_start_where_clone3_is_said_not_to_exist():
    """The C library falls back to clone, whose flags a filter can look at."""

    def start():
        filtered(seccomp.ERRNO(errno.ENOSYS), "clone3")
        thread = threading.Thread(target=lambda: done.append(1))
        thread.start()
        thread.join()
        assert done == [1]

    done = []
    assert child(start) == 0


# -- privileges -----------------------------------------------------------------------------------


def test_no_new_privileges_takes_a_program_s_setuid_bit_away(tmp_path):
    program = tmp_path / "id"
    program.write_bytes(Path("/usr/bin/id").resolve().read_bytes())
    program.chmod(0o4755)
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)

    def run(give_up):
        become(NOBODY)
        if give_up:
            no_new_privileges()
        done = os.posix_spawn(program, ["id", "-u"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, w, 1)])
        os.waitpid(done, 0)

    said = []
    for give_up in (False, True):
        r, w = os.pipe()
        assert child(lambda give_up=give_up: run(give_up)) == 0
        os.close(w)
        said.append(os.read(r, 100).strip())
        os.close(r)
    assert said == [b"0", str(NOBODY).encode()]


def test_who_is_no_root_any_more_has_no_capability_and_without_a_bounding_set_gets_none():
    def give_up():
        for capability in range(64):
            try:
                call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
            except OSError as error:
                assert error.errno == errno.EINVAL
                break
        become(NOBODY)
        status = Path("/proc/self/status").read_text()
        sets = {line[:6]: line.split()[1] for line in status.splitlines() if line[:3] == "Cap"}
        assert {sets[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}

    assert child(give_up) == 0


# -- namespaces -----------------------------------------------------------------------------------


def test_all_processes_of_a_pid_namespace_end_with_its_first():
    reader, writer = os.pipe()

    def first():
        if os.fork() == 0:
            signal.pause()  # with the pipe open
        os._exit(0)

    def outer():
        call("unshare", CLONE_NEWPID)
        assert child(first) == 0
        os._exit(0)

    assert child(outer) == 0
    os.close(writer)
    assert os.read(reader, 1) == b""  # the end of the one that would have stayed
    os.close(reader)


def test_a_network_namespace_of_its_own_has_no_loopback_up_and_no_abstract_sockets():
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0platform-test")
    server.listen()

    def reach_out():
        call("unshare", CLONE_NEWNET)
        with pytest.raises(OSError) as caught:
            socket.create_connection(("127.0.0.1", 1))
        assert caught.value.errno == errno.ENETUNREACH
        socket.socket(socket.AF_UNIX).connect("\0platform-test")

    assert child(reach_out) == errno.ECONNREFUSED
    server.close()


def test_a_root_directory_can_be_exchanged_for_an_empty_one():
    def leave():
        call("unshare", CLONE_NEWNS)
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        call("mount", b"none", b"/proc", b"tmpfs", 0, b"size=4k,nr_inodes=8")
        os.chdir("/proc")
        call("syscall", pivot_root(), b".", b".")
        call("umount2", b".", 2)  # MNT_DETACH
        os.chdir("/")
        assert list(Path("/").iterdir()) == []

    assert child(leave) == 0


def pivot_root():
    """asm/unistd.h of x86-64, asm-generic/unistd.h of all newer ones."""
    return 155 if os.uname().machine == "x86_64" else 41


def test_a_proc_of_processes_alone_shows_only_those_of_its_pid_namespace():
    def first():
        call("mount", b"proc", b"/proc", b"proc", 0, b"subset=pid")
        assert [path.name for path in Path("/proc").iterdir() if path.name.isdigit()] == ["1"]
        assert not Path("/proc/meminfo").exists()

    def outer():
        call("unshare", CLONE_NEWPID | CLONE_NEWNS)
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        assert child(first) == 0

    assert child(outer) == 0


# -- Landlock -------------------------------------------------------------------------------------


def landlock():
    """Give up all that this kernel's Landlock knows, without a rule that allows anything."""
    version = call("syscall", LANDLOCK_CREATE_RULESET, None, 0, 1)
    files = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}.get(version, 0xFFFF)
    ports = 3 if version >= 4 else 0
    scopes = 3 if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attr = struct.pack("=QQQ", files, ports, scopes)[:size]
    ruleset = call("syscall", LANDLOCK_CREATE_RULESET, attr, size, 0)
    no_new_privileges()
    call("syscall", LANDLOCK_RESTRICT_SELF, ruleset, 0)
    return version


def test_landlock_without_rules_opens_no_file_however_it_is_reached(tmp_path):
    (tmp_path / "file").touch()
    held = os.open(tmp_path, os.O_PATH)
    opened = os.open(tmp_path / "file", os.O_RDWR)

    def reach():
        landlock()
        with pytest.raises(PermissionError):
            os.open("file", os.O_RDONLY, dir_fd=held)
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{opened}", os.O_RDONLY)
        os.write(opened, b"what was open before stays so")
        os.open("/dev/null", os.O_RDONLY)

    assert child(reach) == errno.EACCES
    os.close(held)
    os.close(opened)


def test_landlock_keeps_signals_in():
    """Linux 6.12; an older kernel does not, which the sandbox's table says."""
    version = call("syscall", LANDLOCK_CREATE_RULESET, None, 0, 1)
    expected = errno.EPERM if version >= 6 else 0
    assert child(lambda: (landlock(), os.kill(os.getppid(), 0))) == expected


# -- limits ---------------------------------------------------------------------------------------


def test_rlimit_data_counts_private_memory_and_no_shared_file():
    def fill():
        memory = os.memfd_create("memory")
        os.ftruncate(memory, 64 * MIB)
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        limit = pages * mmap.PAGESIZE + 16 * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        shared = mmap.mmap(memory, 64 * MIB)
        shared[-1] = 1
        mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    assert child(fill) == errno.ENOMEM


def test_rlimit_fsize_bounds_files_in_memory():
    def grow():
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        memory = os.memfd_create("memory")
        os.ftruncate(memory, MIB)
        os.ftruncate(memory, MIB + 1)

    assert child(grow) == errno.EFBIG


def test_rlimit_nproc_bounds_the_threads_of_a_user_of_its_own():
    """So every worker has a user that no other process on the machine has."""
    uid = 2_000_000_000 + os.getpid()

    def spawn():
        become(uid)
        resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
        release = threading.Event()
        threads = [threading.Thread(target=release.wait) for _ in range(2)]
        threads[0].start()
        with pytest.raises(RuntimeError):
            threads[1].start()
        release.set()

    assert child(spawn) == 0


def test_root_without_the_capability_signals_only_users_that_it_is():
    pid = os.fork()
    if pid == 0:
        become(NOBODY)
        signal.pause()
    wait_until(lambda: Path(f"/proc/{pid}").stat().st_uid == NOBODY, "the other user")

    def signal_it():
        version = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        kept = 1 << 7  # CAP_SETUID, and so not CAP_KILL
        call("capset", version, struct.pack("=6I", kept, kept, 0, 0, 0, 0))
        with pytest.raises(PermissionError):
            os.kill(pid, 0)
        os.seteuid(NOBODY)
        os.kill(pid, 0)

    assert child(signal_it) == 0
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
