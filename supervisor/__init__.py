# SPDX-License-Identifier: GPL-2.0-or-later
"""dsmsup: runs one unmodified multithreaded program over several hosts as one SMP machine."""

__version__ = "0.1.0"
IS_DSMSUP = True
"""Tells this package from another distribution's of the same name."""
