# SPDX-License-Identifier: Apache-2.0
"""Between daemon and worker: commands by a socket, reports by a pipe, vitals in shared memory."""
