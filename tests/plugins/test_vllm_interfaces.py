"""What of vLLM the plugin and the token generator touch, by name: a release that changes one is told here, readably.

Each entry is a place in vLLM and what is used of it. `parameters` are those we pass or are called with, `attributes`
those we read; the rest may change freely.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest

vllm = pytest.importorskip("vllm")


@dataclass(frozen=True)
class Used:
    """place: "module:Class.member". by: the files that use it."""

    place: str
    by: str
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


LLAMA = "vllm.model_executor.models.llama"
V1 = "vllm.v1.sample.logits_processor"
V2 = "vllm.v1.worker.gpu"
SAMPLING = (
    "max_tokens",
    "ignore_eos",
    "detokenize",
    "output_kind",
    "temperature",
    "top_k",
    "seed",
    "extra_args",
)
REFUSED = ("prompt_logprobs", "allowed_token_ids", "structured_outputs", "bad_words")
ARGUMENTS = (
    *("model", "skip_tokenizer_init", "generation_config", "dtype", "max_model_len", "max_num_seqs"),
    *(
        "max_num_batched_tokens",
        "disable_log_stats",
        "use_tqdm_on_load",
        "enforce_eager",
    ),
    *("kv_cache_memory_bytes", "gpu_memory_utilization", "hf_overrides"),
)
ATTENTION = ("num_heads", "head_size", "scale", "num_kv_heads", "cache_config", "quant_config", "prefix")
USED = (
    Used("vllm:ModelRegistry.get_supported_archs", "__init__.py"),
    Used("vllm:ModelRegistry.register_model", "__init__.py", ("model_arch", "model_cls")),
    Used(
        f"{LLAMA}:LlamaAttention.__init__",
        "streams.py",
        ("cache_config", "quant_config", "prefix"),
        (
            *("attn", "num_heads", "num_kv_heads", "head_dim", "scaling", "q_size", "kv_size"),
            *("qkv_proj", "rotary_emb", "o_proj"),
        ),
    ),
    Used(f"{LLAMA}:LlamaAttention.forward", "streams.py", ("positions", "hidden_states")),
    Used(
        "vllm.model_executor.layers.attention:Attention.__init__",
        "streams.py",
        (*ATTENTION, "per_layer_sliding_window", "attn_type"),
        ("sliding_window", "attn_type"),
    ),
    Used(
        f"{LLAMA}:LlamaDecoderLayer.__init__",
        "streams.py",
        ("vllm_config", "prefix", "attn_layer_type"),
        ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm"),
    ),
    Used(f"{LLAMA}:LlamaDecoderLayer.forward", "streams.py", ("positions", "hidden_states", "residual")),
    Used(
        f"{LLAMA}:LlamaModel.__init__",
        "streams.py",
        ("vllm_config", "prefix"),  # torch.compile's decorator hides the others
        ("embed_tokens", "layers", "norm"),
    ),
    Used(
        f"{LLAMA}:LlamaModel.forward",
        "streams.py",
        ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
    ),
    Used(f"{LLAMA}:LlamaForCausalLM._init_model", "guided.py", ("vllm_config", "prefix", "layer_type")),
    Used(
        f"{LLAMA}:LlamaForCausalLM.__init__",
        "guided.py",
        ("vllm_config", "prefix"),
        ("config", "model", "lm_head", "logits_processor"),
    ),
    Used(
        f"{LLAMA}:LlamaForCausalLM.forward",
        "guided.py",
        ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
    ),
    Used(f"{LLAMA}:LlamaForCausalLM.compute_logits", "guided.py", ("hidden_states",)),
    Used(f"{LLAMA}:LlamaForCausalLM.load_weights", "guided.py", ("weights",)),
    Used("vllm.distributed:get_pp_group", "guided.py"),
    Used("vllm.distributed:get_tensor_model_parallel_world_size", "guided.py"),
    Used(
        "vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod",
        "guided.py",
    ),
    Used(
        "vllm.config:VllmConfig",
        "guided.py, streams.py, logits_processor.py",
        attributes=(
            *("model_config", "scheduler_config", "speculative_config", "lora_config"),
            *("cache_config", "kernel_config"),
        ),
    ),
    Used("vllm.config:VllmConfig.use_v2_model_runner", "hook.py"),
    Used(
        "vllm.config:ModelConfig",
        "hook.py, cpu_norms.py",
        attributes=("logits_processors", "hf_config", "enforce_eager"),
    ),
    Used("vllm.model_executor.models.config:MODELS_CONFIG_MAP", "hook.py"),
    Used(
        "vllm.model_executor.models.config:VerifyAndUpdateConfig.verify_and_update_config",
        "hook.py",
        ("vllm_config",),
    ),
    Used("vllm.platforms:current_platform.is_cpu", "engine.py"),
    Used("vllm.platforms:current_platform.get_device_total_memory", "engine.py"),
    Used(f"{V1}:LogitsProcessor.__init__", "forced.py", ("vllm_config", "device", "is_pin_memory")),
    Used(f"{V1}:LogitsProcessor.validate_params", "forced.py", ("sampling_params",)),
    Used(f"{V1}:LogitsProcessor.update_state", "logits_processor.py", ("batch_update",)),
    Used(f"{V1}:LogitsProcessor.apply", "forced.py", ("logits",)),
    Used(f"{V1}:LogitsProcessor.is_argmax_invariant", "logits_processor.py"),
    Used(f"{V1}:BatchUpdate", "logits_processor.py", attributes=("removed", "added", "moved")),
    Used(f"{V1}:process_dict_updates", "logits_processor.py", ("req_entries", "batch_update", "new_state")),
    Used(
        f"{V2}.model_states.default:DefaultModelState.__init__",
        "model_state.py",
        ("vllm_config", "model", "device"),
    ),
    Used(
        f"{V2}.model_states.interface:ModelState.__init__",
        "model_state.py",
        attributes=("max_num_reqs", "device"),
    ),
    Used(
        f"{V2}.model_states.default:DefaultModelState.add_request",
        "model_state.py",
        ("req_index", "new_req_data"),
    ),
    Used(
        f"{V2}.model_states.default:DefaultModelState.prepare_inputs",
        "model_state.py",
        ("input_batch", "req_states"),
    ),
    Used(f"{V2}.input_batch:InputBatch", "model_state.py", attributes=("idx_mapping", "seq_lens")),
    Used(
        "vllm.v1.core.sched.output:NewRequestData",
        "model_state.py",
        attributes=("sampling_params", "prompt_token_ids"),
    ),
    Used("vllm:SamplingParams", "scales.py, token_generator.py", attributes=(*SAMPLING, *REFUSED)),
    Used("vllm.sampling_params:RequestOutputKind", "token_generator.py", attributes=("FINAL_ONLY",)),
    Used("vllm:EngineArgs", "engine.py", attributes=ARGUMENTS),
    Used("vllm:LLMEngine.from_engine_args", "token_generator.py", ("engine_args",)),
    Used("vllm:LLMEngine.add_request", "token_generator.py", ("request_id", "prompt", "params")),
    Used("vllm:LLMEngine.abort_request", "token_generator.py", ("request_ids",)),
    Used("vllm:LLMEngine.step", "token_generator.py"),
    Used("vllm:LLMEngine.has_unfinished_requests", "token_generator.py"),
    Used(
        "vllm.outputs:RequestOutput.__init__",
        "token_generator.py",
        ("request_id", "outputs", "finished"),
    ),
    Used("vllm.outputs:CompletionOutput", "token_generator.py", attributes=("token_ids",)),
    Used("vllm.exceptions:VLLMValidationError", "token_generator.py"),
)
NEWER = (  # where a release has them; without, forced tokens in the V2 runner are refused, and norms stay as they are
    Used(
        "vllm.ir.op:IrOp.register_impl", "cpu_norms.py", ("provider", "supported", "supports_args", "inplace")
    ),
    Used(
        "vllm.config.kernel:IrOpPriorityConfig",
        "cpu_norms.py",
        attributes=("rms_norm", "fused_add_rms_norm"),
    ),
    Used(
        f"{V2}.sample.logits_processor:LogitsProcessor.add_request",
        "forced.py",
        ("req_idx", "sampling_params"),
    ),
    Used(f"{V2}.sample.logits_processor:LogitsProcessor.apply", "forced.py", ("logits", "ctx")),
    Used(
        f"{V2}.sample.logits_processor.interface:LogitsContext",
        "forced.py",
        attributes=("idx_mapping_np", "seq_lens_upper_bound_np"),
    ),
    Used(
        f"{V2}.sample.logits_processor.interface:LogitsProcRequestState",
        "forced.py",
        attributes=("prompt_len",),
    ),
)


def problem(used: Used) -> str | None:
    """What a release changed of it, as a sentence; None if all is there."""
    module, _, path = used.place.partition(":")
    where = f"vLLM {vllm.__version__}: {used.place}, which {used.by} uses,"
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            owner, found = found, getattr(found, name)
    except (ImportError, AttributeError) as error:
        return f"{where} is gone: {error}"
    if used.parameters:
        taken = inspect.signature(found).parameters
        gone = [name for name in used.parameters if name not in taken]
        if gone:
            return f"{where} no longer takes {', '.join(gone)}; it takes {', '.join(taken)}"
    known = names_of(owner if path.endswith("__init__") else found)
    gone = [name for name in used.attributes if name not in known]
    return f"{where} no longer has {', '.join(gone)}" if gone else None


def names_of(kind: Any) -> set[str]:
    """Fields, members, and what the methods of a class or of its bases assign to `self`."""
    names = set(dir(kind)) | set(getattr(kind, "__struct_fields__", ()))
    if dataclasses.is_dataclass(kind):
        names |= {field.name for field in dataclasses.fields(kind)}
    for each in inspect.getmro(kind) if inspect.isclass(kind) else ():
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError):  # built in
            continue
        names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _is_own(n)}
    return names


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


@pytest.mark.parametrize("used", USED, ids=lambda used: used.place)
def test_what_we_use_is_there(used: Used) -> None:
    assert not (said := problem(used)), said


@pytest.mark.parametrize("used", NEWER, ids=lambda used: used.place)
def test_what_we_use_of_newer_releases_is_there(used: Used) -> None:
    pytest.importorskip(f"{V2}.sample.logits_processor")
    assert not (said := problem(used)), said


def test_our_classes_leave_nothing_abstract() -> None:
    """A method that a release adds to an interface, and that we lack, is named."""
    from v2flow_vllm.forced import ForcedTokensProcessor
    from v2flow_vllm.logits_processor import GuidanceScaleProcessor, NoGuidanceProcessor
    from v2flow_vllm.model_state import GuidedModelState

    for ours in (ForcedTokensProcessor, GuidanceScaleProcessor, NoGuidanceProcessor, GuidedModelState):
        missing = sorted(getattr(ours, "__abstractmethods__", ()))
        assert not missing, f"vLLM {vllm.__version__}: {ours.__name__} lacks {missing}"


def test_the_v2_runner_asks_models_for_their_state() -> None:
    states = importlib.import_module(f"{V2}.model_states")
    assert "get_model_state_cls" in inspect.getsource(states), (
        f"vLLM {vllm.__version__}: {V2}.model_states no longer asks a model for get_model_state_cls (guided.py)"
    )


@pytest.mark.parametrize(
    ("used", "said"),
    [
        (Used("vllm:SamplingParam", "x.py"), r"vllm:SamplingParam, which x\.py uses, is gone"),
        (Used("vllm.v2:Engine", "x.py"), "is gone: No module named"),
        (Used("vllm:LLMEngine.step", "x.py", ("until",)), "no longer takes until; it takes self"),
        (Used("vllm:SamplingParams", "x.py", attributes=("seeds", "seed")), "no longer has seeds$"),
    ],
)
def test_a_change_is_told_readably(used: Used, said: str) -> None:
    assert re.search(said, problem(used) or "")
