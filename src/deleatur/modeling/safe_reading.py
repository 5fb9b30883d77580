"""Why a model could not be read, in a sentence."""

from __future__ import annotations

import re
from pathlib import Path

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def why(e: BaseException, name: str) -> str:
    """The reason in a line; what is refused for safety is said in our own words."""
    if "trust_remote_code" in str(e):
        return (
            "it needs code that comes with it, which is never run from here; read that code, load the model yourself "
            "with trust_remote_code, and give it to deleatur.forget in Python"
        )
    if "for this kind of AutoModel" in str(e):
        kind = re.search(r"(\w+)Config'>", str(e))
        return (
            f"{f'a {kind[1]}' if kind else 'its family'} is no causal language model in transformers, as those with an "
            "encoder or of images are not; give a language model, such as the one inside of it, saved alone"
        )
    inside = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    pickled = [p.name for p in inside if p.suffix in PICKLED and not any(q.suffix == ".safetensors" for q in inside)]
    if "pickled" in str(e) or ("safetensors" in str(e) and (pickled or not inside)):
        seen = f" ({pickled[0]})" if pickled else ""
        return f"its weights are pickled{seen}, which can run code when read; save them as safetensors first"
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    if lines[1:] and lines[0].endswith(":"):
        return " ".join(lines[:2])
    return lines[0] if lines else type(e).__name__
