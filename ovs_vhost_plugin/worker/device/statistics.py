# SPDX-License-Identifier: Apache-2.0
"""The queue pairs' counters, short enough for 128 pairs in one packet.

Faults are summed over the pairs, as any number of kinds may occur in any number of pairs. The ring
that broke is named when it breaks.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_FAULT = "fault_"  # the prefix in `QueuePair.counters`


def of_pairs(counters: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    """The counters of each pair, and the faults of all, for `Stats` (ipc/reports.py)."""
    faults: Counter[str] = Counter()
    for pair in counters:
        for name, count in pair.items():
            if name.startswith(_FAULT):
                faults[name.removeprefix(_FAULT).replace("_", "-")] += count
    names = [name for name in counters[0] if not name.startswith(_FAULT)]
    table = [{name: pair[name] for name in names} for pair in counters]
    return {"queue_pairs": table, "faults": dict(faults)}
