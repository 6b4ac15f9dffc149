"""``python -m rlhf_utils``."""

import sys

from rlhf_utils.cli import main

sys.exit(main())
