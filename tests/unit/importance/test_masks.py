"""Importances made before training: their values by hand, their limits, and how they are looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from deleatur.errors import ConfigError, DataError
from deleatur.importance import SEUL, SULLM, Spans, SUNgram, TokenUnlearn, Uniform
from deleatur.importance.masks import Fixed
from deleatur.protocols import Prepares
from deleatur.types import Encoded, Example, Likelihood, Span, Start


def row(ids: Sequence[int], *, start: int = 1, name: str = "a", spans: Sequence[Span] = ()) -> Encoded:
    """A row whose scored tokens are one character each."""
    scored = len(ids) - start
    example = Example(id=name, prompt=(("user", "?"),), answer="x" * scored, spans=tuple(spans))
    return Encoded(example=example, ids=tuple(ids), start=start, offsets=tuple((i, i + 1) for i in range(scored)))


def rows(*lengths: int) -> list[Encoded]:
    return [row(range(10 * i, 10 * i + n + 1), name=str(i)) for i, n in enumerate(lengths)]


@dataclass
class Tells:
    """A model that says what it is told to, and remembers what it was asked."""

    said: list[list[Likelihood]]
    asked: list[tuple[list[Encoded], str | None]] = field(default_factory=list)

    def __call__(self, rows: Sequence[Encoded], name: str | None) -> list[Likelihood]:
        self.asked.append((list(rows), name))
        return self.said[len(self.asked) - 1]


def nlls(*values: Sequence[float]) -> list[Likelihood]:
    return [Likelihood(nll=torch.tensor(v), entropy=torch.zeros(len(v))) for v in values]


def made(
    settings: Prepares, forget: Sequence[Encoded], *said: list[Likelihood], retain: Sequence[Encoded] = ()
) -> list[list[float]]:
    """The importance of each forget row's tokens."""
    fixed = settings.prepare(Start(forget=forget, retain=retain, likelihood=Tells(list(said))))
    return [fixed.values[r].tolist() for r in forget]


class TestFixed:
    A, B, C = rows(3, 1, 2)
    VALUES = {A: torch.tensor([0.1, 0.2, 0.3]), B: torch.tensor([0.4]), C: torch.tensor([0.5, 0.6])}  # noqa: RUF012

    def ask(self, make_tokens, *asked: Encoded) -> torch.Tensor:
        tokens = make_tokens([len(r.offsets) for r in asked])
        return Fixed(values=self.VALUES)(replace(tokens, rows=asked))

    def test_each_row_has_its_own_values_in_any_order(self, make_tokens):
        torch.testing.assert_close(
            self.ask(make_tokens, self.A, self.B, self.C), torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        )
        torch.testing.assert_close(
            self.ask(make_tokens, self.C, self.A, self.C), torch.tensor([0.5, 0.6, 0.1, 0.2, 0.3, 0.5, 0.6])
        )

    def test_an_unknown_row_gives_no_numbers_and_leaves_the_others(self, make_tokens):
        found = self.ask(make_tokens, self.B, row([1, 2, 3], name="unknown"), self.C)
        torch.testing.assert_close(found, torch.tensor([0.4, math.nan, math.nan, 0.5, 0.6]), equal_nan=True)

    def test_a_row_that_differs_in_one_id_is_unknown(self, make_tokens):
        other = replace(self.B, ids=(*self.B.ids[:-1], self.B.ids[-1] + 1))
        assert self.ask(make_tokens, other).isnan().all()

    def test_no_rows_give_no_values(self, make_tokens):
        """A process whose share of a batch is empty still asks."""
        nothing, _ = make_tokens((2,)).split(0)
        assert Fixed(values=self.VALUES)(nothing).tolist() == []

    def test_a_mask_of_ones_is_uniform(self, make_tokens):
        tokens = make_tokens()
        ones = Fixed(values={r: torch.ones(len(r.offsets)) for r in tokens.rows})
        assert torch.equal(ones(tokens), Uniform()(tokens))

    def test_it_is_held_fixed(self, make_tokens):
        assert not self.ask(make_tokens, self.A).requires_grad


class TestSpans:
    def test_the_importance_is_the_gold(self):
        """Characters [1, 3) of five, a token each."""
        marked = row(range(6), spans=[Span(start=1, end=3)])
        assert made(Spans(), [marked]) == [[0, 1, 1, 0, 0]] == [[float(g) for g in marked.gold]]

    def test_what_is_kept_leaves_the_rest(self):
        assert made(Spans(), [row(range(4), spans=[Span(start=0, end=2, keep=True)])]) == [[0, 0, 1]]

    def test_spans_over_all_are_uniform(self):
        assert made(Spans(), [row(range(4), spans=[Span(start=0, end=3)])]) == [[1, 1, 1]]

    def test_the_worlds_rows_have_their_marks(self, forget_rows):
        for found, encoded in zip(made(Spans(), forget_rows), forget_rows, strict=True):
            assert found == [float(g) for g in encoded.gold]
            assert 0 < sum(found) < len(found)

    def test_rows_without_spans_are_refused_by_id(self):
        marked, bare = (
            row(range(4), name="marked", spans=[Span(start=0, end=1)]),
            [row(range(n), name=f"bare {n}") for n in (4, 3)],
        )
        with pytest.raises(DataError, match=r"^2 forget rows have no spans, bare 4 first; .*$") as e:
            made(Spans(), [marked, *bare])
        assert "\n" not in str(e.value)


