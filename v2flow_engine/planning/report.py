"""A plan with all that it rests on -> one JSON document, and the same for a reader.

Knows nothing of how the numbers come about.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from v2flow_engine.errors import RequestError
from v2flow_engine.evaluation.report import format_table
from v2flow_engine.planning.hardware import Device, find_device
from v2flow_engine.planning.plan import Costs, Plan, for_deadline, for_devices
from v2flow_engine.planning.request import Subject, find_subject, parse_duration
from v2flow_engine.planning.stages import DecoderStage, TokenStage, TokenWork, decoder_stage, token_stage

SHARED_MEMORY = 0.25  # the decoder's part of a device that both stages share
TOKEN_RATES = ("llm_bandwidth", "llm_compute", "step_overhead", "startup")
DECODER_RATES = ("transformer", "velocity", "autoencoder", "encode")
UNITS = {"step_overhead": " s", "encode": " s a megapixel", "startup": " s"}


def document(args: argparse.Namespace, given: dict[str, float]) -> dict[str, Any]:
    """Plan what the options ask for; given: rates of the user's own. Raises `V2FlowError` for what can't be."""
    if args.images is None or args.images < 1:
        raise RequestError("--images is needed, a positive number")
    if args.deadline is None and args.gpus is None:
        raise RequestError("--deadline or --gpus is needed")
    token_device = find_device(args.gpu).changed(given)
    other = args.decoder_gpu is not None and args.decoder_gpu != args.gpu
    decoder_device = find_device(args.decoder_gpu).changed(given) if other else token_device
    subject = find_subject(args, args.llm)
    work = TokenWork(
        args.prompt_tokens,
        subject.decoder.num_visual_tokens,
        1 if subject.guidance == 1 else 2,
        args.in_flight,
        args.memory_share,
    )
    tokens, decoder, costs = _costs(subject, work, token_device, decoder_device)
    if args.gpus is not None:
        plan = for_devices(args.images, args.gpus, costs)
    else:
        plan = for_deadline(args.images, parse_duration(args.deadline), costs)
    return {
        "plan": {**dataclasses.asdict(plan), "devices": plan.devices},
        "deadline_seconds": None if args.deadline is None else parse_duration(args.deadline),
        "llm": args.llm,
        "decoder": args.decoder,
        "size": subject.size,
        "token_device": token_device.hardware.name,
        "decoder_device": decoder_device.hardware.name,
        "token_stage": dataclasses.asdict(tokens),
        "decoder_stage": dataclasses.asdict(decoder),
        "assumptions": _assumptions(args, subject, work, token_device, decoder_device),
    }


def _costs(
    subject: Subject, work: TokenWork, token_device: Device, decoder_device: Device
) -> tuple[TokenStage, DecoderStage, Costs]:
    """Both stages by themselves, and on one device if that holds both."""
    tokens = token_stage(subject.llm, token_device, work)
    decoder = decoder_stage(subject.decoder, decoder_device, work.memory_share)
    shared: tuple[float, float] | tuple[None, None] = (None, None)
    if decoder_device is token_device:
        try:
            beside = decoder_stage(subject.decoder, token_device, SHARED_MEMORY)
            shared = (
                token_stage(subject.llm, token_device, work, beside.memory_bytes).seconds,
                beside.seconds,
            )
        except RequestError:  # too small for both
            pass
    whole = token_device.hardware.whole_machine and shared[0] is not None
    startup = max(token_device.rates.startup, decoder_device.rates.startup)
    return tokens, decoder, Costs(tokens.seconds, decoder.seconds, *shared, startup, whole)


def _assumptions(
    args: argparse.Namespace, subject: Subject, work: TokenWork, token_device: Device, decoder_device: Device
) -> list[dict[str, Any]]:
    """Everything that the result rests on: what, how much, and where that comes from."""
    rows: list[tuple[str, Any, str]] = []
    devices = [("", token_device, (*TOKEN_RATES, *DECODER_RATES))]
    if decoder_device is not token_device:
        devices = [
            ("tokens: ", token_device, TOKEN_RATES),
            ("decoder: ", decoder_device, DECODER_RATES),
        ]
    for prefix, device, names in devices:
        hardware = device.hardware
        rows += [
            (f"{prefix}peak of products", f"{hardware.matmul / 1e12:.4g} TFLOP/s", hardware.source),
            (f"{prefix}peak of memory", f"{hardware.bandwidth / 1e9:.4g} GB/s", hardware.source),
            (f"{prefix}memory", f"{hardware.memory / 1e9:.4g} GB", hardware.source),
            (f"{prefix}bytes of a number", hardware.number_bytes, "weights, activations and KV cache alike"),
        ]
        for name in names:
            amount = f"{getattr(device.rates, name):.4g}{UNITS.get(name, ' of the roofline')}"
            rows.append((f"{prefix}{name.replace('_', ' ')}", amount, device.origins[name]))
    shape, named = subject.decoder, "given, or the model's own"
    rows += [
        ("prompt", f"{work.prompt_tokens} tokens", "given, or 32 assumed"),
        ("visual tokens of a picture", work.visual_tokens, f"{subject.size} with this decoder"),
        ("streams of the LLM", work.streams, f"guidance {subject.guidance:g}"),
        ("images in an engine, at most", args.in_flight, "given, or the token generator's own limit"),
        ("memory that is used", f"{args.memory_share:.0%}", "given, or assumed"),
        ("KV cache of a picture", "its full length", "assumed: what the engine holds when a batch ends"),
        ("decoder", f"{shape.rounds} rounds of {shape.flow_steps} steps, {shape.solver}", named),
        ("decoder's guidance", shape.guidance, named),
        ("failures, restarts, idle machines", "none", "assumed"),
        ("reading prompts, writing files", "hidden behind the GPUs' work", "assumed"),
    ]
    return [{"what": what, "value": value, "origin": origin} for what, value, origin in rows]


def text(report: dict[str, Any]) -> str:
    """The document for a reader."""
    plan = Plan(**{k: v for k, v in report["plan"].items() if k != "devices"})
    tokens, decoder = TokenStage(**report["token_stage"]), DecoderStage(**report["decoder_stage"])
    return "\n".join(
        [
            _headline(plan, report),
            "",
            _stage_table(plan, tokens, decoder, report),
            "",
            f"LLM {report['llm']}: weights {tokens.weight_bytes / 1e9:.2f} GB, KV cache of a picture "
            f"{tokens.kv_bytes / 1e6:.1f} MB, {tokens.in_flight} pictures in flight (memory would hold "
            f"{tokens.memory_for}); a step {tokens.step_seconds * 1e3:.2f} ms for {tokens.step_flops / 1e9:.1f} GFLOP "
            f"and {tokens.step_bytes / 1e9:.2f} GB, ruled by {tokens.bound}",
            "",
            format_table(
                [f"decoder {report['decoder']}", "GFLOP", "ms"],
                [
                    [name, decoder.flops[name] / 1e9 if name in decoder.flops else None, seconds * 1e3]
                    for name, seconds in decoder.parts.items()
                ],
            ),
            "",
            "What it rests on:",
            *(f"  {row['what']:<34} {row['value']!s:<38} {row['origin']}" for row in report["assumptions"]),
        ]
    )


def _headline(plan: Plan, report: dict[str, Any]) -> str:
    kinds = f"{report['token_device']}"
    if plan.shared:
        devices = f"{plan.devices} x {kinds}, each for tokens and decoding"
    else:
        devices = (
            f"{plan.token_devices} x {kinds} for tokens, {plan.decoder_devices} x {report['decoder_device']} for "
            "decoding"
        )
    return (
        f"{plan.images:,} pictures of {report['size']}: {devices}; {plan.images_per_second:.3g} images/s, "
        f"{duration(plan.seconds)}, {plan.device_hours:,.1f} GPU hours; token to decoder actors "
        f"{plan.ratio:.2f} : 1"
    )


def _stage_table(plan: Plan, tokens: TokenStage, decoder: DecoderStage, report: dict[str, Any]) -> str:
    rows = [
        ["tokens", report["token_device"], plan.token_devices, tokens.seconds, plan.token_utilisation],
        [
            "decoder",
            report["decoder_device"],
            plan.decoder_devices,
            decoder.seconds,
            plan.decoder_utilisation,
        ],
    ]
    return format_table(
        ["stage", "device", "devices", "device s/image", "images/s of one", "share of its time"],
        [
            [name, device, count, f"{seconds:.4f}", f"{1 / seconds:.3f}", f"{busy:.0%}"]
            for name, device, count, seconds, busy in rows
        ],
    )


def duration(seconds: float) -> str:
    """Seconds in words: 6.3 d, 4.2 h, 12 min, 40 s."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
