# SPDX-License-Identifier: Apache-2.0
"""How much is tried: the same examples every time in CI, ever new ones by `make fuzz`.

FUZZ_PROFILE=long multiplies the examples and takes random ones; pytest's --hypothesis-seed says
which. Examples are not kept between runs: a failure prints what it takes to repeat it.
"""

import os

from hypothesis import HealthCheck, settings

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, suppress_health_check=_SLOW
)
settings.register_profile("long", settings.get_profile("ci"), derandomize=False, print_blob=True)

_NAME = os.environ.get("FUZZ_PROFILE", "ci")
_TIMES = {"ci": 1, "long": 2}[_NAME]


def examples(count: int) -> settings:
    """`count` examples in CI, a multiple of it in a round of `make fuzz`."""
    return settings(settings.get_profile(_NAME), max_examples=count * _TIMES)
