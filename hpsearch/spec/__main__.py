"""``python -m hpsearch.spec > studies/schema.json``."""

import json
import sys

from hpsearch.spec import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
