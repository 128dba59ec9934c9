"""What launchers decide by shapes is decided once, and kept for the shapes of late."""

import functools

# Many times what a model of a size has. A training whose sizes change for ever plans anew, and
# forgets.
MAX_SHAPES = 4096
by_shape = functools.lru_cache(maxsize=MAX_SHAPES)
