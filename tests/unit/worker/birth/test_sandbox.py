# SPDX-License-Identifier: Apache-2.0
"""The sandbox where a kernel or a container lacks some of it, and its table in the documents.

What it holds is attacked by tests/attacks/test_attack_sandbox.py.
"""

import errno
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from support.checkout import TOP
from support.worker.tap_io import CHOOSES_WRITEV

from ovs_vhost_plugin.common import process
from ovs_vhost_plugin.common.dirs import StateDir
from ovs_vhost_plugin.daemon.workers.forkserver import ForkServerLink
from ovs_vhost_plugin.ipc import births
from ovs_vhost_plugin.ipc.births import Ready
from ovs_vhost_plugin.worker.birth import sandbox

NAMESPACES = ("network namespace", "IPC namespace", "UTS namespace", "mount namespace")


def refuse(*_: object) -> NoReturn:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_namespaces_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "unshare", refuse)
    monkeypatch.setattr(process, "mount", lambda *_: pytest.fail("the files are everybody's"))
    words = [f"{name} (Operation not permitted)" for name in NAMESPACES]
    assert sandbox.leave_namespaces() == words


def test_a_root_directory_that_cannot_be_had_is_named_and_proc_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unmounted: list[str] = []
    monkeypatch.setattr(process, "unshare", lambda _: None)
    monkeypatch.setattr(process, "mount", lambda *_: None)
    monkeypatch.setattr(process, "unmount", lambda target, _: unmounted.append(target))
    monkeypatch.setattr(os, "mkdir", refuse)
    assert sandbox.leave_namespaces() == ["root directory of its own (Operation not permitted)"]
    assert unmounted == ["/proc"]


@pytest.mark.parametrize(
    ("version", "size", "bits"),
    [(1, 8, (0x1FFF, 0, 0)), (3, 8, (0x7FFF, 0, 0)), (4, 16, (0x7FFF, 3, 0)), (99, 24, None)],
)
def test_landlock_is_asked_for_what_this_kernel_knows(
    monkeypatch: pytest.MonkeyPatch, version: int, size: int, bits: tuple[int, ...] | None
) -> None:
    asked: list[object] = []

    def call(number: int, *arguments: object) -> int:
        if arguments == (None, 0, 1):
            return version
        asked.append((number, *arguments[1:]))
        if number == 444:
            attr = arguments[0]._obj
            found = attr.handled_access_fs, attr.handled_access_net, attr.scoped
            assert found == (bits or (0xFFFF, 3, 3))
            return os.open(os.devnull, os.O_RDONLY)
        return 0

    monkeypatch.setattr(process, "system_call", call)
    sandbox.forbid_files()
    assert asked == [(444, size, 0), (446, 0)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a privilege to lose")
def test_a_fork_server_without_the_privilege_says_what_workers_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: the workers are there, and it is known what is not around them."""
    (tmp_path / "lacking_worker.py").write_text(
        f"def warm(): pass\n{CHOOSES_WRITEV}def run(*_): return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    python = tmp_path / "python"
    dropped = "setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin"
    python.write_text(f'#!/bin/sh\nexec {dropped} {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.chdir(tmp_path)
    fork_server = ForkServerLink("lacking_worker", StateDir.create(Path("run")), quiet=True)
    try:
        heard = []
        while not heard:
            assert select.select([fork_server.channel], [], [], 60)[0]
            heard = fork_server.channel.receive()
        ((said, _),) = heard
        ready = births.decode_news(said)
        assert isinstance(ready, Ready)
        lacking = [words.partition(" (")[0] for words in ready.lacking]
        assert lacking == ["PID namespace", *NAMESPACES]
    finally:
        fork_server.leave()
        assert fork_server.wait() == 0


PROGRAM = """
import os
from ovs_vhost_plugin.worker.birth import sandbox
sandbox.bindings()
sandbox.enter(65534, 65534, sandbox.limits_of(1, 0), own_user=False)
os.write(1, b"in")
os.read(0, 1)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a group to give up")
def test_the_groups_of_who_started_it_are_given_up_and_no_privilege_comes_back() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        extra_groups=[4242],
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        assert worker.stdout.read(2) == b"in"
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        worker.stdin.close()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    assert {*status["Uid"].split(), *status["Gid"].split()} == {"65534"}


def test_the_documents_table_is_this_list() -> None:
    text = (TOP / "docs/security.md").read_text()
    section = text.partition("### System calls")[2].partition("\n## ")[0]
    told = re.findall(r"`([a-zA-Z0-9_]+)`", section)
    arguments = {"mmap", "mprotect", "clone", "sendto", "prlimit64", "tgkill", "ioctl"}
    arguments |= {"io_uring_enter"}
    there = {*sandbox.ALLOWED, *sandbox.REFUSED, *sandbox.IOCTLS, *arguments}
    assert sorted(told) == sorted(there)
