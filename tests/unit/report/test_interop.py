"""Result files of peers, there and back again."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deleatur.errors import DataError
from deleatur.evaluation.aggregate import measure, measure_sets
from deleatur.evaluation.metrics import METRICS, SET_METRICS
from deleatur.evaluation.metrics.table import Evidence
from deleatur.report.interop import (
    OPEN_UNLEARNING,
    from_lm_eval,
    from_open_unlearning,
    read_any_results,
    read_any_run,
    to_lm_eval,
    to_open_unlearning,
)
from deleatur.types import Record

NINE = [
    f"{of}_{what}"
    for of, prob in (("retain", "Q_A_Prob"), ("ra", "Q_A_Prob_normalised"), ("wf", "Q_A_Prob_normalised"))
    for what in (prob, "Q_A_ROUGE", "Truth_Ratio")
]


def row(name: str, nll: float, *, said: str = "In Tessholm, I think.") -> Record:
    return Record(
        id=name,
        question="Where was she born?",
        answer="In Tessholm.",
        generated=said,
        logp=(-nll, -nll / 2, -0.1),
        hit=(nll < 1, True, True),
        ends=True,
        mean=(-2.0, -2.0, -1.0),
        deviation=(1.0, 2.0, 0.5),
        restated=(-nll, -1.0),
        wrong=((-2.0, -0.5), (-1.0,)),
        restated_answer="I think, in Tessholm.",
        wrong_answers=("In Tessholm.", "Birburg."),
        grad_norm=nll,
    )


@pytest.fixture(scope="module")
def records() -> dict[str, list[Record]]:
    starts = {"forget": 2.0, "holdout": 2.2, "retain_perturbed": 0.2, "real_authors": 0.7, "world_facts": 0.9}
    return {name: [row(str(i), nll + 0.3 * i) for i in range(4)] for name, nll in starts.items()}


@pytest.fixture(scope="module")
def results(records) -> dict:
    """What results.json says of one side; the retrained model is the one before, but never saw the first row."""
    retrained = records | {"forget": [row("0", 9.0), *records["forget"][1:]]}
    evidence = Evidence(records=records, retrained=retrained)
    return {"after": measure(records), "set_metrics": {"after": measure_sets(evidence, tuple(SET_METRICS))}}


class TestOpenUnlearning:
    def test_the_files_have_the_peers_names_and_form(self, results, records):
        logs, summary = to_open_unlearning(results, records)
        assert {*OPEN_UNLEARNING, "model_utility", "forget_quality", "privleak", "mia_min_k_plus_plus"} <= {*logs}
        assert not {"mia_gradnorm", "mia_zlib"} & {*logs}, "which peers define otherwise"
        assert list(logs) == sorted(logs)
        assert summary == {name: log["agg_value"] for name, log in logs.items()}
        assert list(logs["forget_Q_A_Prob"]["value_by_index"]) == ["0", "1", "2", "3"]
        assert logs["forget_Q_A_ROUGE"]["value_by_index"]["0"]["generation"] == "In Tessholm, I think."
        assert {*logs["mia_loss"]} == {"agg_value", "auc", "forget", "holdout"}
        assert logs["mia_loss"]["forget"]["agg_value"] == pytest.approx(results["after"]["forget"]["loss"]["value"])
        json.dumps(logs, allow_nan=False)

    def test_the_peers_own_arithmetic_on_the_rows_gives_what_is_summed_up(self, results, records):
        """Their aggregates as their code makes them of rows: means, of min(r, 1/r) or max(0, 1 − r), and a harmonic one."""
        logs, summary = to_open_unlearning(results, records)

        def values(name: str, key: str) -> list[float]:
            return [v[key] for v in logs[name]["value_by_index"].values()]

        def mean(x: list[float]) -> float:
            return sum(x) / len(x)

        assert mean(values("forget_Q_A_Prob", "prob")) == pytest.approx(summary["forget_Q_A_Prob"])
        assert mean(values("ra_Q_A_Prob_normalised", "prob")) == pytest.approx(summary["ra_Q_A_Prob_normalised"])
        assert mean(values("wf_Q_A_ROUGE", "rougeL_recall")) == pytest.approx(summary["wf_Q_A_ROUGE"])
        assert mean(values("exact_memorization", "score")) == pytest.approx(summary["exact_memorization"])
        ratios = values("forget_truth_ratio", "score")
        assert mean([min(r, 1 / (r + 1e-10)) for r in ratios]) == pytest.approx(summary["forget_truth_ratio"])
        kept = values("wf_Truth_Ratio", "score")
        assert mean([max(0, 1 - r) for r in kept]) == pytest.approx(summary["wf_Truth_Ratio"])
        assert 9 / sum(1 / summary[name] for name in NINE) == pytest.approx(summary["model_utility"])

    def test_rows_come_back_as_the_numbers_they_were(self, results, records):
        """Every metric that the peers have, with its count and standard error; attacks with their intervals."""
        back = from_open_unlearning(to_open_unlearning(results, records)[0])
        for own, metric, _ in OPEN_UNLEARNING.values():
            assert back["after"][own][metric] == pytest.approx(results["after"][own][metric])
        assert sum(map(len, back["after"].values())) == len(OPEN_UNLEARNING)
        given = {name: figure for name, figure in results["set_metrics"]["after"].items() if "value" in figure}
        assert back["set_metrics"]["after"].keys() == given.keys() - {"mia_grad_norm", "mia_zlib"}
        assert given.keys() == SET_METRICS.keys() - {"j_avg", "specific_nll", "other_nll"}
        for name, figure in back["set_metrics"]["after"].items():
            rows = name.startswith("mia_") and name != "mia_reference"
            theirs = {k: v for k, v in given[name].items() if k not in ("deviation", "retrained")}  # which say where to be
            assert figure == (pytest.approx(theirs) if rows else {"value": given[name]["value"], "n": 0})
        assert {name.split("_Q_A_")[1] for name in back["other"]} == {"PARA_Prob", "PERT_Prob", "PARA_ROUGE", "PERT_ROUGE"}

    def test_restated_and_wrong_answers_replace_the_answer(self, results, records):
        """exp(−(nll + 1)/2) for the restated answer, the mean of exp(−1.25) and exp(−1) for the wrong ones."""
        logs, summary = to_open_unlearning(results, records)
        expected = [math.exp(-(2.0 + 0.3 * i + 1) / 2) for i in range(4)]
        assert summary["forget_Q_A_PARA_Prob"] == pytest.approx(sum(expected) / 4)
        assert summary["wf_Q_A_PERT_Prob"] == pytest.approx((math.exp(-1.25) + math.exp(-1)) / 2)
        assert logs["forget_Q_A_PERT_Prob"]["value_by_index"]["0"]["avg_loss"] == [1.25, 1.0]
        assert summary["forget_Q_A_PARA_ROUGE"] == 0.5, "two words of four in their order"
        assert summary["forget_Q_A_PERT_ROUGE"] == 0.5, "all of one wrong answer and none of the other"
        assert {"rouge1_recall", "rougeL_recall", "rougeL_f1"} <= logs["forget_Q_A_ROUGE"]["value_by_index"]["0"].keys()

    def test_extraction_strength_has_the_peers_floor(self, records):
        """Two answer tokens, the last one wrong: one of two is not right, and the peers never say less than 1/2."""
        rows = {"forget": [replace(r, hit=(True, False, True)) for r in records["forget"]]}
        made = {"after": measure(rows)}
        assert made["after"]["forget"]["extraction_strength"]["value"] == 0.0
        assert to_open_unlearning(made, rows)[1]["extraction_strength"] == 0.5

    def test_a_summary_gives_values_alone(self, results, records):
        back = from_open_unlearning(to_open_unlearning(results, records)[1])
        value = results["after"]["forget"]["probability"]["value"]
        assert back["after"]["forget"]["probability"] == {"value": value, "n": 0, "se": None}
        again, _ = to_open_unlearning(back, {})
        first = to_open_unlearning(results, records)[1]
        assert {n: log["agg_value"] for n, log in again.items()} == {
            n: v for n, v in first.items() if n not in back["other"]
        }

    def test_a_users_own_retain_rows_are_the_peers_retain(self, records):
        own = {"forget": records["forget"], "retain": records["retain_perturbed"]}
        _, summary = to_open_unlearning({"before": measure(own)}, own, side="before")
        assert summary["retain_Q_A_Prob"] == measure(own)["retain"]["probability"]["value"]

    def test_what_lacks_something_is_left_out(self, records):
        lacking = {"after": {}, "set_metrics": {"after": {"forget_quality": {"lacks": "needs a retrained model"}}}}
        assert to_open_unlearning(lacking, {}) == ({}, {})

    def test_numbers_without_a_metric_of_ours_are_kept_apart(self):
        """A gibberish score; rows without a number; what is no number at all."""
        logs = {
            "forget_Q_A_gibberish": {"agg_value": 0.25, "value_by_index": {}},
            "forget_quality": {"agg_value": None},
            "forget_Q_A_Prob": {"agg_value": 0.5, "value_by_index": {"0": {"prob": 0.5}, "1": {"prob": None}, "2": None}},
            "note": "run 3",
            "retain_Q_A_ROUGE": {"agg_value": 0.75},
        }
        back = from_open_unlearning(logs)
        assert back["other"] == {"forget_Q_A_gibberish": 0.25}
        assert back["set_metrics"]["after"] == {}
        assert back["after"] == {
            "forget": {"probability": {"value": 0.5, "n": 1, "se": 0.0}},
            "retain_perturbed": {"rouge_l": {"value": 0.75, "n": 0, "se": None}},
        }

    def test_every_name_leads_to_a_set_and_a_metric_of_its_own(self):
        ours = [(own, metric) for own, metric, _ in OPEN_UNLEARNING.values()]
        assert len(ours) == len(set(ours))
        assert {metric for _, metric in ours} <= METRICS.keys()


class TestLMEval:
    def test_every_set_with_wrong_answers_is_a_task(self, results, records):
        data = to_lm_eval(results)
        figure = results["after"]["real_authors"]["accuracy"]
        assert data["results"].keys() == records.keys()
        task = data["results"]["real_authors"]
        assert (task["acc,none"], task["acc_stderr,none"], task["alias"]) == (figure["value"], figure["se"], "real_authors")
        assert "acc_norm,none" not in task, "ours is per token"
        assert data["n-samples"]["real_authors"] == {"original": 4, "effective": 4}

    def test_they_come_back_as_the_numbers_they_were(self, results):
        back = from_lm_eval(to_lm_eval(results))
        for name, figures in results["after"].items():
            assert back["after"][name] == {m: figures[m] for m in ("accuracy", "accuracy_normalised")}

    def test_plain_texts_are_no_task(self):
        assert to_lm_eval({"after": {"texts": {"probability": {"value": 0.5, "n": 1, "se": 0.0}}}})["results"] == {}

    def test_other_tasks_metrics_keep_their_names_and_filters(self):
        data = {
            "results": {
                "mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": "N/A"},
                "gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.05},
                "old": {"acc": 1, "acc_stderr": 0.0, "acc_norm": 0.75},
            },
            "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
        }
        assert from_lm_eval(data)["after"] == {
            "mmlu": {"accuracy": {"value": 0.25, "n": 0, "se": None}},
            "gsm8k": {"exact_match,strict-match": {"value": 0.5, "n": 100, "se": 0.05}},
            "old": {"accuracy": {"value": 1, "n": 0, "se": 0.0}, "acc_norm": {"value": 0.75, "n": 0, "se": None}},
        }


def own(results: dict) -> dict:
    """The rest of results.json."""
    empty = {"fq": None, "rd": None, "uq": None, "importance": {}, "cost": {}, "data": {}, "model": {"name": "m"}}
    run = {"loss": {"name": "npo"}, "importance": {"name": "uniform"}}
    return {"schema_version": 2, "before": {}, "run": run} | empty | results


class TestReadResults:
    def write(self, path: Path, data: object) -> Path:
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    def test_for_a_table_a_peers_file_has_a_name_and_gaps_where_it_says_nothing(self, results, records, tmp_path):
        """Named after its folder, or the one above where OpenUnlearning put it into `evals`; ours is as it is."""
        file = tmp_path / "NPO" / "evals" / "TOFU_SUMMARY.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(to_open_unlearning(results, records)[1]), encoding="utf-8")
        run = read_any_run(file)
        assert (run["peer"], run["method"], run["uq"], run["before"]) == ("OpenUnlearning", "NPO", None, {})
        assert run["set_metrics"]["after"]["j_w"]["value"] == results["set_metrics"]["after"]["j_w"]["value"]
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "results_1.json").write_text(json.dumps(to_lm_eval(results)), encoding="utf-8")
        run = read_any_run(tmp_path / "m" / "results_1.json")
        assert (run["peer"], run["method"]) == ("lm-eval", "m")

    def test_a_run_folder_and_its_file_are_read_as_they_are(self, results, tmp_path):
        path = self.write(tmp_path / "results.json", own(results))
        assert read_any_results(tmp_path) == read_any_results(path) == own(results)

    def test_peers_files_are_known_by_what_is_in_them(self, results, records, tmp_path):
        logs, summary = to_open_unlearning(results, records)
        assert read_any_results(self.write(tmp_path / "TOFU_EVAL.json", logs)) == from_open_unlearning(logs)
        assert read_any_results(self.write(tmp_path / "any.json", summary)) == from_open_unlearning(summary)
        tasks = to_lm_eval(results)
        assert read_any_results(self.write(tmp_path / "results_2026.json", tasks)) == from_lm_eval(tasks)

    @pytest.mark.parametrize(
        "data",
        [
            {},
            [],
            3,
            None,
            {"entropy": 4.5, "results": [{"query": "?"}]},
            {"results": {}},
            {"results": {"acc": 0.3}},
            {"loss": 1},
        ],
    )
    def test_other_files_are_refused_in_one_sentence(self, data, tmp_path):
        path = self.write(tmp_path / "other.json", data)
        with pytest.raises(DataError, match=r"other\.json holds no known results; give a run folder") as refused:
            read_any_results(path)
        assert "\n" not in str(refused.value)

    def test_what_cannot_be_read_is_refused(self, tmp_path):
        with pytest.raises(DataError, match="there is no"):
            read_any_results(tmp_path / "nowhere.json")
        with pytest.raises(DataError, match=r"there is no .*results\.json; give the folder of a run that has ended"):
            read_any_results(tmp_path)
        for name, content in (
            ("cut.json", b'{"results": {"mm'),
            ("pixels.json", b"\xff\xd8\xff"),
            ("deep.json", b"[" * 10**5),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=f"{name} cannot be read as JSON"):
                read_any_results(tmp_path / name)

    def test_a_newer_results_file_is_refused_as_the_report_refuses_it(self, results, tmp_path):
        with pytest.raises(DataError, match="schema_version 99"):
            read_any_results(self.write(tmp_path / "results.json", own(results) | {"schema_version": 99}))

    odd = st.sampled_from([None, True, 0, -1, 1.5, math.nan, math.inf, 10**400, "x", "\ud800", [], {}, {"value": "x"}])

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_whatever_was_changed_in_a_file_it_is_read_or_refused_in_one_line(self, results, records, tmp_path, data):
        """One place after another of a peer's file, or of ours, holds something else. Numbers that are read are numbers."""
        whole = data.draw(st.sampled_from([own(results), *to_open_unlearning(results, records), to_lm_eval(results)]))
        changed = json.loads(json.dumps(whole))
        for _ in range(data.draw(st.integers(1, 3))):
            place = changed
            while isinstance(place, dict) and place:
                key = data.draw(st.sampled_from(sorted(place)))
                if not isinstance(place[key], dict) or not place[key] or data.draw(st.integers(0, 3)) == 0:
                    place[key] = deepcopy(data.draw(self.odd))
                    break
                place = place[key]
        try:
            read = read_any_results(self.write(tmp_path / "any.json", changed))
        except DataError as e:
            assert "\n" not in str(e) and len(str(e)) < 1000
            return
        figures = [figure for metrics in read["after"].values() for figure in metrics.values()]
        assert all(isinstance(f["value"], int | float | None) and isinstance(f["n"], int) for f in figures)
        json.dumps(read)

    def test_an_integer_of_four_hundred_digits_is_infinite(self, tmp_path):
        read = read_any_results(self.write(tmp_path / "any.json", {"results": {"mmlu": {"acc,none": 10**400}}}))
        assert read["after"]["mmlu"]["accuracy"] == {"value": math.inf, "n": 0, "se": None}
