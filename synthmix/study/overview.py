"""Where a study stands, in words."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from synthmix.study import lease
from synthmix.study.cells import Cell, Plan
from synthmix.study.store import Store
from synthmix.study.walk import states


def print_status(plan: Plan, store: Store, console: Console) -> Counter[str]:
    """Counts by state and level, and each cell that is not simply done or waiting."""
    known = states(plan, store)
    counted = Counter(known.values())
    console.print(
        f"study {plan.config.name}: " + ", ".join(f"{n} {state}" for state, n in counted.items()), highlight=False
    )
    for cell in plan.cells:
        state = known[cell.hash]
        if state in ("running", "failed", "blocked", "halted"):
            console.print(f"  {state:<8}{cell.name}{_why(cell, plan, store, state)}", highlight=False, markup=False)
    return Counter({str(state): n for state, n in counted.items()})


def _why(cell: Cell, plan: Plan, store: Store, state: str) -> str:
    if state == "running":
        held = lease.holder(store.folder(cell)) or {}
        job = f", job {held['job']}" if held.get("job") else ""
        return f"  (process {held.get('pid')} on {held.get('host')}{job})"
    if state == "failed":
        return f"\n          {(store.failure(cell) or {}).get('error', '')}"
    culprits = [above.name for above in plan.ancestors(cell) if store.failure(above) is not None]
    return f"  (by {culprits[0]})" if culprits else ""
