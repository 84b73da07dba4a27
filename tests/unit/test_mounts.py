"""Which file system a SQLite file is on."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from storage_desk import Desk

from hpsearch.errors import StorageUnreachable
from hpsearch.storage.mounts import network_file_system
from hpsearch.views import open_views

MOUNTS = [
    ("/", "ext4"),
    ("/home", "nfs4"),
    ("/home/me/scratch", "xfs"),
    ("/data", "fuse.sshfs"),
    ("/usb", "fuseblk"),
    ("/lustre", "lustre"),
    ("/over", "nfs"),
    ("/over", "ext4"),  # mounted over the first
    ("/under", "ext4"),
    ("/under", "cifs"),
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/x.db", None),
        ("/home/me/x.db", "nfs4"),
        ("/home/me/scratch/x.db", None),
        ("/homes/x.db", None),
        ("/data/x.db", "fuse.sshfs"),
        ("/usb/x.db", None),
        ("/lustre/deep/er/x.db", "lustre"),
        ("/over/x.db", None),
        ("/under/x.db", "cifs"),
    ],
)
def test_the_longest_mount_point_counts_and_of_equals_the_last(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "gpfs", "beegfs"]
)
def test_network_file_systems_are_known(kind: str) -> None:
    assert network_file_system(Path("/x/y"), [("/", "ext4"), ("/x", kind)]) == kind


def test_no_mount_table_is_no_network() -> None:
    assert network_file_system(Path("/x/y"), []) is None


def test_a_sqlite_file_on_a_network_is_refused_and_may_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    desk = Desk(f"sqlite:///{tmp_path / 'link' / 'studies.db'}")
    desk.open().close()
    table = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path / "share"), fstype="nfs4"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: table)
    with pytest.raises(StorageUnreachable, match=r"network file system \(nfs4\).*local disk, or use postgresql://"):
        desk.open()
    with open_views(desk.url) as views:
        assert views.study("digits").n_trials == 0
