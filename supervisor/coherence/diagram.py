# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol's states as a diagram and a table, made from the tables home walks.

`python -m supervisor.coherence.diagram` prints Markdown with a Mermaid diagram
of a page's entry in the directory and the table of what each request does.
"""

from __future__ import annotations

from typing import Final

from supervisor.coherence.directory import (
    AWAY,
    COPY_ADDED,
    REQUESTERS,
    RULES,
    Holding,
    Rule,
    Want,
)
from supervisor.coherence.messages import Access, Content

_STATE: Final[dict[Holding, str]] = {
    Holding.MINE: "Exclusive",
    Holding.HOME: "Exclusive",
    Holding.OTHER: "Exclusive",
    Holding.COPY: "Shared",
    Holding.SHARED: "Shared",
    Holding.AWAY_COPY: "SharedAway",
    Holding.AWAY: "SharedAway",
    Holding.MANY_COPY: "MultipleWriter",
    Holding.MANY: "MultipleWriter",
}

_KEEPS: Final[dict[Access, str]] = {
    Access.NONE: "gives it up",
    Access.READ: "keeps a readable copy",
    Access.WRITE: "keeps it",
}

_CONTENT: Final[dict[Content | None, str]] = {
    None: "nothing",
    Content.DATA: "the page (zeros unsent)",
    Content.HELD: "the right to write its copy",
    Content.ZERO: "zeros",
}


_BY_TWO_WAYS: Final = tuple((Want.READ, holding) for holding in AWAY)
"""Where it matters for the page's state whether its data comes to home."""


def _next_state(holding: Holding, rule: Rule) -> str:
    if rule.becomes == REQUESTERS:
        return "Exclusive"
    if rule.becomes == COPY_ADDED:
        return "MultipleWriter" if _STATE[holding] == "MultipleWriter" else "Shared"
    return _STATE[holding]


def mermaid() -> str:
    """A state diagram of one page's directory entry."""
    arrows: dict[tuple[str, str], list[str]] = {("[*]", "Exclusive"): ["untouched, at home"]}
    for (want, holding), rule in RULES.items():
        arrow = (_STATE[holding], _next_state(holding, rule))
        label = f"{want.value}, {holding.value}"
        if rule.becomes == "unchanged":
            continue
        if (want, holding) in _BY_TWO_WAYS:
            for target, way in (("SharedAway", "sent directly"), ("Shared", "sent home")):
                arrows.setdefault((_STATE[holding], target), []).append(f"{label}, {way}")
        elif label not in arrows.setdefault(arrow, []):
            arrows[arrow].append(label)
    for state in ("Exclusive", "Shared"):
        arrows.setdefault((state, "MultipleWriter"), []).append("write, where the policy says so")
    for state in ("Shared", "MultipleWriter"):
        arrows.setdefault((state, "Exclusive"), []).append("discarded, at home, zeros")
    lines = ["stateDiagram-v2"]
    for (source, target), labels in arrows.items():
        lines += [f"    {source} --> {target}: {label}" for label in labels]
    return "\n".join(lines)


def table() -> str:
    """What home does for each request, one row for each rule."""
    lines = [
        "| request | the page is | its holders | home's guest | other readers "
        "| the requester gets | the page becomes |",
        "|---|---|---|---|---|---|---|",
    ]
    for (want, holding), rule in RULES.items():
        lines.append(_row(want, holding, rule))
    return "\n".join(lines)


def _row(want: Want, holding: Holding, rule: Rule) -> str:
    cells = (
        want.value,
        holding.value,
        "-" if rule.owner_keeps is None else _KEEPS[rule.owner_keeps],
        "-" if rule.home_keeps is None else _KEEPS[rule.home_keeps],
        "told to drop theirs" if rule.invalidate else "-",
        _CONTENT[rule.content],
        rule.becomes,
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    print(f"```mermaid\n{mermaid()}\n```\n\n{table()}")


if __name__ == "__main__":
    main()
