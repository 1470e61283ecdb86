# SPDX-License-Identifier: Apache-2.0
"""Workers as the daemon sees them: born, adopted, heard, limited, ended."""
