"""A connector that reports each ended KV read some steps late: on one machine most end in the step that starts them."""

import zlib

from context_research.engines.vllm import nixl_connector


class NixlConnector(nixl_connector.NixlConnector):
    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        self._late = {}, {}
        """Steps that each read is still held back, received and sent."""

    def get_transfer_results(self, finished_req_ids):
        results = super().get_transfer_results(finished_req_ids)
        for late, found in zip(self._late, (results.finished_recving, results.finished_sending), strict=True):
            late.update({request: zlib.crc32(request.encode()) % 6 for request in found})
            found.clear()
            found.update(request for request, steps in late.items() if not steps)
            left = {request: steps - 1 for request, steps in late.items() if steps}
            late.clear()
            late.update(left)
        return results
