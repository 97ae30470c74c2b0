"""The op table covers every op with a derivative, holds, prints, and shows a broken op as broken."""

import numpy as np
import pytest

from tinymeta import ops
from tinymeta.check import table
from tinymeta.check.cases import CASES
from tinymeta.engine import trees
from tinymeta.engine.tensor import Prim


def test_every_op_with_a_derivative_has_a_row_and_a_name_of_its_own():
    assert {row.op for row in table.ROWS} == set(CASES)
    names = [row.name for row in table.ROWS]
    assert len(set(names)) == len(names)
    assert set(CASES) <= set(ops.__all__)


def test_the_inputs_are_the_same_every_time():
    for row in table.ROWS:
        for a, b in zip(trees.leaves(row.arrays()), trees.leaves(row.arrays()), strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_row_holds_at_second_order():
    results = list(table.run())
    assert [result.row.name for result in results if result.failure] == []
    assert len(results) == len(table.ROWS)
    for result in results:
        assert len(result.report.errors) == 2 + 4 + 3


def test_the_table_is_printed_aligned_with_a_line_for_each_row(capsys):
    assert table.print_all(["exp", "matmul"], order=2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["op", "V", "J", "V·V", "V·J", "J·V", "J·J", "adjoint", "linear", "V", "linear", "J"]
    assert [line.split()[0] for line in lines[1:6]] == ["exp", "matmul", "matmul[stacked]", "matmul[vector]", "worst"]
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[-1].endswith("No failures.")


def test_orders_one_and_three(capsys):
    assert table.print_all(["tanh"], order=1) == 0
    assert "V·V" not in capsys.readouterr().out
    assert table.print_all(["tanh"], order=3) == 0
    assert "J·V·J" in capsys.readouterr().out


def test_a_row_can_be_asked_for_by_its_full_name():
    assert [result.row.name for result in table.run(["conv2d[tasks]"], order=1)] == ["conv2d[tasks]"]


def test_an_unknown_op_is_refused_with_the_list():
    with pytest.raises(ValueError, match="check: no row for tan2, exp1; the ops are abs, absolute, add, "):
        table.run(["tan2", "exp", "exp1"])
    with pytest.raises(ValueError, match="no row for sign"):
        table.print_all(["sign"])


def test_a_broken_op_is_printed_counted_and_does_not_stop_the_others(monkeypatch, capsys):
    wrong = Prim("wrong", np.exp, (lambda g, y, x: 2 * g * y,))
    raises = Prim("raises", np.exp, (lambda g, y, x: g[:1],))
    broken = [table.Row(p.name, lambda x, p=p: p(x), (lambda rng: rng.normal(size=3),)) for p in (wrong, raises)]
    monkeypatch.setattr(table, "ROWS", (*broken, *(row for row in table.ROWS if row.name == "exp")))
    assert table.print_all() == 2
    lines = capsys.readouterr().out.splitlines()
    assert "FAILED  VJP of wrong, argument 0, float64[3]: numeric" in lines[1]
    assert "FAILED  ValueError: VJP of raises" in lines[2]
    assert lines[3].startswith("exp")
    assert "FAILED" not in lines[3]
    assert lines[-1].endswith("2 failures.")
