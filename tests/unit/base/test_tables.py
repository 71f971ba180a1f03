"""Tables of text that are as wide as what they show."""

from ansible.module_utils.llm.base import tables


def test_a_row_stays_one_line_however_long_its_cells_are() -> None:
    long = "x" * (tables.WIDTH + 1)
    assert tables.columns(["ID", "ENDS"], [[long, "never"], ["k1", ""]]) == [
        "ID".ljust(len(long)) + "  ENDS",
        f"{long}  never",
        "k1",
    ]


def test_a_table_without_rows_has_its_head() -> None:
    assert tables.columns(["ID", "ENDS"], []) == ["ID  ENDS"]
