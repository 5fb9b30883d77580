"""Result files of peers, read and written: OpenUnlearning's and lm-eval's. Never imports torch.

What is read from them has the form of `results.json` as far as it goes: {"after": set → metric → value, n, se,
"set_metrics": {"after": name → value, …}}, in our names. n is 0 and se None where a file has none.
Numbers are as the file has them, also where a peer's definition differs from ours (docs/metrics.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from deleatur.errors import DataError
from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.membership import auc, sides
from deleatur.evaluation.metrics.probability import average, loss, normalised_probability, probability
from deleatur.evaluation.metrics.rouge import rouge_of
from deleatur.evaluation.metrics.table import mean
from deleatur.evaluation.metrics.truth import near_one, under_one, wrong_over_right
from deleatur.report.render import put
from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.schema import check_no_links, is_unversioned, number_of, read_results

if TYPE_CHECKING:
    from deleatur.types import Record

Results = Mapping[str, Any]
KEPT = "retain_perturbed"  # what peers call retain: TOFU's retain rows with wrong answers
# a peer's name → our set, our metric, and the key of a row's value
OPEN_UNLEARNING: dict[str, tuple[str, str, str]] = {
    "forget_Q_A_Prob": ("forget", "probability", "prob"),
    "forget_Q_A_ROUGE": ("forget", "rouge_l", "rougeL_recall"),
    "forget_truth_ratio": ("forget", "truth_ratio", "score"),
    "extraction_strength": ("forget", "extraction_strength", "score"),
    "exact_memorization": ("forget", "exact_memorisation", "score"),
    "retain_Q_A_Prob": (KEPT, "probability", "prob"),
    "retain_Q_A_ROUGE": (KEPT, "rouge_l", "rougeL_recall"),
    "retain_Truth_Ratio": (KEPT, "truth_ratio_kept", "score"),
    "ra_Q_A_Prob": ("real_authors", "probability", "prob"),
    "ra_Q_A_Prob_normalised": ("real_authors", "normalised_probability", "prob"),
    "ra_Q_A_ROUGE": ("real_authors", "rouge_l", "rougeL_recall"),
    "ra_Truth_Ratio": ("real_authors", "truth_ratio_kept", "score"),
    "wf_Q_A_Prob": ("world_facts", "probability", "prob"),
    "wf_Q_A_Prob_normalised": ("world_facts", "normalised_probability", "prob"),
    "wf_Q_A_ROUGE": ("world_facts", "rouge_l", "rougeL_recall"),
    "wf_Truth_Ratio": ("world_facts", "truth_ratio_kept", "score"),
}
OTHER_NAMES = {"mia_min_k_plus_plus": "mia_min_k_plus", "mia_gradnorm": "mia_grad_norm"}  # the others have our names
ROWS: dict[str, Callable[[Record], dict[str, Any]]] = {  # what a peer's file says of a row
    "probability": lambda r: {"prob": probability(r), "avg_loss": loss(r)},
    "normalised_probability": lambda r: {"prob": normalised_probability(r)},
    "rouge_l": lambda r: {
        **rouge_of(r.answer, r.generated),
        "input": r.question,
        "ground_truth": r.answer,
        "generation": r.generated,
    },
    "truth_ratio": lambda r: {"score": wrong_over_right(r)},
    "truth_ratio_kept": lambda r: {"score": wrong_over_right(r)},
    "extraction_strength": lambda r: {"score": max(METRICS["extraction_strength"].of(r) or 0.0, 1 / (len(r.hit) - r.ends))},
    "exact_memorisation": lambda r: {"score": METRICS["exact_memorisation"].of(r)},
}
NOT_THEIRS = ("mia_grad_norm", "mia_zlib")  # attacks that they define otherwise, see docs/metrics.md
# what else peers' files have: the restated answer and the wrong ones in the answer's place
OTHERS = {"forget": "forget_Q_A", KEPT: "retain_Q_A", "real_authors": "ra_Q_A", "world_facts": "wf_Q_A"}
TEXTS = ("input", "ground_truth", "generation")  # keys of a row above that hold what was said
FORMS: dict[str, Callable[[float], float]] = {"truth_ratio": near_one, "truth_ratio_kept": under_one}  # of a row's score
LM_EVAL = {"acc": "accuracy"}  # acc_norm is per character, ours per token


def read_any_results(path: Path) -> Results:
    """A run folder, its results.json, OpenUnlearning's *_EVAL.json or *_SUMMARY.json, or lm-eval's results; by content.

    Raises DataError where it is none of them.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_int=number_of)
    except FileNotFoundError:
        raise DataError(f"there is no {path}; give the folder of a run that has ended, or a file of results") from None
    except (OSError, ValueError, RecursionError) as e:
        raise DataError(f"{path} cannot be read as JSON ({e}); give a file of results") from None
    data = data if isinstance(data, dict) else {}
    if "schema_version" in data or is_unversioned(path, data):
        return read_results(path)
    tasks = data.get("results")
    if isinstance(tasks, dict) and tasks and all(isinstance(task, dict) for task in tasks.values()):
        return from_lm_eval(data)
    if data.keys() & (OPEN_UNLEARNING.keys() | OTHER_NAMES.keys() | SET_METRICS.keys()):
        return from_open_unlearning(data)
    raise DataError(
        f"{path} holds no known results; give a run folder, its results.json, OpenUnlearning's *_EVAL.json or "
        "*_SUMMARY.json, or a results file of lm-eval"
    )


