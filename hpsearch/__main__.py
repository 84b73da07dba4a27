"""``python -m hpsearch`` is ``hpsearch``."""

import sys

from hpsearch.cli import main

sys.exit(main())
