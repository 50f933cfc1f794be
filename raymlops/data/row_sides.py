"""Decides the side of every row from what a scan kept of the blocks: what the split's rule must learn, how many rows
and classes each side has, and which rows train. Reads no data: pure functions of arrays."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import row_keys, rowhash, splits, training_rows
from raymlops.data.rowhash import Hashes
from raymlops.data.training_rows import TrainingRows
from raymlops.specs.dataset import ContractSpec, TimeSplit

MOST_ROWS = 50_000_000
"""Up to which identical rows are numbered, with 8 to 16 bytes a row in the driver; beyond, they share a side, and only
a sample of rows is kept."""
MOST_CLASSES = 200
"""Distinct values of a target in a block, up to which they are counted."""
ClassCounts = Mapping[Any, tuple[int, int, int]]
"""Value of the target -> its rows on each side."""


@dataclasses.dataclass
class BlockRows:
    """What decides the sides of a block's rows, as arrays."""

    name: row_keys.Name
    keys: Hashes
    """Of all its rows."""
    holds: npt.NDArray[np.bool_]
    """Which of them keep the contract; what follows is of these alone."""
    places: npt.NDArray[Any] | None
    """Instants, or the hashes that a split by group or key goes by."""
    unique: Hashes | None
    target: pa.ChunkedArray | None
    """Of a small block, where the target is known."""
    classes: tuple[npt.NDArray[np.uint8], list[Any]] | None
    """Codes of the target's values, and the values, if they are few."""

    def sampled(self, shift: int) -> "BlockRows":
        """The rows of a sample of keys (training_rows.is_sampled)."""
        chosen = training_rows.is_sampled(self.keys, shift)
        places = None if self.places is None else self.places[chosen[self.holds]]
        return BlockRows(self.name, self.keys[chosen], self.holds[chosen], places, None, None, None)


def describe_block(
    table: pa.Table,
    holds: npt.NDArray[np.bool_],
    kept: pa.Table,
    contract: ContractSpec,
    split: splits.SplitRule,
) -> BlockRows:
    """Of a whole block; `kept` are the rows that keep the contract's rules for single rows."""
    keys = row_keys.keys_of(table)
    places: npt.NDArray[Any] | None = None
    if isinstance(split.spec, TimeSplit):
        places = splits.to_instants(kept, split.spec.column)
    elif not split.numbers_repeats:
        places = split.to_places(kept)
    unique = rowhash.hash_rows(kept.select(list(contract.unique))) if contract.unique else None
    target = kept[split.target] if split.target in kept.column_names else None
    return BlockRows(
        row_keys.name_block(table, keys),
        keys,
        holds,
        places,
        unique,
        target if kept.num_rows < splits.SMALL else None,
        None if target is None else _to_codes(target),
    )


def _to_codes(target: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint8], list[Any]] | None:
    kind = target.type
    if pa.types.is_floating(kind) or pa.types.is_temporal(kind) or pa.types.is_nested(kind):
        return None
    whole = target.combine_chunks()
    whole = whole if pa.types.is_dictionary(kind) else whole.dictionary_encode()
    if isinstance(whole, pa.ChunkedArray):
        whole = whole.unify_dictionaries().combine_chunks()
    if len(whole.dictionary) > MOST_CLASSES or whole.null_count:
        return None
    return np.asarray(whole.indices.to_numpy(), dtype=np.uint8), whole.dictionary.to_pylist()


@dataclasses.dataclass(frozen=True)
class Sides:
    """The result: the rule with what it learned, and what it does to the rows."""

    rule: splits.SplitRule
    rows: Mapping[int, int]
    """Side -> its number of rows."""
    classes: ClassCounts | None
    """None if the target has too many values for classes, or they were not counted."""
    training: TrainingRows


def find_sides(
    blocks: Sequence[BlockRows],
    split: splits.SplitRule,
    doubled: Hashes,
    *,
    rows: int,
    columns: tuple[str, ...],
    gap: int = 0,
    counted: collections.Counter[int] | None = None,
) -> Sides:
    """The sides of the `rows` that keep the contract's rules for single rows; those that are `doubled` against
    `contract.unique` have none. `columns` are those of the keys, `gap` is in the units of the times.

    Beyond `MOST_ROWS` the blocks are samples, and `counted` has the number of all rows at each time, or on each side.
    """
    rule = _learn(blocks, split, doubled, rows, counted)
    found: collections.Counter[int] = collections.Counter()
    classes: dict[Any, npt.NDArray[np.int64]] | None = {}
    sketched: dict[int, list[tuple[Hashes, Hashes]]] = {side: [] for side in range(3)}
    numbered = rule.numbers_repeats and not rule.repeats.together
    shift = training_rows.shift_for(rows)
    for block, held in _keep(blocks, doubled):
        sides = _sides_of(block, held, rule, gap)
        found.update(dict(enumerate(np.bincount(sides, minlength=4).tolist())))
        classes = _count_classes(classes, block, held, sides)
        keys = block.keys[block.holds][held]
        places = rule.repeats.to_places(block.keys, block.name)[block.holds][held] if numbered else keys
        chosen = training_rows.is_sampled(keys, shift)
        for side, pairs in sketched.items():
            mine = chosen & (sides == side)
            pairs.append((keys[mine], places[mine]))
    if counted is not None:
        found = _count_all(counted, rule, gap)
    return Sides(
        rule,
        found,
        {value: (int(a), int(b), int(c)) for value, (a, b, c) in classes.items()} if classes else None,
        _sketch(sketched, columns, numbered, shift, found),
    )