class TestSEUL:
    NLL = (1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 5.0, 1.0)  # mean 2; variance (6·1 + 2·9)/8 = 3, deviation 1.732

    @pytest.mark.parametrize(
        ("k", "gap", "chosen"),
        [
            (0.0, 0, {2, 6}),  # −NLL below −2
            (0.0, 2, {2, 6}),  # three between
            (0.0, 3, {2, 3, 4, 5, 6}),
            (0.0, 99, {2, 3, 4, 5, 6}),  # ends stay
            (1.0, 0, set(range(8))),  # −NLL below −2 + 1.732: all
            (-1.7, 0, {2, 6}),  # below −2 − 2.94
            (-1.8, 0, set()),  # below −2 − 3.12: −5 is not
            (100.0, 2, set(range(8))),
            (-100.0, 2, set()),
        ],
    )
    def test_values_by_hand(self, k, gap, chosen):
        assert made(SEUL(k=k, gap=gap), rows(8), nlls(self.NLL)) == [[float(i in chosen) for i in range(8)]]

    def test_each_answer_has_a_mean_of_its_own(self):
        """Means 2 and 20; pooled, all of the second and none of the first would be below."""
        assert made(SEUL(), rows(2, 2), nlls([1.0, 3.0], [10.0, 30.0])) == [[0, 1], [0, 1]]

    @pytest.mark.parametrize("k", [-1.0, 0.0, 1.0])
    def test_a_single_token_is_never_below_itself(self, k):
        assert made(SEUL(k=k), rows(1), nlls([3.7])) == [[0]]

    @pytest.mark.parametrize("length", [7, 10, 13, 257])
    def test_equal_tokens_are_none_below_the_others(self, length):
        """The mean of so many .1 is, rounded, not .1."""
        assert made(SEUL(), rows(length), nlls([0.1] * length)) == [[0] * length]

    def test_it_runs_the_start_model_once(self):
        asked, forget = Tells([nlls(self.NLL)]), rows(8)
        SEUL().prepare(Start(forget=forget, retain=rows(3), likelihood=asked))
        assert asked.asked == [(forget, None)]


class TestSULLM:
    """Eight tokens of p = 1/2 now; before fine-tuning the fourth had p = 0. |p − p_ref| is 1/2 there and 0 elsewhere: mean
    1/16, variance 1/32 − 1/256 = 7/256, deviation .1654."""

    NOW = [math.log(2)] * 8
    BEFORE = [*NOW[:3], math.inf, *NOW[4:]]  # noqa: RUF012

    @pytest.mark.parametrize(
        ("k", "by", "chosen"),
        [
            (0.0, 0, {3}),
            (0.0, 2, {1, 2, 3, 4, 5}),
            (0.0, 4, set(range(8))),
            (2.6, 0, {3}),  # 1/16 + .4300 < 1/2
            (2.7, 0, set()),  # 1/16 + .4465 > 1/2
            (-1.0, 0, set(range(8))),  # 1/16 − .1654 < 0
        ],
    )
    def test_values_by_hand(self, k, by, chosen):
        found = made(SULLM(base="b", k=k, widen=by), rows(8), nlls(self.NOW), nlls(self.BEFORE))
        assert found == [[float(i in chosen) for i in range(8)]]

    def test_becoming_less_likely_counts_as_well(self):
        assert made(SULLM(base="b", widen=0), rows(8), nlls(self.BEFORE), nlls(self.NOW)) == [[0, 0, 0, 1, 0, 0, 0, 0]]

    @pytest.mark.parametrize("noise", [0.0, 1e-7])
    def test_where_the_base_is_the_same_model_nothing_is_chosen(self, noise):
        """Nor where rounding lets the two differ."""
        nll = torch.rand(13, generator=torch.Generator().manual_seed(0))
        assert made(SULLM(base="b"), rows(13), nlls(nll.tolist()), nlls((nll + noise).tolist())) == [[0] * 13]

    def test_it_runs_the_start_model_and_then_the_base(self):
        asked, forget = Tells([nlls(self.NOW), nlls(self.BEFORE)]), rows(8)
        SULLM(base="b").prepare(Start(forget=forget, retain=[], likelihood=asked))
        assert asked.asked == [(forget, None), (forget, "b")]

    def test_without_a_base_it_says_how_to_give_one(self):
        with pytest.raises(ConfigError, match=r"^importance\.base is None, but must be the model before fine-tuning$"):
            made(SULLM(), rows(2), nlls([1.0, 2.0]))


