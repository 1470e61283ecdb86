# SPDX-License-Identifier: Apache-2.0
"""`python -m ovs_vhost_plugin` is `ovs-vhost`."""

import sys

from ovs_vhost_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
