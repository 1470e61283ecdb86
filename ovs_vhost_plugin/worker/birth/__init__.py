# SPDX-License-Identifier: Apache-2.0
"""How a worker comes to be: forked of a warm process, then shut into its sandbox."""
