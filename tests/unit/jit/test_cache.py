# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept: one place, which is ours alone, or none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import CacheImpl

from ovs_vhost_plugin.jit import cache, kernel

NOBODY = 65534
_WHERE = """
from ovs_vhost_plugin.jit import result  # a module whose kernels are compiled in no time
from numba.core.dispatcher import Dispatcher
kernels = [each for each in vars(result).values() if isinstance(each, Dispatcher)]
assert kernels
for each in kernels:
    print(each.stats.cache_path, len(each.stats.cache_hits))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, os.fspath(tmp_path / "kernels"))
    return tmp_path / "kernels"


def _where(environment: dict[str, str]) -> dict[str, int]:
    """The cache of each kernel of a new process, and how many functions came from it."""
    argv = [sys.executable, "-c", _WHERE]
    shown = subprocess.run(
        argv, env=os.environ | environment, check=True, capture_output=True, text=True
    )
    pairs = (line.rpartition(" ") for line in shown.stdout.splitlines())
    return {path: int(hits) for path, _, hits in pairs}


def test_the_environment_says_where(place: Path) -> None:
    assert cache.find() == cache.Cache(place)
    assert place.stat().st_mode & 0o777 == 0o700


def test_without_it_root_s_are_not_in_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/alice/.cache")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert cache.place() == Path("/var/cache/ovs-vhost")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert cache.place() == Path("/home/alice/.cache/ovs-vhost")


def test_a_place_of_others_is_refused_with_what_to_do(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    found = cache.find()
    assert found.directory is None and found.refusal.startswith(f"cache-not-trusted: {place} ")
    assert cache.VARIABLE in found.refusal


def test_a_file_of_others_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / "planted").write_bytes(b"")
    (place / "planted").chmod(0o666)
    assert cache.find().refusal.startswith(f"cache-not-trusted: {place}/planted ")


def test_a_place_that_cannot_be_is_none(place: Path) -> None:
    place.write_text("a file")
    assert cache.find().refusal.startswith(f"cache-not-usable: {place}: ")


def test_older_kernels_go(place: Path) -> None:
    (place / "kernels-0").mkdir(parents=True)
    (place / "other").mkdir()
    named = cache.of_sources(cache.find())
    assert named is not None and named.parent == place and named.name.startswith("kernels-")
    assert sorted(path.name for path in place.iterdir()) == ["other"]


def test_numba_looks_nowhere_else() -> None:
    assert kernel.numba.config.CACHE_LOCATOR_CLASSES == ""
    assert [one.__name__.lstrip("_") for one in CacheImpl._locator_classes] == [
        "UserProvidedCacheLocator"
    ]


def test_kernels_are_kept_there_and_loaded_from_there(place: Path) -> None:
    elsewhere = {"NUMBA_CACHE_DIR": os.fspath(place.parent / "elsewhere")}
    first, second = _where(elsewhere), _where(elsewhere)
    assert first.keys() == second.keys() and all(path.startswith(f"{place}/") for path in first)
    assert not any(first.values()) and all(second.values())
    assert not (place.parent / "elsewhere").exists()


def test_kernels_are_compiled_without_a_place_too(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    assert not any(_where({}).values())
    assert not list(place.iterdir())


def test_a_change_of_any_source_at_any_depth_asks_for_other_kernels(tmp_path: Path) -> None:
    kernels, others = tmp_path / "jit", tmp_path / "common"
    source = kernels / "ring" / "deeper" / "split.py"
    source.parent.mkdir(parents=True)
    others.mkdir()
    seen = {cache.digest_of(kernels, others)}
    for text in ("first", "second"):
        source.write_text(text)
        seen.add(cache.digest_of(kernels, others))
    for moved in (kernels / "ring" / "split.py", kernels / "split.py", others / "split.py"):
        source = source.rename(moved)
        seen.add(cache.digest_of(kernels, others))
    assert len(seen) == 6
    (kernels / "README.md").write_text("no source")
    assert cache.digest_of(kernels, others) in seen


def test_kernels_depend_on_all_that_they_may_import() -> None:
    parts = {source.name for source in cache._SOURCES}
    assert parts == {"jit", "common"}
    for source in (path for part in cache._SOURCES for path in part.rglob("*.py")):
        imported = set(re.findall(r"(?:from|import) ovs_vhost_plugin\.(\w+)", source.read_text()))
        assert imported <= parts, source