class TestSUNgram:
    """Forget 1 2 | 3 1 2 4 and retain 1 | 2 4, prompts before the bar. Of three, with the beginning standing for itself:

    3 after 1 2: 1 of 2 against 0 of 1. 1 after 2 3: 1 of 1 against a context never met, 0. 2 after 3 1: the same. 4 after
    1 2: 1 of 2 against 1 of 1. So 1/2, 1, 1, 1/2: mean 3/4, deviation 1/4.
    """

    FORGET, RETAIN = row([1, 2, 3, 1, 2, 4], start=2), row([1, 2, 4])

    @pytest.mark.parametrize(
        ("k", "by", "chosen"),
        [
            (0.0, 0, [0, 1, 1, 0]),
            (0.0, 1, [1, 1, 1, 1]),
            (0.9, 0, [0, 1, 1, 0]),
            (1.0, 0, [0, 0, 0, 0]),  # 1 is not above 3/4 + 1/4
            (-1.1, 0, [1, 1, 1, 1]),
        ],
    )
    def test_trigrams_by_hand(self, k, by, chosen):
        assert made(SUNgram(k=k, widen=by), [self.FORGET], retain=[self.RETAIN]) == [chosen]

    def test_bigrams_by_hand(self):
        """3 after 2: 1 of 2 against 0 of 1. 1 after 3: 1 against never met. 2 after 1: 2 of 2 against 1 of 1. 4 after 2: 1
        of 2 against 1 of 1. So 1/2, 1, 0, 1/2: mean 1/2."""
        assert made(SUNgram(n=2, widen=0), [self.FORGET], retain=[self.RETAIN]) == [[0, 1, 0, 0]]

    def test_single_tokens_by_hand(self):
        """Of six and of three: 3 and 4 once and 1 and 2 twice against 1, 2 and 4 once. So 1/6, 0, 0, 1/6: mean 1/12."""
        assert made(SUNgram(n=1, widen=0), [self.FORGET], retain=[self.RETAIN]) == [[1, 0, 0, 1]]

    def test_a_rows_beginning_is_a_context_of_its_own(self):
        """5 follows the first 1 in both; the retain row's later 1 6 has the context 5 1. So 5: 1 against 1; 7 after 1 5: 1
        against 0."""
        assert made(SUNgram(widen=0), [row([1, 5, 7])], retain=[row([1, 5, 1, 6])]) == [[0, 1]]

    def test_counts_run_over_all_rows(self):
        """The second forget row makes 2 after 1 as likely as in retain, 1/2; 4 after 1 2 it leaves at 1 against 0."""
        forget, retain = [row([1, 2, 4]), row([1, 3, 4], name="b")], [row([1, 2, 5]), row([1, 3, 4], name="c")]
        assert made(SUNgram(widen=0), forget, retain=retain) == [[0, 1], [0, 0]]

    @pytest.mark.parametrize("n", [1, 2, 3, 9])
    def test_equal_tables_choose_nothing(self, n):
        forget = [row([1, 2, 3, 1, 2, 4], start=2), row([5, 6])]
        assert made(SUNgram(n=n), forget, retain=forget[::-1]) == [[0, 0, 0, 0], [0]]

    @pytest.mark.parametrize("repeats", [3, 4, 5, 6])
    def test_no_token_differs_most_where_all_differ_equally(self, repeats):
        """Each of three ids has 1/3 against 0; the mean of so many thirds is, rounded, not a third."""
        forget = row([1, 2, 3] * repeats)
        assert made(SUNgram(n=1), [forget], retain=[row([7, 8])]) == [[0] * (3 * repeats - 1)]

    def test_it_runs_no_model(self):
        asked = Tells([])
        SUNgram().prepare(Start(forget=[self.FORGET], retain=[self.RETAIN], likelihood=asked))
        assert asked.asked == []


