"""`accelerate launch -m musubi_ext.orbits.cache`, or `python -m`."""

import sys

from musubi_ext.orbits.cache.command import main

sys.exit(main())
