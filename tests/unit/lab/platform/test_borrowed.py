# SPDX-License-Identifier: Apache-2.0
import pytest

from ovs_vhost_plugin.lab.platform import borrowed


def test_apt_in_the_root_fetches_as_this_machine_does():
    dump = """
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::Check-Date "false";
Acquire::Languages:: "none";
Acquire::IndexTargets::deb::Packages::MetaKey "$(COMPONENT)/Packages";
DPkg::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb";
"""
    assert list(borrowed.acquire_settings(dump)) == [
        'APT::Sandbox::User "root";',
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Date "false";',
    ]


@pytest.fixture
def home(tmp_path):
    """A user whose pip has settings, wheels, an index and a constraint in directories of his."""
    home = tmp_path / "home"
    for name in ("wheels", "index/simple", "index/files", ".config/pip"):
        (home / name).mkdir(parents=True)
    (home / "constraints.txt").write_text("numpy<3\n")
    (home / ".config/pip/pip.conf").write_text(
        f"[global]\nfind-links = {home}/wheels\n    https://wheels.example/\n"
        f"extra-index-url = file://{home}/index/simple\nconstraint={home}/constraints.txt\n"
        "[install]\nno-binary = :none:\n"
    )
    return home


def test_what_pips_settings_name_comes_along(home, tmp_path):
    root = tmp_path / "root"
    (root / "etc/apt/apt.conf.d").mkdir(parents=True)
    own = {"HOME": str(home), "XDG_CONFIG_DIRS": "/nowhere", "PIP_FIND_LINKS": f"{home}/index"}
    directories = borrowed.copy_settings(root, own)
    assert set(directories) >= {home / "wheels", home / "index"}
    inside = root / home.relative_to("/")
    for name in (".config/pip/pip.conf", "constraints.txt"):
        assert (inside / name).read_text() == (home / name).read_text()
    assert not (inside / "wheels").exists()


def test_pips_settings_are_found_where_the_environment_says(tmp_path):
    places = {"XDG_CONFIG_DIRS": "site/pip", "XDG_CONFIG_HOME": "user/pip", "HOME": "home/.pip"}
    for place in places.values():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "pip.conf").write_text("")
    own = {name: str(tmp_path / place.split("/")[0]) for name, place in places.items()}
    found = [path for path in borrowed.pip_settings(own) if path.is_relative_to(tmp_path)]
    assert found == [
        tmp_path / places[name] / "pip.conf"
        for name in ("XDG_CONFIG_DIRS", "HOME", "XDG_CONFIG_HOME")
    ]


def test_a_link_in_the_root_does_not_lead_out_of_it(home, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("stays")
    root = tmp_path / "root"
    (root / "etc/apt/apt.conf.d").mkdir(parents=True)
    link = root / home.relative_to("/") / "constraints.txt"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    borrowed.copy_settings(root, {"HOME": str(home)})
    assert outside.read_text() == "stays"
    assert link.read_text() == "numpy<3\n"


def test_the_environment_loses_what_leads_elsewhere_in_a_root():
    own = {"VIRTUAL_ENV": "/x", "TMPDIR": "/x", "PATH": "/x", "FUZZ_SECONDS": "1", "CI": "true"}
    within = borrowed.environment(own)
    assert {name: within[name] for name in ("FUZZ_SECONDS", "CI", "HOME")} == {
        "FUZZ_SECONDS": "1",
        "CI": "true",
        "HOME": "/root",
    }
    assert "/x" not in within.values()
