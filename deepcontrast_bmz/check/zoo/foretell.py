"""Asks every judge of the zoo, adds up the score, and says what is missing to 1."""

from __future__ import annotations

__all__ = ["ONLY_THE_ZOO", "foretell", "require_test_tensors"]

from typing import TYPE_CHECKING

from deepcontrast_bmz.check.zoo.case import Case
from deepcontrast_bmz.check.zoo.deepimagej import judge_deepimagej
from deepcontrast_bmz.check.zoo.judges import (
    judge_biapy,
    judge_bioengine,
    judge_careamics,
    judge_completeness,
    judge_core,
    judge_format,
    judge_icy,
    judge_ilastik,
    judge_review,
    judge_upload,
)
from deepcontrast_bmz.check.zoo.records import LostPoint, ZooVerdict
from deepcontrast_bmz.check.zoo.score import (
    COUNTED_TOOLS,
    PARTNERS,
    SHARE,
    add_up,
    choose_partners,
    compute_rank,
    count_partner_points,
)
from deepcontrast_bmz.check.zoo.upload import list_left_behind, list_upload
from deepcontrast_bmz.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deepcontrast_bmz.check.findings import Row
    from deepcontrast_bmz.check.session import Session
    from deepcontrast_bmz.check.zoo.records import ZooRow
    from deepcontrast_bmz.package.files import Package

PREFERRED = ("ilastik", "deepimagej", "biapy", "careamics", "icy")
"""Which tools a model without any should be made for first."""
ONLY_THE_ZOO = (
    "look-ups: whether github_user, git_repo and the addresses of citations exist",
    "the id: the zoo gives it on upload, and a version on publication",
    "bioimageio.core in an environment made for each weights format (runtime_env as-described)",
    "the whole of Fiji: how deepImageJ reads the sample and writes the result",
    "every version of ilastik that it lists; its newest counts, else the mean of the best four, "
    "at most 0.8",
    "a report of BiaPy: the script at 0d660e5 expects four values where BiaPy 3.7.1 returns a map, "
    "and writes none until that is mended",
    "BioEngine on its GPU",
    "reviewers: names, words, pictures, whether sample and scores represent the model",
)
"""What cannot be foretold offline."""


def require_test_tensors(package: Package) -> None:
    """Refuse a package that the zoo cannot test: without test tensors."""
    bare = [t.name for t in package.view.tensors if not t.test_source]
    if bare or not package.view.inputs or not package.view.outputs:
        named = f" ({', '.join(bare)})" if bare else ""
        raise InputError(
            f"{package.origin.name} has no test tensors{named}, and without them the zoo tests "
            "nothing: add test_tensor to every input and output"
        )


def _judge(case: Case, by_spec: bool) -> tuple[ZooRow, ...]:
    return (
        judge_format(case),
        judge_completeness(case),
        judge_core(case),
        judge_ilastik(case),
        judge_deepimagej(case),
        judge_biapy(case),
        judge_careamics(case),
        judge_icy(case),
        judge_bioengine(case),
        judge_upload(case, by_spec=by_spec),
        judge_review(case),
    )


def _lost_keys(case: Case) -> Iterator[LostPoint]:
    found = case.completeness
    if found.problem:
        yield LostPoint(
            points=SHARE,
            judge="completeness",
            what="an invalid description counts as empty",
            mend="correct what the row format says",
            certain=True,
        )
    for missing in found.missing:
        below = f" with {missing.count - 1} keys below it" if missing.count > 1 else ""
        yield LostPoint(
            points=SHARE * missing.count / found.total,
            judge="completeness",
            what=f"{missing.key}{below} is not given",
            mend=missing.mend,
            certain=True,
        )


def _lost_part(row: ZooRow, share: float) -> Iterator[LostPoint]:
    """Yield what a row certainly costs, and what it may cost since it was not run."""
    for points, certain in ((1 - row.high, True), (row.high - row.low, False)):
        if points > 0:
            yield LostPoint(
                points=share * points,
                judge=row.name,
                what=row.state,
                mend=row.reasons[0] if row.reasons else "see its row",
                certain=certain,
            )


def _lost(case: Case, rows: Mapping[str, ZooRow]) -> tuple[LostPoint, ...]:
    found = [*_lost_part(rows["format"], SHARE), *_lost_keys(case)]
    found += _lost_part(rows["core"], SHARE)
    tools = {name: (rows[name].low, rows[name].high) for name in PARTNERS}
    for name in choose_partners(tools, PREFERRED):
        found += _lost_part(rows[name], SHARE / COUNTED_TOOLS)
    return tuple(sorted(found, key=lambda point: (-point.points, point.judge, point.what)))


def _score(rows: Mapping[str, ZooRow], high: bool) -> float:
    values = {name: row.high if high else row.low for name, row in rows.items()}
    return add_up(
        valid=values["format"] == 1.0,
        completeness=values["completeness"],
        core=values["core"],
        partners=count_partner_points({name: values[name] for name in PARTNERS}),
    )


def _rank(case: Case, row: ZooRow) -> tuple[float, float]:
    value = case.completeness.value
    passed, unknown = row.state == "passed", row.state == "skipped"
    # All weights formats must pass its test, one is served.
    every = passed and not case.kept_back

    def rank(served: bool, every: bool) -> float:
        return compute_rank(valid=case.valid, served=served, passed=every, completeness=value)

    return rank(passed, every), rank(passed or unknown, passed or unknown)


def foretell(
    package: Package,
    session: Session,
    rows: Sequence[Row],
    engines: Sequence[str],
    *,
    by_spec: bool = False,
) -> ZooVerdict:
    """Return what the zoo will say of a package with test tensors.

    The session and the rows, what the programs make of it, are of the package as it will be in the
    zoo; engines are those that may be run, and `by_spec` is as for `check_package`.
    """
    case = Case(package, session, engines, {row.program: row for row in rows})
    judged = _judge(case, by_spec)
    named = {row.name: row for row in judged}
    return ZooVerdict(
        rows=judged,
        lowest=_score(named, high=False),
        highest=_score(named, high=True),
        lost=_lost(case, named),
        rank=_rank(case, named["bioengine"]),
        only_zoo=ONLY_THE_ZOO,
        sent=list_upload(package),
        left_behind=list_left_behind(package),
    )
