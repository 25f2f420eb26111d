"""Entry point of `python -m autoscaler.simulator`."""

import sys

from autoscaler.simulator.command import main

sys.exit(main())
