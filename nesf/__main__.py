"""`python -m nesf`, as a launcher such as torchrun needs it."""

import sys

from nesf.cli import main

sys.exit(main())
