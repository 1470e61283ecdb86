# SPDX-License-Identifier: Apache-2.0
"""The processor's name, which belongs to each figure."""

import platform
from pathlib import Path


def processor() -> str:
    """Such as "AMD EPYC, family 25, model 17, 2 processors"."""
    fields: dict[str, str] = {}
    count = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = (word.strip() for word in line.partition(":"))
        count += name == "processor"
        fields[name] = value
    if "model name" not in fields:
        return f"{platform.machine()}, {count} processors"
    family, model = fields.get("cpu family", "?"), fields.get("model", "?")
    return f"{fields['model name']}, family {family}, model {model}, {count} processors"
