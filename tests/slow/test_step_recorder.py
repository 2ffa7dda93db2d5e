"""Steps that engines of a test's own recorded."""

import pytest

from context_research.engines import step_records
from tests.support.engines import generate, prompt, start
from tests.support.settings import tolerant


@pytest.mark.parametrize("scheduler", [None, "vllm.v1.core.sched.scheduler.Scheduler"], ids=["ours", "given"])
def test_a_restart_appends_and_a_scheduler_of_your_own_is_left_alone(tmp_path, scheduler):
    topology = start(tolerant(engine__args={} if scheduler is None else {"scheduler_cls": scheduler}), tmp_path)
    engine = topology.decoders[0]
    try:
        described = engine.describe()
        assert described["steps_recorded"] is (scheduler is None)
        assert described["vllm_config"]["scheduler"]["async_scheduling"] is False, "as vLLM resolves it on CPU"
        if scheduler is not None:
            generate(engine, "unrecorded", prompt(64, 64), 4)
            assert not step_records.path_of(engine.log).exists()
            return
        for name in ("first", "second"):
            generate(engine, name, prompt(64, 64), 4)
            engine.close()
            assert len(step_records.read(step_records.path_of(engine.log))) == (4 if name == "first" else 8)
            if name == "first":
                engine.start()
    finally:
        topology.close()
