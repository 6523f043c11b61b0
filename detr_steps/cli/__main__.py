"""`python -m detr_steps.cli`: the same as `detr-steps`, for `torchrun -m`."""

import sys

from . import main

sys.exit(main())
