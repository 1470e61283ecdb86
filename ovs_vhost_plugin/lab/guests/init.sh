#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's first and only process: configure eth0 as the kernel's command line says
# (lab.KEY=VALUE), then run what the serial console sends.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done

argument() { tr ' ' '\n' </proc/cmdline | sed -n "s/^lab\.$1=//p"; }

# What comes faster than an emulated processor reads it must wait in a socket, not be lost there.
echo 33554432 >/proc/sys/net/core/rmem_default
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    # With IPv6 the kernel speaks on its own (neighbour discovery, MLD): a silent guest has none.
    [ "$(argument silent)" = 1 ] && echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6
    [ -n "$(argument mtu)" ] && ip link set eth0 mtu "$(argument mtu)"
    [ -n "$(argument address)" ] && ip address add "$(argument address)" dev eth0
    ip link set eth0 up
    for neighbour in $(argument neighbour); do
        arp -i eth0 -s "${neighbour%,*}" "${neighbour#*,}"
    done
fi

# One line is one command: "NONCE COMMAND" answers "@NONCE@", its output, "@NONCE:STATUS@".
console=/dev/$(argument console)
[ -c "$console" ] || console=/dev/ttyS0

# A person at the console has a shell (`ovs-vhost try`); its end is the machine's.
if [ "$(argument shell)" = 1 ]; then
    cd /tmp
    PS1='vm# ' setsid sh -c 'exec sh <"$0" >"$0" 2>&1' "$console"
    reboot -f
fi

stty -echo -onlcr <"$console"
exec <"$console" >"$console" 2>&1
echo @ready@
while read -r nonce command; do
    echo "@$nonce@"
    eval "$command" </dev/null
    echo "@$nonce:$?@"
done
