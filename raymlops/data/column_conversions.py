"""Which columns of a dataset are converted, and how: the rules of the contract, and for columns that have none what
their features need. A format of times that is not declared is found in all rows, so that it is one for all blocks
and files. Converts no rows; see `contract`."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import ray.data

from raymlops import expressions
from raymlops.conversions.conversion import Conversion, is_number, is_text
from raymlops.conversions.time_formats import FormatCounts, count_formats
from raymlops.data.scan import fold
from raymlops.errors import DataError
from raymlops.specs.dataset import ColumnRule, ContractSpec, DatasetSpec, SplitSpec, TimeSplit
from raymlops.specs.features import FeaturesSpec


def resolve_contract(
    dataset: ray.data.Dataset,
    contract: ContractSpec,
    *,
    features: FeaturesSpec | None = None,
    split: SplitSpec | None = None,
    known: Mapping[str, Conversion] | None = None,
) -> ContractSpec:
    """The contract with a rule for each column that is converted. `known` are the conversions of a model that was
    trained: its rows are read in the same way.

    Raises DataError for times whose format is ambiguous, or not the same in all rows.
    """
    schema = dataset.schema(fetch_if_missing=True)
    kinds = dict(zip(schema.names, schema.types, strict=True)) if schema is not None else {}
    rules = dict(contract.columns)
    for name, kind in _find_needed(kinds, features, split).items():
        if name not in rules or rules[name].type is None:
            rules[name] = rules.get(name, ColumnRule()).model_copy(update={"type": kind})
    for name, conversion in (known or {}).items():
        if name in kinds and rules.get(name, ColumnRule()).conversion in (None, Conversion(conversion.type)):
            rules[name] = _with_conversion(rules.get(name, ColumnRule()), conversion)
    rules |= _find_formats(dataset, rules, kinds, 1 - contract.max_failed, known or {})
    return contract.model_copy(update={"columns": rules})


def list_implied(contract: ContractSpec, resolved: ContractSpec) -> tuple[str, ...]:
    """Columns that are converted because their feature needs it: no rule says that rows may be left out for them."""
    return tuple(
        name
        for name, rule in resolved.columns.items()
        if rule.type is not None and (name not in contract.columns or contract.columns[name].type is None)
    )


def read_as_text(table: DatasetSpec, contract: ContractSpec, also: Collection[str] = ()) -> DatasetSpec:
    """A table of CSV whose columns are read as they are written where a rule says how that is: a reader that infers
    types takes 1.234 for a number with decimals, and 01234 for 1234; `also` are further columns."""
    options = table.options.get("convert_options", {})
    if table.reader != "csv" or not isinstance(options, dict):
        return table
    used = _list_used(table)  # by expressions and joins, in the type that the reader gives
    written = [
        name for name, rule in contract.columns.items() if _is_written(rule.conversion) and name not in used
    ]
    types = {
        **dict.fromkeys(written, "string"),
        **options.get("column_types", {}),
        **dict.fromkeys(also, "string"),
    }
    if not types:
        return table
    changed = {**table.options, "convert_options": {**options, "column_types": types}}
    return table.model_copy(update={"options": changed})


def _list_used(table: DatasetSpec) -> set[str]:
    texts = [*table.derive.values(), *([table.where] if table.where else [])]
    return {name for text in texts for name in expressions.columns_in(text)} | {
        key for join in table.joins for key in join.keys
    }


def _is_written(rule: Conversion | None) -> bool:
    return rule is not None and (
        rule.type == "string"
        or bool(rule.words or rule.thousands or rule.decimal != ".")
        or "%" in rule.format
    )


def _find_needed(
    kinds: Mapping[str, Any], features: FeaturesSpec | None, split: SplitSpec | None
) -> dict[str, Any]:
    """Columns without a type that their feature can take -> the type that it needs."""
    needed: dict[str, Any] = {}
    if isinstance(split, TimeSplit) and _is_text(kinds.get(split.column)):
        needed[split.column] = "timestamp"
    for name, feature in (features.by_column() if features else {}).items():
        kind = kinds.get(name)
        if feature.kind == "number" and not feature.expression and _is_text(kind):
            needed[name] = "number"
        if feature.kind == "timestamp" and (_is_text(kind) or _is_number(kind)):
            needed[name] = "timestamp"
    return needed


def _find_formats(
    dataset: ray.data.Dataset,
    rules: Mapping[str, ColumnRule],
    kinds: Mapping[str, Any],
    share: float,
    known: Mapping[str, Conversion],
) -> dict[str, ColumnRule]:
    """The rules of times whose format is not declared, with the one that this share of all values has."""
    open_ = [
        name
        for name, rule in rules.items()
        if rule.type == "timestamp"
        and not rule.format
        and name not in known
        and name in kinds
        and _needs_format(kinds[name])
    ]
    counts: dict[str, FormatCounts] = {name: FormatCounts() for name in open_}
    if open_:
        for part in fold(dataset.select_columns(open_), _count_block, names=tuple(open_)):
            counts = {name: counts[name].merge(part.get(name, FormatCounts())) for name in open_}
    found = {}
    for name, count in counts.items():
        try:
            found[name] = rules[name].model_copy(update={"format": count.choose(share)})
        except ValueError as error:
            raise DataError(f"contract.columns.{name}: {error}") from None
    return found


def _count_block(table: pa.Table, names: tuple[str, ...]) -> dict[str, FormatCounts]:
    return {name: count_formats(table[name]) for name in names if name in table.column_names}


def _with_conversion(rule: ColumnRule, conversion: Conversion) -> ColumnRule:
    return rule.model_copy(update={**conversion.to_json(), "words": dict(conversion.words)})


def _needs_format(kind: Any) -> bool:
    """Whether values may be times in several formats: of blocks of pandas, and of nulls, that is not known yet."""
    return not isinstance(kind, pa.DataType) or pa.types.is_null(kind) or _is_text(kind) or _is_number(kind)


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return isinstance(kind, pa.DataType) and is_text(kind)


def _is_number(kind: Any) -> bool:
    return isinstance(kind, pa.DataType) and is_number(kind)
