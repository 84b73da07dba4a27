"""What the keeper of a database does, beside any search: bring it to this version, take studies elsewhere."""

from hpsearch.database.copy import Copied, copy_studies
from hpsearch.database.upgrade import Upgraded, upgrade

__all__ = ["Copied", "Upgraded", "copy_studies", "upgrade"]
