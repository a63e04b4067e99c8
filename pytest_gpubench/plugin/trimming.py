"""``--gpubench-trim``: of every server that is selected only the case of lowest concurrency."""

from __future__ import annotations

import pytest

from pytest_gpubench.model.cases import lowest_of_servers
from pytest_gpubench.plugin.items import parameters_of


class Trim:
    """Deselects every other case, after ``-k`` and ``-m`` have chosen."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        cases = {item: (parameters_of(item) or (None, None))[1] for item in items}
        kept = lowest_of_servers(case for case in cases.values() if case is not None)
        dropped = {item for item, case in cases.items() if case and case.id not in kept}
        if dropped:
            items[:] = [item for item in items if item not in dropped]
            config.hook.pytest_deselected(items=list(dropped))
