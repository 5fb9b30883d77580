"""docs/metrics.md, from the tables of metrics."""

from deleatur.evaluation.metrics import METRICS, RUN_METRICS, SET_METRICS


def metrics_markdown() -> str:
    """The page docs/metrics.md: the tables, and how to read them."""
    rows = [("metric", "unit", "on forget rows", "meaning", "source")]
    rows += [(name, m.unit or "share", m.forget, m.meaning, m.source) for name, m in METRICS.items()]
    set_rows = [("figure", "target", "meaning", "source")]
    set_rows += [(name, w.target, w.meaning, w.source) for name, w in SET_METRICS.items()]
    runs = [("figure", "target", "meaning", "source")]
    runs += [(name, r.target, r.meaning, r.source) for name, r in RUN_METRICS.items()]
    return PAGE.format(rows=_markdown(rows), set_rows=_markdown(set_rows), runs=_markdown(runs))


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


PAGE = """# Metrics

What `deleatur metrics --markdown` prints, from the code's own tables. Definitions with their edge cases stand in the
docstrings; `python tests/parity/metrics_table.py` compares each with a plain restatement of the published one.

## Of one row

In `results.json`, `before` and `after` give for each set and metric the mean over the rows to which the metric applies
(`value`), their number (`n`) and the standard error (`se`). A metric that applies to no row of a set is left out there.

{rows}

## Set metrics

In `results.json`, `set_metrics` gives `value`, `n` and what else belongs to it; where something is missing, `lacks` says
what. An AUC is the share of pairs of a forget row and an unseen row in which the forget row is the more
familiar: 1 = all are distinguished, .5 = none, 0 = all again, since forget rows have become the less familiar. `low` and
`high` are its 95 % interval (DeLong), `against` counts the other rows, `deviation` is the distance from the AUC on the
retrained model (`retrained`) or from .5, whichever side it is on. `se` of `specific_nll` and `other_nll` takes rows, not
tokens, for what was drawn; `forget` and `unseen` are the two means, and with a retrained model rows are compared with
themselves.

{set_rows}

## Of a run

FQ, RD and UQ compare `after` with `before`, on the metric and the sets that `suite` names in `results.json`; null where
the start is 0 or was not evaluated. `unforgotten`, beside the metrics of each set, is the larger of that metric and
`incoherent`, row by row: F of FQ. RD counts a rise as well, since a run that trains retain rows in has not left the model
as it was; a paper's RD is `rd_loss`. The others stand in `importance`, over the forget rows that have spans; without
spans it is empty.

{runs}

## Where peers' numbers differ

- `revealed` without spans needs no list of languages. Two words are the same where only the ending differs (four
  letters in common at least, numbers whole, Korean by syllables); in scripts without blanks segments of two syllables
  or four letters count, Chinese characters in any of their variants (OpenCC's tables); what the question has does
  not. Where names or numbers of the fact are replaced by others, the words around them count for nothing. It is None,
  and a note counts these answers, where words alone can't tell: a changed stem or prefix (*Turku*, *Turussa*;
  *kitabu*, *vitabu*), another script (*القاهرة*, *Cairo*), a short answer without names that is said in part beside
  other words, another year beside a name that stays. On 26,596 pairs of two facts in 18 languages (cities, years,
  teachers, goods, alone and in the same sentence) it was above 0 in 4 (*Đà Nẵng*, *Đà Lạt*) and None in 1.9 %, three
  quarters of which are German years (*im Jahr 1948*, *im Jahr 1984*). Of 1,500 pairs of sentences on other people in
  the demo's world 2.3 % are above 0, most for a part of a name, and 2.1 % are None. Near names with one stem
  (*Niger*, *Nigeria*) count as said, and numbers in words are no numbers; give spans where that matters.
- The end of turn counts in `loss`, `probability` and what is made of them, and not in `extraction_strength`,
  `exact_memorisation`, `min_k` and `min_k_plus`: as in OpenUnlearning, which drops the last token of a plain text too,
  though that is no end of turn. RWKU and MUSE count every token.
- `extraction_strength` is 0 where the last token is wrong; OpenUnlearning gives 1/length there.
- r, of which `truth_ratio` is made, averages the wrong answers geometrically, as OpenUnlearning and TOFU's code do. TOFU's
  formula has the arithmetic mean, and its code calls 1/r the truth ratio; utility and p-value stay the same.
- `grad_norm` is the norm of the whole gradient; OpenUnlearning averages the norms of single tensors, without the
  end of turn. `zlib` packs the answer alone; OpenUnlearning packs all that is scored. Neither is exported under its names.
- Token ids: ours end with the end of turn, where the template's own finished conversation has one; OpenUnlearning scores
  the template's whole rendering (ChatML's newline too) and an eos behind it where that is not last, under a system prompt of
  its configuration. `--data.layout open-unlearning` and
  `--data.system-prompt` give its very ids, and then every TOFU metric is its number
  (`tests/parity/test_open_unlearning.py`). `compare` says where layouts differ.
- Exports have OpenUnlearning's floor of extraction strength, and its figures of the restated answer (PARA) and of the
  wrong ones (PERT).
- The peers evaluate all rows of a suite, and so does the default; where `evaluation.rows` leaves some out, `n` says of how
  many.
- Texts made for attacks take the place of forget rows and holdout where they are: `forget_mia` of MUSE and RWKU,
  `retain_mia` of RWKU. RWKU's model knows both sides: there .5 says that forget texts are as familiar as others it knows.
- `forget_quality`, `privleak` and `mia_reference` without a retrained model (`--evaluation.retrained`) are not given, and
  `lacks` says so; OpenUnlearning then compares `privleak` with .5.
- `repetitiveness` and `fluency` take runs of letters and digits and single marks for words; RWKU takes NLTK's, which split
  contractions otherwise.
- `accuracy` takes a tie for a wrong answer; lm-eval gives it to the choice that stands first. On rows with a restated
  answer (TOFU's forget rows) that one is compared, since the wrong ones were made of it: the original wording against them
  would be right for a random model too.
"""
