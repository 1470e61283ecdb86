# SPDX-License-Identifier: Apache-2.0
import shutil

import pytest

from ovs_vhost_plugin.lab.platform import mirrors
from ovs_vhost_plugin.lab.platform.mirrors import NoMirrorError, PackageSource

ONE_LINE = """
deb [arch=amd64] http://m.example/debian bookworm main contrib # the mirror
deb http://m.example/debian/ bookworm-updates main
deb-src http://m.example/debian-source bookworm main
deb [signed-by=/a/key.gpg] http://m.example/security bookworm-security main
# deb http://off.example/debian bookworm main
deb http://third.example/apt cloud-bookworm main
deb http://flat.example/ ./
"""
DEB822 = """
Types: deb deb-src
URIs: http://m.example/debian http://second.example/debian
Suites: bookworm bookworm-updates
Components: main contrib

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

# a comment
Types: deb
URIs: http://m.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBFPlwKQBCADWDPh
 -----END PGP PUBLIC KEY BLOCK-----
"""


@pytest.fixture
def apt(require, tmp_path):
    """`apt(name, text)`: what apt takes from such a file of sources."""
    require(shutil.which("apt-get"), "needs apt")
    parts = tmp_path / "parts"
    parts.mkdir()

    def read(name, text):
        (parts / name).write_text(text)
        options = ("Dir::Etc::sourcelist=/dev/null", f"Dir::Etc::sourceparts={parts}")
        return mirrors.configured([word for option in options for word in ("-o", option)])

    return read


@pytest.mark.parametrize("form", [("a.list", ONE_LINE), ("a.sources", DEB822)])
def test_the_machines_own_mirror_serves_another_release_in_both_formats(apt, form):
    assert list(map(str, mirrors.of_release(apt(*form), "bookworm", "trixie"))) == [
        "deb http://m.example/debian trixie main contrib",
        "deb http://m.example/debian trixie-updates main" + " contrib" * (form[1] is DEB822),
        "deb http://m.example/security trixie-security main",
    ]


def test_a_list_of_mirrors_stands_for_the_first_in_it(apt, tmp_path):
    listed = tmp_path / "mirrors"
    listed.write_text("# ours\n\nhttp://m.example/debian/\tpriority:1\nhttp://n.example/debian\n")
    assert apt("a.list", f"deb mirror+file:{listed} bookworm main\n") == [
        PackageSource("http://m.example/debian", "bookworm", ("main",))
    ]


@pytest.mark.parametrize("suite", ["bookworm", "oldstable"])
def test_a_release_may_have_been_named_by_its_state(suite):
    sources = [PackageSource("http://m.example/debian", suite, ("main",))]
    (found,) = mirrors.of_release(sources, "bookworm", "trixie")
    assert found.suite == "trixie"


def test_a_release_that_only_rolls_has_no_updates():
    sources = [PackageSource("u", f"bookworm{pocket}", ("main",)) for pocket in ("-updates", "")]
    assert [found.suite for found in mirrors.of_release(sources, "bookworm", "sid")] == ["sid"]


@pytest.mark.parametrize(
    "sources",
    [
        [],
        [PackageSource("http://third.example", "bookworm", ("stable",))],
        [PackageSource("http://third.example", "cloud-bookworm", ("main",))],
        [PackageSource("http://m.example/debian", "bookworm-backports", ("main",))],
    ],
)
def test_sources_of_others_are_no_mirror(sources):
    with pytest.raises(NoMirrorError, match="no mirror that has bookworm main"):
        mirrors.of_release(sources, "bookworm", "trixie")
