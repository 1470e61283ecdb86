# SPDX-License-Identifier: Apache-2.0
"""`ovs-vhost daemon` with `evil_worker`s, found in the directory of this program."""

import sys

from ovs_vhost_plugin.daemon import main

if __name__ == "__main__":
    sys.exit(main(worker_module="evil_worker"))
