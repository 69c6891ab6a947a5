"""A KV connector of vLLM that takes prefills from visreplay.

Keys and values of a prompt are read from files that a worker of visreplay wrote; vLLM computes the
prompt's last token and decodes. A request either gets exactly the keys and values that were written
for its prompt, or it fails, alone: vLLM never prefills in their place. One object of the class
lives in vLLM's scheduler, one in each of its workers.

Axes: L layers, T tokens, H heads of keys and values, D size of a head.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vllm
from safetensors import safe_open
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    SupportsHMA,
)
from vllm.model_executor.models.utils import extract_layer_index

from visreplay_connector.engine_checks import EngineError, check_engine, check_version
from visreplay_connector.fetching import Fetcher
from visreplay_connector.handles import (
    IDENTIFIER,
    PARAMETER,
    Description,
    HandleError,
    Picture,
    checkpoint_digest,
    names_of,
    prefix_digest,
)
from visreplay_connector.pictures import check_picture, is_bare

logger = logging.getLogger("vllm.visreplay_connector")


@dataclass(frozen=True)
class Stretch:
    """A file with the keys and values of tokens `start` to `stop - 1`."""

    name: str
    start: int
    stop: int


@dataclass
class Plan:
    """What is to be loaded for a request.

    Attributes:
        stretches: The files, from the prompt's first token to its last but one.
        refused: Why the request fails; None if it does not.
        known: Number of tokens that vLLM has by itself.
        awaited: The files that have to be fetched first; None if all are there.
    """

    stretches: list[Stretch] = field(default_factory=list)
    refused: str | None = None
    known: int = 0
    awaited: list[str] | None = None


@dataclass
class Load:
    """What a worker loads: tokens `start` to `stop - 1` of a request, into its blocks."""

    request_id: str
    plan: Plan
    start: int
    stop: int
    block_ids: list[int]


@dataclass
class Loads(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler tells the workers in a step."""

    loads: list[Load] = field(default_factory=list)


class ReplayConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Hands prefills of visreplay to vLLM.

    Options, in `kv_connector_extra_config`:
        folder: The folder of the files. Requests name files in it, and no others.
        sources: Addresses (`http://host:port`) of workers on other machines that files may be
            fetched from; none by default.
        max_bytes: Bound on the files that are fetched and kept, 16 GiB by default.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        check_version(vllm.__version__)
        check_engine(vllm_config, kv_cache_config)
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        options = self._kv_transfer_config.kv_connector_extra_config
        if not isinstance(options.get("folder"), str):
            raise EngineError(
                "kv_connector_extra_config has no 'folder': name the folder of keys and values"
            )
        self._folder = Path(options["folder"])
        self._block_size = kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        model = vllm_config.model_config
        self._shape_LHD = (
            model.get_total_num_hidden_layers(),
            model.get_total_num_kv_heads(),
            model.get_head_size(),
        )
        self._model = checkpoint_digest(_folder_of(model))
        self._fetcher = (
            Fetcher(self._folder, options) if role is KVConnectorRole.SCHEDULER else None
        )
        self._plans: dict[str, Plan] = {}
        self._to_load: dict[str, Load] = {}
        self._layers: dict[int, Any] = {}
        self._failed_requests: set[str] = set()
        self._failed_blocks: set[int] = set()

    # In the scheduler. What raises here would end the engine for everybody.

    def on_new_request(self, request: Any) -> None:
        """Plan what is loaded for a request; whatever is wrong with it fails it alone."""
        try:
            plan = self._plan(request)
        except Exception as error:
            plan = _refusal(error)
        if plan is not None:
            self._plans[request.request_id] = plan
            # Or vLLM would not ask for external tokens, and prefill by itself.
            request.skip_reading_prefix_cache = False

    def _plan(self, request: Any) -> Plan | None:
        handle = (request.kv_transfer_params or {}).get(PARAMETER)
        features = request.mm_features or []
        own = [each for each in features if str(each.identifier).startswith(IDENTIFIER)]
        if handle is None:
            if own:
                raise HandleError("its pictures are visreplay's, but it has no handle")
            if any(is_bare(feature) for feature in features):
                raise HandleError("a picture has no pixels, and there is no handle")
            return None
        names = names_of(handle)
        _check_request(request)
        if len(own) < len(features):
            raise HandleError(f"identifiers of its pictures do not all begin with {IDENTIFIER!r}")
        end = request.num_prompt_tokens
        for feature in features:
            check_picture(feature, end, self._vllm_config.model_config)
        if self._fetcher is not None and self._fetcher.begin(request.request_id, handle, names):
            return Plan(awaited=names)
        return self._plan_of(names, request)

    def _plan_of(self, names: list[str], request: Any) -> Plan:
        """Read what the files are of, and check that they are this prompt's."""
        plan = Plan()
        ids = list(request.prompt_token_ids)
        pictures = [
            Picture(each.mm_position.offset, each.identifier) for each in request.mm_features
        ]
        pictures.sort(key=lambda picture: picture.start)
        end = len(ids) - 1
        done = 0
        for name in names:
            try:
                with safe_open(self._folder / name, "pt") as file:
                    found = Description.of(file.metadata())
            except OSError as error:
                raise HandleError(f"{name} cannot be read: {error}") from error
            if done >= end:
                break
            if found.model != self._model:
                raise HandleError(f"{name} is of other weights than the engine's")
            if found.salt != request.cache_salt:
                raise HandleError(f"{name} is for requests with another cache_salt")
            if found.start > done or found.stop <= done:
                raise HandleError(f"{name} begins at token {found.start}, not at {done}")
            # A file may reach beyond the last token but one: the rest is not used.
            if found.stop > len(ids):
                raise HandleError(f"{name} ends behind the prompt's {len(ids)} tokens")
            before = [picture for picture in pictures if picture.start < found.stop]
            if found.prefix != prefix_digest(ids[: found.stop], before):
                raise HandleError(f"{name} is of another conversation")
            plan.stretches.append(Stretch(name, done, min(found.stop, end)))
            done = found.stop
        if done < end:
            raise HandleError(f"tokens {done} to {end - 1} are in none of its files")
        return plan

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """Claim all tokens but the last.

        Preempted requests come again, with what they have decoded, which vLLM computes again. Of a
        request that is refused everything is claimed, for a load that ends at once in a failure:
        it never runs.
        """
        plan = self._plans.get(request.request_id)
        if plan is None:
            return 0, False
        if plan.awaited is not None and self._fetcher is not None:
            try:
                if not self._fetcher.arrived(request.request_id):
                    return None, False  # vLLM asks again in its next step
                plan = self._plan_of(plan.awaited, request)
            except Exception as error:
                plan = _refusal(error)
            self._plans[request.request_id] = plan
        plan.known = num_computed_tokens
        if plan.refused is None:
            return max(0, request.num_prompt_tokens - 1 - num_computed_tokens), False
        return request.num_tokens - num_computed_tokens, True

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note what is to be loaded, and where."""
        plan = self._plans.get(request.request_id)
        if plan is None or not num_external_tokens:
            return
        (block_ids,) = blocks.get_block_ids()
        self._to_load[request.request_id] = Load(
            request.request_id, plan, plan.known, plan.known + num_external_tokens, list(block_ids)
        )

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """Hand the noted loads to the workers."""
        loads = Loads(list(self._to_load.values()))
        self._to_load.clear()
        return loads

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        """Forget a request."""
        self._plans.pop(request.request_id, None)
        self._to_load.pop(request.request_id, None)
        if self._fetcher is not None:
            self._fetcher.end(request.request_id)
        return False, None

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        """Forget a request."""
        return self.request_finished(request, block_ids)

    # In a worker.

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        """Find the layers by their numbers."""
        layers = self._vllm_config.compilation_config.static_forward_context
        (group,) = self._kv_cache_config.kv_cache_groups
        self._layers = {extract_layer_index(name): layers[name] for name in group.layer_names}

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Load what the scheduler noted; a load that fails, fails its request alone."""
        for load in self._get_connector_metadata().loads:
            if load.plan.refused is not None:
                logger.error("request %s is refused: %s", load.request_id, load.plan.refused)
                self._failed_requests.add(load.request_id)
                continue
            try:
                self._load(load)
            except Exception as error:
                logger.error("request %s cannot be loaded: %s", load.request_id, error)
                size = self._block_size
                first, last = load.start // size, (load.stop - 1) // size
                self._failed_blocks.update(load.block_ids[first : last + 1])

    def _load(self, load: Load) -> None:
        blocks = torch.tensor(load.block_ids)
        for stretch in load.plan.stretches:
            start, stop = max(stretch.start, load.start), min(stretch.stop, load.stop)
            if start >= stop:
                continue
            with safe_open(self._folder / stretch.name, "pt") as file:
                first = Description.of(file.metadata()).start
                rows = slice(start - first, stop - first)
                keys, values = (self._read(file, name, rows) for name in ("keys", "values"))
            places = torch.arange(start, stop)
            slots = blocks[places // self._block_size] * self._block_size
            self._write(keys, values, slots + places % self._block_size)

    def _read(self, file: Any, name: str, rows: slice) -> Any:
        part = file.get_slice(name)
        layers, tokens, heads, size = part.get_shape()
        if (layers, heads, size) != self._shape_LHD or rows.stop > tokens:
            raise HandleError(
                f"{name} are {layers} layers of {tokens} tokens, {heads} heads of {size}, but the "
                "engine has {} layers, {} heads of {}".format(*self._shape_LHD)
            )
        return part[:, rows]

    def _write(self, keys_LTHD: Any, values_LTHD: Any, slots_T: Any) -> None:
        total = keys_LTHD.shape[2]
        first = get_tensor_model_parallel_rank() * total // get_tensor_model_parallel_world_size()
        for number, layer in self._layers.items():
            own = slice(first, first + layer.num_kv_heads)
            cache = layer.kv_cache
            parts = []
            for rows_LTHD in (keys_LTHD, values_LTHD):
                if rows_LTHD.dtype != layer.kv_cache_torch_dtype:
                    raise HandleError(
                        f"the file's numbers are {rows_LTHD.dtype}, but the engine's are "
                        f"{layer.kv_cache_torch_dtype}: load both with one dtype"
                    )
                parts.append(rows_LTHD[number, :, own].to(cache.device).contiguous())
            layer.impl.do_kv_cache_update(layer, *parts, cache, slots_T.to(cache.device))

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Report the requests that are refused."""
        failed, self._failed_requests = self._failed_requests, set()
        return KVConnectorTransferResults(finished_recving=set(failed), failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Report the blocks of loads that failed."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Do nothing: loads end before the forward pass begins."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Save nothing."""

    def wait_for_save(self) -> None:
        """Save nothing."""


def _refusal(error: Exception) -> Plan:
    known = isinstance(error, HandleError)
    return Plan(refused=str(error) if known else f"{type(error).__name__}: {error}")


def _check_request(request: Any) -> None:
    """Refuse requests whose prompt vLLM would run, or run differently, whatever is loaded.

    Raises:
        HandleError: What is in the way.
    """
    sampling = request.sampling_params
    faults = {
        "it has no cache_salt": not request.cache_salt,
        "it is no request for text": sampling is None,
        "log-probabilities of the prompt": sampling is not None
        and sampling.prompt_logprobs is not None,
        "an adapter (LoRA)": request.lora_request is not None,
        "embeddings in the prompt": request.prompt_embeds is not None,
        "a prompt that goes on": request.resumable,
        "a prompt of one token": request.num_prompt_tokens < 2,
    }
    for fault, present in faults.items():
        if present:
            raise HandleError(f"not with replay: {fault}")


def _folder_of(model_config: Any) -> Path:
    """Find the folder of the weights that the engine has loaded."""
    folder = Path(model_config.model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(
            snapshot_download(
                model_config.model, revision=model_config.revision, local_files_only=True
            )
        )
    return folder
