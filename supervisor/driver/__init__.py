# SPDX-License-Identifier: GPL-2.0-or-later
"""The driver: stops and packets -> coherence step -> effects, in order."""
