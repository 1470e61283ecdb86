"""vhost-user ports for a stock Open vSwitch, without DPDK."""

__version__ = "0.1.0"
