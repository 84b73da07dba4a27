"""Saved training state of a trial: written beside, synced, verified, committed by its manifest.

A checkpoint is a directory ``NNNNNN-step-S`` with the state and, written last, a manifest with the SHA-256 of every
file. The number in front counts saves, so that a trial which begins again at step 0 is not taken for an older one.
"""

from hpsearch.checkpoint.kept import KEPT, MAX_REPORTS, Checkpoints, Loaded, Report
from hpsearch.checkpoint.places import TEMPORARY, Directory, Place, Remote, is_url, open_place
from hpsearch.checkpoint.quota import enforce, surplus

__all__ = [
    "KEPT", "MAX_REPORTS", "TEMPORARY", "Checkpoints", "Directory", "Loaded", "Place", "Remote", "Report", "enforce",
    "is_url", "open_place", "surplus",
]  # fmt: skip
