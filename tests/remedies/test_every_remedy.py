"""Each thing that a message advises is followed by a test, and the list of those that are not yet gets no longer."""

# ruff: noqa: E501 (what stands in a pipeline file, and what a message says, stays in one line)

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import test_command_remedies
import test_end_remedies
import test_model_remedies
import test_pipeline_remedies
import test_service_remedies
import test_step_remedies
from advice import Advice, Remedy, advices

TESTS = Path(__file__).parent.parent
FAMILIES = (
    test_command_remedies,
    test_end_remedies,
    test_model_remedies,
    test_pipeline_remedies,
    test_service_remedies,
    test_step_remedies,
)
CASES = [
    case
    for family in FAMILIES
    for cases in vars(family).values()
    if isinstance(cases, list)
    for case in cases
    if isinstance(case, Remedy)
]
LEFT_MAX = 213
"""How many are not followed yet; a new message is followed by a case, and this number only falls."""
WRITTEN_SO = "test_advice_in_messages.py::test_what_is_advised_is_taken"
ELSEWHERE = {
    ("acquire/_lines", "let who runs this read it"): "cli/test_expected_trouble.py::test_a_file_that_may_not_be_read",
    ("acquire/files/_reader", "correct path:"): "cli/test_remedies.py::test_a_source_file_that_is_not_there_is_said_at_once",
    ("acquire/postgres", "write schema.table"): WRITTEN_SO,
    ("cli/alarms", "write it as 2026-01-31T18:00"): WRITTEN_SO,
    ("detect/job/_definition", "write it as 15m"): WRITTEN_SO,
    ("engine/audit", "bring it back"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/audit", "say which with --folder"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/audit", "NUMBER:HASH"): "remedies/test_service_remedies.py::test_an_audit_is_read_where_it_is_and_comes_back_from_a_backup",
    ("engine/backup", "say which with --folder"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/backup", "choose"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/backup", "tocsin backup makes one"): "remedies/test_service_remedies.py::test_a_backup_is_of_a_pipeline_and_goes_where_nothing_is",
    ("engine/checkpoint", "restore a backup"): "cli/test_remedies.py::test_damaged_state",
    ("engine/checkpoint", "stop that one"): "cli/test_expected_trouble.py::test_a_second_engine_is_refused_even_if_the_lock_file_was_deleted",
    ("engine/sink_task", "restore both"): "cli/test_remedies.py::test_tables_and_state_of_different_times",
    ("engine/sink_task", "set lag"): "test_systems_warehouse.py::test_a_load_that_is_larger_than_the_lag_is_told",
    ("engine/trouble", "let the user"): "cli/test_expected_trouble.py::test_a_folder_that_may_not_be_written_to",
    ("engine/trouble", "{}, or write elsewhere"): "cli/test_expected_trouble.py::test_a_folder_that_may_not_be_written_to",
    ("engine/trouble", "mount it"): "cli/test_expected_trouble.py::test_a_read_only_first_start",
    ("engine/trouble", "move that file away"): "cli/test_expected_trouble.py::test_a_file_where_the_folder_should_be",
    ("kafka/group", "make it, or correct"): "test_troubleshooting_page.py::test_a_topic_that_is_deleted_and_made_again",
    ("kinesis/settings", "write https://host"): WRITTEN_SO,
    ("lake/log", "bring them back"): "cli/test_expected_trouble.py::test_a_deleted_data_file_is_named_and_the_table_goes_on_without_it",
    ("lake/log", "bring it back"): "cli/test_remedies.py::test_an_entry_of_the_log_that_is_none",
    ("lake/read", "bring it back"): "cli/test_expected_trouble.py::test_a_damaged_data_file_is_named_and_the_table_goes_on_without_it",
    ("lake/schema", "rename it"): "cli/test_remedies.py::test_a_column_of_another_type",
    ("models/manifest", "train it anew"): "remedies/test_model_remedies.py::test_a_damaged_version_is_trained_anew",
    ("models/manifest", "roll back"): "remedies/test_model_remedies.py::test_a_damaged_champion_is_rolled_back_or_trained_anew",
    ("models/store", "delete the folder"): "remedies/test_model_remedies.py::test_a_version_without_manifest",
    ("models/store", "delete it"): "remedies/test_model_remedies.py::test_a_pointer_that_cannot_be_read",
    ("models/store", "promote it all the same"): "models/test_store.py::test_promote_and_roll_back",
    ("mongodb/settings", "write mongodb://"): WRITTEN_SO,
    ("mqtt/client", "write mqtt://"): WRITTEN_SO,
    ("mqtt/plain", "write mqtt://"): WRITTEN_SO,
    ("output/delta", "set partition_by"): "cli/test_remedies.py::test_another_partition",
    ("output/kafka", "make it, or correct"): "test_troubleshooting_page.py::test_a_topic_to_write_to_that_is_deleted",
    ("postgres/settings", "write postgresql://"): WRITTEN_SO,
    ("postgres/writing", "write schema.table"): WRITTEN_SO,
    ("serve/accounts", "bring it back"): "remedies/test_service_remedies.py::test_accounts_that_cannot_be_read_come_back_from_a_backup",
    ("serve/prometheus", "write seconds"): WRITTEN_SO,
    ("settings/addresses", "write http://host"): WRITTEN_SO,
    ("settings/quantities", "write it as"): WRITTEN_SO,
    ("values/computing", "write it as"): WRITTEN_SO,
}  # fmt: skip
"""Messages that a test of another kind follows: a piece of what they advise, and the test."""


def is_followed(advice: Advice) -> bool:
    by_case = any(case.module == advice.module and case.says in advice.text for case in CASES)
    return by_case or any(module == advice.module and says in advice.text for module, says in ELSEWHERE)


def test_what_is_advised_is_followed() -> None:
    left = [f"{one.module}:{one.line}: {one.text}" for one in advices() if not is_followed(one)]
    assert len(left) <= LEFT_MAX, "\n".join(["follow what is advised in a case of tests/remedies:", *left])
    assert len(left) >= LEFT_MAX - 10, f"LEFT_MAX is to fall to {len(left)}, so that no others take their place"


@pytest.mark.parametrize(("module", "says"), ELSEWHERE)
def test_the_test_elsewhere_exists(module: str, says: str) -> None:
    path, name = ELSEWHERE[module, says].split("::")
    assert any(
        isinstance(node, ast.FunctionDef) and node.name == name
        for node in ast.walk(ast.parse((TESTS / path).read_text()))
    )
    assert any(one.module == module and says in one.text for one in advices())