def _learn(
    blocks: Sequence[BlockRows],
    split: splits.SplitRule,
    doubled: Hashes,
    rows: int,
    counted: collections.Counter[int] | None,
) -> splits.SplitRule:
    if isinstance(split.spec, TimeSplit):
        instants = collections.Counter(counted or {})
        for block, held in _keep(blocks, doubled) if counted is None else ():
            assert block.places is not None
            found, counts = np.unique(block.places[held], return_counts=True)
            instants.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        return dataclasses.replace(split, cuts=splits.find_cuts(instants, split.spec.fractions))
    rule = split
    if split.numbers_repeats and counted is not None:
        rule = dataclasses.replace(split, repeats=row_keys.Repeats(together=True))
    elif split.numbers_repeats:
        rule = dataclasses.replace(
            split, repeats=row_keys.find_repeats([(block.name, block.keys) for block in blocks])
        )
    if rows >= splits.SMALL or not rule.shares_exactly:
        return rule
    places = np.concatenate([_places_of(block, held, rule) for block, held in _keep(blocks, doubled)])
    classes = np.zeros(len(places), dtype=np.uint64)
    if all(block.target is not None for block in blocks):
        chunks = [
            block.target.filter(pa.array(held)).combine_chunks()
            for block, held in _keep(blocks, doubled)
            if block.target is not None
        ]
        classes = splits.classes_of(_join(chunks))
    return dataclasses.replace(rule, exact=rule.share_exactly(places, classes))


def _keep(blocks: Sequence[BlockRows], doubled: Hashes) -> Iterator[tuple[BlockRows, npt.NDArray[np.bool_]]]:
    """Each block, and which of its rows that keep the contract's other rules keep `unique`, too."""
    for block in blocks:
        if block.unique is None or not len(doubled):
            yield block, np.ones(int(block.holds.sum()), dtype=bool)
        else:
            yield block, ~np.isin(block.unique, doubled)


def _places_of(block: BlockRows, held: npt.NDArray[np.bool_], rule: splits.SplitRule) -> npt.NDArray[Any]:
    if block.places is not None:
        return np.asarray(block.places[held])
    return rule.number(block.keys, block.name)[block.holds][held]


def _sides_of(
    block: BlockRows, held: npt.NDArray[np.bool_], rule: splits.SplitRule, gap: int
) -> splits.Sides:
    places = _places_of(block, held, rule)
    return rule.cut(places, gap) if isinstance(rule.spec, TimeSplit) else rule.to_sides(places)


def _count_all(
    counted: collections.Counter[int], rule: splits.SplitRule, gap: int
) -> collections.Counter[int]:
    if not isinstance(rule.spec, TimeSplit):
        return counted
    found: collections.Counter[int] = collections.Counter()
    for instant, side in zip(counted, rule.cut(np.array([*counted]), gap).tolist(), strict=True):
        found[side] += counted[instant]
    return found


def _count_classes(
    classes: dict[Any, npt.NDArray[np.int64]] | None,
    block: BlockRows,
    held: npt.NDArray[np.bool_],
    sides: splits.Sides,
) -> dict[Any, npt.NDArray[np.int64]] | None:
    if classes is None or block.classes is None:
        return None
    codes, values = block.classes
    for code, value in enumerate(values):
        counts = np.bincount(sides[codes[held] == code], minlength=4)[:3]
        classes[value] = classes.get(value, np.zeros(3, dtype=np.int64)) + counts
    return classes if len(classes) <= MOST_CLASSES else None


def _sketch(
    sketched: Mapping[int, list[tuple[Hashes, Hashes]]],
    columns: tuple[str, ...],
    numbered: bool,
    shift: int,
    found: Mapping[int, int],
) -> TrainingRows:
    def join(side: int, part: int) -> Hashes:
        return np.concatenate([np.zeros(0, np.uint64), *(pair[part] for pair in sketched[side])])

    return TrainingRows(
        columns,
        numbered,
        shift,
        {name: int(found.get(side, 0)) for side, name in enumerate(splits.SPLITS)},
        training_rows.to_filter(join(0, 1)),
        training_rows.to_filter(join(1, 1)),
        training_rows.sample_rows(join(2, 0), join(2, 1)),
    )


def _join(arrays: Sequence[pa.Array]) -> pa.ChunkedArray:
    """Blocks of one column, of which a reader that infers types may have given some another type."""
    tables = [pa.table({"value": array}) for array in arrays]
    return pa.concat_tables(tables, promote_options="permissive")["value"]
