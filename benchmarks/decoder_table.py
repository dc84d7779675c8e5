"""The decoder benchmark's report -> a table for a reader."""

from __future__ import annotations


def table(report: dict) -> str:
    """Everything that was measured; ratios are to the first decoder."""
    lines = [
        f"{report['model']}, {report['size']}{', mixed grids' if report['mixed'] else ''}, to {report['to']}, "
        f"{report['rounds']} rounds of {report['flow_steps']} steps, guidance {report['guidance']:g}; "
        f"{report['machine']['device']} {report['machine']['capability']}, {report['machine']['threads']} threads, "
        f"torch {report['machine']['torch']}",
        "",
        *_speeds(report["images_per_second"]),
        *_first_turns(report["first_turn_seconds"]),
    ]
    if "largest_difference" in report:
        found = ", ".join(f"{name} {value:.1e}" for name, value in report["largest_difference"].items())
        lines += ["", f"latents differ from the first decoder's by at most (relative): {found}"]
    if "flops_per_image" in report:
        lines += ["", *_operations(report)]
    lines.append(f"peak memory: {report['peak_memory_bytes'] / 2**20:.0f} MiB")
    if "arrivals" in report:
        lines += ["", f"{report['arrivals']['images']} arrivals, {report['arrivals']['rate']:.2f} a second"]
        for name, served in report["arrivals"]["policies"].items():
            lines.append(
                f"{name:<26}{served['images_per_second']:>8.2f} images/s, p50 {served['p50_s']:.3f} s, "
                f"p95 {served['p95_s']:.3f} s"
            )
    return "\n".join(lines)


def _speeds(speeds: dict[str, dict[str, float]]) -> list[str]:
    first = next(iter(speeds.values()))
    lines = [f"{'images/s (ratio)':<26}" + "".join(f"{'batch ' + batch:>18}" for batch in first)]
    for name, values in speeds.items():
        cells = (f"{values[b]:.2f} ({values[b] / first[b]:.2f}x)" for b in first)
        lines.append(f"{name:<26}" + "".join(f"{cell:>18}" for cell in cells))
    return lines


def _first_turns(seconds: dict[str, dict[str, float]]) -> list[str]:
    lines = ["", "seconds of the first turn, which warms up"]
    for name, values in seconds.items():
        lines.append(f"{name:<26}" + "".join(f"{value:>18.2f}" for value in values.values()))
    return lines


def _operations(report: dict) -> list[str]:
    parts = list(next(iter(report["flops_per_image"].values())))
    lines = [f"{'GFLOP per image':<26}" + "".join(f"{part:>20}" for part in parts)]
    for name, values in report["flops_per_image"].items():
        lines.append(f"{name:<26}" + "".join(f"{values[part] / 1e9:>20.3f}" for part in parts))
    rates = report["matmul"]["flops_per_second"]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report["matmul"]["share"].items())
    return [
        *lines,
        f"the autoencoder alone: {report['autoencoder_flops'] / 1e9:.3f} GFLOP per image",
        "",
        "matrix products: " + ", ".join(f"{n} {r / 1e9:.0f} GFLOP/s" for n, r in rates.items()),
        f"share of that rate: {shares}",
    ]