def read_any_run(path: Path) -> RunResults:
    """`read_any_results` for a table: what a peer's file lacks is not measured there, and "peer" says whose it is."""
    found = read_any_results(path)
    if "schema_version" in found:
        return cast(RunResults, found)
    home = path.resolve().parent
    named = {"method": home.parent.name if home.name == "evals" else home.name}  # as OpenUnlearning lays them
    empty: Results = {"before": {}, "importance": {}, "cost": {}, "data": {}, "run": {}, "fq": None, "rd": None, "uq": None}
    peer = "OpenUnlearning" if "other" in found else "lm-eval"
    return cast(RunResults, {**empty, "peer": peer, **named, **found})


def to_open_unlearning(
    results: Results, records: Mapping[str, Sequence[Record]], *, side: str = "after"
) -> tuple[dict[str, Any], dict[str, float]]:
    """What OpenUnlearning writes as TOFU_EVAL.json and as TOFU_SUMMARY.json; `records` are the side's, by set.

    Without retain_perturbed rows the peers' "retain" is our retain set. Rows are counted from "0" in their order. A figure
    that lacks something is left out, and so is one that the peers define otherwise.
    """
    sets, logs = results[side], {}
    for name, (ours, metric, _) in OPEN_UNLEARNING.items():
        ours = "retain" if ours == KEPT and ours not in sets else ours
        if metric in sets.get(ours, {}):
            rows = [r for r in records.get(ours, ()) if METRICS[metric].of(r) is not None]
            logs[name] = {"agg_value": sets[ours][metric]["value"], "value_by_index": _by_index(map(ROWS[metric], rows))}
            if metric == "extraction_strength" and rows:  # they have another floor than we
                logs[name]["agg_value"] = _mean_of(logs[name]["value_by_index"], "score")
    for ours, name in OTHERS.items():
        ours = "retain" if ours == KEPT and ours not in sets else ours
        logs |= _answers_in_place(name, records.get(ours, ()))
    theirs = {ours: name for name, ours in OTHER_NAMES.items()}
    for ours, figure in results.get("set_metrics", {}).get(side, {}).items():
        if "value" in figure and ours not in NOT_THEIRS:
            logs[theirs.get(ours, ours)] = {"agg_value": figure["value"]} | _attacked(ours, figure, results, records)
    logs = dict(sorted(logs.items()))
    return logs, {name: log["agg_value"] for name, log in logs.items()}


