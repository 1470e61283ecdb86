# SPDX-License-Identifier: Apache-2.0
"""The ports' taps: made, owned and removed here, and hidden from this host's network stack.

`taps` keeps them, by the ioctls of `device`, the links of `links` and the namespace of
`birthplace`. `host_stack` keeps this host's own network stack away from them.
"""

from ovs_vhost_plugin.tap.errors import TapError, TapErrorName
from ovs_vhost_plugin.tap.host_stack import HostStack, HostStackError
from ovs_vhost_plugin.tap.taps import Taps

__all__ = ["HostStack", "HostStackError", "TapError", "TapErrorName", "Taps"]
