# SPDX-License-Identifier: Apache-2.0
"""What queue pairs have counted, in so few words that 128 of them fit into one packet.

Of faults, of which there may be any number of kinds in any number of pairs, the sums go: which ring
broke is told when it does.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_FAULT = "fault_"  # as `QueuePair.counters` has them


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
