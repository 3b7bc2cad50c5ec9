"""`python -m nesf`, as a launcher such as torchrun needs it."""

import sys

from nesf_cli.main import main

sys.exit(main())
