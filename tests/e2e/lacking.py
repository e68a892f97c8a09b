# SPDX-License-Identifier: GPL-2.0-or-later
"""dsmsup with virtual hosts whose processors claim to lack features, for tests.

    lacking.py WHO FEATURES dsmsup-arguments...

WHO is `home` or `others`. A host claims so when it joins; nothing else is changed.
"""

from __future__ import annotations

import sys

import msgspec

from supervisor.arch.cpuid import without
from supervisor.cli import main
from supervisor.cluster import gather, join
from supervisor.cluster.hostinfo import HostInfo, local_info


def lacking(names: frozenset[str], cpus: int, port: int = 0) -> HostInfo:
    """This host, without some of its features."""
    info = local_info(cpus, port)
    processor = msgspec.structs.replace(
        info.processor,
        features=tuple(each for each in info.processor.features if each not in names),
        words=without(info.processor.words, names),
    )
    return msgspec.structs.replace(info, processor=processor)


if __name__ == "__main__":
    who, features, *rest = sys.argv[1:]
    module = {"home": gather, "others": join}[who]
    module.local_info = lambda cpus, port=0: lacking(frozenset(features.split(",")), cpus, port)
    sys.argv = ["dsmsup", *rest]
    main()
