# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost daemon` whose workers are `fake_worker`s (the directory of this file is on the path)."""

import sys

from ovs_vhost_plugin.daemon import main

if __name__ == "__main__":
    sys.exit(main(worker_module="fake_worker"))
