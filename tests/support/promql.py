"""What a PromQL expression says of scraped metrics: as much of the language as our rules use.

`Scrapes` keeps what was scraped, and when. A rate is what grew between the first and the last
scrape of its range, without Prometheus's extrapolation. Whatever is not known here is refused.
"""

import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
STALE_S = 300.0

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_COMPUTED: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if b else math.nan,
}
_AGGREGATED: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "count": len,
}


def selectors(expression: str) -> Iterator[promql.VectorSelector]:
    """Every selector of an expression, those of ranges included."""
    return _selectors(promql.parse(expression))


def _selectors(node: Any) -> Iterator[promql.VectorSelector]:
    match node:
        case promql.VectorSelector():
            yield node
        case promql.MatrixSelector():
            yield node.vector_selector
        case promql.BinaryExpr():
            yield from _selectors(node.lhs)
            yield from _selectors(node.rhs)
        case promql.Call():
            for argument in node.args:
                yield from _selectors(argument)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr():
            yield from _selectors(node.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise NotImplementedError(type(node).__name__)


class Scrapes:
    """What was scraped of the services, under the label `job`."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, Labels], list[tuple[float, float]]] = {}

    def add(self, at_s: float, text: str, **target: str) -> None:
        """Take what one `/metrics` said at this time."""
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self.set(at_s, sample.name, sample.value, **sample.labels, **target)
        self.set(at_s, "up", 1, **target)

    def fail(self, at_s: float, **target: str) -> None:
        """Take that a target did not answer: there is nothing of it any more, but `up`."""
        for name, labels in list(self._series):
            if labels >= target.items():
                self._series[name, labels].append((at_s, math.nan))
        self.set(at_s, "up", 0, **target)

    @property
    def keys(self) -> set[tuple[str, Labels]]:
        """Every series that there ever was."""
        return set(self._series)

    def set(self, at_s: float, name: str, value: float, /, **labels: str) -> None:
        """Take one sample."""
        key = name, frozenset(labels.items())
        self._series.setdefault(key, []).append((at_s, value))

    def value(self, expression: str, at_s: float) -> Vector | float:
        """What the expression says at this time."""
        return self._value(promql.parse(expression), at_s)

    def fires(self, expression: str, at_s: float) -> bool:
        """Whether an alert of this expression is pending or firing."""
        return bool(self.value(expression, at_s))

    def _value(self, node: Any, at_s: float) -> Vector | float:
        match node:
            case promql.NumberLiteral():
                return float(node.val)
            case promql.ParenExpr():
                return self._value(node.expr, at_s)
            case promql.VectorSelector():
                return {
                    labels: samples[-1][1]
                    for labels, samples in self._samples(node, at_s - STALE_S, at_s)
                    if not math.isnan(samples[-1][1])
                }
            case promql.AggregateExpr():
                return self._aggregated(node, at_s)
            case promql.Call():
                return self._called(node.func.name, node.args, at_s)
            case promql.BinaryExpr():
                left, right = self._value(node.lhs, at_s), self._value(node.rhs, at_s)
                return _combined(str(node.op), left, right)
            case _:
                raise NotImplementedError(type(node).__name__)

    def _vector(self, node: Any, at_s: float) -> Vector:
        value = self._value(node, at_s)
        assert isinstance(value, dict)
        return value

    def _samples(
        self, selector: promql.VectorSelector, after_s: float, until_s: float
    ) -> Iterator[tuple[Labels, list[tuple[float, float]]]]:
        for (name, labels), samples in self._series.items():
            if name == selector.name and _matches(selector, dict(labels)):
                found = [one for one in samples if after_s <= one[0] <= until_s]
                if found:
                    yield labels, found

    def _aggregated(self, node: promql.AggregateExpr, at_s: float) -> Vector:
        by = set[str]()
        if node.modifier is not None:
            assert node.modifier.type == promql.AggModifierType.By
            by = set(node.modifier.labels)
        groups: dict[Labels, list[float]] = {}
        for labels, value in self._vector(node.expr, at_s).items():
            group = frozenset(one for one in labels if one[0] in by)
            groups.setdefault(group, []).append(value)
        aggregate = _AGGREGATED[str(node.op)]
        return {labels: aggregate(values) for labels, values in groups.items()}

    def _called(self, name: str, arguments: list[Any], at_s: float) -> Vector | float:
        match name, arguments:
            case (("rate" | "increase"), [promql.MatrixSelector() as range_]):
                after_s = at_s - range_.range.total_seconds()
                grown = {
                    labels: (_grown(samples), samples[-1][0] - samples[0][0])
                    for labels, samples in self._samples(range_.vector_selector, after_s, at_s)
                    if len(samples) > 1
                }
                per = name == "rate"
                return {it: by / (over_s if per else 1) for it, (by, over_s) in grown.items()}
            case "time", []:
                return at_s
            case "absent", [promql.VectorSelector() as selector]:
                found = self._vector(selector, at_s)
                return {} if found else {frozenset(_equal(selector)): 1.0}
            case "histogram_quantile", [promql.NumberLiteral() as quantile, argument]:
                return _quantiles(quantile.val, self._vector(argument, at_s))
            case _:
                raise NotImplementedError(name)


def _equal(selector: promql.VectorSelector) -> Iterator[tuple[str, str]]:
    for matcher in selector.matchers.matchers:
        if matcher.op == promql.MatchOp.Equal:
            yield matcher.name, matcher.value


def _matches(selector: promql.VectorSelector, labels: dict[str, str]) -> bool:
    for matcher in selector.matchers.matchers:
        value = labels.get(matcher.name, "")
        equal = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)
        same = value == matcher.value if equal else bool(re.fullmatch(matcher.value, value))
        if same is not (matcher.op in (promql.MatchOp.Equal, promql.MatchOp.Re)):
            return False
    return True


def _grown(samples: list[tuple[float, float]]) -> float:
    """What a counter grew by; where it fell, its process began anew."""
    values = [value for _, value in samples if not math.isnan(value)]
    steps = pairwise(values)
    return sum(after - before if after >= before else after for before, after in steps)


def _combined(op: str, left: Vector | float, right: Vector | float) -> Vector | float:
    if op == "or":
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        return right | left
    if op in ("and", "unless"):
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        return {it: value for it, value in left.items() if (it in right) is (op == "and")}
    if isinstance(left, float) and isinstance(right, float):
        return _COMPUTED[op](left, right)
    if isinstance(left, float):
        assert isinstance(right, dict)
        return {it: _COMPUTED[op](left, value) for it, value in right.items()}
    if isinstance(right, float):
        right = dict.fromkeys(left, right)
    both = {it: (value, right[it]) for it, value in left.items() if it in right}
    if op in _COMPARED:
        return {it: a for it, (a, b) in both.items() if _COMPARED[op](a, b)}
    return {it: _COMPUTED[op](a, b) for it, (a, b) in both.items()}


def _quantiles(quantile: float, buckets: Vector) -> Vector:
    """The upper bound of the bucket that the quantile is in."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        rest = frozenset(one for one in labels if one[0] != "le")
        groups.setdefault(rest, []).append((bound, count))
    found: Vector = {}
    for labels, counts in groups.items():
        counts.sort()
        total = counts[-1][1]
        if total:
            found[labels] = next(bound for bound, count in counts if count >= quantile * total)
    return found
