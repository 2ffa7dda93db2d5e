"""What an engine of somebody else must be, and what it need not."""

from pathlib import Path

import pytest

from context_research.backends.registry import backend_of
from context_research.engines import contract
from context_research.engines.base import ENGINE_EVIDENCE, Counters, Evidence, capabilities
from context_research.engines.null import NullEngine
from context_research.engines.vllm.engine import VllmEngine
from context_research.errors import UsageProblem
from context_research.serving import build
from tests.support.settings import chosen, placement, resolve_model


class Least:
    """An engine with no more than what must be there."""

    capabilities = frozenset()

    def __init__(self, placement):
        self.name, self.role = placement.spec.name, placement.spec.role
        self.log, self.counters, self.dead = Path("x.log"), Counters(), False
        self.started = self.closed = False

    def start(self):
        self.started = True

    def close(self):
        self.closed = True

    async def serve(self, request, leg, *, output_tokens, handoff, alternatives=None): ...

    def describe(self):
        return {}


AT = placement()


def problem(engine):
    with pytest.raises(UsageProblem) as raised:
        contract.check(engine, AT)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def without(*names):
    engine = Least(AT)
    kept = {name: value for name, value in vars(engine).items() if name not in names}
    hidden = dict.fromkeys((name for name in names if hasattr(Least, name)), None)
    made = type("Lacking", (Least,), hidden).__new__(type("Lacking", (Least,), hidden))
    vars(made).update(kept)
    return made


def test_the_least_engine_is_one():
    contract.check(Least(AT), AT)


@pytest.mark.parametrize("name", ["log", "counters", "dead", "start", "close", "serve", "describe"])
def test_what_it_lacks_is_named(name):
    assert problem(without(name)).endswith(f"Lacking is no engine: it lacks {name} (engines/base.py)")


def test_all_that_it_lacks_is_named_in_one_line():
    assert "it lacks log, counters, serve (" in problem(without("serve", "counters", "log"))


def test_who_says_nothing_of_its_evidence_must_reset_its_cache():
    silent = type("Silent", (Least,), {})(AT)
    del Least.capabilities
    try:
        assert capabilities(silent) == ENGINE_EVIDENCE
        assert "it lacks reset_prefix_cache" in problem(silent)
    finally:
        Least.capabilities = frozenset()


def test_evidence_that_there_is_none_of_is_refused():
    engine = Least(AT)
    engine.capabilities = frozenset({Evidence.COUNTS, "hearsay"})
    assert "its capabilities name 'hearsay'; of counts, transfers, " in problem(engine)


def test_counters_of_another_kind_are_refused():
    engine = Least(AT)
    engine.counters = {}
    assert "its counters are dict, not Counters" in problem(engine)


def test_an_engine_must_be_the_one_that_was_asked_for():
    engine = Least(AT)
    engine.name = "mine"
    assert "it is 'mine' in role 'aggregated', asked for was 'aggregated' in role 'aggregated'" in problem(engine)


def test_a_description_has_what_readers_rely_on():
    told = contract.described(Least(AT), AT)
    assert (told.name, told.role, told.devices) == ("aggregated", "aggregated", (0, 1))
    assert (told.pids, told.vllm_config) == ((), {})
    assert told.engine_class == "tests.fast.engines.test_contract.Least"


def test_what_an_engine_says_of_itself_is_kept_but_not_what_it_is():
    engine = Least(AT)
    engine.describe = lambda: {"devices": [7], "pids": [1], "own": "word", "name": "other", "class": "VllmEngine"}
    told = contract.described(engine, AT)
    assert (told.devices, told.pids, told.model_extra) == ((7,), (1,), {"own": "word"})
    assert (told.name, told.engine_class) == ("aggregated", "tests.fast.engines.test_contract.Least")


def test_a_known_key_with_another_meaning_is_refused_in_one_line():
    engine = Least(AT)
    engine.describe = lambda: {"pids": "none"}
    with pytest.raises(UsageProblem, match=r"its describe\(\) gives pids: Input should be .*, got 'none'") as raised:
        contract.described(engine, AT)
    assert "\n" not in str(raised.value)


def test_a_description_that_is_none_is_refused_in_one_line():
    engine = Least(AT)
    engine.describe = lambda: "an engine"
    with pytest.raises(UsageProblem, match=r"Least is no engine: its describe\(\) gives str, not a mapping"):
        contract.described(engine, AT)


def test_our_own_engines_are_engines(tmp_path):
    own = backend_of(chosen()).make_engine(resolve_model(), AT, tmp_path / "log")
    contract.check(own, AT)
    contract.check(NullEngine(AT, 0.001), AT)
    assert contract.class_of(own) == contract.OUR_OWN
    assert contract.foreign([own]) == []
    assert contract.foreign([own, Least(AT)]) == ["tests.fast.engines.test_contract.Least"]
    assert contract.foreign([type("Mine", (VllmEngine,), {})(chosen(), resolve_model(), AT, tmp_path / "log")]) == [
        "tests.fast.engines.test_contract.Mine"
    ]


def test_an_engine_without_prepare_is_asked_for_nothing():
    topology = build.build(backend_of(chosen()), Least)
    topology.prepare([])
    topology.start()
    assert topology.describe()[0].engine_class.endswith("Least")


def test_what_is_no_engine_is_refused_when_it_is_made():
    with pytest.raises(UsageProblem, match="is no engine: it lacks name, role, log"):
        build.build(backend_of(chosen()), lambda _: object())


def test_engines_that_cannot_describe_themselves_are_closed_again():
    topology = build.build(backend_of(chosen()), Least)
    (engine,) = topology.engines
    engine.describe = list
    with pytest.raises(UsageProblem, match="not a mapping"):
        topology.start()
    assert engine.started
    assert engine.closed


def test_a_logs_folder_is_there_before_its_engine(tmp_path):
    log = build.log_of(AT, tmp_path / "runs" / "r1" / "logs")
    assert log == tmp_path / "runs" / "r1" / "logs" / "aggregated.log"
    assert log.parent.is_dir()
