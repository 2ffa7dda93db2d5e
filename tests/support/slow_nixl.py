"""A connector that is slower than its transport: it holds up each read, and its engine's step, for a while."""

import time

from context_research.engines.vllm import nixl_connector


class NixlConnector(nixl_connector.NixlConnector):
    def start_load_kv(self, forward_context, **options):
        super().start_load_kv(forward_context, **options)
        if self._connector_metadata.reqs_to_recv:
            time.sleep(0.3)
