"""What an engine must be, so that keys and values can be handed to it: checked when it starts."""

from typing import Any

from packaging.version import Version

OLDEST, NEWEST = "0.32", "0.34"
"""Versions of vLLM: from the first, below the second."""


class EngineError(ValueError):
    """An engine that keys and values cannot be handed to."""


def check_version(version: str) -> None:
    """Refuse versions of vLLM that the connector was not tried with.

    Raises:
        EngineError: It is another version.
    """
    if not Version(OLDEST) <= Version(Version(version).base_version) < Version(NEWEST):
        raise EngineError(
            f"vLLM is {version}, but the connector is for {OLDEST} or newer, below {NEWEST}: "
            "install one of these"
        )


def check_engine(config: Any, kv_cache_config: Any) -> None:
    """Refuse engines whose cache is not one of plain keys and values of every token.

    Args:
        config: vLLM's `VllmConfig`.
        kv_cache_config: vLLM's `KVCacheConfig`; None where it is not known yet.

    Raises:
        EngineError: What is in the way.
    """
    model, parallel, transfer = (
        config.model_config,
        config.parallel_config,
        config.kv_transfer_config,
    )
    faults = {
        "kv_load_failure_policy is not 'fail', so that vLLM would prefill without replay": (
            transfer.kv_load_failure_policy != "fail"
        ),
        "kv_role must be 'kv_consumer' or 'kv_both'": not transfer.is_kv_consumer,
        "speculative decoding is on": config.speculative_config is not None,
        "pipeline parallelism is on": parallel.pipeline_parallel_size > 1,
        "context parallelism is on": max(
            parallel.prefill_context_parallel_size, parallel.decode_context_parallel_size
        )
        > 1,
        "the model uses multi-head latent attention (MLA)": model.use_mla,
        "the model has layers without attention (hybrid)": model.is_hybrid,
        "the model has an encoder and a decoder": model.is_encoder_decoder,
        "the model's attention has a sliding window": model.get_sliding_window() is not None,
        "the model's attention has chunks": model.attention_chunk_size is not None,
        f"the cache's type is {config.cache_config.cache_dtype}, not the model's": (
            config.cache_config.cache_dtype not in ("auto", str(model.dtype).removeprefix("torch."))
        ),
    }
    for fault, present in faults.items():
        if present:
            raise EngineError(f"replay cannot be handed to this engine: {fault}")
    if kv_cache_config is None:
        return
    groups = kv_cache_config.kv_cache_groups
    kinds = {type(group.kv_cache_spec).__name__ for group in groups}
    if len(groups) != 1 or kinds != {"FullAttentionSpec"}:
        raise EngineError(
            f"replay cannot be handed to this engine: its cache has {len(groups)} groups of "
            f"{', '.join(sorted(kinds)) or 'nothing'}, not one of FullAttentionSpec"
        )
    layers = model.get_total_num_hidden_layers()
    if len(groups[0].layer_names) != layers:
        raise EngineError(
            f"replay cannot be handed to this engine: {len(groups[0].layer_names)} of its {layers} "
            "layers have keys and values of their own"
        )
