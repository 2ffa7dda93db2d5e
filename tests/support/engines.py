"""Real engines: started, lent to a pytest session inside this process, changed in a part, asked for tokens."""

from context_research.backends.registry import backend_of
from context_research.engines.loop import process_loop
from context_research.models import hub
from context_research.request import Leg, Request
from context_research.serving import build


def start(chosen, logs):
    """The settings' serving mode, running."""
    model = hub.resolve(chosen.model)
    topology = build.with_logs(backend_of(chosen), model, logs)
    topology.start()
    return topology


class Changed:
    """A running engine of which a test changes something."""

    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)


class Lent(Changed):
    """A running engine that ignores start and close."""

    def start(self): ...

    def close(self): ...


class Lend:
    """A plugin that lends running engines to a pytest session inside this process, which can't start or close them."""

    def __init__(self, *running):
        self._engines = {engine.role: engine for topology in running for engine in topology.engines}

    def pytest_context_research_make_engine(self, settings, placement):
        if settings.backend != "vllm":  # made where it is used, in seconds
            return None
        return Lent(self._engines[placement.spec.role])


def request(name, prompt, output_tokens=8):
    return Request(name, prompt, output_tokens, seed=1, temperature=0.0, sha256="")


def prompt(salt, length=1000):
    return [(i * 7919 + salt * 104729) % 16000 + 256 for i in range(length)]


def generate(engine, name, ids, output_tokens=8):
    leg = Leg(engine.name)
    process_loop().run(engine.serve(request(name, ids), leg, output_tokens=output_tokens, handoff=None))
    return leg
