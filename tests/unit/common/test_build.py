# SPDX-License-Identifier: Apache-2.0
"""The build of the program: another one after any change of its code."""

from pathlib import Path

from ovs_vhost_plugin import __version__
from ovs_vhost_plugin.common import build


def test_it_says_the_release_and_is_that_of_the_code() -> None:
    assert build.of_this_code() == f"{__version__}-{build.digest_of(build.PACKAGE)}"


def test_it_changes_with_a_module_its_name_and_its_text_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    module = tmp_path / "part" / "one.py"
    module.parent.mkdir()
    module.write_text("x = 1\n")
    first = build.digest_of(tmp_path)
    (tmp_path / "part" / "one.pyc").write_bytes(b"compiled")
    assert build.digest_of(tmp_path) == first
    module.write_text("x = 2\n")
    second = build.digest_of(tmp_path)
    module.rename(tmp_path / "two.py")
    assert len({first, second, build.digest_of(tmp_path)}) == 3
