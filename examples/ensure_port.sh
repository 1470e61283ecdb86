#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# ensure_port.sh BRIDGE PORT SOCKET [SETTING ...]
# Makes sure that PORT on BRIDGE is there for the VM that listens on SOCKET, and prints its status.
# Each SETTING is one of the Interface row: external_ids:vhost-user-queues=2. It may be run again.
# After TIMEOUT seconds (10) without success it prints what is wrong, and fails.
set -eu
bridge=$1 port=$2 socket=$3
shift 3
timeout=${TIMEOUT:-10}

# In one transaction: there is never a bridge without its port, or a port without its settings.
ovs-vsctl --timeout="$timeout" --may-exist add-br "$bridge" \
    -- --may-exist add-port "$bridge" "$port" \
    -- set Interface "$port" "options:vhost-server-path=$socket" "$@"

# The daemon answers in the row. The socket as well: what the row said before may be of another one.
# A port that worked and is given a wrong setting may be caught before the answer: `ovs-vhost watch`.
if ! ovs-vsctl --timeout="$timeout" wait-until Interface "$port" \
    "external_ids:vhost-user-socket=$socket" \
    'external_ids:vhost-user-status{in}connecting,connected,running' 2>/dev/null; then
    why=$(ovs-vsctl --if-exists get Interface "$port" external_ids:vhost-user-error)
    echo "$port: ${why:-no answer; does ovs-vhost run?}" >&2
    exit 1
fi
ovs-vsctl get Interface "$port" external_ids:vhost-user-status
