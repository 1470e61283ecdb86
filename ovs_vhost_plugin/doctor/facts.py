# SPDX-License-Identifier: Apache-2.0
"""The state of this machine. Everything is read, and nothing is changed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ovs.unixctl
import ovs.unixctl.client

from ovs_vhost_plugin.common import trusted
from ovs_vhost_plugin.common.trusted import DistrustError
from ovs_vhost_plugin.control import CommandError, NotRunning, ask
from ovs_vhost_plugin.daemon import status
from ovs_vhost_plugin.jit import cache
from ovs_vhost_plugin.watch import Follower

_TUN = Path("/dev/net/tun")
_PATIENCE = 3.0
_VSCTL = "ovs-vsctl"


@dataclass(frozen=True, slots=True)
class SocketFact:
    """Whether there is a socket at a port's path; `why`: what there is instead."""

    there: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the checks look at.

    kernel    major and minor
    tun       why /dev/net/tun cannot be used, "" if it can
    cache     why the cache of kernels is not used, "" if it is
    remote, database  the database, and why it does not answer, "" if it does
    switch    ovs-vswitchd's version, "" if it does not run
    daemon    the data of `vhost/show`; None: the daemon does not run
    errors    of ports, by the database, for when there is no daemon
    sockets   of the ports that connect, by name
    userspace, takes_offloads  ports on bridges of the userspace datapath; whether that has TSO
    unseen    what could not be looked at, and why
    """

    kernel: tuple[int, ...]
    tun: str = ""
    cache: str = ""
    remote: str = ""
    database: str = ""
    switch: str = ""
    daemon: Mapping[str, Any] | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, SocketFact] = field(default_factory=dict)
    userspace: frozenset[str] = frozenset()
    takes_offloads: bool = False
    unseen: tuple[str, ...] = ()


def gather(remote: str, target: str) -> Facts:
    """Look. `remote`: the database, `target`: the daemon."""
    unseen: list[str] = []
    daemon = _daemon(target, unseen)
    database, errors = _database(remote)
    ports = [] if daemon is None else daemon["ports"]
    client = [port for port in ports if port["mode"] == "client"]
    return Facts(
        kernel=tuple(int(word) for word in re.findall(r"\d+", os.uname().release)[:2]),
        tun=_tun(),
        cache=_cache(),
        remote=remote,
        database=database,
        switch=_switch(unseen),
        daemon=daemon,
        errors=errors,
        sockets={port["name"]: socket_at(port["socket"]) for port in client},
        userspace=_userspace(remote, ports) if not database else frozenset(),
        takes_offloads=not database and _takes_offloads(remote),
        unseen=tuple(unseen),
    )


def _tun() -> str:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _cache() -> str:
    """Why the daemon will not use its cache of kernels. Unlike `cache.find`, this makes nothing."""
    base = cache.place()
    if not base.exists():
        return ""
    try:
        trusted.check_directory(base)
        trusted.check_files(base)
    except DistrustError as error:
        return f"cache-not-trusted: {error}"
    except OSError as error:
        return f"cache-not-usable: {base}: {error.strerror}"
    return ""


def _daemon(target: str, unseen: list[str]) -> Any:
    try:
        return ask(target, "vhost/show", [])
    except NotRunning:
        return None
    except CommandError as error:
        unseen.append(f"the daemon: {error}")
        return None


def _switch(unseen: list[str]) -> str:
    """The version that a running ovs-vswitchd tells."""
    error, path = ovs.unixctl.socket_name_from_target("ovs-vswitchd")
    if error:
        return ""
    error, client = ovs.unixctl.client.UnixctlClient.create(path)
    if error:
        if error in (1, 13):  # EPERM, EACCES
            unseen.append(f"the switch: {os.strerror(error)}; run as root")
        return ""
    error, _, text = client.transact("version", [])
    client.close()
    found = re.search(r"\d+\.\d+[.\d]*", "" if error else text or "")
    return found[0] if found else ""


def _database(remote: str) -> tuple[str, dict[str, str]]:
    """Why the database does not answer, or ""; and the errors of its ports."""
    follower = Follower(remote)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not follower.run() and not follower.has_read:
            left = deadline - time.monotonic()
            if left <= 0:
                return "it does not answer", {}
            follower.wait(left)
        rows = follower.rows()
    finally:
        follower.close()
    return "", {name: keys[status.ERROR] for name, keys in rows.items() if keys[status.ERROR]}


def socket_at(path: str) -> SocketFact:
    """Whether there is a socket at a path."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a path of the row's, whatever is in it
    except (OSError, ValueError) as error:
        return SocketFact(False, getattr(error, "strerror", None) or str(error))
    if not stat.S_ISSOCK(found.st_mode):
        return SocketFact(False, "is no socket")
    return SocketFact(True)


def _userspace(remote: str, ports: list[Any]) -> frozenset[str]:
    words = ("--bare", "--columns=name", "find", "Bridge", "datapath_type=netdev")
    bridges = set(_vsctl(remote, *words).split())
    return frozenset(port["name"] for port in ports if port["bridge"] in bridges)


def _takes_offloads(remote: str) -> bool:
    key = "other_config:userspace-tso-enable"
    return _vsctl(remote, "--if-exists", "get", "Open_vSwitch", ".", key).strip(' "\n') == "true"


def _vsctl(remote: str, *words: str) -> str:
    """The output of ovs-vsctl, "" where it fails or is not installed."""
    command = [_VSCTL, f"--db={remote}", "--timeout=3", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""
