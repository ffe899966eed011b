"""
Who may have how much in the queue.

What is refused here is Overloaded, with the time after which another try makes sense. Whose turn
it is among those who were let in is decided by `dispatch` in scripts/prelude.lua: one job of each
tenant, in turn, as long as he has fewer running than he may.
"""

from saggar.config import Quota, Settings


def quota(settings: Settings, tenant: str) -> Quota:
    """What this tenant may have."""
    return settings.tenants.get(tenant, settings.quota)
