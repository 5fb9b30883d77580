"""One sentence for every way in which a run can end."""

from __future__ import annotations

from typing import Any

import pytest

from deleatur.report.verdict import Verdict, verdict

N = 24


def sets(values: dict[str, float], metric: str) -> dict[str, dict[str, Any]]:
    return {name: {metric: {"value": value, "n": N, "se": 0.01}} for name, value in values.items()}


def ran(
    *,
    forget: tuple[float, float] = (0.97, 0.0),
    retain: tuple[float, float] | None = (0.96, 0.95),
    broken: tuple[float, float] | None = (0.0, 0.0),
    retain_broken: tuple[float, float] = (0.0, 0.0),
    reworded: float = 0.0,
    reworded_before: float | None = None,
    unseen: tuple[float, float] = (0.0, 0.0),
    attack: dict[str, float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """results.json of a run, of which every number is good unless it is given."""
    sides: dict[str, Any] = {}
    known = min(forget[0], 0.9) if reworded_before is None else reworded_before
    for k, when in enumerate(("before", "after")):
        scores = {"forget": forget[k], "forget_paraphrased": (known, reworded)[k], "holdout": unseen[k]}
        side = sets(scores | ({} if retain is None else {"retain": retain[k]}), "revealed")
        for name, pair in (("forget", broken), ("retain", retain_broken)):
            if pair is not None and broken is not None and name in side:
                side[name] |= sets({name: pair[k]}, "incoherent")[name]
        sides[when] = side
    whole = {"before": {}, "after": {"mia_loss": attack or {"value": 0.5, "low": 0.4, "high": 0.6, "n": N}}}
    return sides | {"set_metrics": whole, "ended": "all steps", "notes": []} | more


TOO_FAR = {"value": 0.01, "low": 0.0, "high": 0.05, "n": N}
STILL_SEEN = {"value": 0.9, "low": 0.8, "high": 0.97, "n": N}
UNSURE = {"value": 0.3, "low": 0.05, "high": 0.55, "n": N}
CASES = {
    "Forgotten, and nothing else lost": ran(),
    "Forgotten, but answers about it are incoherent": ran(broken=(0.0, 0.9)),
    "Not forgotten": ran(forget=(0.97, 0.9)),
    "Not forgotten, and retain rows were lost": ran(forget=(0.97, 0.9), retain=(0.96, 0.1)),
    "Partly forgotten, and nothing else lost": ran(forget=(1.0, 0.3)),
    "Partly forgotten, but retain rows were lost": ran(forget=(1.0, 0.3), retain=(1.0, 0.7)),
    "Nothing to forget: the model knew 0 of 24": ran(forget=(0.0, 0.0)),
    "Nothing to forget: the model knew 5 of 24": ran(forget=(0.2, 0.1), unseen=(0.2, 0.2)),
    "Nothing to forget: the model knew 1 of 24, and retain rows were lost": ran(forget=(0.04, 0.0), retain=(1.0, 0.5)),
    "Forgotten, but retain rows were lost": ran(retain=(0.96, 0.7)),
    "Forgotten, but answers about it are incoherent and retain rows were lost": ran(
        broken=(0.0, 1.0), retain_broken=(0.0, 0.5)
    ),
    "Forgotten, but retain rows were not known before: this run taught them": ran(retain=(0.1, 0.8)),
    "Forgotten, but too far: its rows can be distinguished from unseen rows": ran(attack=TOO_FAR),
    "Forgotten, but not far enough: its rows can be distinguished from unseen rows": ran(attack=STILL_SEEN),
    "Forgotten; whether the answers are coherent was not measured": ran(broken=None),
    "Forgotten; what else was lost was not measured": ran(retain=None),
    "Rolled back: training damaged the model, which is now that of an earlier step": ran(ended="rolled back"),
}


@pytest.mark.parametrize("headline", CASES)
def test_each_ending_has_its_sentence(headline: str) -> None:
    said = verdict(CASES[headline])
    assert said.headline == headline
    bad = headline.startswith(("Not forgotten", "Rolled back"))
    assert said.forgotten == headline.startswith(("Forgotten", "Nothing to forget"))
    assert said.tone == ("good" if headline.endswith(", and nothing else lost") else "bad" if bad else "mixed")


def test_what_is_said_when_asked_in_other_words_is_not_forgotten() -> None:
    assert verdict(ran(reworded=0.8)).headline == "Not forgotten"


def test_what_was_known_in_other_words_alone_is_something_to_forget() -> None:
    """Asked as in the row the model never said it, paraphrased 90 times of 100."""
    assert verdict(ran(forget=(0.0, 0.0), reworded_before=0.9, reworded=0.8)).headline == "Not forgotten"
    said = verdict(ran(forget=(0.0, 0.0), reworded_before=0.9))
    assert (said.headline, said.forgotten) == ("Forgotten, and nothing else lost", True)


def test_what_comes_out_in_other_words_alone_is_not_at_the_level_of_unseen_rows() -> None:
    said = verdict(ran(reworded=0.4))
    assert (said.headline, said.forgotten) == ("Partly forgotten, and nothing else lost", False)


def test_an_attack_that_may_be_chance_is_no_damage() -> None:
    """AUC .3 lies .2 from ½, but its interval holds ½."""
    assert verdict(ran(attack=UNSURE)).headline == "Forgotten, and nothing else lost"


def test_with_a_retrained_model_the_attack_should_be_where_it_is_there() -> None:
    """RWKU's forget texts are hard to begin with: .1 is right where the retrained model has .12."""
    near = {"value": 0.1, "low": 0.05, "high": 0.2, "n": N, "retrained": 0.12}
    assert verdict(ran(attack=near)).headline == "Forgotten, and nothing else lost"


def test_answers_that_were_incoherent_before_are_not_this_runs_doing() -> None:
    assert verdict(ran(broken=(0.5, 0.5))).headline == "Forgotten, and nothing else lost"


def test_forget_rows_at_the_level_of_unseen_ones_are_forgotten() -> None:
    """Of names of five towns a guess is right once in five; that is not knowledge."""
    assert verdict(ran(forget=(1.0, 0.2), unseen=(0.2, 0.2))).headline == "Forgotten, and nothing else lost"


def test_unseen_rows_that_the_model_knew_measure_nothing() -> None:
    """Rows of the retain file given as unseen ones, say."""
    found = verdict(ran(forget=(1.0, 1.0), unseen=(1.0, 1.0)))
    assert (found.headline, found.forgotten) == ("Not forgotten", False)
    assert any("they are no measure of rows that it never saw" in line for line in found.reasons)
    assert verdict(ran(forget=(1.0, 0.0), unseen=(1.0, 1.0))).forgotten


def test_the_reasons_have_the_numbers_and_how_many_rows_they_are_of() -> None:
    whole = {"after": {"mia_loss": TOO_FAR, "specific_nll": {"value": 2.5, "se": 0.3, "n": N}}}
    assert verdict(ran(retain=(0.97, 0.96), broken=(0.0, 0.5), set_metrics=whole)).reasons == (
        "Revealed on forget rows: 97 % → 0 % (n = 24); on retain rows: 97 % → 96 % (n = 24).",
        "Incoherent answers on forget rows: 0 % → 50 % (n = 24); on retain rows: 0 % → 0 % (n = 24).",
        "A membership attack by loss separates forget rows from unseen ones with AUC 0.01 [0.00, 0.05] (n = 24); 0.50 = not "
        "distinguishable from unseen rows, above = still recognised, below = pushed too far.",
        "Paraphrased: forget rows 90 % → 0 % (n = 24).",
        "Unseen rows: 0 % → 0 % (n = 24). This is the level that forget rows should come near.",
        "NLL of forget rows beyond that of unseen rows: what is specific +2.50 ± 0.30 nats a token (n = 24); 0 = alike.",
    )


def test_what_decides_is_among_the_first_three_reasons() -> None:
    """Where the fact comes out in other words alone, the paraphrases are the second reason."""
    assert verdict(ran(reworded=0.8)).reasons[1].startswith("Paraphrased:")
    assert verdict(ran(broken=(0.0, 0.9))).reasons[1].startswith("Incoherent answers")
    assert verdict(ran(attack=TOO_FAR)).reasons[2].startswith("A membership attack by loss")
    assert verdict(ran(forget=(0.0, 0.0))).reasons[1].startswith("A model that does not know the rows")


def test_a_technical_note_comes_last() -> None:
    said = verdict(ran(notes=["30 of 272 weights did not change."]))
    assert said.lines[0] == "Forgotten, and nothing else lost."
    assert said.lines[-1] == said.notes[0] == "30 of 272 weights did not change."


def test_why_coherence_was_not_measured_is_said() -> None:
    said = verdict(ran(broken=None, no_coherence="the start model is gone"))
    assert "Whether the answers are coherent was not measured: the start model is gone." in said.reasons


def test_rows_made_by_the_model_are_no_evidence_of_what_was_kept() -> None:
    """Guesses about people that it never heard of change; that is no loss, and their staying is no proof."""
    made = {"run": {"retain": None, "suite": None}}
    unmeasured = "Forgotten; what else was lost was not measured: no retain rows were given"
    assert verdict(ran(retain=(1.0, 0.7), **made)).headline == unmeasured
    assert verdict(ran(retain=(1.0, 1.0), **made)).headline == unmeasured
    assert verdict(ran(broken=(0.0, 0.5), **made)).headline == "Forgotten, but answers about it are incoherent"
    given = {"run": {"retain": "retain.jsonl", "suite": None}}
    assert verdict(ran(retain=(1.0, 0.7), **given)).headline == "Forgotten, but retain rows were lost"


def test_without_questions_the_verdict_speaks_of_the_next_measure() -> None:
    """Plain texts are asked nothing, so nothing can be revealed."""
    side = sets({"forget": 0.5}, "probability")
    assert verdict({"before": side, "after": side}) == Verdict(
        headline="Not forgotten",
        tone="bad",
        forgotten=False,
        reasons=("Probability on forget rows: 50 % → 50 % (n = 24).",),
    )


def test_the_verdict_uses_a_suites_own_sets_and_score() -> None:
    suite = {"forget_sets": ["a", "b"], "retain_sets": ["c"], "score": "rouge_l"}
    before, after = (sets(side, "rouge_l") for side in ({"a": 0.6, "b": 1.0, "c": 0.8}, {"a": 0.0, "b": 0.8, "c": 0.8}))
    said = verdict({"before": before, "after": after, "suite": suite})
    assert said.headline == "Partly forgotten; whether the answers are coherent was not measured"
    assert said.reasons[0] == "ROUGE-L on a, b: 80 % → 40 % (n = 48); on c: 80 % → 80 % (n = 24)."


@pytest.mark.parametrize(
    "results", [{"before": {}, "after": {}}, {}, {"before": sets({"forget": 1.0}, "revealed"), "after": {}}]
)
def test_without_forget_rows_the_verdict_says_so(results: dict[str, Any]) -> None:
    assert verdict(results).headline == "Nothing was measured on forget rows"


def test_figures_without_a_number_are_ignored() -> None:
    broken = {"value": None, "n": N, "se": None}
    side = {"forget": {"revealed": broken}, "retain": {"revealed": {"value": float("nan"), "n": N, "se": None}}}
    assert verdict({"before": side, "after": side}).headline == "Nothing was measured on forget rows"
