# SPDX-License-Identifier: Apache-2.0
"""What a worker that was taken over still can do: use what it has, and end."""

import ctypes
import os
import socket
from pathlib import Path

import pytest

from ovs_vhost_plugin.common.process import system_call
from ovs_vhost_plugin.lab.process import wait_until

pytestmark = pytest.mark.system

KILLED: dict[str, object] = {}
"""The answer of a worker that the kernel ended for its system call."""


FORBIDDEN = {
    "fork": "os.fork()",
    "vfork": "libc.syscall(58)",
    "exec": "os.execv('/bin/sh', ['sh'])",
    "socket": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix socket": "socket.socket(socket.AF_UNIX)",
    "netlink": "socket.socket(16, socket.SOCK_RAW)",
    "packet socket": "socket.socket(17, socket.SOCK_RAW)",
    "socketpair": "socket.socketpair()",
    "connect": "socket.socket.connect(me.control, '/run/openvswitch/db.sock')",
    "bind": "socket.socket.bind(me.control, '\\0abstract')",
    "listing of a directory": "libc.syscall(217, 3, None, 0)",
    "unlink": "os.unlink('/x')",
    "chmod": "os.chmod('/', 0o777)",
    "mkdir": "os.mkdir('/x')",
    "mount": "libc.mount(b'none', b'/', None, 0, None)",
    "unshare": "libc.unshare(0x10000000)",
    "setns": "libc.setns(0, 0)",
    "chroot": "os.chroot('/')",
    "setuid": "os.setuid(0)",
    "ptrace": "libc.ptrace(16, 1, 0, 0)",
    "process_vm_readv": "libc.process_vm_readv(1, 0, 0, 0, 0, 0)",
    "kill": "os.kill(1, 9)",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "userfaultfd": "libc.syscall(323, 0)",
    "io_uring": "libc.syscall(425, 1, 0)",
    "io_uring: registering": "libc.syscall(427, me.uring.fd, 0, None, 0)",
    "io_uring: a thread that polls": "libc.syscall(426, me.uring.fd, 0, 0, 2, None, 0)",
    "io_uring: a mask of signals": "libc.syscall(426, me.uring.fd, 0, 0, 0, bytes(8), 8)",
    "pidfd_open": "libc.syscall(434, 1, 0)",
    "keyctl": "libc.syscall(250, 0, 0, 0)",
    "perf_event_open": "libc.syscall(298, 0, 0, 0, 0, 0)",
    "mlock": "libc.mlock(0, 4096)",
    "raised limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999))",
    "memory to execute": "mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)",
    "shared memory without a file": "mmap.mmap(-1, 4096)",
    "tap: persistence": "fcntl.ioctl(me.tap, 0x400454CB, 0)",
    "tap: owner": "fcntl.ioctl(me.tap, 0x400454CC, os.getuid())",
    "tap: another": "fcntl.ioctl(me.tap, 0x400454CA, b'x' * 40)",
    "tap: MAC": "fcntl.ioctl(me.tap, 0x8924, b'x' * 40)",
    "terminal input": "fcntl.ioctl(0, 0x5412, b'x')",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_system_call_that_no_worker_needs_ends_it(evil_host, evil, what):
    pid = evil.pid
    assert evil.run(f"result = {FORBIDDEN[what]}") == KILLED
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker's end")
    wait_until(
        lambda: evil_host.status("evil0").get("error", "").startswith("worker-sigsys"),
        "the end by its name",
    )


@pytest.mark.parametrize(
    ("operation", "flags", "result"),
    [(2, 0, -9), (2, 16, -13), (2, 1, -13), (0, 0, -13), (1, 0, -13), (18, 0, -13), (45, 0, -13)],
    ids=["writev", "by a thread", "fixed file", "nothing", "readv", "openat", "socket"],
)
def test_the_io_uring_of_its_birth_writes_and_no_more(evil, operation, flags, result):
    """linux/io_uring.h: opcodes and flags; EBADF from its writev to no fd, else EACCES."""
    if evil.run("result = me.uring is None") == {"result": True}:
        pytest.skip("this machine's kernel gives it none")
    answer = evil.run(
        f"""
        uring = me.uring
        request = struct.pack("=BBHiQQI36x", {operation}, {flags}, 0, -1, 0, 0, 0)
        ctypes.memmove(uring.requests, request, 64)
        tail = ctypes.c_uint32.from_address(uring.sq_tail)
        ctypes.c_uint32.from_address(uring.order + 4 * (tail.value % uring.entries)).value = 0
        tail.value += 1
        taken = libc.syscall(426, uring.fd, 1, 1, 1, None, 0)
        result = [taken, ctypes.c_int32.from_address(uring.completions + 8).value]
        """
    )
    assert answer == {"result": [1, result]}


def test_it_is_given_no_other_io_uring(evil):
    """The kernel keeps whoever sends one from it; workers have none where it does not."""
    try:
        unrestricted = system_call(425, 1, (ctypes.c_char * 120)())
    except OSError as error:
        pytest.skip(f"io_uring: {error}")
    with pytest.raises(OSError):
        evil.give_by(lambda sock: socket.send_fds(sock, [b"x"], [unrestricted]))
    os.close(unrestricted)


REFUSED = {
    "file": "open('/etc/passwd')",
    "file of its own": "open('/x', 'w')",
    "its memory": "os.open('/proc/self/mem', os.O_RDWR)",
    "its executable": "os.open('/proc/self/exe', os.O_RDONLY)",
    "the old root": "os.open('/proc/self/root/etc/passwd', os.O_RDONLY)",
    "tun": "os.open('/dev/net/tun', os.O_RDWR)",
    "device": "os.open('/dev/userfaultfd', os.O_RDWR)",
    "module": "__import__('telnetlib')",
}


@pytest.mark.parametrize("what", REFUSED)
def test_there_is_no_file_to_open(evil, what):
    answer = evil.run(f"result = {REFUSED[what]}")
    assert answer.get("errno") == "EACCES" or "ModuleNotFoundError" in answer.get("error", "")


def test_the_limits(evil_host):
    """Of threads, fds, private memory and the sizes of files: each is reached."""
    with evil_host.evil_port("evil1", "external_ids:vhost-user-queues=1") as evil:
        limits = evil.run(
            """
            wanted = ("CORE", "MEMLOCK", "NPROC", "NOFILE", "DATA", "FSIZE")
            result = {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in wanted}
            """
        )["result"]
        assert limits["CORE"] == limits["MEMLOCK"] == [0, 0]
        assert all(soft == hard for soft, hard in limits.values())
        answer = evil.run(
            """
            stop = threading.Event()
            try:
                for number in range(100):
                    threading.Thread(target=stop.wait, daemon=True).start()
            except RuntimeError as error:
                result = number
            finally:
                stop.set()
            """
        )
        assert answer["result"] < limits["NPROC"][0]
        assert "MemoryError" in evil.run("result = len(bytearray(1 << 30))")["error"]
        file = "fd = os.memfd_create('x'); os.ftruncate(fd, 1 << 40)"
        assert evil.run(file)["errno"] == "EFBIG" or evil.run("result = 1") == KILLED
    evil_host.delete_port("evil1")


def test_it_is_nobody_in_namespaces_of_its_own(evil_host, evil):
    pid = evil.pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    uid = int(status["Uid"].split()[0])
    assert uid >= 0x70000000 and set(status["Uid"].split()) == {str(uid)}
    assert set(status["Gid"].split()) == {str(uid)} and not status["Groups"].strip()
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for kind in ("mnt", "net", "ipc", "uts", "pid"):
        assert namespace(pid, kind) not in (
            namespace("self", kind),
            namespace(evil_host.daemon.pid, kind),
        )
    assert [path.name for path in Path(f"/proc/{pid}/root").iterdir()] == ["proc"]
    assert evil.run("result = os.getpid()") == {"result": 1}
    assert evil.run("result = dict(os.environ)") == {"result": {}}
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"HOME=" not in environment and b"PATH=" not in environment.replace(b"PYTHONPATH=", b"")


def namespace(pid, kind):
    return Path(f"/proc/{pid}/ns/{kind}").readlink()


def test_its_fds_are_its_own(evil):
    links = [str(fd.readlink()) for fd in Path(f"/proc/{evil.pid}/fd").iterdir()]
    kinds = sorted(link.partition(":")[0] for link in links)
    tap = "/dev/net/tun"
    assert kinds.count(tap) == 1
    files = {link for link in links if link.startswith("/")} - {tap, "/dev/null"}
    journal = str(evil.host.journal(evil.host.directory / "evil0"))
    assert files == {"/memfd:vitals (deleted)", journal}


def test_the_sandbox_is_whole_here_and_show_says_so(evil_host):
    shown = evil_host.appctl("vhost/show", "--format", "json")
    assert '"sandbox": "complete"' in shown
