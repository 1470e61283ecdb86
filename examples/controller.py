# SPDX-License-Identifier: Apache-2.0
"""A controller in thirty lines: it follows the ports and acts on each change.

A port whose guest runs gets external_ids:iface-status=active, any other inactive: the key by which
Open vSwitch's integrators know whether a VM is at a port. Errors go to stderr. Run it as
`controller.py [PORT...]`; it ends with `ovs-vhost watch`.
"""

import json
import subprocess
import sys


def mark(port: str, status: str) -> None:
    """Write into the row whether a guest is there; a row that has gone meanwhile is no error."""
    key = f"external_ids:iface-status={'active' if status == 'running' else 'inactive'}"
    subprocess.run(["ovs-vsctl", "--if-exists", "set", "Interface", port, key], check=True)


def main(*ports: str) -> int:
    """Follow `ports`, or all of them; the exit status is that of `ovs-vhost watch`."""
    command = ["ovs-vhost", "watch", "--format", "json", *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        for event in map(json.loads, watch.stdout):
            if event["event"] == "status" and event["now"]:
                mark(event["port"], event["now"])
            elif event["event"] == "error" and event["now"]:
                print(f"{event['port']}: {event['now']}", file=sys.stderr, flush=True)
    return watch.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
