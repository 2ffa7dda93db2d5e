"""The simulated backend makes engines of one machine."""

import pytest

from context_research.backends.registry import backend_of
from tests.support.settings import chosen, resolve_model

pytestmark = pytest.mark.usefixtures("vllm_imported")


def test_engines_of_one_simulated_backend_share_its_machine(tmp_path):
    backend = backend_of(chosen("disaggregated", backend="simulated", device_profile="cpu-2core"))
    engines = [backend.make_engine(resolve_model(), p, tmp_path / p.spec.name) for p in backend.placements]
    assert engines[0]._device is engines[1]._device
    assert engines[0]._machine.loop is backend.loop
