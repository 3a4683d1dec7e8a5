import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    beside_the_repository = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("THOUGHTLENS_DATA", beside_the_repository))
    if not folder.is_dir():
        pytest.skip("the published problem sets are not on this machine; set THOUGHTLENS_DATA to their folder")
    return folder
