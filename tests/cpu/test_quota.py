"""Quotas of CPU time, read from files like those of Linux."""

import os

import pytest

from tvm_sparse.cpu import this_machine
from tvm_sparse.cpu.quota import cpu_quota


@pytest.fixture
def machine(tmp_path):
    """Write the files of a process, and of control groups on `tmp_path / "fs"`."""

    def write(cgroup, mounts, files):
        (tmp_path / "cgroup").write_text(cgroup)
        (tmp_path / "mountinfo").write_text(mounts.replace("FS", str(tmp_path / "fs")))
        for name, text in files.items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return cpu_quota(tmp_path)

    return write


V1 = "29 23 0:26 {} FS/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "35 25 0:30 {} FS rw,nosuid - cgroup2 cgroup2 rw\n"


def v1(folder, quota, period="100000"):
    return {
        f"cpu,cpuacct/{folder}cpu.cfs_quota_us": f"{quota}\n",
        f"cpu,cpuacct/{folder}cpu.cfs_period_us": f"{period}\n",
    }


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files", "expected"),
    [
        pytest.param("0::/\n", V2.format("/"), {"cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param("0::/\n", V2.format("/"), {"cpu.max": "max 100000\n"}, None, id="v2 no limit"),
        pytest.param("0::/a/b\n", V2.format("/"), {"a/cpu.max": "50000 100000"}, 0.5, id="around"),
        pytest.param(
            "0::/a/b\n",
            V2.format("/"),
            {"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"},
            3.0,
            id="the least",
        ),
        pytest.param(
            "0::/docker/c1\n", V2.format("/docker/c1"), {"cpu.max": "250000 100000"}, 2.5, id="part"
        ),
        pytest.param("4:cpu,cpuacct:/g\n", V1.format("/"), v1("g/", 150000), 1.5, id="v1"),
        pytest.param("4:cpu,cpuacct:/g\n", V1.format("/"), v1("g/", -1), None, id="v1 no limit"),
        pytest.param(
            "4:cpu,cpuacct:/docker/c1\n", V1.format("/docker/c1"), v1("", 75000, 50000), 1.5,
            id="v1 part",
        ),
        pytest.param(
            "1:memory:/\n4:cpu,cpuacct:/\n0::/\n",
            V1.format("/") + V2.format("/"),
            v1("", 200000) | {"cgroup.controllers": ""},
            2.0,
            id="both",
        ),
        pytest.param("0::/\n", V2.format("/"), {"cpu.max": "nonsense"}, None, id="nonsense"),
        pytest.param("no groups\n", "no mounts\n", {}, None, id="no groups"),
    ],
)  # fmt: skip
def test_quotas(machine, cgroup, mounts, files, expected):
    assert machine(cgroup, mounts, files) == expected


def test_a_system_without_groups(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [(8, None, 8), (8, 1.5, 2), (8, 0.2, 1), (2, 6.0, 2), (4, 3.0, 3)],
)
def test_usable_cores(monkeypatch, affinity, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
    monkeypatch.setattr(this_machine, "cpu_quota", lambda: quota)
    assert this_machine.usable_cores() == expected
