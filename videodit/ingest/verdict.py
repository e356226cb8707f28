"""What became of everything, in a few lines for a person."""

from __future__ import annotations

from videodit.ingest.run import Outcome

EXAMPLES = 5  # of captions that were lost


def verdict(found: Outcome) -> list[str]:
    """What was kept and dropped, in a few lines."""
    lines = []
    for stage, seen in found.seen.items():
        reasons: dict[str, int] = {}
        for record in found.dropped:
            if record["stage"] == stage:
                reasons[record["reason"]] = reasons.get(record["reason"], 0) + 1
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
        lines.append(f"{stage:<12}{seen:>8} seen{found.went_on[stage]:>8} kept{sum(reasons.values()):>8} dropped"
                     f"{': ' + told if told else ''}")  # fmt: skip
    told, where = found.captions()
    lines.append(f"captions: {told}")
    lines += [f"  {one}" for one in where[:EXAMPLES]]
    lines += [f"  and {len(where) - EXAMPLES} more, in the page"] * (len(where) > EXAMPLES)
    if found.used:
        used = {"answers": 0, "input_tokens": 0, "output_tokens": 0, "cost": 0.0, **found.used}
        told = "{answers:.0f} answers, {input_tokens:.0f} tokens read, {output_tokens:.0f} written, cost {cost:.4g}"
        lines.append(f"captions of this run: {told.format(**used)}")
    if damaged := found.damaged():
        lines.append(f"{sum(damaged.values())} frames of {len(damaged)} files cannot be decoded, and were left out")
    lines += found.made_up()
    silent = sum(not (clip.get("caption_long") or clip["caption"]) for clip in found.clips)
    if silent:
        told = "captioner= writes them, caption.required=true drops the clips"
        lines.append(f"{silent} of {len(found.clips)} clips have no caption: {told}")
    held = sum(clip["split"] == "heldout" for clip in found.clips)
    lines.append(f"{len(found.clips)} clips, {held} of them held out")
    return lines
