# SPDX-License-Identifier: Apache-2.0
"""Every test has a limit, and one that goes beyond it is named, whatever it hangs in."""

import os
import subprocess
import sys
from pathlib import Path

import limits
import pytest

TESTS = Path(limits.__file__).parent


def run(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_of_a_hang.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "limits", "-p", "no:cacheprovider", "--rootdir=."],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.fspath(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_kind_of_tests_has_a_limit() -> None:
    files = [*TESTS.rglob("test_*.py"), *(TESTS.parent / "docs").rglob("test_*.py")]
    kinds = {limits.kind_of(path) for path in files}
    assert kinds == limits.LIMITS.keys()


def test_each_test_has_the_limit_of_its_kind(request: pytest.FixtureRequest) -> None:
    given = request.config.getoption("timeout")
    marker = request.node.get_closest_marker("timeout")
    assert given is not None or marker.args == (limits.LIMITS["unit"],)


def test_a_test_that_hangs_fails_and_is_tidied_up_and_the_others_go_on(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
import pytest

@pytest.fixture
def made():
    yield
    open("taken down", "w").close()

@pytest.mark.timeout(0.25)
def test_that_hangs(made):
    while True:
        pass

def test_that_follows():
    pass
""",
    )
    assert "FAILED test_of_a_hang.py::test_that_hangs - Failed: Timeout" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert (tmp_path / "taken down").exists()


@pytest.mark.parametrize("part", ["test", "fixture"])
def test_what_never_lets_a_signal_handler_run_ends_the_process_and_is_named(
    tmp_path: Path, part: str
) -> None:
    """As a compiled kernel does that loops; in the fixture, after its test has failed."""
    done = run(
        tmp_path,
        f"""
import signal
import pytest

def hang_{part}():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    while True:
        pass

@pytest.fixture
def made():
    yield
    hang_fixture()

@pytest.mark.timeout(0.25)
def test_that_hangs({"made" if part == "fixture" else ""}):
    {"assert False" if part == "fixture" else "hang_test()"}
""",
    )
    assert done.returncode == 1
    assert "Timeout (0:00:00.500000)!" in done.stderr
    assert f"in hang_{part}" in done.stderr
    assert 'test_of_a_hang.py", line' in done.stderr
