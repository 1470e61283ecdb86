# SPDX-License-Identifier: Apache-2.0
"""A port's status keys in its row's external_ids, and the least change that publishes them.

The database persists every write and sends it to all its clients. So only differences are written,
key by key, and keys of others in the same column are never touched.
"""

import re
from collections.abc import Mapping

from ovs_vhost_plugin.ipc.reports import PortState

STATUS = "vhost-user-status"
ERROR = "vhost-user-error"
ANNOUNCED = "vhost-user-announced"

_OURS = re.compile(
    r"vhost-user-(status|features|protocol-features|num-of-vrings|vring-[0-9]+-size|socket|error"
    r"|announced)"
)


def of_error(error: str) -> dict[str, str]:
    """The keys of a port that cannot run, for `error`."""
    return {STATUS: "error", ERROR: error}


def of_starting(path: str, error: str) -> dict[str, str]:
    """The keys of a port whose worker has not reported yet."""
    keys = {STATUS: "starting", "vhost-user-socket": path}
    return {**keys, ERROR: error} if error else keys


def of_state(state: PortState, error: str) -> dict[str, str]:
    """The keys of a port whose worker is in `state`; `error` counts if the state has none."""
    keys = {STATUS: state.status, "vhost-user-socket": state.socket}
    if state.features:
        keys["vhost-user-features"] = state.features
    if state.protocol_features:
        keys["vhost-user-protocol-features"] = state.protocol_features
    if state.num_vrings:
        keys["vhost-user-num-of-vrings"] = str(state.num_vrings)
    for index, size in enumerate(state.vring_sizes):
        keys[f"vhost-user-vring-{index}-size"] = str(size)
    shown = state.error_text or error
    return {**keys, ERROR: shown} if shown else keys


def of_uncarried(keys: Mapping[str, str], error: str) -> dict[str, str]:
    """The keys of a port that does not run as its bridge does not carry its frames."""
    if keys[STATUS] == "running":
        return {**keys, STATUS: "error", ERROR: error}
    return {ERROR: error, **keys}


def changes(current: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """The changes of external_ids `current`: key → value to set, or None to remove."""
    ours = {key: value for key, value in current.items() if _OURS.fullmatch(key)}
    todo: dict[str, str | None] = dict.fromkeys(ours.keys() - wanted.keys())
    todo.update({key: value for key, value in wanted.items() if ours.get(key) != value})
    return todo
