# SPDX-License-Identifier: Apache-2.0
"""The log as text: a line as every Open vSwitch daemon writes it, with a time that sorts.

By the pattern `###` the bindings write 5 ms as ".5.2" and 54 ms as ".54.": the first characters of
a number of milliseconds with a fraction (`Vlog._format_time`). strftime's `%f`, microseconds with
all their zeros, has no part in that.
"""

import ovs.vlog


def install() -> None:
    """Set the log file's pattern. To be called before the bindings read `-vPATTERN`."""
    pattern = ovs.vlog.PATTERNS["file"].replace("###", "%f")
    ovs.vlog.Vlog.set_pattern("file", pattern)