class TestTokenUnlearn:
    """log p falls by 0, 2, 4 without the prompt, from 0 to 1: 0, 1/2, 1. Entropies 3, 1, 2 are 1, 0, 1/2."""

    SEEN = [Likelihood(nll=torch.tensor([1.0, 2.0, 3.0]), entropy=torch.tensor([3.0, 1.0, 2.0]))]  # noqa: RUF012
    UNSEEN = [Likelihood(nll=torch.tensor([1.0, 4.0, 7.0]), entropy=torch.tensor([9.0, 9.0, 0.0]))]  # noqa: RUF012

    def values(self, **settings) -> list[float]:
        return made(TokenUnlearn(**settings), rows(3), self.SEEN, self.UNSEEN)[0]

    @pytest.mark.parametrize(
        ("mix", "expected"),
        [(0.0, [1.0, 0.0, 0.5]), (0.25, [0.75, 0.125, 0.625]), (0.5, [0.5, 0.25, 0.75]), (1.0, [0.0, 0.5, 1.0])],
    )
    def test_soft_values_by_hand(self, mix, expected):
        """¼·½ = ⅛; ¼·1 + ¾·½ = ⅝; without one signal it is the other."""
        assert self.values(mix=mix) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("share", "expected"), [(0.01, [0, 0, 1]), (1 / 3, [0, 0, 1]), (0.6, [1, 0, 1]), (1.0, [1, 1, 1])]
    )
    def test_hard_values_by_hand(self, share, expected):
        """Of ½, ¼, ¾ at least one, and .6·3 = 1.8 is two."""
        assert self.values(share=share) == expected

    def test_becoming_more_likely_without_the_prompt_counts_as_well(self):
        assert made(TokenUnlearn(mix=1.0), rows(3), nlls([5.0, 2.0, 3.0]), nlls([1.0, 4.0, 3.0])) == [[1.0, 0.5, 0.0]]

    def test_only_the_prompt_is_hidden(self):
        asked, seen = Tells([self.SEEN, self.UNSEEN]), row([5, 6, 7, 8, 9], start=2)
        TokenUnlearn().prepare(Start(forget=[seen], retain=[], likelihood=asked))
        assert asked.asked == [([seen], None), ([replace(seen, ids=(9, 9, 7, 8, 9))], None)]

    @pytest.mark.parametrize("share", [None, 0.5])
    def test_equal_tokens_give_a_soft_mask_of_zero_and_a_hard_mask_of_the_first(self, share):
        """There is nothing to scale to 1; a share is of at least one token."""
        found = made(TokenUnlearn(share=share), rows(2, 1), *[nlls([1.0, 1.0], [4.0])] * 2)
        assert found == ([[0, 0], [0]] if share is None else [[1, 0], [1]])


ALL = [SEUL(), SULLM(base="b"), SUNgram(), TokenUnlearn(), TokenUnlearn(share=0.3), Spans()]


class TestAll:
    @pytest.mark.parametrize("settings", ALL, ids=repr)
    def test_the_order_of_rows_changes_nothing(self, settings, forget_rows, retain_rows):
        forget, turned = [made(settings, *random_start(forget_rows, order), retain=retain_rows) for order in (1, -1)]
        assert forget == turned[::-1]

    @pytest.mark.parametrize("settings", ALL, ids=repr)
    def test_every_scored_token_has_a_value_from_0_to_1(self, settings, forget_rows, retain_rows):
        for found, encoded in zip(
            made(settings, *random_start(forget_rows, 1), retain=retain_rows), forget_rows, strict=True
        ):
            assert len(found) == len(encoded.offsets)
            assert all(0 <= g <= 1 for g in found)

    @pytest.mark.parametrize("settings", ALL, ids=repr)
    def test_the_settings_prepare_and_are_no_importance_themselves(self, settings):
        assert isinstance(settings, Prepares)
        assert not callable(settings)

    @pytest.mark.parametrize(
        ("settings", "name", "value", "needed"),
        [
            (SEUL, "gap", -1, "0 or more"),
            (SULLM, "widen", -1, "0 or more"),
            (SUNgram, "widen", -1, "0 or more"),
            (SUNgram, "n", 0, "1 or more"),
            *((s, "k", v, "a number") for s in (SEUL, SULLM, SUNgram) for v in (math.nan, math.inf)),
            *((TokenUnlearn, "mix", v, r"in \[0, 1\]") for v in (-0.1, 1.1, math.nan)),
            *((TokenUnlearn, "share", v, r"in \(0, 1\]") for v in (0.0, 1.1, math.nan)),
        ],
    )
    def test_a_setting_out_of_range_is_refused_by_name(self, settings, name, value, needed):
        with pytest.raises(ConfigError, match=rf"importance\.{name} is .*, but must be {needed}"):
            settings(**{name: value})


def random_start(forget: list[Encoded], order: int) -> tuple[list[Encoded], list[Likelihood], list[Likelihood]]:
    """The rows, forwards or backwards, and two things that models say of them."""
    generator = torch.Generator().manual_seed(0)
    said = [
        [Likelihood(nll=torch.rand(n, generator=generator), entropy=torch.rand(n, generator=generator)) for n in lengths]
        for lengths in [[len(r.offsets) for r in forget]] * 2
    ]
    return forget[::order], said[0][::order], said[1][::order]
