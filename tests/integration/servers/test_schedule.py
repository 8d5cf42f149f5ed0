"""A schedule on a real Prefect server: three alignments by themselves, one of them through a kill."""

import pytest

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
