"""Whether a file is on a network file system, where SQLite's locks and shared memory do not work."""

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

# fmt: off
_NETWORK = frozenset({
    "9p", "acfs", "afp", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
})
# fmt: on
_LOCAL_FUSE = frozenset({"fuseblk", "fuse.ext4", "fuse.ntfs", "fuse.ntfs-3g", "fuse.exfat", "fuse.fuse-overlayfs"})


def network_file_system(path: Path, mounts: Iterable[tuple[str, str]]) -> str | None:
    """The kind of the network file system that an absolute, resolved path is on, or None.

    ``mounts`` are (mount point, kind) in the order they were mounted: the longest that holds the path counts, the last
    of equals.
    """
    holding = [(len(Path(point).parts), kind) for point, kind in mounts if path.is_relative_to(point)]
    length = max((length for length, _ in holding), default=0)
    kind = next((kind for found, kind in reversed(holding) if found == length), "")
    return kind if kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE) else None


def network_of(path: Path) -> str | None:
    """The same of this machine's mounts; symbolic links resolved, the file need not exist."""
    mounts = [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]
    return network_file_system(Path(os.path.realpath(path)), mounts)
