"""One number for forgetting, one for what it cost, and their balance."""


def trade_off(forget: tuple[float, float], retain: tuple[float, float]) -> tuple[float | None, float | None, float | None]:
    """(FQ, RD, UQ) in percent from (before, after) of a score on forget and on retain rows (2606.06320).

    FQ = 100·(F0 − F)/F0, how much of the forget score is gone; RD = 100·|R0 − R|/R0, how far the retain score drifted, down
    or up, above 100 where it more than doubled; UQ = harmonic mean of FQ and 100 − RD, 0 where either is not positive. None
    where a start is 0. The paper's RD counts a loss alone (`loss_of`): a method that trains retain rows in looks better
    than one that leaves them as they were.
    """
    (f0, f), (r0, r) = forget, retain
    fq = 100 * (f0 - f) / f0 if f0 else None
    rd = 100 * abs(r0 - r) / r0 if r0 else None
    if fq is None or rd is None:
        return fq, rd, None
    kept = 100 - rd
    return fq, rd, 2 * fq * kept / (fq + kept) if fq > 0 and kept > 0 else 0.0


def loss_of(retain: tuple[float, float]) -> float | None:
    """100·max(0, (R0 − R)/R0), percent of the retain score that was lost; a gain counts as none. None where R0 is 0."""
    r0, r = retain
    return 100 * max(0.0, r0 - r) / r0 if r0 else None