def _answers_in_place(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """The peers' …_PARA_… and …_PERT_… figures of a set: of the restated answer, and of the wrong ones, row by row."""
    para = [r for r in records if r.restated is not None and not name.startswith(("ra_", "wf_"))]
    pert = [r for r in records if r.wrong]
    rows: dict[str, list[dict[str, Any]]] = {
        "PARA_Prob": [_likely(r.restated or ()) for r in para],
        "PERT_Prob": [_together([_likely(w) for w in r.wrong]) for r in pert],
        "PARA_ROUGE": [rouge_of(r.restated_answer, r.generated) for r in para if r.restated_answer and r.question],
        "PERT_ROUGE": [
            _together([rouge_of(w, r.generated) for w in r.wrong_answers]) for r in pert if r.wrong_answers and r.question
        ],
    }
    found = {f"{name}_{what}": _by_index(made) for what, made in rows.items() if made}
    return {
        full: {
            "agg_value": _mean_of(by_index, "prob" if full.endswith("Prob") else "rougeL_recall"),
            "value_by_index": by_index,
        }
        for full, by_index in found.items()
        if not (full.startswith(("ra_", "wf_")) and full.endswith("ROUGE"))
    }


def _likely(logp: Sequence[float]) -> dict[str, float]:
    return {"prob": math.exp(average(logp)), "avg_loss": -average(logp)}


def _together(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def _mean_of(by_index: Mapping[str, Mapping[str, Any]], key: str) -> float:
    """Over the rows, of each the mean where it has several values."""
    values = [row[key] for row in by_index.values()]
    return fmean(fmean(v) if isinstance(v, list) else v for v in values)


def write_as(form: str, run: Path, records: Mapping[str, Sequence[Record]], *, redacted: bool = False) -> list[Path]:
    """A run folder's results after unlearning in a peer's form, "open-unlearning" or "lm-eval", as files in the folder.

    With `redacted` they have none of the rows' texts.
    """
    results = read_results(run / "results.json")
    check_no_links(run)
    if form == "lm-eval":
        made = {"lm_eval.json": to_lm_eval(results)}
    else:
        made = dict(zip(("TOFU_EVAL.json", "TOFU_SUMMARY.json"), to_open_unlearning(results, records), strict=True))
    for name, content in made.items():
        content = _without_texts(content) if redacted else content
        put(run / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return [run / name for name in made]


def from_open_unlearning(logs: Mapping[str, Any]) -> Results:
    """The content of an *_EVAL.json or a *_SUMMARY.json. "other" holds what we have no metric for, by the peers' names."""
    sets: dict[str, dict[str, Any]] = {}
    set_metrics: dict[str, Any] = {}
    other: dict[str, float] = {}
    for name, log in logs.items():
        value = log.get("agg_value") if isinstance(log, dict) else log
        if not _is_number(value):
            continue
        if name in OPEN_UNLEARNING:
            ours, metric, key = OPEN_UNLEARNING[name]
            rows = [FORMS.get(metric, float)(v) for v in _values(log, key)]
            known = mean(rows) if rows else {"n": 0, "se": None}
            sets.setdefault(ours, {})[metric] = known | {"value": value}
        elif (ours := OTHER_NAMES.get(name, name)) in SET_METRICS:
            set_metrics[ours] = {"n": 0} | _attack(log) | {"value": value}
        else:
            other[name] = value
    return {"after": sets, "set_metrics": {"after": set_metrics}, "other": other}


def to_lm_eval(results: Results, *, side: str = "after") -> dict[str, Any]:
    """Accuracies in the form of lm-eval's results file: every set with wrong answers is a task."""
    theirs = {ours: name for name, ours in LM_EVAL.items()}
    out: dict[str, Any] = {"results": {}, "n-samples": {}, "higher_is_better": {}}
    for name, figures in results[side].items():
        if found := {theirs.get(m, m): figures[m] for m in ("accuracy", "accuracy_normalised") if m in figures}:
            values = {f"{m},none": f["value"] for m, f in found.items()}
            errors = {f"{m}_stderr,none": "N/A" if f["se"] is None else f["se"] for m, f in found.items()}
            n = next(iter(found.values()))["n"]
            out["results"][name] = {"alias": name} | values | errors
            out["n-samples"][name] = {"original": n, "effective": n}
            out["higher_is_better"][name] = dict.fromkeys(found, True)
    return out


def from_lm_eval(data: Mapping[str, Any]) -> Results:
    """Every task as a set. acc becomes accuracy, other metrics keep their names, with the filter's where there is one."""
    sets: dict[str, dict[str, Any]] = {}
    for task, values in data["results"].items():
        n: Any = data
        for name in ("n-samples", task, "effective"):
            n = n.get(name) if isinstance(n, dict) else None
        sets[task] = {}
        for key, value in values.items():
            metric, _, chosen = str(key).partition(",")
            if not _is_number(value) or metric.endswith("_stderr"):
                continue
            se = values.get(f"{metric}_stderr,{chosen}".rstrip(","))
            name = LM_EVAL.get(metric, metric) + ("" if chosen in ("", "none") else f",{chosen}")
            sets[task][name] = {"value": value, "n": n if isinstance(n, int) else 0, "se": se if _is_number(se) else None}
    return {"after": sets}


def _attacked(
    attack: str, figure: Mapping[str, Any], results: Results, records: Mapping[str, Sequence[Record]]
) -> dict[str, Any]:
    """An attack's scores of both sides, where they are the rows' own."""
    metric = METRICS.get(attack.removeprefix("mia_"))
    if metric is None or not records:
        return {}
    found = sides(records, results.get("suite", {}).get("forget_sets", ("forget",)))
    scored = ([s for r in side if (s := metric.of(r)) is not None] for side in found)
    logs = {
        name: {"agg_value": sum(scores) / len(scores), "value_by_index": _by_index({"score": s} for s in scores)}
        for name, scores in zip(("forget", "holdout"), scored, strict=True)
        if scores
    }
    return {"auc": figure["value"]} | logs


def _attack(log: Any) -> dict[str, Any]:
    """The interval and the counts of an attack whose scores are in the file."""
    if not isinstance(log, dict):
        return {}
    members, others = (_values(log.get(name), "score") for name in ("forget", "holdout"))
    return auc(members, others) | {"n": len(members), "against": len(others)} if members and others else {}


def _without_texts(value: Any) -> Any:
    return {k: _without_texts(v) for k, v in value.items() if k not in TEXTS} if isinstance(value, dict) else value


def _by_index(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(number): row for number, row in enumerate(rows)}


def _values(log: Any, key: str) -> list[float]:
    rows = log.get("value_by_index") if isinstance(log, dict) else None
    found = [row.get(key) for row in rows.values() if isinstance(row, dict)] if isinstance(rows, dict) else []
    return [v for v in found if _is_number(v)]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
