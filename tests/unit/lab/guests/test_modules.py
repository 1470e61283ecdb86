# SPDX-License-Identifier: Apache-2.0
import gzip
import lzma
import shutil
import subprocess

import pytest

from ovs_vhost_plugin.lab.guests import modules
from ovs_vhost_plugin.lab.process import LabError


def elf(*depends):
    """As much of a module as is read: ELF's magic number, and a .modinfo section."""
    return b"\x7fELF\x02\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


def zstd(data):
    return subprocess.run(["zstd", "-cq"], input=data, capture_output=True, check=True).stdout


KINDS = {".ko": bytes, ".ko.gz": gzip.compress, ".ko.xz": lzma.compress, ".ko.zst": zstd}


@pytest.fixture(params=KINDS)
def tree(request, require, tmp_path):
    """A kernel's modules, all compressed in one way: fourth is built in, a-b needs the others."""
    if request.param == ".ko.zst":
        require(shutil.which("zstd"), "needs the program zstd")
    kernel = tmp_path / "kernel"
    (kernel / "net").mkdir(parents=True)
    compress = KINDS[request.param]
    for name, depends in {"first": (), "second": ("first",), "a-b": ("second", "first")}.items():
        (kernel / "net" / f"{name}{request.param}").write_bytes(compress(elf(*depends)))
    (tmp_path / "modules.builtin").write_text("kernel/net/fourth.ko\n")
    return tmp_path


def test_modules_are_unpacked_each_after_what_it_depends_on(tree):
    loaded = modules.load_order(tree, ["a_b", "fourth", "second"])
    assert list(loaded) == ["first", "second", "a_b"]
    assert loaded["a_b"] == elf("second", "first")


def test_a_module_that_is_not_there_is_an_error(tree):
    with pytest.raises(LabError, match="no module fifth"):
        modules.load_order(tree, ["fifth"])


def test_a_module_that_is_cut_off_is_an_error(tree):
    for path in (tree / "kernel/net").iterdir():
        path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(LabError, match=r"cannot be unpacked|not a kernel module"):
        modules.load_order(tree, ["first"])


def test_a_way_to_compress_that_is_unknown_is_an_error(tmp_path):
    path = tmp_path / "first.ko.lz4"
    path.write_bytes(b"")
    with pytest.raises(LabError, match=r"unknown here \(.lz4\)"):
        modules.unpack(path)
